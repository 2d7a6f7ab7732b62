//! Components alone: `navarch apiserver`, `scheduler`, `controller-manager`, `kubelet`, `proxy`, with upstream's
//! flags, against any conformant cluster.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use client::{Client, Election, LeaseConfig};
use store::{Engine, EtcdOptions};
use tokio::net::TcpListener;

use crate::control::Plane;
use crate::error::CliError;
use crate::host;
use crate::pki::{self, Names};
use crate::process::Process;

/// Flags of `navarch apiserver`.
#[derive(Clone, Debug, clap::Args)]
pub struct ApiserverArgs {
    #[command(flatten)]
    flags: apiserver::config::Flags,
    /// Where the embedded store keeps the objects; in memory when absent.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// Flags of `navarch scheduler`.
#[derive(Clone, Debug, clap::Args)]
pub struct SchedulerArgs {
    #[command(flatten)]
    config: scheduler::Config,
}

/// Flags of `navarch controller-manager`, as kube-controller-manager's.
#[derive(Clone, Debug, clap::Args)]
pub struct ControllerManagerArgs {
    /// The kubeconfig of the API server.
    #[arg(long, value_name = "FILE")]
    kubeconfig: PathBuf,
    /// Controllers to run: names, `*` for all, `-name` to leave one out.
    #[arg(long, value_delimiter = ',', default_value = "*", value_name = "LIST")]
    controllers: Vec<String>,
    /// Addresses for pods; with --allocate-node-cidrs each node gets a range of it.
    #[arg(long, value_delimiter = ',', value_name = "CIDR")]
    cluster_cidr: Vec<String>,
    /// Give each node a range of the cluster's pod addresses.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = clap::ArgAction::Set)]
    allocate_node_cidrs: bool,
    /// The CA published to every namespace as kube-root-ca.crt.
    #[arg(long, value_name = "FILE")]
    root_ca_file: Option<PathBuf>,
    /// The CA that signs certificate requests.
    #[arg(long, value_name = "FILE")]
    cluster_signing_cert_file: Option<PathBuf>,
    /// Its key.
    #[arg(long, value_name = "FILE")]
    cluster_signing_key_file: Option<PathBuf>,
    /// Every controller calls as its own service account. Navarch's controllers share the kubeconfig's identity
    /// here; accepted for scripts.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = clap::ArgAction::Set)]
    use_service_account_credentials: bool,
    /// The key that signs the tokens of Secrets of type kubernetes.io/service-account-token.
    #[arg(long, value_name = "FILE")]
    service_account_private_key_file: Option<PathBuf>,
    /// A node that says nothing for this long is not ready, and its pods are replaced elsewhere in time.
    #[arg(long, default_value = "50s", value_parser = crate::flags::duration, value_name = "DURATION")]
    node_monitor_grace_period: std::time::Duration,
    /// Elect a leader by Lease first; needed when several run.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = true, action = clap::ArgAction::Set)]
    leader_elect: bool,
}

/// Flags of `navarch kubelet`.
#[derive(Clone, Debug, clap::Args)]
pub struct KubeletArgs {
    #[command(flatten)]
    args: kubelet::Args,
}

/// Flags of `navarch proxy`.
#[derive(Clone, Debug, clap::Args)]
pub struct ProxyArgs {
    #[command(flatten)]
    args: network::proxy::ProxyOptions,
}

/// Waits for the lease of a component; the process ends when it is lost.
async fn lead(process: &Process, client: &Client, lease: &str) {
    let identity = format!("{}_{}", host::name(), process.rng.uuid());
    let config = LeaseConfig::new("kube-system", lease, &identity);
    let mut election = Election::new(client.clone(), config, process.clock.clone(), process.rng.clone());
    election.acquire().await;
    tracing::info!(lease, identity, "leading");
    let cancel = process.tasks.cancel_token().clone();
    process.tasks.spawn_detached("lease", async move {
        if cancel.run(election.keep()).await.is_some() {
            tracing::error!("the lease is lost; stopping");
            cancel.cancel();
        } else if let Err(error) = election.release().await {
            tracing::debug!(%error, "the lease was not released");
        }
    });
}

/// `navarch apiserver`.
pub async fn apiserver(args: ApiserverArgs) -> Result<(), CliError> {
    let process = Process::new();
    let flags = &args.flags;
    let mut config =
        apiserver::Config::from_flags(flags).map_err(|error| CliError::component("API server", error))?;
    if config.identity.is_none() {
        let names = Names {
            node: "localhost".to_owned(),
            addresses: config.advertise.iter().map(|advertise| advertise.0).collect(),
            dns_names: Vec::new(),
        };
        let first = flags.service_cluster_ip_range.first().map(|range| crate::up::nth_address(range, 1));
        let service_ip = first.unwrap_or_else(|| [127, 0, 0, 1].into());
        let (clock, rng) = (&process.clock, &process.rng);
        let made = pki::ensure(&flags.cert_dir, &names, service_ip, "cluster.local", clock, rng)?;
        config.identity = Some(made.apiserver);
    }
    let Process { clock, tasks, .. } = &process;
    let engine = match &args.data_dir {
        _ if !flags.etcd_servers.is_empty() => {
            let options = EtcdOptions::new(flags.etcd_servers.clone(), clock.clone(), tasks.clone());
            Engine::etcd(options).map_err(|error| CliError::component("store", error))?
        }
        Some(dir) => crate::control::disk(dir)?,
        None => Engine::Memory,
    };
    let address = SocketAddr::new(flags.bind_address, flags.secure_port);
    let listener = TcpListener::bind(address).await.map_err(|error| CliError::Flag {
        flag: "secure-port",
        value: address.to_string(),
        why: error.to_string(),
    })?;
    let plane = Plane::start(engine, config, listener, &process).await?;
    tracing::info!(millis = clock.monotonic().as_millis(), %address, "API server ready");
    process.wait().await;
    plane.close().await;
    Ok(())
}

/// `navarch scheduler`.
pub async fn scheduler(args: SchedulerArgs) -> Result<(), CliError> {
    let process = Process::new();
    let Some(kubeconfig) = &args.config.kubeconfig else {
        let why = "name the kubeconfig of the API server".to_owned();
        return Err(CliError::Flag { flag: "kubeconfig", value: String::new(), why });
    };
    let client = process.client(kubeconfig, "kube-scheduler")?;
    if args.config.leader_elect {
        lead(&process, &client, "kube-scheduler").await;
    }
    let informers = process.informers(&client);
    let Process { clock, rng, tasks } = &process;
    let setup =
        scheduler::Setup::load(&args.config).map_err(|error| CliError::component("scheduler", error))?;
    let work = scheduler::run(client, informers, setup, clock.clone(), rng.clone(), tasks.clone());
    tasks.spawn("scheduler", work);
    process.wait().await;
    Ok(())
}

/// `navarch controller-manager`.
pub async fn controller_manager(args: ControllerManagerArgs) -> Result<(), CliError> {
    let process = Process::new();
    let read =
        |path: &PathBuf| std::fs::read_to_string(path).map_err(|source| CliError::file("read", path, source));
    let signing = match (&args.cluster_signing_cert_file, &args.cluster_signing_key_file) {
        (Some(cert), Some(key)) => Some(base::pki::Identity { cert: read(cert)?, key: read(key)? }),
        _ => None,
    };
    let config = controllers::Config {
        root_ca: args.root_ca_file.as_ref().map(read).transpose()?.unwrap_or_default(),
        signing,
        token_signer: match &args.service_account_private_key_file {
            Some(path) => Some(crate::control::token_signer(&read(path)?)?),
            None => None,
        },
        cluster_cidrs: if args.allocate_node_cidrs { args.cluster_cidr.clone() } else { Vec::new() },
        controllers: args.controllers.clone(),
        node_grace: args.node_monitor_grace_period,
        ..controllers::Config::default()
    };
    let client = process.client(&args.kubeconfig, "kube-controller-manager")?;
    if args.leader_elect {
        lead(&process, &client, "kube-controller-manager").await;
    }
    let informers = process.informers(&client);
    let client_for: controllers::ClientFor = Arc::new(move |_| client.clone());
    let Process { clock, rng, tasks } = &process;
    controllers::start_with(informers, client_for, config, clock.clone(), rng.clone(), tasks);
    process.wait().await;
    Ok(())
}

/// `navarch kubelet`.
pub async fn kubelet(args: KubeletArgs) -> Result<(), CliError> {
    let process = Process::new();
    let failed = |error: base::BoxError| CliError::component("node agent", error);
    let config = kubelet::Config::load(&args.args).map_err(|error| failed(error.into()))?;
    let Some(kubeconfig) = args.args.kubeconfig else {
        let why = "name the kubeconfig of the API server".to_owned();
        return Err(CliError::Flag { flag: "kubeconfig", value: String::new(), why });
    };
    let parts = kubelet::agent::Parts {
        client: process.client(&kubeconfig, "kubelet")?,
        config,
        clock: process.clock.clone(),
        rng: process.rng.clone(),
        tasks: process.tasks.clone(),
        metrics: base::metrics::Metrics::new(),
        server: kubelet::server::Parts::default(),
    };
    kubelet::agent::start(parts).await.map_err(|error| failed(error.into()))?;
    process.wait().await;
    Ok(())
}

/// `navarch proxy`.
pub async fn proxy(args: ProxyArgs) -> Result<(), CliError> {
    let process = Process::new();
    let failed = |error: base::BoxError| CliError::component("service proxy", error);
    let cleanup = args.args.cleanup;
    let (config, kubeconfig) = args.args.resolve(&host::name()).map_err(|error| failed(error.into()))?;
    if cleanup {
        return network::proxy::cleanup(&config.nft_program, &config.table)
            .await
            .map_err(|e| failed(e.into()));
    }
    let Some(kubeconfig) = kubeconfig else {
        let why = "name the kubeconfig of the API server".to_owned();
        return Err(CliError::Flag { flag: "kubeconfig", value: String::new(), why });
    };
    let client = process.client(&kubeconfig, "kube-proxy")?;
    let deps = network::proxy::ProxyDeps {
        informers: process.informers(&client),
        pods: None,
        clock: process.clock.clone(),
        tasks: process.tasks.clone(),
        metrics: base::metrics::Metrics::new(),
    };
    process.tasks.spawn("proxy", async move {
        if let Err(error) = network::proxy::run(deps, config).await {
            tracing::error!(%error, "the service proxy stopped");
        }
    });
    process.wait().await;
    Ok(())
}
