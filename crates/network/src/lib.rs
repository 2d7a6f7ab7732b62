//! The node's network: the service proxy, pod addresses and routes, cluster DNS.
//!
//! Must not know how pods are run. It reads the cluster through the client and writes the kernel's tables.

mod cleanup;
pub mod cni;
pub mod dns;
mod exec;
mod firewall;
mod http;
pub mod nft;
mod node;
pub mod policy;
pub mod proxy;
pub mod routes;
mod sysctl;

pub use cleanup::{CleanupConfig, cleanup};
pub use exec::ExecError;
pub use node::NodeDeps;
