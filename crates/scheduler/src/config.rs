//! The scheduler's configuration; flags carry upstream's names.

use std::time::Duration;

use crate::profile::Profile;
use crate::queue::Backoff;

/// What `navarch scheduler` takes.
#[derive(Clone, Debug, clap::Args)]
pub struct Config {
    /// The kubeconfig of the API server.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<std::path::PathBuf>,
    /// The name pods ask for in `spec.schedulerName`.
    #[arg(long, default_value = "default-scheduler", value_name = "NAME")]
    pub scheduler_name: String,
    /// Elect a leader by Lease before scheduling; needed when several run.
    #[arg(long, default_value_t = false, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
    pub leader_elect: bool,
}

impl Default for Config {
    fn default() -> Self {
        Config { kubeconfig: None, scheduler_name: "default-scheduler".to_owned(), leader_elect: false }
    }
}

/// How the scheduler is to work.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The profiles, one a scheduler name.
    pub profiles: Vec<Profile>,
    /// How long pods wait after failed tries.
    pub backoff: Backoff,
    /// How long a pod's volumes may take to be bound.
    pub bind_timeout: Duration,
}

impl Default for Setup {
    fn default() -> Self {
        Setup {
            profiles: vec![Profile::default()],
            backoff: Backoff::default(),
            bind_timeout: Duration::from_secs(600),
        }
    }
}

impl Setup {
    /// From the flags.
    pub fn of(config: &Config) -> Setup {
        Setup { profiles: vec![Profile::new(&config.scheduler_name)], ..Setup::default() }
    }
}
