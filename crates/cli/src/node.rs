//! The node's part of `navarch up`: containerd, our images, the agent, the network; and their removal.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use api::UserInfo;
use base::metrics::Metrics;
use ipnet::IpNet;
use network::cni::CniConfig;
use network::routes::RouteConfig;
use network::{CleanupConfig, NodeDeps, cni, dns, proxy, routes};
use runtime::Cri;
use runtime::cgroup::Cgroups;
use runtime::cri::messages::{ListPodSandboxRequest, RemovePodSandboxRequest, StopPodSandboxRequest};

use crate::control::Plane;
use crate::error::CliError;
use crate::pki::{Names, Pki};
use crate::up::UpArgs;
use crate::{containerd, image};

/// Where a data directory's node keeps what several nodes of one machine must not share.
struct Places {
    /// Pods' logs.
    logs: PathBuf,
    /// Links to containers' logs, where log collectors look.
    log_links: Option<PathBuf>,
    /// The control group above the pods'.
    cgroup_root: String,
    /// The pods' bridge.
    bridge: String,
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
                cgroup_root: String::new(),
                bridge: "cni0".to_owned(),
                table: "navarch".to_owned(),
            };
        }
        Places {
            logs: data_dir.join("logs"),
            log_links: None,
            cgroup_root: format!("/navarch-{short}"),
            bridge: format!("cni-{short}"),
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
}

/// Starts the node of this machine as part of the process.
pub async fn start(args: &UpArgs, pki: &Pki, names: &Names, plane: &Plane) -> Result<(), CliError> {
    let dir = &args.data_dir;
    crate::pki::write(&dns_file(dir), &args.dns_ip().to_string())?;
    start_network(args, names, plane);
    let socket = match &args.container_runtime_endpoint {
        Some(socket) => socket.clone(),
        None => {
            let socket = containerd::ensure(dir, false, &plane.clock).await?;
            image::ensure_own(&socket, &dir.join("containerd/own-images")).await?;
            socket
        }
    };
    start_agent(args, pki, names, plane, &socket).await
}

async fn start_agent(
    args: &UpArgs,
    pki: &Pki,
    names: &Names,
    plane: &Plane,
    socket: &Path,
) -> Result<(), CliError> {
    let places = Places::of(&args.data_dir);
    let keys = args.data_dir.join("kubelet/pki");
    pki.node(&keys, names, &plane.clock, &plane.rng)?;
    let config = kubelet::Config {
        node_name: names.node.clone(),
        node_ips: names.addresses[..1].to_vec(),
        root_dir: args.data_dir.join("kubelet"),
        runtime_endpoint: format!("unix://{}", socket.display()),
        manifest_dir: Some(args.data_dir.join("manifests")).filter(|dir| dir.exists()),
        log_dir: places.logs,
        log_links: places.log_links,
        cluster_dns: vec![args.dns_ip().to_string()],
        cluster_domain: args.cluster_domain.clone(),
        cgroup_root: places.cgroup_root,
        listen: Some(SocketAddr::new([0, 0, 0, 0].into(), args.kubelet_port)),
        healthz: None,
        tls_cert: Some(keys.join("kubelet.crt")),
        tls_key: Some(keys.join("kubelet.key")),
        client_ca: Some(pki.cert_path("ca")),
        ..kubelet::Config::default()
    };
    let user = UserInfo::component(&format!("system:node:{}", names.node), &["system:nodes"]);
    let parts = kubelet::agent::Parts {
        config,
        client: plane.client(user, "kubelet"),
        clock: plane.clock.clone(),
        rng: plane.rng.clone(),
        tasks: plane.tasks.clone(),
        metrics: Metrics::new(),
        server: kubelet::server::Parts::default(),
    };
    kubelet::agent::start(parts).await.map_err(|error| CliError::component("node agent", error))?;
    Ok(())
}

fn start_network(args: &UpArgs, names: &Names, plane: &Plane) {
    let places = Places::of(&args.data_dir);
    let informers = plane.informers(UserInfo::component("system:kube-proxy", &[]), "kube-proxy");
    let (clock, tasks) = (plane.clock.clone(), plane.tasks.clone());
    let deps = NodeDeps { informers, clock, tasks, node_name: names.node.clone() };
    let nets: Vec<IpNet> = vec![args.cluster_cidr];
    let config = proxy::ProxyConfig {
        table: places.table.clone(),
        cluster_nets: nets.clone(),
        masquerade_pods: true,
        host_ports: true,
        dns_address: Some(args.dns_ip()),
        healthz: None,
        metrics: None,
        ..proxy::ProxyConfig::new(&names.node)
    };
    // Host ports are in pods, which only the node's own identity may read.
    let node_user = UserInfo::component(&format!("system:node:{}", names.node), &["system:nodes"]);
    let proxy_deps = proxy::ProxyDeps {
        informers: deps.informers.clone(),
        pods: Some(plane.informers(node_user, "kube-proxy")),
        clock: deps.clock.clone(),
        tasks: deps.tasks.clone(),
        metrics: Metrics::new(),
    };
    plane.tasks.spawn("proxy", async move {
        if let Err(error) = proxy::run(proxy_deps, config).await {
            tracing::error!(%error, "the service proxy stopped");
        }
    });
    plane.tasks.spawn("cni", cni::run(deps.clone(), places.cni(&args.data_dir), || {}));
    let route_config =
        RouteConfig { service_nets: vec![args.service_cluster_ip_range], ..RouteConfig::default() };
    plane.tasks.spawn("routes", routes::run(deps.clone(), route_config));
    let dns_config = dns::DnsConfig {
        domain: args.cluster_domain.clone(),
        cluster_nets: vec![args.cluster_cidr, args.service_cluster_ip_range],
        ..dns::DnsConfig::new(args.dns_ip())
    };
    let rng = plane.rng.clone();
    plane.tasks.spawn("dns", async move {
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
    let places = Places::of(data_dir);
    let config = CleanupConfig {
        cni: places.cni(data_dir),
        table: places.table,
        dns_addresses: saved_dns_address(data_dir).into_iter().collect(),
        ..CleanupConfig::default()
    };
    for left in network::cleanup(&config).await {
        tracing::warn!(%left, "could not be removed");
    }
}

/// Remembers the address put on the loopback link, for the removal.
fn dns_file(data_dir: &Path) -> PathBuf {
    containerd::run_dir(data_dir).join("dns-address")
}

fn saved_dns_address(data_dir: &Path) -> Option<std::net::IpAddr> {
    std::fs::read_to_string(dns_file(data_dir)).ok()?.trim().parse().ok()
}

/// Removes the pods' control groups.
pub fn remove_cgroups(data_dir: &Path) {
    let root = Places::of(data_dir).cgroup_root;
    let group = if root.is_empty() { "/kubepods".to_owned() } else { root };
    if let Err(error) = Cgroups::detect().remove(&group) {
        tracing::warn!(%error, group, "cannot remove the control group");
    }
}
