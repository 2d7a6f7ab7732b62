//! The client side of the Kubernetes API: transports, typed and untyped calls, watches, informers with shared
//! caches, work queues, the controller runner, leases and events.
//!
//! Must not know any controller, nor how the server works: everything here would work against any conformant
//! API server.

pub mod cache;
pub mod client;
pub mod discovery;
pub mod error;
pub mod events;
pub mod https;
pub mod informer;
pub mod kind;
pub mod kubeconfig;
pub mod lease;
pub mod plan;
pub mod queue;
pub mod runner;
pub mod streaming;
pub mod transport;
pub mod watch;

pub use cache::{Cache, Change, Key};
pub use client::{Client, DeleteOptions, List, ListOptions, Patch, Preconditions, Propagation, WriteOptions};
pub use discovery::{Discovered, Discovery};
pub use error::ClientError;
pub use events::{EventKind, Recorder};
pub use https::Https;
pub use informer::{Informer, Scope, SharedInformers};
pub use kind::{Dynamic, Kind, Meta, Partial, ResourceRef};
pub use kubeconfig::Kubeconfig;
pub use lease::{Election, LeaseConfig};
pub use plan::{Outcome, Plan, Step};
pub use queue::Queue;
pub use runner::{Reconcile, ReconcileError, Runner};
pub use transport::{Handler, InProcess, Transport};
pub use watch::{WatchEvent, WatchStream};
