//! What every process has: time, randomness, tasks; and how it calls an API server.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base::{Clock, Rng, Tasks};
use client::{Client, Https, Kubeconfig, SharedInformers};
use tokio::signal::unix::{SignalKind, signal};

use crate::DataArgs;
use crate::error::CliError;

/// How long components may take to end.
pub const DRAIN: Duration = Duration::from_secs(10);

/// Time, randomness and tasks of this process.
#[derive(Clone)]
pub struct Process {
    /// Time.
    pub clock: Clock,
    /// Randomness.
    pub rng: Rng,
    /// Everything that runs.
    pub tasks: Tasks,
}

impl Process {
    /// Of the real machine.
    pub fn new() -> Process {
        Process { clock: Clock::system(), rng: Rng::system(), tasks: Tasks::new() }
    }

    /// A client with the current context of a kubeconfig.
    pub fn client(&self, kubeconfig: &Path, agent: &str) -> Result<Client, CliError> {
        self.client_of(&Kubeconfig::load(kubeconfig)?, agent)
    }

    /// A client with the current context of a kubeconfig that was read.
    pub fn client_of(&self, config: &Kubeconfig, agent: &str) -> Result<Client, CliError> {
        let https = Https::from_kubeconfig(config, None, self.clock.clone(), self.tasks.clone())?;
        Ok(Client::new(Arc::new(https), &user_agent(agent), self.clock.clone()))
    }

    /// Caches filled through `client`.
    pub fn informers(&self, client: &Client) -> SharedInformers {
        SharedInformers::new(client.clone(), self.clock.clone(), self.rng.clone(), self.tasks.clone())
    }

    /// Runs until a signal or the end of the component.
    pub async fn wait(&self) {
        tokio::select! {
            () = wait_for_end() => {}
            () = self.tasks.cancel_token().cancelled() => {}
        }
        self.end().await;
    }

    /// Ends what runs.
    pub async fn end(&self) {
        if !self.tasks.drain(DRAIN).await {
            tracing::warn!("some tasks did not end in time");
        }
    }
}

impl Default for Process {
    fn default() -> Self {
        Process::new()
    }
}

/// `kubelet/0.1.0`.
pub fn user_agent(component: &str) -> String {
    format!("{component}/{}", env!("CARGO_PKG_VERSION"))
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

/// Flags of commands that call the API server as its administrator.
#[derive(Clone, Debug, clap::Args)]
pub struct ConnectArgs {
    /// The cluster of this machine.
    #[command(flatten)]
    pub data: DataArgs,
    /// Use this kubeconfig instead of the administrator's in the data directory.
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
}

impl ConnectArgs {
    /// The kubeconfig to use.
    pub fn config(&self) -> Result<Kubeconfig, CliError> {
        match &self.kubeconfig {
            Some(path) => Ok(Kubeconfig::load(path)?),
            None => {
                let path = self.data.data_dir.join("admin.kubeconfig");
                Kubeconfig::load(&path).map_err(|_| CliError::NotRunning(self.data.data_dir.clone()))
            }
        }
    }
}
