//! The agent: runs the pods bound to this node through the container runtime, and reports on them and the node.
//!
//! Must not know how the API server works inside; it is an API client like any other.

pub mod agent;
pub mod amount;
pub mod collector;
pub mod config;
pub mod container;
pub mod devices;
pub mod events;
pub mod eviction;
pub mod housekeeping;
pub mod http_get;
pub mod images;
pub mod node;
pub mod objects;
pub mod pods;
pub mod qos;
pub mod server;
pub mod shared;
pub mod shutdown;
pub mod statics;
pub mod stats;
pub mod streaming;
pub mod tokens;
pub mod volumes;

pub use agent::{AgentError, Parts, start, stop};
pub use config::{Args, Config};
