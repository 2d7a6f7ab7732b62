//! Takes away everything that this crate made on a machine.

use std::net::IpAddr;

use crate::cni::{self, CniConfig};
use crate::routes::{self, RouteConfig};
use crate::{exec, firewall, proxy};

/// What was made, as it was configured.
#[derive(Clone, Debug)]
pub struct CleanupConfig {
    /// The nft program.
    pub nft_program: String,
    /// The service table's name.
    pub table: String,
    /// The name of the table of network policies.
    pub policy_table: String,
    /// The pod network.
    pub cni: CniConfig,
    /// The routes.
    pub routes: RouteConfig,
    /// Addresses of the DNS server, put on the loopback link.
    pub dns_addresses: Vec<IpAddr>,
}

impl Default for CleanupConfig {
    fn default() -> Self {
        CleanupConfig {
            nft_program: "nft".to_owned(),
            table: proxy::options::DEFAULT_TABLE.to_owned(),
            policy_table: format!("{}-policy", proxy::options::DEFAULT_TABLE),
            cni: CniConfig::default(),
            routes: RouteConfig::default(),
            dns_addresses: Vec::new(),
        }
    }
}

/// Removes tables, routes, links, addresses and files. What is not there is not an error; what cannot be removed
/// is returned in words, and the rest is removed all the same.
pub async fn cleanup(config: &CleanupConfig) -> Vec<String> {
    let mut left = Vec::new();
    if let Err(error) = proxy::cleanup(&config.nft_program, &config.table).await {
        left.push(error.to_string());
    }
    crate::policy::cleanup(&config.nft_program, &config.policy_table).await;
    routes::remove(&config.routes).await;
    firewall::close().await;
    if exec::run("ip", &["link", "show", &config.cni.bridge], "").await.is_ok()
        && let Err(error) = exec::run("ip", &["link", "del", &config.cni.bridge], "").await
    {
        left.push(error.to_string());
    }
    for address in &config.dns_addresses {
        crate::dns::remove_address(*address).await;
    }
    if let Err(error) = cni::remove(&config.cni) {
        left.push(error.to_string());
    }
    left
}
