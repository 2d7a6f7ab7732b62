//! `navarch up` and `navarch server`: this machine becomes a cluster, in one foreground process.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use base::{Clock, Rng, Tasks};
use client::Kubeconfig;
use ipnet::IpNet;
use store::Engine;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::control::Plane;
use crate::error::CliError;
use crate::pki::{self, Names, Pki};
use crate::{containerd, down, node};

/// How long components may take to end.
pub const DRAIN: Duration = Duration::from_secs(10);

/// Flags of `navarch up` and `navarch server`.
#[derive(Clone, Debug, clap::Args)]
pub struct UpArgs {
    /// Where the cluster keeps its things.
    #[arg(long, default_value = crate::DEFAULT_DATA_DIR, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// The name of this node; the host name when absent.
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// The address of this node; that of the default route when absent.
    #[arg(long, value_name = "ADDRESS")]
    pub node_ip: Option<IpAddr>,
    /// The port of the API server.
    #[arg(long, default_value_t = 6443)]
    pub secure_port: u16,
    /// The address the API server listens on.
    #[arg(long, default_value = "0.0.0.0")]
    pub bind_address: IpAddr,
    /// The port of the node agent.
    #[arg(long, default_value_t = 10250)]
    pub kubelet_port: u16,
    /// Further names or addresses for the API server's certificate.
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub tls_san: Vec<String>,
    /// Addresses for services.
    #[arg(long, default_value = "10.96.0.0/16", value_name = "CIDR")]
    pub service_cluster_ip_range: IpNet,
    /// Addresses for pods; each node gets a /24 of it.
    #[arg(long, default_value = "10.244.0.0/16", value_name = "CIDR")]
    pub cluster_cidr: IpNet,
    /// The cluster's DNS domain.
    #[arg(long, default_value = "cluster.local", value_name = "DOMAIN")]
    pub cluster_domain: String,
    /// An existing container runtime's socket; without it Navarch runs its own containerd.
    #[arg(long, value_name = "SOCKET")]
    pub container_runtime_endpoint: Option<PathBuf>,
    /// Keep nothing on disk: the cluster's objects end with the process.
    #[arg(long)]
    pub in_memory: bool,
}

impl UpArgs {
    /// The address of the cluster's API server inside the cluster: the first of the services' range.
    pub fn service_ip(&self) -> IpAddr {
        nth_address(&self.service_cluster_ip_range, 1)
    }

    /// The address of the cluster's DNS: the tenth of the services' range, as kubeadm chooses.
    pub fn dns_ip(&self) -> IpAddr {
        nth_address(&self.service_cluster_ip_range, 10)
    }
}

/// The n-th address of a range.
pub fn nth_address(range: &IpNet, n: u32) -> IpAddr {
    match range.network() {
        IpAddr::V4(ip) => IpAddr::V4(Ipv4Addr::from(u32::from(ip).wrapping_add(n))),
        IpAddr::V6(ip) => IpAddr::V6((u128::from(ip).wrapping_add(u128::from(n))).into()),
    }
}

/// The names this node goes by.
fn names(args: &UpArgs) -> Result<Names, CliError> {
    let host = || fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_lowercase();
    let node = args.node_name.clone().unwrap_or_else(host);
    if let Some(why) = api::names::dns1123_subdomain(&node).into_iter().next() {
        return Err(CliError::Flag { flag: "node-name", value: node, why });
    }
    let mut addresses = vec![args.node_ip.unwrap_or_else(default_address)];
    let mut dns_names = Vec::new();
    for san in &args.tls_san {
        match san.parse() {
            Ok(address) => addresses.push(address),
            Err(_) => dns_names.push(san.clone()),
        }
    }
    Ok(Names { node, addresses, dns_names, cluster_domain: args.cluster_domain.clone() })
}

/// The address packets to elsewhere leave from; nothing is sent to find out.
fn default_address() -> IpAddr {
    let probe = UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        // A documentation address (RFC 5737): only the routing table is asked.
        socket.connect("192.0.2.1:9")?;
        socket.local_addr()
    });
    match probe {
        Ok(address) if !address.ip().is_unspecified() => address.ip(),
        _ => IpAddr::from([127, 0, 0, 1]),
    }
}

/// The API server's settings of an all-in-one cluster.
fn api_config(args: &UpArgs, pki: &Pki, names: &Names) -> apiserver::Config {
    let ca = pki.ca.identity().cert.clone();
    apiserver::Config {
        identity: Some(pki.apiserver.clone()),
        client_ca: Some(ca.clone()),
        service_account_keys: vec![pki.service_account_key.clone()],
        service_account_signing_key: Some(pki.service_account_key.clone()),
        issuers: vec![format!("https://kubernetes.default.svc.{}", args.cluster_domain)],
        service_ranges: vec![args.service_cluster_ip_range],
        kubelet_client: Some(pki.apiserver_kubelet_client.clone()),
        kubelet_ca: Some(ca),
        proxy_client: Some(pki.front_proxy_client.clone()),
        requestheader_ca: Some(pki.front_proxy_ca.identity().cert.clone()),
        requestheader_names: vec!["front-proxy-client".to_owned()],
        advertise: Some((names.addresses[0], args.secure_port)),
        ..apiserver::Config::default()
    }
}

/// Runs the cluster until SIGTERM or SIGINT.
pub async fn run(args: UpArgs, with_node: bool) -> Result<(), CliError> {
    let (clock, rng, tasks) = (Clock::system(), Rng::system(), Tasks::new());
    let names = names(&args)?;
    pki::make_private_dir(&args.data_dir)?;
    let run_dir = containerd::run_dir(&args.data_dir);
    fs::create_dir_all(&run_dir).map_err(|source| CliError::file("create", &run_dir, source))?;
    let pki = pki::ensure(&args.data_dir.join("pki"), &names, args.service_ip(), &clock, &rng)?;
    let listener = listen(&args).await?;
    let engine =
        if args.in_memory { Engine::Memory } else { crate::control::disk(&args.data_dir.join("store"))? };
    let config = api_config(&args, &pki, &names);
    let plane = Plane::start(engine, config, listener, clock.clone(), rng, tasks.clone()).await?;
    write_admin_kubeconfig(&args, &pki)?;
    pki::write(&down::pid_file(&args.data_dir), &format!("{}\n", std::process::id()))?;
    tracing::info!(millis = clock.monotonic().as_millis(), port = args.secure_port, "API server ready");
    plane.start_controllers(controllers_config(&args, &pki));
    if with_node {
        node::start(&args, &pki, &names, &plane).await?;
        tracing::info!(millis = clock.monotonic().as_millis(), node = names.node, "node started");
    }
    wait_for_end().await;
    tracing::info!("stopping; pods keep running");
    if !tasks.drain(DRAIN).await {
        tracing::warn!("some tasks did not end in time");
    }
    plane.close().await;
    let _ = fs::remove_file(down::pid_file(&args.data_dir));
    Ok(())
}

async fn listen(args: &UpArgs) -> Result<TcpListener, CliError> {
    let address = SocketAddr::new(args.bind_address, args.secure_port);
    TcpListener::bind(address).await.map_err(|error| CliError::Flag {
        flag: "secure-port",
        value: args.secure_port.to_string(),
        why: format!("cannot listen on {address}: {error}; does another cluster run here?"),
    })
}

fn write_admin_kubeconfig(args: &UpArgs, pki: &Pki) -> Result<(), CliError> {
    let server = format!("https://127.0.0.1:{}", args.secure_port);
    let ca = &pki.ca.identity().cert;
    let config = Kubeconfig::single("navarch", &server, ca, Some(&pki.admin), None);
    pki::write_private(&args.data_dir.join("admin.kubeconfig"), &config.to_yaml()?)
}

fn controllers_config(args: &UpArgs, pki: &Pki) -> controllers::Config {
    controllers::Config {
        cluster_cidrs: vec![args.cluster_cidr.to_string()],
        signing: Some(pki.ca.identity().clone()),
        root_ca: pki.ca.identity().cert.clone(),
        ..controllers::Config::default()
    }
}

/// Waits for SIGTERM or SIGINT.
pub async fn wait_for_end() {
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let (Ok(mut terminate), Ok(mut interrupt)) = signals else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn well_known_addresses() {
        let range: IpNet = "10.96.0.0/16".parse().expect("a range");
        assert_eq!(nth_address(&range, 1).to_string(), "10.96.0.1");
        assert_eq!(nth_address(&range, 10).to_string(), "10.96.0.10");
        let six: IpNet = "fd00::/112".parse().expect("a range");
        assert_eq!(nth_address(&six, 10).to_string(), "fd00::a");
    }
}
