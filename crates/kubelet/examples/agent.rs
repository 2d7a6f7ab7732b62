//! The agent alone, for trying it against any API server: `agent --kubeconfig FILE --hostname-override NAME …`.

use std::time::Duration;

use base::metrics::Metrics;
use base::{Clock, Rng, Tasks};
use clap::Parser;
use client::{Client, Https, Kubeconfig};
use kubelet::{Args, Config, Parts};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: Args,
}

#[tokio::main]
async fn main() {
    base::telemetry::init("info", base::telemetry::LogFormat::Text);
    let args = Cli::parse().args;
    let config = Config::load(&args).expect("the settings are usable");
    let (clock, rng, tasks) = (Clock::system(), Rng::system(), Tasks::new());
    let path = args.kubeconfig.clone().expect("--kubeconfig is given");
    let kubeconfig = Kubeconfig::load(&path).expect("the kubeconfig is readable");
    let https = Https::from_kubeconfig(&kubeconfig, None, clock.clone(), tasks.clone()).expect("a server");
    let client = Client::new(std::sync::Arc::new(https), "kubelet/v1.36.2", clock.clone());
    let ca = kubeconfig.settings(None).expect("a context").ca;
    let server = kubelet::server::Parts { client_ca: ca, ..Default::default() };
    let parts = Parts { config, client, clock, rng, tasks: tasks.clone(), metrics: Metrics::new(), server };
    let _shared = kubelet::start(parts).await.expect("the agent starts");
    tokio::signal::ctrl_c().await.expect("signals are delivered");
    tasks.drain(Duration::from_secs(5)).await;
}
