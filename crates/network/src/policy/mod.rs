//! Network policies: what pods of this node may receive and send, in a table of their own.
//!
//! `plan` says what policies mean, `text` writes it; here they meet the cluster and the kernel. While there is a
//! policy anywhere, a pod whose policies are not programmed yet gets nothing: it is closed, not open. Without any
//! policy there is no table. Must not know Services: packets are judged behind their translation.

mod plan;
mod pod;
mod text;

use std::net::IpAddr;
use std::time::Duration;

use api::k8s::api::core::v1::{Namespace, Node};
use api::k8s::api::networking::v1::NetworkPolicy;
use client::{ResourceRef, Scope};

use self::plan::{Cluster, plan};
use self::pod::PodFacts;
use self::text::{Place, table};
use crate::nft::Nft;
use crate::node::NodeDeps;
use crate::proxy::pod_nets;

/// Changes that come together make one table.
const COALESCE: Duration = Duration::from_millis(20);
/// After a failure, and to notice that somebody took the table away.
const AGAIN: Duration = Duration::from_secs(30);

/// Where the rules go.
#[derive(Clone, Debug)]
pub struct PolicyConfig {
    /// The nft program.
    pub nft_program: String,
    /// The table's name.
    pub table: String,
    /// The node's DNS, which every pod may ask.
    pub dns: Option<IpAddr>,
}

/// Keeps the rules as the policies say, until cancelled. The informers must be allowed to read policies, pods and
/// namespaces of the whole cluster.
pub async fn run(deps: NodeDeps, config: PolicyConfig) {
    let policies = deps.informers.of::<NetworkPolicy>();
    policies.synced().await;
    let nft = Nft::new(&config.nft_program);
    let mut policy_ticks = policies.ticks();
    if policies.cache().is_empty() {
        // Left by an earlier life, when there were some.
        take_away(&nft, &config.table).await;
    }
    // Most clusters have none: then nothing else is watched.
    while policies.cache().is_empty() {
        if policy_ticks.changed().await.is_err() {
            return;
        }
    }
    let pods =
        deps.informers.any::<PodFacts>(ResourceRef::new("", "v1", "pods", "Pod", true), Scope::default());
    let namespaces = deps.informers.of::<Namespace>();
    let nodes = deps.informers.of::<Node>();
    pods.synced().await;
    namespaces.synced().await;
    nodes.synced().await;
    let (mut pod_ticks, mut namespace_ticks) = (pods.ticks(), namespaces.ticks());
    let mut written = String::new();
    loop {
        let all = policies.cache().list();
        let (every_pod, spaces) = (pods.cache().list(), namespaces.cache().list());
        let cluster = Cluster { policies: &all, pods: &every_pod, namespaces: &spaces };
        let nets = nodes.cache().get("", &deps.node_name).map(|node| pod_nets(&node)).unwrap_or_default();
        let place = Place { table: &config.table, pod_nets: &nets, dns: config.dns };
        let text =
            if all.is_empty() { String::new() } else { table(&plan(&cluster, &deps.node_name), &place) };
        if text != written {
            written = match write(&nft, &config.table, &text).await {
                Ok(()) => text,
                Err(error) => {
                    tracing::error!(%error, "network policies are not programmed");
                    String::from("unknown")
                }
            };
        }
        let changed = async {
            tokio::select! {
                result = policy_ticks.changed() => result,
                result = pod_ticks.changed() => result,
                result = namespace_ticks.changed() => result,
            }
        };
        match deps.clock.timeout(AGAIN, changed).await {
            Some(Ok(())) => deps.clock.sleep(COALESCE).await,
            Some(Err(_)) => return,
            None if !written.is_empty() && !there(&config).await => written = String::from("unknown"),
            None => {}
        }
    }
}

async fn write(nft: &Nft, name: &str, text: &str) -> Result<(), crate::ExecError> {
    if text.is_empty() {
        take_away(nft, name).await;
        return Ok(());
    }
    nft.run(text).await
}

async fn take_away(nft: &Nft, name: &str) {
    let commands = format!("add table inet {name}\ndelete table inet {name}\n");
    if let Err(error) = nft.run(&commands).await {
        tracing::debug!(%error, "no table of policies to remove");
    }
}

async fn there(config: &PolicyConfig) -> bool {
    let list = ["list", "chain", "inet", &config.table, "forward"];
    crate::exec::run(&config.nft_program, &list, "").await.is_ok()
}

/// Removes the table.
pub async fn cleanup(nft_program: &str, table: &str) {
    take_away(&Nft::new(nft_program), table).await;
}
