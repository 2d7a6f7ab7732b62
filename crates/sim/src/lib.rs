//! Hollow nodes: thousands of them in one process, against a real control plane, and a load of pods to measure it.
//!
//! A hollow node registers, keeps its lease, and walks the pods bound to it through their phases; there are no
//! containers. Must not know which control plane it talks to: everything goes through `client`.

mod load;
mod node;
mod phase;
mod pod;
mod report;
mod usage;

use std::sync::Arc;
use std::time::Duration;

use base::{Clock, Rng, Tasks};
use client::{Client, ClientError, SharedInformers};

use crate::report::Report;
use crate::usage::Phase;

/// The label of everything that a simulation makes.
pub const LABEL: &str = "navarch.local/hollow";

/// What is simulated.
#[derive(Clone, Debug, clap::Args)]
pub struct Config {
    /// Hollow nodes.
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub nodes: usize,
    /// Pods to create and follow.
    #[arg(long, default_value_t = 1000, value_name = "N")]
    pub pods: usize,
    /// Pods of one Deployment; 0 creates pods without an owner.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub deployment_size: usize,
    /// Go on when all pods run: roll every Deployment, drain a tenth of the nodes against budgets, delete everything;
    /// tell what each phase took. Deployments have 30 pods unless --deployment-size says otherwise.
    #[arg(long, conflicts_with = "lifetime_ms")]
    pub phases: bool,
    /// Objects created a second at most; 0 = as fast as it goes.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub rate: u64,
    /// Requests under way at one time.
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub concurrency: usize,
    /// From binding to running, milliseconds.
    #[arg(long, default_value_t = 500, value_name = "MS")]
    pub startup_ms: u64,
    /// From running to completion, milliseconds; 0 = pods run for ever.
    #[arg(long, default_value_t = 0, value_name = "MS")]
    pub lifetime_ms: u64,
    /// From the order to stop to the end, milliseconds.
    #[arg(long, default_value_t = 500, value_name = "MS")]
    pub shutdown_ms: u64,
    /// CPUs of a node.
    #[arg(long, default_value_t = 32, value_name = "N")]
    pub node_cpus: u32,
    /// Memory of a node, GiB.
    #[arg(long, default_value_t = 256, value_name = "GIB")]
    pub node_memory_gib: u32,
    /// Pods a node takes.
    #[arg(long, default_value_t = 110, value_name = "N")]
    pub node_pods: u32,
    /// CPU a pod asks for, thousandths.
    #[arg(long, default_value_t = 100, value_name = "M")]
    pub pod_cpu_milli: u32,
    /// Memory a pod asks for, MiB.
    #[arg(long, default_value_t = 128, value_name = "MIB")]
    pub pod_memory_mib: u32,
    /// How long a node's lease lasts, seconds; it is renewed four times as often.
    #[arg(long, default_value_t = 40, value_name = "S")]
    pub lease_seconds: u32,
    /// Give up after this many seconds.
    #[arg(long, default_value_t = 3600, value_name = "S")]
    pub limit_seconds: u64,
    /// Keep the nodes and pods running after the summary, until interrupted.
    #[arg(long)]
    pub stay: bool,
    /// Leave the objects behind at the end.
    #[arg(long)]
    pub keep: bool,
}

/// Why a simulation ended early.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    /// A call that the simulation cannot do without.
    #[error("{what}: {source}")]
    Call {
        /// What was attempted.
        what: &'static str,
        /// Why it failed.
        source: ClientError,
    },
    /// Not everything happened in time.
    #[error("not all pods ran within {seconds} s; see what `kubectl get events` says")]
    Limit {
        /// The limit, seconds.
        seconds: u64,
    },
}

/// What a simulation works with; cheap to clone.
#[derive(Clone)]
pub struct Sim {
    config: Arc<Config>,
    client: Client,
    clock: Clock,
    rng: Rng,
    tasks: Tasks,
    report: Arc<Report>,
    /// Sets one run's names apart from another's.
    run: Arc<str>,
}

impl Sim {
    /// Over `client`, which must be allowed everything.
    pub fn new(mut config: Config, client: Client, clock: Clock, rng: Rng, tasks: Tasks) -> Sim {
        if config.phases && config.deployment_size == 0 {
            config.deployment_size = 30;
        }
        let run = rng.suffix(5).into();
        let report = Arc::new(Report::new(clock.clone()));
        Sim { config: Arc::new(config), client, clock, rng, tasks, report, run }
    }

    /// Registers the nodes, creates the pods, waits until all ran, prints a summary.
    pub async fn run(&self) -> Result<(), SimError> {
        let limit = Duration::from_secs(self.config.limit_seconds);
        let informers = SharedInformers::new(
            self.client.clone(),
            self.clock.clone(),
            self.rng.clone(),
            self.tasks.clone(),
        );
        let report = self.report.clone();
        self.tasks.spawn("progress", async move { report.progress().await });
        load::namespace(self).await?;
        let pods = pod::follow(self, &informers).await;
        let late = SimError::Limit { seconds: limit.as_secs() };
        let ran = self.clock.timeout(limit, self.work()).await;
        self.report.summary();
        ran.ok_or(late)??;
        if self.config.phases {
            let late = SimError::Limit { seconds: limit.as_secs() };
            let follower = phase::Follower::new(self, &informers, pods).await;
            let more = async {
                phase::roll(self, &follower).await?;
                phase::drain(self, &follower).await
            };
            self.clock.timeout(limit, more).await.ok_or(late)??;
        }
        Ok(())
    }

    async fn work(&self) -> Result<(), SimError> {
        let phase = Phase::begin("nodes", &self.clock);
        node::register(self).await?;
        phase.end(&format!("{} nodes", self.config.nodes));
        let phase = Phase::begin("deploy", &self.clock);
        load::create(self).await?;
        self.report.all_ran(self.config.pods).await;
        phase.end(&format!("{} pods", self.config.pods));
        Ok(())
    }

    /// Removes what the simulation made.
    pub async fn clean(&self) -> Result<(), SimError> {
        let phase = Phase::begin("delete", &self.clock);
        load::clean(self).await?;
        phase.end(&format!("{} pods, {} nodes", self.config.pods, self.config.nodes));
        Ok(())
    }

    /// The name of a node of this run.
    fn node_name(&self, number: usize) -> String {
        format!("hollow-{}-{number}", self.run)
    }

    /// The number of a node of this run; `None` for others.
    fn node_number(&self, name: &str) -> Option<usize> {
        name.strip_prefix("hollow-")?.strip_prefix(&*self.run)?.strip_prefix('-')?.parse().ok()
    }

    /// Where the load's pods live.
    fn namespace(&self) -> String {
        format!("hollow-{}", self.run)
    }
}
