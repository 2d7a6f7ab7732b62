//! The CNI configuration of this node: one conflist for containerd, made from the node's pod networks.
//!
//! Must not know Services: host ports and masquerading are the service table's, not plugins'.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use api::k8s::api::core::v1::Node;
use client::informer::Scope;
use ipnet::IpNet;
use serde_json::{Value, json};

use crate::node::NodeDeps;
use crate::proxy::{pod_nets, present};

/// How pods are joined to the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wiring {
    /// All on one bridge. Packets between them must pass the firewall (`br_netfilter`), or answers that come
    /// through a Service would go straight back and not be recognised.
    Bridge,
    /// Each on a cable of its own to the node, which routes. Needs nothing of the kernel but veth.
    PointToPoint,
}

/// Where the configuration is and what it says.
#[derive(Clone, Debug)]
pub struct CniConfig {
    /// The directory that containerd reads, usually `/etc/cni/net.d`.
    pub conf_dir: PathBuf,
    /// The file's name; containerd takes the first by name.
    pub file_name: String,
    /// The network's name.
    pub network: String,
    /// The bridge's name.
    pub bridge: String,
    /// Where host-local keeps its leases; `None`: its default, `/var/lib/cni/networks`.
    pub data_dir: Option<PathBuf>,
    /// The largest packet of pods' links, in bytes; `None`: the kernel's default.
    pub mtu: Option<u32>,
    /// `None`: a bridge where the kernel passes bridged packets to the firewall, else point to point.
    pub wiring: Option<Wiring>,
}

impl Default for CniConfig {
    fn default() -> Self {
        CniConfig {
            conf_dir: PathBuf::from("/etc/cni/net.d"),
            file_name: "10-navarch.conflist".to_owned(),
            network: "navarch".to_owned(),
            bridge: "cni0".to_owned(),
            data_dir: None,
            mtu: None,
            wiring: None,
        }
    }
}

/// Why the configuration was not written or removed.
#[derive(Debug, thiserror::Error)]
#[error("{action} {path}: {source}")]
pub struct CniError {
    /// What was tried.
    action: &'static str,
    /// On which file.
    path: PathBuf,
    /// What the system said.
    source: std::io::Error,
}

impl CniConfig {
    fn path(&self) -> PathBuf {
        self.conf_dir.join(&self.file_name)
    }

    /// host-local's leases of this network.
    pub(crate) fn lease_dir(&self) -> PathBuf {
        let parent = self.data_dir.as_deref().unwrap_or(Path::new("/var/lib/cni/networks"));
        parent.join(&self.network)
    }
}

/// The conflist for these pod networks, at least one.
pub fn conflist(config: &CniConfig, nets: &[IpNet], wiring: Wiring) -> Value {
    let ranges: Vec<Value> = nets.iter().map(|net| json!([{ "subnet": net.to_string() }])).collect();
    let mut everywhere: Vec<&str> =
        nets.iter().map(|net| if net.addr().is_ipv4() { "0.0.0.0/0" } else { "::/0" }).collect();
    everywhere.dedup();
    let routes: Vec<Value> = everywhere.into_iter().map(|all| json!({ "dst": all })).collect();
    let mut ipam = json!({ "type": "host-local", "ranges": ranges, "routes": routes });
    if let Some(dir) = &config.data_dir {
        ipam["dataDir"] = dir.to_string_lossy().into();
    }
    let mut plugin = match wiring {
        Wiring::Bridge => json!({
            "type": "bridge",
            "bridge": config.bridge,
            "isGateway": true,
            // A bridge left by an earlier cluster may have an address of other networks.
            "forceAddress": true,
            "hairpinMode": true,
            "ipMasq": false,
        }),
        Wiring::PointToPoint => json!({ "type": "ptp", "ipMasq": false }),
    };
    plugin["ipam"] = ipam;
    if let Some(mtu) = config.mtu {
        plugin["mtu"] = mtu.into();
    }
    json!({ "cniVersion": "0.4.0", "name": config.network, "plugins": [plugin] })
}

/// Writes the conflist whole or not at all. False when it already said so.
pub fn write(config: &CniConfig, nets: &[IpNet]) -> Result<bool, CniError> {
    let wiring = config.wiring.unwrap_or_else(best_wiring);
    let mut text =
        serde_json::to_vec_pretty(&conflist(config, nets, wiring)).expect("a JSON tree is writable");
    text.push(b'\n');
    let path = config.path();
    if std::fs::read(&path).is_ok_and(|now| now == text) {
        return Ok(false);
    }
    let failed = |source| CniError { action: "writing", path: path.clone(), source };
    std::fs::create_dir_all(&config.conf_dir).map_err(failed)?;
    // containerd reads files with known endings only, so this one is not seen half written.
    let half = config.conf_dir.join(format!(".{}.new", config.file_name));
    let mut file = std::fs::File::create(&half).map_err(failed)?;
    file.write_all(&text).and_then(|()| file.sync_all()).map_err(failed)?;
    std::fs::rename(&half, &path).map_err(failed)?;
    Ok(true)
}

/// Removes the conflist and the leases of its network.
pub fn remove(config: &CniConfig) -> Result<(), CniError> {
    let gone = |result: std::io::Result<()>, path: PathBuf| match result {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(CniError { action: "removing", path, source })
        }
        _ => Ok(()),
    };
    gone(std::fs::remove_file(config.path()), config.path())?;
    gone(std::fs::remove_dir_all(config.lease_dir()), config.lease_dir())
}

fn best_wiring() -> Wiring {
    let passes = || Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables").exists();
    if !passes() {
        // Present in most kernels but not loaded. No modprobe, no module: then not.
        let _ = std::process::Command::new("modprobe").arg("br_netfilter").output();
    }
    if passes() { Wiring::Bridge } else { Wiring::PointToPoint }
}

/// Writes the configuration once the node has its pod networks, and again if they change, until cancelled.
/// `ready` is told after the first time.
pub async fn run(deps: NodeDeps, config: CniConfig, ready: impl FnOnce() + Send) {
    let named = format!("metadata.name={}", deps.node_name);
    let node = deps.informers.scoped::<Node>(Scope { fields: named, ..Scope::default() });
    let mut changes = node.subscribe();
    let mut ready = Some(ready);
    while let Some(change) = changes.recv().await {
        let nets = present(&change).map(|node| pod_nets(node)).unwrap_or_default();
        if nets.is_empty() {
            continue;
        }
        match write(&config, &nets) {
            Ok(changed) => {
                if changed {
                    tracing::info!(?nets, path = %config.path().display(), "pod network configured");
                }
                if let Some(ready) = ready.take() {
                    ready();
                }
            }
            Err(error) => tracing::error!(%error, "pod network not configured"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(words: &[&str]) -> Vec<IpNet> {
        words.iter().map(|word| word.parse().unwrap()).collect()
    }

    #[test]
    fn a_bridge_for_two_families() {
        let config = CniConfig { mtu: Some(1450), ..CniConfig::default() };
        let text = conflist(&config, &nets(&["10.244.1.0/24", "fd00::/64"]), Wiring::Bridge).to_string();
        assert_eq!(
            text,
            r#"{"cniVersion":"0.4.0","name":"navarch","plugins":[{"bridge":"cni0","forceAddress":true,"hairpinMode":true,"ipMasq":false,"ipam":{"ranges":[[{"subnet":"10.244.1.0/24"}],[{"subnet":"fd00::/64"}]],"routes":[{"dst":"0.0.0.0/0"},{"dst":"::/0"}],"type":"host-local"},"isGateway":true,"mtu":1450,"type":"bridge"}]}"#
        );
        let text = conflist(&config, &nets(&["10.244.1.0/24"]), Wiring::PointToPoint).to_string();
        assert!(text.contains(r#""type":"ptp""#) && !text.contains("bridge"), "{text}");
    }

    #[test]
    fn written_whole_and_only_when_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let conf_dir = dir.path().join("net.d");
        let data_dir = Some(dir.path().join("leases"));
        let config = CniConfig { conf_dir: conf_dir.clone(), data_dir, ..CniConfig::default() };
        assert!(write(&config, &nets(&["10.244.1.0/24"])).unwrap());
        assert!(!write(&config, &nets(&["10.244.1.0/24"])).unwrap());
        assert!(write(&config, &nets(&["10.244.2.0/24"])).unwrap());
        let files: Vec<_> = std::fs::read_dir(&conf_dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(files, ["10-navarch.conflist"]);
        std::fs::create_dir_all(config.lease_dir()).unwrap();
        remove(&config).unwrap();
        remove(&config).unwrap();
        assert!(!config.path().exists() && !config.lease_dir().exists());
    }
}
