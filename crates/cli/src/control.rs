//! The control plane in one process: store, API server, controllers, scheduler, joined by in-process calls.
//!
//! Every component calls as itself: in-process requests carry an identity and pass authorization and admission
//! like any other.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use api::UserInfo;
use api::wire::Wire;
use apiserver::authn::service_account::Issuer;
use apiserver::{Config as ApiConfig, Rows, Server};
use client::{Client, Election, Handler, InProcess, LeaseConfig, SharedInformers};
use store::{DiskOptions, Engine, Options, Store};
use tokio::net::TcpListener;

use crate::error::CliError;
use crate::process::{Process, user_agent};

/// How long giving up leadership may hold up the end.
const RELEASE: Duration = Duration::from_secs(2);

/// The disk engine in a directory.
pub fn disk(dir: &Path) -> Result<Engine, CliError> {
    Engine::disk(DiskOptions::new(dir.to_owned())).map_err(|error| CliError::component("store", error))
}

/// Signs tokens of Secrets with the cluster's service-account key (PEM).
pub fn token_signer(key: &str) -> Result<controllers::TokenSigner, CliError> {
    let config = ApiConfig { service_account_signing_key: Some(key.to_owned()), ..ApiConfig::default() };
    let issuer = Issuer::new(&config).map_err(|error| CliError::component("controllers", error))?;
    Ok(controllers::TokenSigner(Arc::new(move |account, secret| {
        let account = account.to_tree().ok()?;
        issuer.issue_legacy(&account, secret)
    })))
}

/// A running API server with its in-process door.
#[derive(Clone)]
pub struct Plane {
    server: Server,
    handler: Handler,
    /// The process that it is part of.
    pub process: Process,
}

impl Plane {
    /// Opens the store, makes what every cluster has, and serves on `listener`.
    pub async fn start(
        engine: Engine,
        config: ApiConfig,
        listener: TcpListener,
        process: &Process,
    ) -> Result<Plane, CliError> {
        let Process { clock, rng, tasks } = process.clone();
        let rows = Rows::builtin();
        let mut options = Options::new(rows.indexer(), clock.clone());
        options.seal = config.encryption.clone().map(|sealer| sealer as Arc<dyn store::Seal>);
        let store = Store::open(engine, options).await.map_err(|e| CliError::component("store", e))?;
        let server = Server::new(config, rows, store, clock, rng, tasks.clone())
            .map_err(|error| CliError::component("API server", error))?;
        server.start().await.map_err(|error| CliError::component("API server", error))?;
        let serving = server.clone();
        tasks.spawn_detached("serve", async move {
            if let Err(error) = serving.serve(listener).await {
                tracing::error!(%error, "the API server stopped serving");
            }
        });
        let door = server.clone();
        let handler: Handler = Arc::new(move |request| {
            let server = door.clone();
            Box::pin(async move { server.call(request).await })
        });
        Ok(Plane { server, handler, process: process.clone() })
    }

    /// A client that calls as `user`, without a socket.
    pub fn client(&self, user: UserInfo, agent: &str) -> Client {
        let transport = InProcess::new(self.handler.clone(), user);
        Client::new(Arc::new(transport), &user_agent(agent), self.process.clock.clone())
    }

    /// Informers that list and watch as `user`.
    pub fn informers(&self, user: UserInfo, agent: &str) -> SharedInformers {
        self.process.informers(&self.client(user, agent))
    }

    /// Starts all controllers and the scheduler whenever this control plane leads those that share its store.
    pub fn start_controllers_when_leading(&self, config: controllers::Config) {
        let plane = self.clone();
        self.process.tasks.spawn_detached("leading", async move { plane.lead(config).await });
    }

    async fn lead(&self, config: controllers::Config) {
        let user = UserInfo::component("system:kube-controller-manager", &[]);
        let client = self.client(user, "kube-controller-manager");
        let Process { clock, rng, tasks } = self.process.clone();
        let identity = format!("{}_{}", crate::host::name(), rng.uuid());
        let lease = LeaseConfig::new("kube-system", "kube-controller-manager", &identity);
        let cancel = tasks.cancel_token().clone();
        loop {
            let mut election = Election::new(client.clone(), lease.clone(), clock.clone(), rng.clone());
            if cancel.run(election.acquire()).await.is_none() {
                return;
            }
            tracing::info!(identity, "this control plane leads");
            let process = Process { tasks: tasks.child(), ..self.process.clone() };
            let leading = Plane { process, ..self.clone() };
            leading.start_controllers(config.clone());
            if cancel.run(election.keep()).await.is_none() {
                // The next one need not wait for the lease to run out.
                if let Some(Err(error)) = clock.timeout(RELEASE, election.release()).await {
                    tracing::debug!(%error, "the lease was not released");
                }
                return;
            }
            tracing::warn!(identity, "another control plane may lead now");
            leading.process.tasks.cancel_token().cancel();
        }
    }

    /// Starts all controllers and the scheduler, on shared caches.
    pub fn start_controllers(&self, config: controllers::Config) {
        let own = UserInfo::component("system:kube-controller-manager", &[]);
        let informers = self.informers(own, "kube-controller-manager");
        let plane = self.clone();
        let client_for: controllers::ClientFor = Arc::new(move |name| match name {
            controllers::WATCHER => {
                plane.client(UserInfo::component("system:kube-controller-manager", &[]), name)
            }
            _ => plane.client(UserInfo::service_account("kube-system", name), name),
        });
        let Process { clock, rng, tasks } = self.process.clone();
        controllers::start_with(informers.clone(), client_for, config, clock.clone(), rng.clone(), &tasks);
        let user = UserInfo::component("system:kube-scheduler", &[]);
        let scheduling = scheduler::run(
            self.client(user.clone(), "kube-scheduler"),
            informers,
            scheduler::Setup::default(),
            clock,
            rng,
            tasks.clone(),
        );
        tasks.spawn("scheduler", scheduling);
    }

    /// Flushes and closes the store; nothing is served afterwards.
    pub async fn close(&self) {
        self.server.store().close().await;
    }
}
