//! The proxy's configuration: flags and the configuration file, both with upstream's names.
//!
//! Must not know how it is used. Flags that have no meaning with nftables are accepted, so that a command line
//! written for upstream's kube-proxy starts this one.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use ipnet::IpNet;
use serde::Deserialize;

/// The table's name unless told otherwise.
pub const DEFAULT_TABLE: &str = "navarch";
/// Changes that come within this time go into one transaction.
const DEFAULT_MIN_SYNC: Duration = Duration::from_millis(4);
/// The largest configuration file that is read, in bytes.
const CONFIG_FILE_LIMIT: u64 = 1024 * 1024;

/// What the proxy follows, parsed.
#[derive(Clone, Debug)]
pub struct ProxyConfig {
    /// This node's name.
    pub node_name: String,
    /// The table's name: several proxies on one machine need different ones, or namespaces of their own.
    pub table: String,
    /// The nft program.
    pub nft_program: String,
    /// Where pods live in the whole cluster; see [`crate::nft::Base::cluster_nets`].
    pub cluster_nets: Vec<IpNet>,
    /// Use the node's pod network as `cluster_nets` (upstream's `--detect-local-mode=NodeCIDR`).
    pub cluster_nets_from_node: bool,
    /// Masquerade what this node's pods send to outside the cluster. Needs `cluster_nets`.
    pub masquerade_pods: bool,
    /// Serve `hostPort`s of the node's pods (instead of CNI's portmap plugin).
    pub host_ports: bool,
    /// Where node ports answer; empty means every address of the node.
    pub node_port_nets: Vec<IpNet>,
    /// Node ports answer only on the node's own addresses, as the Node object tells them.
    pub node_ports_on_primary: bool,
    /// The bit of the packet mark that asks for masquerading.
    pub masquerade_mark: u32,
    /// Hide the source of everything that goes to a cluster address.
    pub masquerade_all: bool,
    /// The address at which this node's own DNS server answers.
    pub dns_address: Option<IpAddr>,
    /// Where `/healthz` and `/livez` answer; `None`: nowhere.
    pub healthz: Option<SocketAddr>,
    /// Where `/metrics` answers; `None`: nowhere.
    pub metrics: Option<SocketAddr>,
    /// Changes that come within this time go into one transaction.
    pub min_sync: Duration,
    /// Set kernel parameters (forwarding, loopback routing, bridges through the firewall).
    pub set_sysctls: bool,
}

impl ProxyConfig {
    /// Upstream's defaults for the node of this name.
    pub fn new(node_name: &str) -> ProxyConfig {
        ProxyConfig {
            node_name: node_name.to_owned(),
            table: DEFAULT_TABLE.to_owned(),
            nft_program: "nft".to_owned(),
            cluster_nets: Vec::new(),
            cluster_nets_from_node: false,
            masquerade_pods: false,
            host_ports: false,
            node_port_nets: Vec::new(),
            node_ports_on_primary: false,
            masquerade_mark: 1 << 14,
            masquerade_all: false,
            dns_address: None,
            healthz: Some(SocketAddr::from(([0, 0, 0, 0], 10256))),
            metrics: Some(SocketAddr::from(([127, 0, 0, 1], 10249))),
            min_sync: DEFAULT_MIN_SYNC,
            set_sysctls: true,
        }
    }
}

/// Why flags or the configuration file were refused.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// The file could not be read.
    #[error("reading the proxy's configuration {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not a KubeProxyConfiguration.
    #[error("the proxy's configuration {path}: {message}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A value has the wrong form.
    #[error("{name}: invalid value {value:?}: {message}")]
    Value {
        /// The flag or field.
        name: &'static str,
        /// What was given.
        value: String,
        /// What was expected.
        message: String,
    },
}

/// Flags of `navarch proxy`.
#[derive(Args, Clone, Debug, Default)]
pub struct ProxyOptions {
    /// Configuration file (KubeProxyConfiguration); its values win over flags, as upstream's do
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Kubeconfig for the API server
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Address of the API server, instead of the kubeconfig's
    #[arg(long, value_name = "URL")]
    pub master: Option<String>,
    /// Name of the node; default: this host's name
    #[arg(long, value_name = "NAME")]
    pub hostname_override: Option<String>,
    /// Networks of the cluster's pods, separated by commas
    #[arg(long, value_name = "CIDR")]
    pub cluster_cidr: Option<String>,
    /// How to tell pods from others: ClusterCIDR or NodeCIDR
    #[arg(long, value_name = "MODE")]
    pub detect_local_mode: Option<String>,
    /// Where /healthz answers; empty: nowhere
    #[arg(long, value_name = "IP:PORT")]
    pub healthz_bind_address: Option<String>,
    /// Where /metrics answers; empty: nowhere
    #[arg(long, value_name = "IP:PORT")]
    pub metrics_bind_address: Option<String>,
    /// Addresses of this node at which node ports answer: networks separated by commas, or `primary`
    #[arg(long, value_name = "CIDRS")]
    pub nodeport_addresses: Option<String>,
    /// Hide the source of everything that goes to a cluster address
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub masquerade_all: Option<bool>,
    /// Bit of the packet mark that asks for masquerading
    #[arg(long, value_name = "BIT")]
    pub iptables_masquerade_bit: Option<u32>,
    /// Accepted for upstream's sake: this proxy always uses nftables
    #[arg(long, value_name = "MODE")]
    pub proxy_mode: Option<String>,
    /// Remove the table and exit
    #[arg(long)]
    pub cleanup: bool,
    /// Name of the nftables table
    #[arg(long, value_name = "NAME")]
    pub nftables_table: Option<String>,
    #[command(flatten)]
    accepted: AcceptedOptions,
}

/// Upstream's flags that change nothing here.
#[derive(Args, Clone, Debug, Default)]
struct AcceptedOptions {
    #[arg(long, hide = true)]
    bind_address: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1)]
    bind_address_hard_fail: Option<Option<String>>,
    #[arg(long, hide = true)]
    config_sync_period: Option<String>,
    #[arg(long, hide = true)]
    conntrack_max_per_core: Option<String>,
    #[arg(long, hide = true)]
    conntrack_min: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1)]
    conntrack_tcp_be_liberal: Option<Option<String>>,
    #[arg(long, hide = true)]
    conntrack_tcp_timeout_close_wait: Option<String>,
    #[arg(long, hide = true)]
    conntrack_tcp_timeout_established: Option<String>,
    #[arg(long, hide = true)]
    conntrack_udp_timeout: Option<String>,
    #[arg(long, hide = true)]
    conntrack_udp_timeout_stream: Option<String>,
    #[arg(long, hide = true)]
    feature_gates: Option<String>,
    #[arg(long, hide = true)]
    iptables_min_sync_period: Option<String>,
    #[arg(long, hide = true)]
    iptables_sync_period: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1)]
    iptables_localhost_nodeports: Option<Option<String>>,
    #[arg(long, hide = true)]
    kube_api_burst: Option<String>,
    #[arg(long, hide = true)]
    kube_api_content_type: Option<String>,
    #[arg(long, hide = true)]
    kube_api_qps: Option<String>,
    #[arg(long, hide = true)]
    oom_score_adj: Option<String>,
    #[arg(long, hide = true, num_args = 0..=1)]
    profiling: Option<Option<String>>,
}

impl ProxyOptions {
    /// Puts flags and the configuration file together. `host_name` names the node when nothing else does.
    /// Returns the kubeconfig's path too, since the caller makes the client.
    pub fn resolve(&self, host_name: &str) -> Result<(ProxyConfig, Option<PathBuf>), OptionsError> {
        let file = match &self.config {
            Some(path) => ConfigFile::read(path)?,
            None => ConfigFile::default(),
        };
        let node_name = [self.hostname_override.clone(), file.hostname_override.clone()]
            .into_iter()
            .flatten()
            .find(|name| !name.is_empty())
            .unwrap_or_else(|| host_name.to_owned());
        let mut config = ProxyConfig::new(&node_name.trim().to_lowercase());
        let pick = |from_file: &Option<String>, flag: &Option<String>| {
            from_file.clone().filter(|value| !value.is_empty()).or_else(|| flag.clone())
        };
        let cluster = pick(&file.cluster_cidr, &self.cluster_cidr).unwrap_or_default();
        let listed = file.detect_local.cluster_cidrs.clone().unwrap_or_default();
        config.cluster_nets =
            nets("cluster-cidr", cluster.split(',').chain(listed.iter().map(String::as_str)))?;
        match pick(&file.detect_local_mode, &self.detect_local_mode).as_deref() {
            None | Some("" | "ClusterCIDR") => {}
            Some("NodeCIDR") => config.cluster_nets_from_node = true,
            Some(other) => {
                tracing::warn!(mode = other, "unknown way to detect pods; using the cluster's networks");
            }
        }
        let healthz = pick(&file.healthz_bind_address, &self.healthz_bind_address);
        config.healthz = socket("healthz-bind-address", healthz, config.healthz)?;
        let metrics = pick(&file.metrics_bind_address, &self.metrics_bind_address);
        config.metrics = socket("metrics-bind-address", metrics, config.metrics)?;
        let flag = self.nodeport_addresses.iter().flat_map(|list| list.split(',')).map(str::to_owned);
        let node_ports = file.node_port_addresses.clone().unwrap_or_else(|| flag.collect());
        config.node_ports_on_primary = node_ports.iter().any(|word| word == "primary");
        if !config.node_ports_on_primary {
            config.node_port_nets = nets("nodeport-addresses", node_ports.iter().map(String::as_str))?;
        }
        config.masquerade_all = file
            .nftables
            .masquerade_all
            .or(file.iptables.masquerade_all)
            .or(self.masquerade_all)
            .unwrap_or(false);
        let bit = file.nftables.masquerade_bit.or(self.iptables_masquerade_bit).unwrap_or(14);
        config.masquerade_mark = 1_u32.checked_shl(bit).ok_or_else(|| OptionsError::Value {
            name: "masquerade-bit",
            value: bit.to_string(),
            message: "must be within the range [0, 31]".to_owned(),
        })?;
        if let Some(table) = &self.nftables_table {
            config.table = table.clone();
        }
        let kubeconfig =
            file.client_connection.kubeconfig.clone().filter(|path| !path.as_os_str().is_empty());
        Ok((config, kubeconfig.or_else(|| self.kubeconfig.clone())))
    }
}

fn nets<'a>(name: &'static str, words: impl Iterator<Item = &'a str>) -> Result<Vec<IpNet>, OptionsError> {
    let parse = |word: &str| {
        word.parse::<IpNet>().map_err(|error| OptionsError::Value {
            name,
            value: word.to_owned(),
            message: error.to_string(),
        })
    };
    words.map(str::trim).filter(|word| !word.is_empty()).map(parse).collect()
}

fn socket(
    name: &'static str,
    word: Option<String>,
    default: Option<SocketAddr>,
) -> Result<Option<SocketAddr>, OptionsError> {
    let Some(word) = word else { return Ok(default) };
    if word.is_empty() {
        return Ok(None);
    }
    if let Ok(address) = word.parse() {
        return Ok(Some(address));
    }
    // A bare address keeps the default port, as upstream's file allows.
    let port = default.map_or(0, |address| address.port());
    word.parse::<IpAddr>().map(|address| Some(SocketAddr::new(address, port))).map_err(|_| {
        OptionsError::Value { name, value: word, message: "must be an address and a port".to_owned() }
    })
}

/// `KubeProxyConfiguration`, the fields that matter here.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ConfigFile {
    api_version: Option<String>,
    kind: Option<String>,
    client_connection: ClientConnection,
    hostname_override: Option<String>,
    healthz_bind_address: Option<String>,
    metrics_bind_address: Option<String>,
    iptables: Masquerade,
    nftables: Masquerade,
    detect_local_mode: Option<String>,
    detect_local: DetectLocal,
    #[serde(rename = "clusterCIDR")]
    cluster_cidr: Option<String>,
    node_port_addresses: Option<Vec<String>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ClientConnection {
    kubeconfig: Option<PathBuf>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DetectLocal {
    #[serde(rename = "clusterCIDRs")]
    cluster_cidrs: Option<Vec<String>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Masquerade {
    masquerade_bit: Option<u32>,
    masquerade_all: Option<bool>,
}

impl ConfigFile {
    fn read(path: &Path) -> Result<ConfigFile, OptionsError> {
        let failed = |source| OptionsError::Read { path: path.to_owned(), source };
        let length = std::fs::metadata(path).map_err(failed)?.len();
        if length > CONFIG_FILE_LIMIT {
            let message = format!("is larger than {CONFIG_FILE_LIMIT} bytes");
            return Err(OptionsError::Parse { path: path.to_owned(), message });
        }
        let text = std::fs::read_to_string(path).map_err(failed)?;
        ConfigFile::parse(&text).map_err(|message| OptionsError::Parse { path: path.to_owned(), message })
    }

    fn parse(text: &str) -> Result<ConfigFile, String> {
        let file: ConfigFile = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        let version = file.api_version.as_deref().unwrap_or_default();
        let kind = file.kind.as_deref().unwrap_or_default();
        if kind != "KubeProxyConfiguration" || !version.starts_with("kubeproxy.config.k8s.io/") {
            return Err(format!("no kind \"{kind}\" is registered for version \"{version}\""));
        }
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        options: ProxyOptions,
    }

    fn resolve(flags: &str) -> Result<ProxyConfig, OptionsError> {
        let command = Command::try_parse_from(["proxy"].into_iter().chain(flags.split_whitespace())).unwrap();
        command.options.resolve("Host").map(|(config, _)| config)
    }

    #[test]
    fn flags_have_upstreams_names_and_defaults() {
        let config = resolve("").unwrap();
        assert_eq!(config.node_name, "host");
        assert_eq!(config.healthz, Some("0.0.0.0:10256".parse().unwrap()));
        let config = resolve(
            "--cluster-cidr=10.244.0.0/16,fd00::/64 --proxy-mode=iptables --v-less --masquerade-all \
             --healthz-bind-address= --metrics-bind-address=0.0.0.0:9 --nodeport-addresses=10.0.0.0/8 \
             --hostname-override=n1 --conntrack-min=0 --profiling=false"
                .replace("--v-less ", "")
                .as_str(),
        )
        .unwrap();
        assert_eq!((config.cluster_nets.len(), config.node_name.as_str()), (2, "n1"));
        assert!(config.masquerade_all && config.healthz.is_none());
        assert_eq!(config.node_port_nets, ["10.0.0.0/8".parse().unwrap()]);
        assert_eq!(
            resolve("--cluster-cidr=ten").unwrap_err().to_string(),
            "cluster-cidr: invalid value \"ten\": invalid IP address syntax"
        );
    }

    #[test]
    fn the_file_is_a_kube_proxy_configuration() {
        let text = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
                    mode: nftables\nclusterCIDR: 10.1.0.0/16\nnftables: {masqueradeBit: 3}\nsomethingNew: 1\n";
        let file = ConfigFile::parse(text).unwrap();
        assert_eq!(file.cluster_cidr.as_deref(), Some("10.1.0.0/16"));
        assert_eq!(file.nftables.masquerade_bit, Some(3));
        assert!(ConfigFile::parse("kind: Pod\napiVersion: v1\n").unwrap_err().contains("no kind \"Pod\""));
    }
}
