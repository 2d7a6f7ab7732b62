//! `navarch up` and `navarch server`: this machine becomes a cluster, in one foreground process.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api::UserInfo;
use base::pki::LiveIdentity;
use client::Kubeconfig;
use ipnet::IpNet;
use store::{Engine, EtcdOptions};
use tokio::net::TcpListener;

use crate::cluster::{self, Facts};
use crate::control::Plane;
use crate::error::CliError;
use crate::node::{NodeArgs, NodeParts};
use crate::pki::{self, Names, Pki};
use crate::process::{Process, wait_for_end};
use crate::{containerd, down, node, storage};

/// How often it is looked whether certificates are to be renewed, or were renewed by `navarch certs`.
const LOOK: Duration = Duration::from_secs(60);
/// How soon a failed write is tried again.
const SOON: Duration = Duration::from_secs(1);

/// Flags of `navarch up` and `navarch server`.
#[derive(Clone, Debug, clap::Args)]
pub struct UpArgs {
    /// Where the cluster keeps its things.
    #[arg(long, default_value = crate::DEFAULT_DATA_DIR, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// The node's own flags.
    #[command(flatten)]
    pub node: NodeArgs,
    /// The port of the API server.
    #[arg(long, default_value_t = 6443)]
    pub secure_port: u16,
    /// The address the API server listens on.
    #[arg(long, default_value = "0.0.0.0")]
    pub bind_address: IpAddr,
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
    /// A node that says nothing for this long is not ready, and its pods are replaced elsewhere in time.
    #[arg(long, default_value = "50s", value_parser = crate::flags::duration, value_name = "DURATION")]
    pub node_monitor_grace_period: Duration,
    /// Leave Services of type LoadBalancer to something else: they do not get the nodes' addresses.
    #[arg(long)]
    pub disable_service_lb: bool,
    /// Keep nothing on disk: the cluster's objects end with the process.
    #[arg(long, conflicts_with = "etcd_servers")]
    pub in_memory: bool,
    /// Keep the objects in this etcd instead of the embedded store: URLs, comma-separated.
    #[arg(long, value_delimiter = ',', value_name = "URL")]
    pub etcd_servers: Vec<String>,
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

    /// What nodes are told of the cluster.
    fn facts(&self) -> Facts {
        Facts {
            dns_address: self.dns_ip(),
            domain: self.cluster_domain.clone(),
            pod_net: self.cluster_cidr,
            service_net: self.service_cluster_ip_range,
        }
    }

    fn engine(&self, process: &Process) -> Result<Engine, CliError> {
        if !self.etcd_servers.is_empty() {
            let (clock, tasks) = (process.clock.clone(), process.tasks.clone());
            let options = EtcdOptions::new(self.etcd_servers.clone(), clock, tasks);
            return Engine::etcd(options).map_err(|error| CliError::component("store", error));
        }
        if self.in_memory { Ok(Engine::Memory) } else { crate::control::disk(&self.data_dir.join("store")) }
    }
}

/// The n-th address of a range.
pub fn nth_address(range: &IpNet, n: u32) -> IpAddr {
    match range.network() {
        IpAddr::V4(ip) => IpAddr::V4(Ipv4Addr::from(u32::from(ip).wrapping_add(n))),
        IpAddr::V6(ip) => IpAddr::V6((u128::from(ip).wrapping_add(u128::from(n))).into()),
    }
}

/// The names this machine goes by, those of its API server included.
fn names(args: &UpArgs) -> Result<Names, CliError> {
    let mut names = args.node.names()?;
    for san in &args.tls_san {
        match san.parse() {
            Ok(address) => names.addresses.push(address),
            Err(_) => names.dns_names.push(san.clone()),
        }
    }
    Ok(names)
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

/// Reads the cluster's keys, making what is missing.
fn keys(args: &UpArgs, names: &Names, process: &Process) -> Result<Pki, CliError> {
    let (dir, Process { clock, rng, .. }) = (args.data_dir.join("pki"), process);
    pki::ensure(&dir, names, args.service_ip(), &args.cluster_domain, clock, rng)
}

/// Runs the cluster until SIGTERM or SIGINT.
pub async fn run(args: UpArgs, with_node: bool) -> Result<(), CliError> {
    let process = Process::new();
    let names = names(&args)?;
    pki::make_private_dir(&args.data_dir)?;
    let pki = Arc::new(keys(&args, &names, &process)?);
    let listener = listen(&args).await?;
    containerd::claim(&args.data_dir)?;
    let config = api_config(&args, &pki, &names);
    let plane = Plane::start(args.engine(&process)?, config, listener, &process).await?;
    write_admin_kubeconfig(&args, &pki)?;
    let millis = process.clock.monotonic().as_millis();
    tracing::info!(millis, port = args.secure_port, "API server ready");
    let controllers = controllers_config(&args, &pki, &names)?;
    match args.etcd_servers.is_empty() {
        true => plane.start_controllers(controllers),
        // Other control planes may share the store.
        false => plane.start_controllers_when_leading(controllers),
    }
    publish(&args, &names, &pki, &plane);
    let mut serving = None;
    if with_node {
        let keys = args.data_dir.join("kubelet/pki");
        let live = pki.agent(&keys, &names, &process.clock, &process.rng)?;
        serving = Some(live.clone());
        node::start(node_parts(&args, &names, &pki, &plane, live)).await?;
        tracing::info!(millis = process.clock.monotonic().as_millis(), node = names.node, "node started");
    }
    process.tasks.spawn("certificates", renew(args.clone(), names, pki, serving, process.clone()));
    wait_for_end().await;
    tracing::info!("stopping; pods keep running");
    process.end().await;
    plane.close().await;
    let _ = fs::remove_file(down::pid_file(&args.data_dir));
    Ok(())
}

fn node_parts(args: &UpArgs, names: &Names, pki: &Pki, plane: &Plane, serving: LiveIdentity) -> NodeParts {
    let user = UserInfo::component(&format!("system:node:{}", names.node), &["system:nodes"]);
    NodeParts {
        data_dir: args.data_dir.clone(),
        args: args.node.clone(),
        names: names.clone(),
        facts: args.facts(),
        client: plane.client(user.clone(), "kubelet"),
        proxy: plane.informers(UserInfo::component("system:kube-proxy", &[]), "kube-proxy"),
        pods: plane.informers(user, "kube-proxy"),
        serving,
        client_ca: pki.ca.identity().cert.clone(),
        process: plane.process.clone(),
    }
}

/// Tells the cluster about itself, for nodes that join; tried until it is done, beside everything else.
fn publish(args: &UpArgs, names: &Names, pki: &Pki, plane: &Plane) {
    let client = plane.client(UserInfo::component("system:apiserver", &["system:masters"]), "navarch");
    let server = format!("https://{}", SocketAddr::new(names.addresses[0], args.secure_port));
    let (ca, facts, clock) = (pki.ca.identity().cert.clone(), args.facts(), plane.process.clock.clone());
    plane.process.tasks.spawn("cluster info", async move {
        while let Err(error) = storage::publish(&client).await {
            tracing::warn!(%error, "the default StorageClass cannot be made yet");
            clock.sleep(SOON).await;
        }
        while let Err(error) = cluster::publish(&client, &server, &ca, &facts).await {
            tracing::warn!(%error, "the cluster cannot be described; nodes cannot join yet");
            clock.sleep(LOOK).await;
        }
    });
}

/// Renews certificates before their end, and takes over those that `navarch certs` has made.
async fn renew(args: UpArgs, names: Names, pki: Arc<Pki>, serving: Option<LiveIdentity>, process: Process) {
    loop {
        process.clock.sleep(LOOK).await;
        match renew_once(&args, &names, &pki, serving.as_ref(), &process) {
            Ok(false) => {}
            Ok(true) => tracing::info!("certificates are renewed"),
            Err(error) => tracing::error!(%error, "certificates are not renewed"),
        }
    }
}

fn renew_once(
    args: &UpArgs,
    names: &Names,
    pki: &Pki,
    serving: Option<&LiveIdentity>,
    process: &Process,
) -> Result<bool, CliError> {
    let newer = keys(args, names, process)?;
    let mut changed = pki.renew(&newer)?;
    if changed {
        write_admin_kubeconfig(args, pki)?;
    }
    if let Some(live) = serving {
        let dir = args.data_dir.join("kubelet/pki");
        changed |= pki::take(live, &newer.agent(&dir, names, &process.clock, &process.rng)?)?;
    }
    Ok(changed)
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
    let config = Kubeconfig::single("navarch", &server, ca, Some(&pki.admin.now()), None);
    pki::write_private(&args.data_dir.join("admin.kubeconfig"), &config.to_yaml()?)
}

fn controllers_config(args: &UpArgs, pki: &Pki, names: &Names) -> Result<controllers::Config, CliError> {
    // What no joined node may pretend to be.
    let mut reserved: Vec<IpAddr> = names.addresses.clone();
    reserved.push(args.service_ip());
    Ok(controllers::Config {
        cluster_cidrs: vec![args.cluster_cidr.to_string()],
        signing: Some(pki.ca.identity().clone()),
        root_ca: pki.ca.identity().cert.clone(),
        token_signer: Some(crate::control::token_signer(&pki.service_account_key)?),
        approve_serving: Some(reserved),
        node_balancer_reserved: (!args.disable_service_lb)
            .then(|| vec![22, args.secure_port, args.node.kubelet_port]),
        node_grace: args.node_monitor_grace_period,
        ..controllers::Config::default()
    })
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
