//! The node's network: the service proxy, pod addresses and routes, cluster DNS.
//!
//! Must not know how pods are run. It reads the cluster through the client and writes the kernel's tables.

pub mod http;
pub mod nft;
pub mod proxy;
mod sysctl;
