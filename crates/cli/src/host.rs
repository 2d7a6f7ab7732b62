//! What this machine is called and where it is reached. Must not know what for.

use std::net::IpAddr;

/// The host's name in lower case, as nodes are named; empty when it has none.
pub fn name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_lowercase()
}

/// The address packets to elsewhere leave from; loopback without a default route.
pub fn address() -> IpAddr {
    kubelet::node::machine::default_address()
}
