//! The service proxy: Services and endpoints in, one nftables table out.
//!
//! `service`, `pods` and `choice` read objects and `plan` is pure; `engine` keeps the plans up to date and applies
//! them; here they are joined to the cluster.

pub mod choice;
pub mod conntrack;
pub mod engine;
pub mod health;
pub mod options;
pub mod plan;
pub mod pods;
pub mod service;

use std::sync::Arc;
use std::time::Duration;

use api::k8s::api::core::v1::{Node, Pod, Service};
use api::k8s::api::discovery::v1::EndpointSlice;
use base::metrics::{Metric, Metrics};
use base::{Backoff, Clock, Tasks};
use client::cache::Change;
use client::informer::Scope;
use client::{Meta, SharedInformers};
use ipnet::IpNet;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::Notify;

use self::choice::Place;
use self::engine::{Engine, Inputs};
use self::health::Health;
pub use self::options::{ProxyConfig, ProxyOptions};
use self::plan::Context;
use self::service::{ServiceInfo, SliceInfo};
use crate::exec::ExecError;
use crate::nft::{Base, Family, Nft};
use crate::{http, sysctl};

/// Between tries to apply a transaction that was refused.
const RETRY: Backoff = Backoff::doubling(Duration::from_millis(500), Duration::from_secs(30));
/// How often an idle proxy looks whether somebody flushed its table.
const LOOK_AFTER: Duration = Duration::from_secs(30);
/// How long the first transaction waits for the Node object: without it some rules are not known yet.
const NODE_PATIENCE: Duration = Duration::from_secs(2);
/// Between tries to open a port that somebody else holds.
const LISTEN_RETRY: Duration = Duration::from_secs(5);
/// Room for the connections of a busy node; upstream's smallest value.
const CONNTRACK_LEAST: u64 = 131_072;
/// Where a node says that it should get no new traffic.
const TO_BE_DELETED_TAINT: &str = "ToBeDeletedByClusterAutoscaler";
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// What the proxy needs besides its configuration.
#[derive(Clone)]
pub struct ProxyDeps {
    /// Informers; those of Services and EndpointSlices are shared with whoever else needs them.
    pub informers: SharedInformers,
    /// Informers with the node's identity, for host ports: the proxy's own identity may not read pods. `None`:
    /// the same as `informers`.
    pub pods: Option<SharedInformers>,
    /// Time.
    pub clock: Clock,
    /// Where its tasks belong.
    pub tasks: Tasks,
    /// Where its figures go.
    pub metrics: Metrics,
}

/// What watchers and the applying loop share.
struct Shared {
    inputs: Mutex<Inputs>,
    node: Mutex<Option<Arc<Node>>>,
    changed: Notify,
    health: Health,
}

impl Shared {
    fn update(&self, change: impl FnOnce(&mut Inputs) -> bool) {
        if change(&mut self.inputs.lock()) {
            self.health.queued();
            self.changed.notify_one();
        }
    }
}

/// Runs the proxy until the tasks are cancelled. The table stays, so that traffic goes on without it.
pub async fn run(deps: ProxyDeps, config: ProxyConfig) -> Result<(), ExecError> {
    if config.set_sysctls {
        set_sysctls();
    }
    let health = Health::new(deps.clock.clone());
    serve_health(&deps, &config, &health);
    let shared = Arc::new(Shared {
        inputs: Mutex::default(),
        node: Mutex::default(),
        changed: Notify::new(),
        health: health.clone(),
    });
    watch(&deps, &config, &shared).await;
    let engine = Engine::new(&config.nft_program, contexts(&config), health);
    Loop { deps: &deps, config: &config, shared, engine, figures: Figures::new(&deps.metrics) }.run().await;
    Ok(())
}

/// Removes the tables that a proxy of this configuration made.
pub async fn cleanup(program: &str, table: &str) -> Result<(), ExecError> {
    let mut nft = Nft::new(program);
    nft.remove(Family::V4, table).await?;
    if let Err(error) = nft.remove(Family::V6, table).await {
        tracing::debug!(%error, "no IPv6 table on this machine");
    }
    Ok(())
}

fn set_sysctls() {
    sysctl::set("net/ipv4/ip_forward", "1");
    sysctl::set("net/ipv4/conf/all/route_localnet", "1");
    // Packets between pods of one bridge must pass the table too, for the way back of a service connection.
    // The file is absent where pods have no bridge, or the kernel's module is not loaded.
    sysctl::set("net/bridge/bridge-nf-call-iptables", "1");
    sysctl::raise("net/netfilter/nf_conntrack_max", CONNTRACK_LEAST);
}

fn contexts(config: &ProxyConfig) -> Vec<Context> {
    let mut families = vec![Family::V4];
    if config.cluster_nets.iter().any(|net| Family::of_net(net) == Family::V6) {
        families.push(Family::V6);
    }
    let context = |family| {
        let mut base = Base::new(&config.table, family);
        base.cluster_nets = config.cluster_nets.clone();
        base.node_port_nets = config.node_port_nets.clone();
        base.masquerade_mark = config.masquerade_mark;
        base.masquerade_all = config.masquerade_all;
        let place = Place { node: config.node_name.clone(), zone: None };
        Context { base, place, dns_address: config.dns_address }
    };
    families.into_iter().map(context).collect()
}

fn serve_health(deps: &ProxyDeps, config: &ProxyConfig, health: &Health) {
    let servers = [
        (config.healthz, "health checks", health.handler()),
        (config.metrics, "metrics", health.metrics_handler(deps.metrics.clone())),
    ];
    for (address, what, handler) in servers {
        let Some(address) = address else { continue };
        let (tasks, clock) = (deps.tasks.clone(), deps.clock.clone());
        // Services are served even if somebody else has the port: traffic matters more than being asked.
        deps.tasks.spawn("proxy health server", async move {
            let listener = loop {
                match TcpListener::bind(address).await {
                    Ok(listener) => break listener,
                    Err(error) => tracing::error!(%address, what, %error, "the service proxy cannot listen"),
                }
                clock.sleep(LISTEN_RETRY).await;
            };
            http::serve(listener, handler, tasks, clock).await;
        });
    }
    deps.tasks.spawn("service health ports", health.clone().serve_services(deps.tasks.clone()));
}

/// `namespace/name` of an object.
pub(crate) fn key_of(object: &impl Meta) -> String {
    format!("{}/{}", object.namespace(), object.name())
}

/// The object that a change leaves behind.
pub(crate) fn present<K>(change: &Change<K>) -> Option<&Arc<K>> {
    match change {
        Change::Added(object) | Change::Modified { new: object, .. } => Some(object),
        Change::Deleted(_) => None,
    }
}

/// Starts watching, and waits until the first lists are in.
async fn watch(deps: &ProxyDeps, config: &ProxyConfig, shared: &Arc<Shared>) {
    let services = deps.informers.of::<Service>();
    let slices = deps.informers.of::<EndpointSlice>();
    let named = format!("metadata.name={}", config.node_name);
    let node = deps.informers.scoped::<Node>(Scope { fields: named, ..Scope::default() });
    let to = Arc::clone(shared);
    services.on_change(move |change| {
        let info = present(change).and_then(|service| ServiceInfo::parse(service));
        to.update(|inputs| inputs.set_service(&key_of(&**change.object()), info));
    });
    let to = Arc::clone(shared);
    slices.on_change(move |change| {
        let info = present(change).and_then(|slice| SliceInfo::parse(slice));
        to.update(|inputs| inputs.set_slice(&key_of(&**change.object()), info));
    });
    let to = Arc::clone(shared);
    node.on_change(move |change| {
        *to.node.lock() = present(change).cloned();
        to.changed.notify_one();
    });
    if config.host_ports {
        let here = format!("spec.nodeName={}", config.node_name);
        let informers = deps.pods.as_ref().unwrap_or(&deps.informers);
        let pods = informers.scoped::<Pod>(Scope { fields: here, ..Scope::default() });
        let to = Arc::clone(shared);
        pods.on_change(move |change| {
            let ports = present(change).map(|pod| pods::host_ports(pod)).unwrap_or_default();
            to.update(|inputs| inputs.set_host_ports(&key_of(&**change.object()), ports));
        });
    }
    services.synced().await;
    slices.synced().await;
    // Not waited for in vain: the proxy works without it, and a proxy may not be allowed to read Nodes.
    deps.clock.timeout(NODE_PATIENCE, node.synced()).await;
}

/// What the proxy counts; names as upstream's where it has them.
struct Figures {
    syncs: Metric,
    failures: Metric,
    seconds: Metric,
}

impl Figures {
    fn new(metrics: &Metrics) -> Figures {
        const SECONDS: &[f64] = &[0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56];
        Figures {
            syncs: metrics.counter("kubeproxy_sync_proxy_rules_total", "Changes brought to the kernel.", &[]),
            failures: metrics.counter(
                "kubeproxy_sync_proxy_rules_nftables_sync_failures_total",
                "Changes that the kernel refused.",
                &[],
            ),
            seconds: metrics.histogram(
                "kubeproxy_sync_proxy_rules_duration_seconds",
                "Time from planning to the kernel's consent.",
                SECONDS,
                &[],
            ),
        }
    }
}

/// Takes changes to the kernel, several at a time.
struct Loop<'a> {
    deps: &'a ProxyDeps,
    config: &'a ProxyConfig,
    shared: Arc<Shared>,
    engine: Engine,
    figures: Figures,
}

impl Loop<'_> {
    async fn run(&mut self) {
        let mut retry = RETRY;
        let cancel = self.deps.tasks.cancel_token().clone();
        while !cancel.is_cancelled() {
            match self.sync().await {
                Ok(()) => {
                    retry = RETRY;
                    let next = self.deps.clock.timeout(LOOK_AFTER, self.shared.changed.notified());
                    match cancel.run(next).await {
                        None => return,
                        Some(Some(())) => self.deps.clock.sleep(self.config.min_sync).await,
                        Some(None) if self.engine.look_after().await => {}
                        Some(None) => tracing::warn!("the service table is gone; making it anew"),
                    }
                }
                Err(error) => {
                    self.figures.failures.inc();
                    let wait = retry.next_plain();
                    tracing::error!(%error, ?wait, "the service table was not applied");
                    if cancel.run(self.deps.clock.sleep(wait)).await.is_none() {
                        return;
                    }
                }
            }
        }
    }

    async fn sync(&mut self) -> Result<(), ExecError> {
        let started = self.deps.clock.monotonic();
        let node = self.shared.node.lock().clone();
        {
            let mut inputs = self.shared.inputs.lock();
            let (config, health) = (self.config, &self.shared.health);
            if let Some(node) = node {
                follow_node(&mut self.engine, &mut inputs, config, &node);
                health.set_eligible(is_eligible(&node));
            }
            self.engine.plan(&mut inputs);
        }
        if self.engine.apply().await? {
            let took = self.deps.clock.monotonic().saturating_sub(started);
            self.figures.syncs.inc();
            self.figures.seconds.observe(took.as_secs_f64());
            tracing::debug!(?took, "service table applied");
        }
        let nothing_new = self.shared.inputs.lock().is_clean();
        if nothing_new {
            self.shared.health.applied();
        }
        Ok(())
    }
}

fn is_eligible(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    let leaving = taints.into_iter().flatten().any(|taint| taint.key == TO_BE_DELETED_TAINT);
    !leaving && node.metadata.deletion_timestamp.is_none()
}

/// The pod networks of a node.
pub(crate) fn pod_nets(node: &Node) -> Vec<IpNet> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let listed = match &spec.pod_cidrs {
        Some(listed) if !listed.is_empty() => listed.as_slice(),
        _ => spec.pod_cidr.as_slice(),
    };
    listed.iter().filter_map(|word| word.parse().ok()).collect()
}

/// The internal addresses of a node.
pub(crate) fn node_addresses(node: &Node) -> Vec<std::net::IpAddr> {
    let listed = node.status.as_ref().and_then(|status| status.addresses.as_ref());
    let internal = listed.into_iter().flatten().filter(|address| address.type_ == "InternalIP");
    internal.filter_map(|address| address.address.parse().ok()).collect()
}

fn follow_node(engine: &mut Engine, inputs: &mut Inputs, config: &ProxyConfig, node: &Node) {
    let nets = pod_nets(node);
    let zone = node.metadata.labels.as_ref().and_then(|labels| labels.get(ZONE_LABEL)).cloned();
    let addresses: Vec<IpNet> = node_addresses(node).into_iter().map(IpNet::from).collect();
    engine.set_context(inputs, |context| {
        context.place.zone.clone_from(&zone);
        if config.cluster_nets_from_node {
            context.base.cluster_nets.clone_from(&nets);
        }
        if config.masquerade_pods {
            context.base.local_pod_nets.clone_from(&nets);
        }
        if config.node_ports_on_primary {
            context.base.node_port_nets.clone_from(&addresses);
        }
    });
}
