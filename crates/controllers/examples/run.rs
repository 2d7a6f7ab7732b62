//! Runs the controllers against any cluster: `run --kubeconfig FILE [--controllers LIST] [--ca FILE]`.

use std::path::PathBuf;
use std::sync::Arc;

use base::{Clock, Rng, Tasks, telemetry};
use clap::Parser;
use client::{Client, Https, Kubeconfig};
use controllers::Config;

#[derive(Parser)]
struct Args {
    #[arg(long)]
    kubeconfig: PathBuf,
    #[arg(long, value_delimiter = ',', default_value = "*")]
    controllers: Vec<String>,
    #[arg(long)]
    ca: Option<PathBuf>,
    #[arg(long, value_delimiter = ',')]
    cluster_cidr: Vec<String>,
    #[arg(long, default_value = "info")]
    log: String,
}

#[tokio::main]
async fn main() {
    let args = Args::parse();
    telemetry::init(&args.log, telemetry::LogFormat::Text);
    let (clock, rng, tasks) = (Clock::system(), Rng::system(), Tasks::new());
    let kubeconfig = Kubeconfig::load(&args.kubeconfig).expect("a kubeconfig");
    let https = Https::from_kubeconfig(&kubeconfig, None, clock.clone(), tasks.clone()).expect("a transport");
    let transport = Arc::new(https);
    let for_clients = clock.clone();
    let client_for: controllers::ClientFor = Arc::new(move |account: &str| {
        Client::new(transport.clone(), &format!("navarch-{account}/v1.36.2"), for_clients.clone())
    });
    let config = Config {
        controllers: args.controllers,
        root_ca: args.ca.map(|path| std::fs::read_to_string(path).expect("a CA")).unwrap_or_default(),
        cluster_cidrs: args.cluster_cidr,
        ..Config::default()
    };
    controllers::run(client_for, config, None, clock, rng, tasks).await;
}
