//! A node of a cluster, on this machine: containerd, our images, the agent, the network; and their removal.
//!
//! Must not know whether the control plane is in this process or elsewhere.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use base::metrics::Metrics;
use base::pki::LiveIdentity;
use client::{Client, SharedInformers};
use kubelet::images::Arriving;
use network::cni::CniConfig;
use network::routes::RouteConfig;
use network::{CleanupConfig, NodeDeps, cni, dns, policy, proxy, routes};
use runtime::Cri;
use runtime::cgroup::Cgroups;
use runtime::cri::messages::{ListPodSandboxRequest, RemovePodSandboxRequest, StopPodSandboxRequest};
use tokio::sync::{oneshot, watch};

use crate::cluster::Facts;
use crate::error::CliError;
use crate::pki::Names;
use crate::process::Process;
use crate::{containerd, host, image};

/// Where a data directory's node keeps what several nodes of one machine must not share.
struct Places {
    /// Pods' logs.
    logs: PathBuf,
    /// Links to containers' logs, where log collectors look.
    log_links: Option<PathBuf>,
    /// Where device plugins register.
    device_plugins: PathBuf,
    /// The control group above the pods'.
    cgroup_root: String,
    /// The pods' bridge.
    bridge: String,
    /// The link of tunnels to other nodes.
    tunnel: String,
    /// The nftables table.
    table: String,
}

impl Places {
    /// The machine's first cluster uses the usual places; others have their own.
    fn of(data_dir: &Path) -> Places {
        let short = containerd::short_name(data_dir);
        if short == containerd::MAIN {
            return Places {
                logs: "/var/log/pods".into(),
                log_links: Some("/var/log/containers".into()),
                device_plugins: "/var/lib/kubelet/device-plugins".into(),
                cgroup_root: String::new(),
                bridge: "cni0".to_owned(),
                tunnel: RouteConfig::default().vxlan_link,
                table: "navarch".to_owned(),
            };
        }
        Places {
            logs: data_dir.join("logs"),
            log_links: None,
            device_plugins: data_dir.join("kubelet/device-plugins"),
            cgroup_root: format!("/navarch-{short}"),
            bridge: format!("cni-{short}"),
            tunnel: format!("vx-{short}"),
            table: format!("navarch-{short}"),
        }
    }

    fn cni(&self, data_dir: &Path) -> CniConfig {
        CniConfig {
            conf_dir: containerd::cni_conf_dir(data_dir),
            bridge: self.bridge.clone(),
            data_dir: Some(data_dir.join("cni/leases")),
            ..CniConfig::default()
        }
    }

    fn policy_table(&self) -> String {
        format!("{}-policy", self.table)
    }

    fn routes(&self, facts: &Facts) -> RouteConfig {
        RouteConfig {
            service_nets: vec![facts.service_net],
            pod_nets: vec![facts.pod_net],
            vxlan_link: self.tunnel.clone(),
            ..RouteConfig::default()
        }
    }
}

/// Flags of whatever runs a node: `navarch up` and `navarch agent`.
#[derive(Clone, Debug, clap::Args)]
pub struct NodeArgs {
    /// The name of this node; the host name when absent.
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// The address of this node; that of the default route when absent.
    #[arg(long, value_name = "ADDRESS")]
    pub node_ip: Option<IpAddr>,
    /// The port of the node agent.
    #[arg(long, default_value_t = 10250)]
    pub kubelet_port: u16,
    /// Labels of a new node: key=value, comma-separated.
    #[arg(long, value_delimiter = ',', value_name = "LABELS")]
    pub node_labels: Vec<String>,
    /// A KubeletConfiguration: when the node's agent evicts, how pods end before the machine does, and so on. What
    /// Navarch sets itself (addresses, directories, the cluster's DNS) stays
    #[arg(long, value_name = "FILE")]
    pub kubelet_config: Option<PathBuf>,
    /// An existing container runtime's socket; without it Navarch runs its own containerd.
    #[arg(long, value_name = "SOCKET")]
    pub container_runtime_endpoint: Option<PathBuf>,
}

impl NodeArgs {
    /// The names this node goes by.
    pub fn names(&self) -> Result<Names, CliError> {
        let node = self.node_name.clone().unwrap_or_else(host::name);
        if let Some(why) = api::names::dns1123_subdomain(&node).into_iter().next() {
            return Err(CliError::Flag { flag: "node-name", value: node, why });
        }
        let addresses = vec![self.node_ip.unwrap_or_else(host::address)];
        Ok(Names { node, addresses, dns_names: Vec::new() })
    }
}

/// What a node is started with.
pub struct NodeParts {
    /// Where it keeps its things.
    pub data_dir: PathBuf,
    /// Its flags.
    pub args: NodeArgs,
    /// What it is called.
    pub names: Names,
    /// What it knows of the cluster.
    pub facts: Facts,
    /// The API, as this node.
    pub client: Client,
    /// Services, endpoints and nodes, for the service proxy, DNS and routes.
    pub proxy: SharedInformers,
    /// Pods of this node, which only the node's own identity may read.
    pub pods: SharedInformers,
    /// What the agent's server shows.
    pub serving: LiveIdentity,
    /// Whose client certificates the agent's server believes, PEM.
    pub client_ca: String,
    /// Time, randomness, tasks.
    pub process: Process,
}

/// Starts the node of this machine as part of the process.
pub async fn start(parts: NodeParts) -> Result<(), CliError> {
    let dir = &parts.data_dir;
    remember(dir, &parts.facts)?;
    start_network(&parts);
    let (socket, arriving) = match &parts.args.container_runtime_endpoint {
        Some(socket) => (socket.clone(), Arriving::default()),
        None => own_runtime(dir, &parts.process).await?,
    };
    start_agent(parts, &socket, arriving).await
}

/// Starts our containerd; our images are brought to it while the agent already starts.
async fn own_runtime(dir: &Path, process: &Process) -> Result<(PathBuf, Arriving), CliError> {
    let import = image::Import::new(dir.join("containerd/own-images"))?;
    let mut arriving = Arriving::default();
    let (answers, there) = oneshot::channel();
    if !import.done() {
        let expected = image::OWN.map(|own| (own, arriving.expect(own.name)));
        process.tasks.spawn("own images", async move {
            if let Err(error) = bring(&import, &expected, there).await {
                tracing::error!(%error, "our images are not in containerd");
            }
        });
    }
    let socket = containerd::ensure(dir, false, &process.clock).await?;
    // Nobody listens when the images are there already.
    let _ = answers.send(socket.clone());
    Ok((socket, arriving))
}

/// Writes the first archive while containerd starts, then brings one image after the other.
async fn bring(
    import: &image::Import,
    expected: &[(image::Own, watch::Sender<bool>)],
    there: oneshot::Receiver<PathBuf>,
) -> Result<(), CliError> {
    let (mut there, mut socket) = (Some(there), PathBuf::new());
    for (own, arrived) in expected {
        let archive = import.write(*own).await?;
        if let Some(there) = there.take() {
            let Ok(answers) = there.await else { return Ok(()) };
            socket = answers;
        }
        import.bring(&socket, archive).await?;
        arrived.send_replace(true);
    }
    import.finish()
}

async fn start_agent(parts: NodeParts, socket: &Path, arriving: Arriving) -> Result<(), CliError> {
    let NodeParts { data_dir: dir, args, names, facts, process, .. } = parts;
    let places = Places::of(&dir);
    let label = |pair: &String| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key.to_owned(), value.to_owned())
    };
    let settings = kubelet::Args { config: args.kubelet_config.clone(), ..kubelet::Args::default() };
    let settings = kubelet::Config::load(&settings)
        .map_err(|error| CliError::component("node agent's settings", error))?;
    let config = kubelet::Config {
        node_name: names.node,
        node_ips: names.addresses[..1].to_vec(),
        root_dir: dir.join("kubelet"),
        runtime_endpoint: format!("unix://{}", socket.display()),
        manifest_dir: Some(dir.join("manifests")).filter(|dir| dir.exists()),
        log_dir: places.logs,
        log_links: places.log_links,
        device_plugins: Some(places.device_plugins),
        cluster_dns: vec![facts.dns_address.to_string()],
        cluster_domain: facts.domain,
        cgroup_root: places.cgroup_root,
        labels: args.node_labels.iter().map(label).collect(),
        listen: Some(SocketAddr::new([0, 0, 0, 0].into(), args.kubelet_port)),
        healthz: None,
        ..settings
    };
    let agent = kubelet::agent::Parts {
        config,
        client: parts.client,
        clock: process.clock,
        rng: process.rng,
        tasks: process.tasks,
        metrics: Metrics::new(),
        server: kubelet::server::Parts { identity: Some(parts.serving), client_ca: Some(parts.client_ca) },
    };
    let started = kubelet::agent::start_while(agent, arriving).await;
    started.map(drop).map_err(|error| CliError::component("node agent", error))
}

fn start_network(parts: &NodeParts) {
    let (places, facts) = (Places::of(&parts.data_dir), &parts.facts);
    let Process { clock, rng, tasks } = parts.process.clone();
    let node_name = parts.names.node.clone();
    let deps = NodeDeps { informers: parts.proxy.clone(), clock, tasks: tasks.clone(), node_name };
    let config = proxy::ProxyConfig {
        table: places.table.clone(),
        cluster_nets: vec![facts.pod_net],
        masquerade_pods: true,
        host_ports: true,
        dns_address: Some(facts.dns_address),
        healthz: None,
        metrics: None,
        ..proxy::ProxyConfig::new(&deps.node_name)
    };
    let proxy_deps = proxy::ProxyDeps {
        informers: deps.informers.clone(),
        pods: Some(parts.pods.clone()),
        clock: deps.clock.clone(),
        tasks: deps.tasks.clone(),
        metrics: Metrics::new(),
    };
    tasks.spawn("proxy", async move {
        if let Err(error) = proxy::run(proxy_deps, config).await {
            tracing::error!(%error, "the service proxy stopped");
        }
    });
    let policies = policy::PolicyConfig {
        nft_program: "nft".to_owned(),
        table: places.policy_table(),
        dns: Some(facts.dns_address),
    };
    tasks.spawn("network policies", policy::run(deps.clone(), policies));
    tasks.spawn("cni", cni::run(deps.clone(), places.cni(&parts.data_dir), || {}));
    tasks.spawn("routes", routes::run(deps.clone(), places.routes(facts)));
    let dns_config = dns::DnsConfig {
        domain: facts.domain.clone(),
        cluster_nets: vec![facts.pod_net, facts.service_net],
        ..dns::DnsConfig::new(facts.dns_address)
    };
    tasks.spawn("dns", async move {
        if let Err(error) = dns::run(deps, dns_config, rng).await {
            tracing::error!(%error, "DNS stopped");
        }
    });
}

/// Stops and removes every pod of the runtime at `socket`.
pub async fn remove_pods(socket: &Path) {
    if !socket.exists() {
        return;
    }
    if let Err(error) = try_remove_pods(socket).await {
        tracing::warn!(%error, "not all pods could be removed");
    }
}

async fn try_remove_pods(socket: &Path) -> Result<(), base::BoxError> {
    let cri = Cri::new(&format!("unix://{}", socket.display()))?;
    let sandboxes = cri.list_pod_sandbox(ListPodSandboxRequest::default()).await?;
    for sandbox in sandboxes.items {
        let pod_sandbox_id = sandbox.id;
        cri.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: pod_sandbox_id.clone() }).await?;
        cri.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id }).await?;
    }
    Ok(())
}

/// Removes links, tables, routes and files of the node's network.
pub async fn remove_network(data_dir: &Path) {
    let (places, facts) = (Places::of(data_dir), remembered(data_dir));
    let policy_table = places.policy_table();
    let config = CleanupConfig {
        cni: places.cni(data_dir),
        routes: RouteConfig {
            vxlan_link: places.tunnel,
            pod_nets: facts.iter().map(|facts| facts.pod_net).collect(),
            ..RouteConfig::default()
        },
        policy_table,
        table: places.table,
        dns_addresses: facts.iter().map(|facts| facts.dns_address).collect(),
        ..CleanupConfig::default()
    };
    for left in network::cleanup(&config).await {
        tracing::warn!(%left, "could not be removed");
    }
}

/// Remembers what the removal must know.
fn remember(data_dir: &Path, facts: &Facts) -> Result<(), CliError> {
    crate::pki::write(&facts_file(data_dir), &facts.to_data().to_string())
}

fn facts_file(data_dir: &Path) -> PathBuf {
    containerd::run_dir(data_dir).join("cluster.json")
}

fn remembered(data_dir: &Path) -> Option<Facts> {
    let text = std::fs::read_to_string(facts_file(data_dir)).ok()?;
    Facts::of_data(&serde_json::from_str(&text).ok()?).ok()
}

/// Removes the pods' control groups.
pub fn remove_cgroups(data_dir: &Path) {
    let root = Places::of(data_dir).cgroup_root;
    let group = if root.is_empty() { "/kubepods".to_owned() } else { root };
    if let Err(error) = Cgroups::detect().remove(&group) {
        tracing::warn!(%error, group, "cannot remove the control group");
    }
}
