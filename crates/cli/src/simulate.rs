//! `navarch simulate`: hollow nodes and a load of pods, against any cluster or a control plane of this process.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use api::UserInfo;
use client::{Client, Https, Transport};
use sim::Sim;
use store::Engine;
use tokio::net::TcpListener;

use crate::control::Plane;
use crate::error::CliError;
use crate::pki::{self, Names};
use crate::process::{ConnectArgs, Process, user_agent, wait_for_end};

/// Connections to the API server: one HTTP/2 connection serialises what many nodes would send at once.
const CONNECTIONS: usize = 4;

/// Flags of `navarch simulate`.
#[derive(Clone, Debug, clap::Args)]
pub struct SimulateArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// Against a control plane made for the occasion in this process: API server, controllers and scheduler, its
    /// objects in memory.
    #[arg(long, conflicts_with = "kubeconfig")]
    own: bool,
    /// Like --own, with the objects on disk in this directory.
    #[arg(long, conflicts_with = "kubeconfig", value_name = "DIR")]
    own_store: Option<std::path::PathBuf>,
    #[command(flatten)]
    config: sim::Config,
}

/// Runs the simulation to its end.
pub async fn run(args: SimulateArgs) -> Result<(), CliError> {
    let process = Process::new();
    let plane = if args.own || args.own_store.is_some() { Some(own(&args, &process).await?) } else { None };
    let client = match &plane {
        Some(plane) => {
            plane.client(UserInfo::component("navarch-simulate", &["system:masters"]), "navarch-simulate")
        }
        None => remote(&args.connect, &process)?,
    };
    let failed = |error| CliError::component("simulation", error);
    let simulation = Sim::new(
        args.config.clone(),
        client,
        process.clock.clone(),
        process.rng.clone(),
        process.tasks.clone(),
    );
    let ran = simulation.run().await;
    if args.config.stay && ran.is_ok() {
        println!("\nthe nodes stay until interrupted (Ctrl-C)");
        wait_for_end().await;
    }
    // What is in memory ends with us.
    let in_memory = args.own && args.own_store.is_none();
    if !args.config.keep && (args.config.phases || !in_memory) {
        println!("\nremoving the simulation's objects");
        simulation.clean().await.map_err(failed)?;
    }
    process.end().await;
    if let Some(plane) = plane {
        plane.close().await;
    }
    ran.map_err(failed)
}

/// Calls shared out over several connections.
struct Several {
    all: Vec<Https>,
    next: std::sync::atomic::AtomicUsize,
}

impl Transport for Several {
    fn call(
        &self,
        request: http::Request<base::http::Body>,
    ) -> futures::future::BoxFuture<'_, Result<http::Response<base::http::Body>, client::ClientError>> {
        let at = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % self.all.len();
        self.all[at].call(request)
    }
}

fn remote(connect: &ConnectArgs, process: &Process) -> Result<Client, CliError> {
    let config = connect.config()?;
    let one = || Https::from_kubeconfig(&config, None, process.clock.clone(), process.tasks.clone());
    let all = (0..CONNECTIONS).map(|_| one()).collect::<Result<_, _>>()?;
    let several = Several { all, next: Default::default() };
    Ok(Client::new(Arc::new(several), &user_agent("navarch-simulate"), process.clock.clone()))
}

/// A control plane that serves nobody else.
async fn own(args: &SimulateArgs, process: &Process) -> Result<Plane, CliError> {
    let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
    let keys = match &args.own_store {
        Some(dir) => dir.join("pki"),
        None => std::env::temp_dir().join(format!("navarch-simulate-{}", process.rng.suffix(8))),
    };
    let names = Names { node: "localhost".to_owned(), addresses: vec![loopback], dns_names: Vec::new() };
    let made = pki::ensure(&keys, &names, loopback, "cluster.local", &process.clock, &process.rng)?;
    let engine = match &args.own_store {
        Some(dir) => crate::control::disk(&dir.join("store"))?,
        None => {
            // The keys of a cluster in memory are of no use to anybody.
            let _ = std::fs::remove_dir_all(&keys);
            Engine::Memory
        }
    };
    let config = apiserver::Config {
        identity: Some(made.apiserver.clone()),
        service_account_keys: vec![made.service_account_key.clone()],
        service_account_signing_key: Some(made.service_account_key.clone()),
        ..apiserver::Config::default()
    };
    let listening = |error: std::io::Error| CliError::component("API server", error);
    let listener = TcpListener::bind((loopback, 0)).await.map_err(listening)?;
    let plane = Plane::start(engine, config, listener, process).await?;
    plane.start_controllers(controllers::Config {
        // Room for 65,536 nodes.
        cluster_cidrs: vec!["10.0.0.0/8".to_owned()],
        ..controllers::Config::default()
    });
    Ok(plane)
}
