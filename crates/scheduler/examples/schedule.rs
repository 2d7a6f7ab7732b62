//! Runs the scheduler against any API server: `cargo run -p scheduler --example schedule -- KUBECONFIG`.

use base::{Clock, Rng, Tasks};
use client::{Client, Https, SharedInformers};

#[tokio::main]
async fn main() {
    base::telemetry::init("info,scheduler=debug,client=debug", base::telemetry::LogFormat::Text);
    let path = std::env::args().nth(1).expect("a kubeconfig");
    let (clock, rng, tasks) = (Clock::system(), Rng::system(), Tasks::new());
    let config = client::Kubeconfig::load(std::path::Path::new(&path)).expect("a kubeconfig");
    let https = Https::from_kubeconfig(&config, None, clock.clone(), tasks.clone());
    let client = Client::new(std::sync::Arc::new(https.expect("a kubeconfig")), "scheduler", clock.clone());
    let informers = SharedInformers::new(client.clone(), clock.clone(), rng.clone(), tasks.clone());
    scheduler::run(client, informers, scheduler::Setup::default(), clock, rng, tasks).await;
}
