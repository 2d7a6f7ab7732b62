//! The agent's settings: flags as upstream names them, a `KubeletConfiguration` file, and what follows from both.
//!
//! Must not know the API server or the runtime.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use api::k8s::api::core::v1::Taint;
use machinery::codec::yaml;
use serde_json::Value;

use crate::eviction::threshold::{self, Settings as Eviction, Texts};
use crate::shutdown::{Settings as Shutdown, plan};

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A flag's value.
    #[error("invalid value {value:?} for {flag}: {detail}")]
    Flag {
        /// The flag.
        flag: &'static str,
        /// Its value.
        value: String,
        /// What is wrong.
        detail: String,
    },
    /// The configuration file.
    #[error("cannot read {path:?}: {detail}")]
    File {
        /// Its path.
        path: PathBuf,
        /// Why not.
        detail: String,
    },
}

/// The flags of `navarch kubelet`, as upstream names them.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Args {
    /// Kubeconfig of the API server; without it only static pods run
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// KubeletConfiguration file; flags win over it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The node's name instead of the host's name
    #[arg(long, value_name = "NAME")]
    pub hostname_override: Option<String>,
    /// The node's addresses, comma-separated, primary first
    #[arg(long, value_name = "IP")]
    pub node_ip: Option<String>,
    /// Directory of the agent's state [default: /var/lib/kubelet]
    #[arg(long, value_name = "DIR")]
    pub root_dir: Option<PathBuf>,
    /// Socket of the container runtime [default: unix:///run/containerd/containerd.sock]
    #[arg(long, value_name = "ENDPOINT")]
    pub container_runtime_endpoint: Option<String>,
    /// Directory of static pod manifests
    #[arg(long, value_name = "DIR")]
    pub pod_manifest_path: Option<PathBuf>,
    /// Addresses of the cluster's DNS, comma-separated
    #[arg(long, value_name = "IP")]
    pub cluster_dns: Option<String>,
    /// The cluster's DNS domain [default: cluster.local]
    #[arg(long, value_name = "DOMAIN")]
    pub cluster_domain: Option<String>,
    /// How many pods the node takes [default: 110]
    #[arg(long, value_name = "N")]
    pub max_pods: Option<i64>,
    /// Taints of a new node: key=value:effect, comma-separated
    #[arg(long, value_name = "TAINTS")]
    pub register_with_taints: Option<String>,
    /// Labels of a new node: key=value, comma-separated
    #[arg(long, value_name = "LABELS")]
    pub node_labels: Option<String>,
    /// Who makes control groups: cgroupfs or systemd [default: what the runtime says, else cgroupfs]
    #[arg(long, value_name = "DRIVER")]
    pub cgroup_driver: Option<String>,
    /// The control group beneath which pods are placed
    #[arg(long, value_name = "GROUP")]
    pub cgroup_root: Option<String>,
    /// The resolver configuration that pods inherit [default: /etc/resolv.conf]
    #[arg(long, value_name = "FILE")]
    pub resolv_conf: Option<PathBuf>,
    /// Address of the agent's server [default: 0.0.0.0]
    #[arg(long, value_name = "IP")]
    pub address: Option<IpAddr>,
    /// Port of the agent's server [default: 10250]
    #[arg(long, value_name = "PORT")]
    pub port: Option<u16>,
    /// Port of the unauthenticated health server on loopback; 0 = none [default: 10248]
    #[arg(long, value_name = "PORT")]
    pub healthz_port: Option<u16>,
    /// Certificate of the agent's server; made when absent
    #[arg(long, value_name = "FILE")]
    pub tls_cert_file: Option<PathBuf>,
    /// Key of the agent's server
    #[arg(long, value_name = "FILE")]
    pub tls_private_key_file: Option<PathBuf>,
    /// CA of client certificates [default: the kubeconfig's CA]
    #[arg(long, value_name = "FILE")]
    pub client_ca_file: Option<PathBuf>,
    /// Containers without a seccomp profile get the runtime's
    #[arg(long)]
    pub seccomp_default: bool,
    /// Sysctls beyond the safe ones that pods may set, comma-separated; `prefix.*` allowed
    #[arg(long, value_name = "LIST")]
    pub allowed_unsafe_sysctls: Option<String>,
    /// Directory of all pods' logs [default: /var/log/pods]
    #[arg(long, value_name = "DIR")]
    pub pod_logs_dir: Option<PathBuf>,
    /// Identity of the machine at its provider
    #[arg(long, value_name = "ID")]
    pub provider_id: Option<String>,
    /// Reserved for the system: cpu=…,memory=…
    #[arg(long, value_name = "LIST")]
    pub system_reserved: Option<String>,
    /// Reserved for Kubernetes: cpu=…,memory=…
    #[arg(long, value_name = "LIST")]
    pub kube_reserved: Option<String>,
    /// Evict pods at once below these: memory.available<100Mi,nodefs.available<10%
    #[arg(long, value_name = "LIST")]
    pub eviction_hard: Option<String>,
    /// Evict pods below these after a grace period
    #[arg(long, value_name = "LIST")]
    pub eviction_soft: Option<String>,
    /// The grace periods: memory.available=1m30s
    #[arg(long, value_name = "LIST")]
    pub eviction_soft_grace_period: Option<String>,
}

/// The agent's settings, complete.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The node's name.
    pub node_name: String,
    /// The node's addresses; empty = found out.
    pub node_ips: Vec<IpAddr>,
    /// Directory of the agent's state.
    pub root_dir: PathBuf,
    /// The runtime's socket.
    pub runtime_endpoint: String,
    /// Directory of static pods.
    pub manifest_dir: Option<PathBuf>,
    /// Directory of all pods' logs.
    pub log_dir: PathBuf,
    /// Directory of links to container logs, as log collectors expect it; `None` = no links.
    pub log_links: Option<PathBuf>,
    /// The machine's logs, which the server shows to those who may read a node's; `None` = to nobody.
    pub system_logs: Option<PathBuf>,
    /// The cluster's DNS.
    pub cluster_dns: Vec<String>,
    /// The cluster's DNS domain.
    pub cluster_domain: String,
    /// The resolver configuration that pods inherit; `None` = none.
    pub resolv_conf: Option<PathBuf>,
    /// How many pods fit.
    pub max_pods: i64,
    /// Taints of a new node.
    pub taints: Vec<Taint>,
    /// Labels of a new node.
    pub labels: BTreeMap<String, String>,
    /// True for systemd, false for cgroupfs, `None` = as the runtime says.
    pub systemd_cgroups: Option<bool>,
    /// Where pods' control groups are: empty or `/group`.
    pub cgroup_root: String,
    /// The server's address; `None` = no server.
    pub listen: Option<SocketAddr>,
    /// The health server's address.
    pub healthz: Option<SocketAddr>,
    /// Server certificate, PEM files.
    pub tls_cert: Option<PathBuf>,
    /// Server key.
    pub tls_key: Option<PathBuf>,
    /// CA of client certificates, a PEM file.
    pub client_ca: Option<PathBuf>,
    /// Unset seccomp profiles mean the runtime's.
    pub seccomp_default: bool,
    /// Sysctls beyond the safe ones.
    pub unsafe_sysctls: Vec<String>,
    /// `spec.providerID`.
    pub provider_id: Option<String>,
    /// Held back from pods: resource name to quantity.
    pub reserved: BTreeMap<String, String>,
    /// Register the Node object.
    pub register: bool,
    /// The node is new to the scheduler as unschedulable.
    pub unschedulable: bool,
    /// Container logs are rotated at this size, bytes.
    pub log_max_bytes: u64,
    /// How many log files of a container are kept.
    pub log_max_files: usize,
    /// Status is written at least this often.
    pub status_period: Duration,
    /// The lease's duration, seconds; renewed four times as often.
    pub lease_seconds: i32,
    /// Images are collected above this share of the disk, percent.
    pub image_gc_high_percent: u64,
    /// … until this share is reached.
    pub image_gc_low_percent: u64,
    /// The longest pause between restarts of a container.
    pub max_crash_backoff: Duration,
    /// Processes a pod may have.
    pub pod_pids_limit: Option<i64>,
    /// When pods are evicted.
    pub eviction: Eviction,
    /// How pods end before the machine does.
    pub shutdown: Shutdown,
    /// Where device plugins register; `None` = they cannot.
    pub device_plugins: Option<PathBuf>,
    /// An unused image younger here than this is not removed.
    pub image_min_age: Duration,
    /// An image unused for longer than this is removed; `None` = only for room.
    pub image_max_age: Option<Duration>,
    /// How often the sizes of logs are looked at.
    pub log_period: Duration,
    /// How often static pods' directory is read.
    pub file_period: Duration,
    /// How often the node looks at itself.
    pub node_look: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            node_name: String::new(),
            node_ips: Vec::new(),
            root_dir: "/var/lib/kubelet".into(),
            runtime_endpoint: "unix:///run/containerd/containerd.sock".into(),
            manifest_dir: None,
            log_dir: "/var/log/pods".into(),
            log_links: Some("/var/log/containers".into()),
            system_logs: Some("/var/log".into()),
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".into(),
            resolv_conf: Some("/etc/resolv.conf".into()),
            max_pods: 110,
            taints: Vec::new(),
            labels: BTreeMap::new(),
            systemd_cgroups: None,
            cgroup_root: String::new(),
            listen: Some(([0, 0, 0, 0], 10250).into()),
            healthz: Some(([127, 0, 0, 1], 10248).into()),
            tls_cert: None,
            tls_key: None,
            client_ca: None,
            seccomp_default: false,
            unsafe_sysctls: Vec::new(),
            provider_id: None,
            reserved: BTreeMap::new(),
            register: true,
            unschedulable: false,
            log_max_bytes: 10 << 20,
            log_max_files: 5,
            status_period: Duration::from_secs(300),
            lease_seconds: 40,
            image_gc_high_percent: 85,
            image_gc_low_percent: 80,
            max_crash_backoff: Duration::from_secs(300),
            pod_pids_limit: None,
            eviction: Eviction::default(),
            shutdown: Shutdown::default(),
            device_plugins: Some("/var/lib/kubelet/device-plugins".into()),
            image_min_age: Duration::from_secs(120),
            image_max_age: None,
            log_period: Duration::from_secs(10),
            file_period: Duration::from_secs(5),
            node_look: Duration::from_secs(10),
        }
    }
}

impl Config {
    /// From flags and the file they name.
    pub fn load(args: &Args) -> Result<Config, ConfigError> {
        let mut config = Config::default();
        if let Some(path) = &args.config {
            let fail = |detail: String| ConfigError::File { path: path.clone(), detail };
            let text = std::fs::read_to_string(path).map_err(|error| fail(error.to_string()))?;
            let document = yaml::decode_first(text.as_bytes()).map_err(|error| fail(error.to_string()))?;
            config.apply_file(&document.value, path)?;
        }
        config.apply_args(args)?;
        if config.node_name.is_empty() {
            let name = rustix_hostname();
            config.node_name = name.trim().to_lowercase();
        }
        Ok(config)
    }

    /// Takes over what a `KubeletConfiguration` says.
    fn apply_file(&mut self, file: &Value, path: &Path) -> Result<(), ConfigError> {
        let text = |key: &str| file.get(key).and_then(Value::as_str).map(str::to_owned);
        let number = |key: &str| file.get(key).and_then(Value::as_i64);
        let flag = |key: &str| file.get(key).and_then(Value::as_bool);
        let list = |key: &str| -> Option<Vec<String>> {
            Some(
                file.get(key)?
                    .as_array()?
                    .iter()
                    .filter_map(|item| item.as_str().map(str::to_owned))
                    .collect(),
            )
        };
        let bad = |key: &str| ConfigError::File {
            path: path.to_owned(),
            detail: format!("{key} has a wrong value"),
        };
        let kind = text("kind").unwrap_or_default();
        if kind != "KubeletConfiguration" {
            return Err(ConfigError::File {
                path: path.to_owned(),
                detail: format!("unknown kind {kind:?}"),
            });
        }
        self.apply_paths(file);
        self.system_logs = self.system_logs.take().filter(|_| flag("enableSystemLogHandler") != Some(false));
        set(&mut self.cluster_domain, text("clusterDomain"));
        set(&mut self.cluster_dns, list("clusterDNS"));
        set(&mut self.max_pods, number("maxPods"));
        set(&mut self.cgroup_root, text("cgroupRoot").map(|root| normal_group(&root)));
        set(&mut self.runtime_endpoint, text("containerRuntimeEndpoint"));
        set(&mut self.seccomp_default, flag("seccompDefault"));
        set(&mut self.unsafe_sysctls, list("allowedUnsafeSysctls"));
        set(&mut self.register, flag("registerNode"));
        set(&mut self.log_max_files, number("containerLogMaxFiles").and_then(|n| usize::try_from(n).ok()));
        set(
            &mut self.image_gc_high_percent,
            number("imageGCHighThresholdPercent").and_then(|n| u64::try_from(n).ok()),
        );
        set(
            &mut self.image_gc_low_percent,
            number("imageGCLowThresholdPercent").and_then(|n| u64::try_from(n).ok()),
        );
        set(&mut self.lease_seconds, number("nodeLeaseDurationSeconds").and_then(|n| i32::try_from(n).ok()));
        let log_size =
            text("containerLogMaxSize").and_then(|size| u64::try_from(crate::amount::whole(&size)).ok());
        set(&mut self.log_max_bytes, log_size);
        self.provider_id = text("providerID").or(self.provider_id.take());
        self.pod_pids_limit = number("podPidsLimit").filter(|limit| *limit > 0).or(self.pod_pids_limit);
        self.apply_periods(file).map_err(|key| bad(&key))?;
        self.apply_eviction(file).map_err(|detail| ConfigError::File { path: path.to_owned(), detail })?;
        if let Some(driver) = text("cgroupDriver") {
            self.systemd_cgroups = Some(driver == "systemd");
        }
        if let Some(taints) = file.get("registerWithTaints") {
            self.taints = serde_json::from_value(taints.clone()).map_err(|_| bad("registerWithTaints"))?;
        }
        for key in ["systemReserved", "kubeReserved"] {
            let map: BTreeMap<String, String> = match file.get(key) {
                Some(map) => serde_json::from_value(map.clone()).map_err(|_| bad(key))?,
                None => continue,
            };
            map.into_iter().for_each(|(name, quantity)| self.reserve(name, &quantity));
        }
        let port = number("port").and_then(|port| u16::try_from(port).ok());
        self.set_listen(text("address").and_then(|address| address.parse().ok()), port);
        let healthz = number("healthzPort").and_then(|port| u16::try_from(port).ok());
        self.set_healthz(healthz);
        Ok(())
    }

    /// Durations; the error is the name of one that is none.
    fn apply_periods(&mut self, file: &Value) -> Result<(), String> {
        let read = |pointer: &str| match file.pointer(pointer).and_then(Value::as_str) {
            None => Ok(None),
            Some(text) => {
                let name = pointer.trim_start_matches('/').to_owned();
                threshold::duration(text).map(Some).ok_or(name)
            }
        };
        // Zero stands for the default.
        let period = |pointer: &str| read(pointer).map(|period| period.filter(|period| !period.is_zero()));
        set(&mut self.image_min_age, period("/imageMinimumGCAge")?);
        self.image_max_age = period("/imageMaximumGCAge")?.or(self.image_max_age);
        set(&mut self.log_period, period("/containerLogMonitorInterval")?);
        set(&mut self.file_period, period("/fileCheckFrequency")?);
        set(&mut self.node_look, period("/nodeStatusUpdateFrequency")?);
        set(&mut self.status_period, period("/nodeStatusReportFrequency")?);
        set(&mut self.max_crash_backoff, period("/crashLoopBackOff/maxContainerRestartPeriod")?);
        set(&mut self.eviction.transition, period("/evictionPressureTransitionPeriod")?);
        let critical = read("/shutdownGracePeriodCriticalPods")?.unwrap_or_default();
        let all = read("/shutdownGracePeriod")?.unwrap_or_default();
        self.shutdown.periods = shutdown_periods(file)?.unwrap_or_else(|| plan::periods(all, critical));
        Ok(())
    }

    /// Eviction thresholds; the error says what is wrong with them.
    fn apply_eviction(&mut self, file: &Value) -> Result<(), String> {
        let texts = |key: &str| -> Result<Option<Texts>, String> {
            let Some(map) = file.get(key).and_then(Value::as_object) else { return Ok(None) };
            let pair = |(name, value): (&String, &Value)| {
                let text = value.as_str().ok_or_else(|| format!("{key} has a wrong value"))?;
                Ok((name.clone(), text.to_owned()))
            };
            map.iter().map(pair).collect::<Result<Texts, String>>().map(Some)
        };
        if let Some(hard) = texts("evictionHard")? {
            self.eviction.set_hard(&hard)?;
        }
        if let Some(soft) = texts("evictionSoft")? {
            self.eviction.set_soft(&soft, &texts("evictionSoftGracePeriod")?.unwrap_or_default())?;
        }
        if let Some(reclaim) = texts("evictionMinimumReclaim")? {
            self.eviction.set_reclaim(&reclaim)?;
        }
        let grace = file.get("evictionMaxPodGracePeriod").and_then(Value::as_i64);
        set(&mut self.eviction.max_grace_seconds, grace);
        Ok(())
    }

    fn apply_paths(&mut self, file: &Value) {
        let path = |key: &str| file.pointer(key).and_then(Value::as_str).map(PathBuf::from);
        set(&mut self.log_dir, path("/podLogsDir"));
        self.manifest_dir = path("/staticPodPath").or(self.manifest_dir.take());
        self.tls_cert = path("/tlsCertFile").or(self.tls_cert.take());
        self.tls_key = path("/tlsPrivateKeyFile").or(self.tls_key.take());
        self.client_ca = path("/authentication/x509/clientCAFile").or(self.client_ca.take());
        if let Some(path) = path("/resolvConf") {
            self.resolv_conf = (!path.as_os_str().is_empty()).then_some(path);
        }
    }

    fn apply_args(&mut self, args: &Args) -> Result<(), ConfigError> {
        let a = args.clone();
        set(&mut self.node_name, a.hostname_override.map(|name| name.to_lowercase()));
        set(&mut self.root_dir, a.root_dir);
        set(&mut self.runtime_endpoint, a.container_runtime_endpoint);
        set(&mut self.cluster_domain, a.cluster_domain);
        set(&mut self.max_pods, a.max_pods);
        set(&mut self.log_dir, a.pod_logs_dir);
        set(&mut self.cgroup_root, a.cgroup_root.map(|root| normal_group(&root)));
        set(&mut self.cluster_dns, a.cluster_dns.map(|list| words(&list)));
        set(&mut self.unsafe_sysctls, a.allowed_unsafe_sysctls.map(|list| words(&list)));
        self.manifest_dir = a.pod_manifest_path.or(self.manifest_dir.take());
        self.provider_id = a.provider_id.or(self.provider_id.take());
        self.tls_cert = a.tls_cert_file.or(self.tls_cert.take());
        self.tls_key = a.tls_private_key_file.or(self.tls_key.take());
        self.client_ca = a.client_ca_file.or(self.client_ca.take());
        self.seccomp_default |= a.seccomp_default;
        if let Some(path) = a.resolv_conf {
            self.resolv_conf = (!path.as_os_str().is_empty()).then_some(path);
        }
        if let Some(list) = a.node_ip {
            let bad = |error: std::net::AddrParseError| ConfigError::Flag {
                flag: "--node-ip",
                value: list.clone(),
                detail: error.to_string(),
            };
            self.node_ips =
                words(&list).iter().map(|ip| ip.parse().map_err(bad)).collect::<Result<_, _>>()?;
        }
        if let Some(driver) = a.cgroup_driver {
            self.systemd_cgroups = match driver.as_str() {
                "systemd" => Some(true),
                "cgroupfs" => Some(false),
                _ => {
                    let detail = "must be cgroupfs or systemd".to_owned();
                    return Err(ConfigError::Flag { flag: "--cgroup-driver", value: driver, detail });
                }
            };
        }
        if let Some(list) = a.register_with_taints {
            self.taints = words(&list).iter().map(|text| parse_taint(text)).collect::<Result<_, _>>()?;
        }
        for pair in a.node_labels.iter().flat_map(|list| words(list)) {
            let (key, value) = pair.split_once('=').unwrap_or((pair.as_str(), ""));
            self.labels.insert(key.to_owned(), value.to_owned());
        }
        for pair in [a.system_reserved, a.kube_reserved].iter().flatten().flat_map(|list| words(list)) {
            if let Some((name, quantity)) = pair.split_once('=') {
                self.reserve(name.to_owned(), quantity);
            }
        }
        self.apply_eviction_args(args)?;
        self.set_listen(a.address, a.port);
        self.set_healthz(a.healthz_port);
        Ok(())
    }

    fn apply_eviction_args(&mut self, args: &Args) -> Result<(), ConfigError> {
        let pairs = |list: &Option<String>, sign: char| -> Texts {
            let words = list.iter().flat_map(|list| words(list));
            words
                .filter_map(|word| word.split_once(sign).map(|(a, b)| (a.to_owned(), b.to_owned())))
                .collect()
        };
        let bad = |flag, list: &Option<String>| {
            let value = list.clone().unwrap_or_default();
            move |detail| ConfigError::Flag { flag, value, detail }
        };
        if args.eviction_hard.is_some() {
            let hard = pairs(&args.eviction_hard, '<');
            self.eviction.set_hard(&hard).map_err(bad("--eviction-hard", &args.eviction_hard))?;
        }
        if args.eviction_soft.is_some() {
            let graces = pairs(&args.eviction_soft_grace_period, '=');
            let soft = self.eviction.set_soft(&pairs(&args.eviction_soft, '<'), &graces);
            soft.map_err(bad("--eviction-soft", &args.eviction_soft))?;
        }
        Ok(())
    }

    fn reserve(&mut self, name: String, quantity: &str) {
        let before = self.reserved.get(&name).map_or(0, |text| crate::amount::milli(text));
        self.reserved.insert(name, format!("{}m", before + crate::amount::milli(quantity)));
    }

    fn set_listen(&mut self, address: Option<IpAddr>, port: Option<u16>) {
        if let Some(listen) = &mut self.listen {
            listen.set_ip(address.unwrap_or(listen.ip()));
            listen.set_port(port.unwrap_or(listen.port()));
        }
    }

    fn set_healthz(&mut self, port: Option<u16>) {
        match (port, &mut self.healthz) {
            (Some(0), _) => self.healthz = None,
            (Some(port), Some(healthz)) => healthz.set_port(port),
            _ => {}
        }
    }

    /// The port that the API server reaches the agent on.
    pub fn port(&self) -> u16 {
        self.listen.map_or(0, |listen| listen.port())
    }
}

/// The periods by priority; `None` when the file names none.
fn shutdown_periods(file: &Value) -> Result<Option<plan::Periods>, String> {
    const KEY: &str = "shutdownGracePeriodByPodPriority";
    let Some(list) = file.get(KEY).and_then(Value::as_array).filter(|list| !list.is_empty()) else {
        return Ok(None);
    };
    let period = |item: &Value| {
        let priority = item["priority"].as_i64().and_then(|priority| i32::try_from(priority).ok())?;
        Some((priority, item["shutdownGracePeriodSeconds"].as_i64()?))
    };
    list.iter().map(period).collect::<Option<_>>().map(Some).ok_or_else(|| KEY.to_owned())
}

fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

fn words(list: &str) -> Vec<String> {
    list.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// Empty, or beginning and not ending with a slash.
fn normal_group(group: &str) -> String {
    let inner = group.trim_matches('/');
    if inner.is_empty() { String::new() } else { format!("/{inner}") }
}

/// `key=value:effect` or `key:effect`.
fn parse_taint(text: &str) -> Result<Taint, ConfigError> {
    let bad = || ConfigError::Flag {
        flag: "--register-with-taints",
        value: text.to_owned(),
        detail: "must be key=value:effect".to_owned(),
    };
    let (left, effect) = text.rsplit_once(':').ok_or_else(bad)?;
    if !matches!(effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
        return Err(bad());
    }
    let (key, value) =
        left.split_once('=').map_or((left, None), |(key, value)| (key, Some(value.to_owned())));
    Ok(Taint { key: key.to_owned(), value, effect: effect.to_owned(), time_added: None })
}

fn rustix_hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_else(|_| "localhost".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_and_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("c.yaml");
        std::fs::write(&path, "kind: KubeletConfiguration\nmaxPods: 5\nclusterDNS: [10.0.0.10]\ncgroupRoot: /\nsystemReserved: {cpu: 100m}\nshutdownGracePeriod: 30s\nshutdownGracePeriodCriticalPods: 10s\n")
            .expect("written");
        let args = Args {
            config: Some(path),
            hostname_override: Some("Node-A".into()),
            port: Some(1234),
            node_labels: Some("a=b,c=d".into()),
            register_with_taints: Some("k=v:NoSchedule".into()),
            kube_reserved: Some("cpu=200m".into()),
            ..Args::default()
        };
        let config = Config::load(&args).expect("loads");
        assert_eq!((config.max_pods, config.port(), config.node_name.as_str()), (5, 1234, "node-a"));
        assert_eq!(
            (config.labels.len(), config.taints[0].key.as_str(), config.cgroup_root.as_str()),
            (2, "k", "")
        );
        assert_eq!(config.reserved["cpu"], "300m");
        assert_eq!(config.shutdown.periods.into_iter().collect::<Vec<_>>(), [(0, 20), (2_000_000_000, 10)]);
        assert!(Config::load(&Args { node_ip: Some("x".into()), ..Args::default() }).is_err());
    }
}
