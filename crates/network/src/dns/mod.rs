//! Cluster DNS.
pub(crate) async fn remove_address(_address: std::net::IpAddr) {}
