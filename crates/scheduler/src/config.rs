//! The scheduler's configuration; flags carry upstream's names.

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
