//! What containerd needs to serve as Navarch's runtime: its configuration file and its image store.
//!
//! Must not know pods.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// The image of pod sandboxes, made from our own binary and imported, so that no registry is needed.
pub const SANDBOX_IMAGE: &str = "navarch.local/pause:1";

/// Where containerd keeps and finds its things.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Persistent data.
    pub root: PathBuf,
    /// Data of the running process.
    pub state: PathBuf,
    /// The gRPC socket.
    pub socket: PathBuf,
    /// CNI plugins.
    pub cni_bin_dir: PathBuf,
    /// CNI network configuration.
    pub cni_conf_dir: PathBuf,
    /// The image of pod sandboxes.
    pub sandbox_image: String,
    /// Registry host configuration (`hosts.toml` files); empty = none.
    pub registry_config: Option<PathBuf>,
    /// systemd makes the cgroups instead of runc.
    pub systemd_cgroup: bool,
    /// OOM scores below our own cannot be set (no CAP_SYS_RESOURCE): use ours.
    pub restrict_oom_score_adj: bool,
    /// The overlay snapshotter cannot be used (for example on overlay itself): copy files.
    pub native_snapshotter: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            root: "/var/lib/containerd".into(),
            state: "/run/containerd".into(),
            socket: "/run/containerd/containerd.sock".into(),
            cni_bin_dir: cni_bin_dir(),
            cni_conf_dir: "/etc/cni/net.d".into(),
            sandbox_image: SANDBOX_IMAGE.into(),
            registry_config: Some("/etc/containerd/certs.d".into()),
            systemd_cgroup: false,
            restrict_oom_score_adj: !has_cap_sys_resource(),
            native_snapshotter: false,
        }
    }
}

/// Where this distribution keeps the CNI plugins.
pub fn cni_bin_dir() -> PathBuf {
    let known = ["/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"];
    let found = known.iter().find(|dir| Path::new(dir).join("bridge").exists());
    PathBuf::from(found.copied().unwrap_or("/opt/cni/bin"))
}

/// True when this process may lower OOM scores.
pub fn has_cap_sys_resource() -> bool {
    const CAP_SYS_RESOURCE: u32 = 24;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|caps| caps >> CAP_SYS_RESOURCE & 1 == 1)
}

/// containerd's configuration file (version 2, which 1.6 to 2.x read).
pub fn config(settings: &Settings) -> String {
    let quote = |path: &Path| toml_string(&path.to_string_lossy());
    let cri = "plugins.\"io.containerd.grpc.v1.cri\"";
    let snapshotter = if settings.native_snapshotter { "native" } else { "overlayfs" };
    let mut out = String::from("version = 2\noom_score = 0\n");
    let _ = writeln!(out, "root = {}\nstate = {}", quote(&settings.root), quote(&settings.state));
    let _ = writeln!(out, "\n[grpc]\n  address = {}", quote(&settings.socket));
    let _ = writeln!(out, "\n[{cri}]\n  sandbox_image = {}", toml_string(&settings.sandbox_image));
    let _ = writeln!(out, "  restrict_oom_score_adj = {}", settings.restrict_oom_score_adj);
    out.push_str("  stream_server_address = \"127.0.0.1\"\n  stream_server_port = \"0\"\n");
    out.push_str("  enable_unprivileged_ports = true\n  enable_unprivileged_icmp = true\n");
    out.push_str("  max_concurrent_downloads = 6\n  tolerate_missing_hugetlb_controller = true\n");
    let _ = writeln!(out, "\n[{cri}.containerd]\n  snapshotter = \"{snapshotter}\"");
    out.push_str("  default_runtime_name = \"runc\"\n");
    for runtime in ["runc", "test-handler"] {
        // The conformance suite runs a RuntimeClass with the handler `test-handler`.
        let _ = writeln!(
            out,
            "\n[{cri}.containerd.runtimes.{runtime}]\n  runtime_type = \"io.containerd.runc.v2\""
        );
        let _ = writeln!(out, "[{cri}.containerd.runtimes.{runtime}.options]");
        let _ = writeln!(out, "  SystemdCgroup = {}", settings.systemd_cgroup);
    }
    let _ = writeln!(out, "\n[{cri}.cni]\n  bin_dir = {}", quote(&settings.cni_bin_dir));
    let _ = writeln!(out, "  conf_dir = {}", quote(&settings.cni_conf_dir));
    if let Some(dir) = &settings.registry_config {
        let _ = writeln!(out, "\n[{cri}.registry]\n  config_path = {}", quote(dir));
    }
    out
}

fn toml_string(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04X}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_names_every_path() {
        let settings =
            Settings { root: "/a \"b".into(), restrict_oom_score_adj: true, ..Settings::default() };
        let text = config(&settings);
        assert!(text.contains("root = \"/a \\\"b\""));
        assert!(text.contains("restrict_oom_score_adj = true"));
        assert!(text.contains("sandbox_image = \"navarch.local/pause:1\""));
    }
}
