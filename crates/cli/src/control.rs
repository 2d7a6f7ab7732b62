//! The control plane in one process: store, API server, controllers, scheduler, joined by in-process calls.
//!
//! Every component calls as itself: in-process requests carry an identity and pass authorization and admission
//! like any other.

use std::path::Path;
use std::sync::Arc;

use api::UserInfo;
use apiserver::{Config as ApiConfig, Rows, Server};
use base::{Clock, Rng, Tasks};
use client::{Client, Handler, InProcess, SharedInformers};
use store::{DiskOptions, Engine, Options, Store};
use tokio::net::TcpListener;

use crate::error::CliError;

/// The disk engine in a directory.
pub fn disk(dir: &Path) -> Result<Engine, CliError> {
    Engine::disk(DiskOptions::new(dir.to_owned())).map_err(|error| CliError::component("store", error))
}

/// A running API server with its in-process door.
#[derive(Clone)]
pub struct Plane {
    server: Server,
    handler: Handler,
    /// The process' clock.
    pub clock: Clock,
    /// The process' randomness.
    pub rng: Rng,
    /// The process' tasks.
    pub tasks: Tasks,
}

impl Plane {
    /// Opens the store, makes what every cluster has, and serves on `listener`.
    pub async fn start(
        engine: Engine,
        config: ApiConfig,
        listener: TcpListener,
        clock: Clock,
        rng: Rng,
        tasks: Tasks,
    ) -> Result<Plane, CliError> {
        let rows = Rows::builtin();
        let options = Options::new(rows.indexer(), clock.clone());
        let store = Store::open(engine, options).await.map_err(|e| CliError::component("store", e))?;
        let server = Server::new(config, rows, store, clock.clone(), rng.clone(), tasks.clone())
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
        Ok(Plane { server, handler, clock, rng, tasks })
    }

    /// A client that calls as `user`, without a socket.
    pub fn client(&self, user: UserInfo, agent: &str) -> Client {
        let agent = format!("{agent}/{}", env!("CARGO_PKG_VERSION"));
        Client::new(Arc::new(InProcess::new(self.handler.clone(), user)), &agent, self.clock.clone())
    }

    /// Informers that list and watch as `user`.
    pub fn informers(&self, user: UserInfo, agent: &str) -> SharedInformers {
        let client = self.client(user, agent);
        SharedInformers::new(client, self.clock.clone(), self.rng.clone(), self.tasks.clone())
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
        let (clock, rng) = (self.clock.clone(), self.rng.clone());
        controllers::start_with(informers.clone(), client_for, config, clock, rng, &self.tasks);
        let user = UserInfo::component("system:kube-scheduler", &[]);
        let scheduling = scheduler::run(
            self.client(user.clone(), "kube-scheduler"),
            informers,
            scheduler::Config::default(),
            self.clock.clone(),
            self.rng.clone(),
            self.tasks.clone(),
        );
        self.tasks.spawn("scheduler", scheduling);
    }

    /// Flushes and closes the store; nothing is served afterwards.
    pub async fn close(&self) {
        self.server.store().close().await;
    }
}
