//! Facts of this machine: what the kernel and the system say about themselves.
//!
//! Must not know the API.

use std::fs;
use std::net::{IpAddr, UdpSocket};
use std::path::Path;

use crate::shared::Machine;

fn text(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// CPUs and memory.
pub fn machine() -> Machine {
    let cpus = std::thread::available_parallelism().map_or(1, |n| i64::try_from(n.get()).unwrap_or(1));
    Machine { cpus, memory_bytes: meminfo("MemTotal") }
}

/// A line of /proc/meminfo, bytes.
pub fn meminfo(name: &str) -> i64 {
    let info = text("/proc/meminfo");
    let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let number = line.and_then(|line| line.trim().split(' ').next()?.parse::<i64>().ok());
    number.unwrap_or(0) * 1024
}

/// The machine's id, from systemd or the firmware.
pub fn machine_id() -> String {
    ["/etc/machine-id", "/var/lib/dbus/machine-id", "/sys/class/dmi/id/product_uuid"]
        .iter()
        .map(|path| text(path))
        .find(|id| !id.is_empty())
        .unwrap_or_default()
}

/// The firmware's id.
pub fn system_uuid() -> String {
    let uuid = text("/sys/class/dmi/id/product_uuid");
    if uuid.is_empty() { machine_id() } else { uuid }
}

/// The id of this boot.
pub fn boot_id() -> String {
    text("/proc/sys/kernel/random/boot_id")
}

/// When this boot began, by the time now.
pub fn boot_time(now: jiff::Timestamp) -> jiff::Timestamp {
    let uptime = text("/proc/uptime");
    let seconds = uptime.split(' ').next().and_then(|seconds| seconds.parse::<f64>().ok()).unwrap_or(0.0);
    jiff::SignedDuration::try_from_secs_f64(seconds).map_or(now, |age| now - age)
}

/// Process ids: how many may be and are in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pids {
    /// The most there can be.
    pub max: u64,
    /// In use, threads included.
    pub used: u64,
}

/// The machine's process ids.
pub fn pids() -> Pids {
    let number = |path: &str| text(path).parse::<u64>().unwrap_or(u64::MAX);
    let max = number("/proc/sys/kernel/pid_max").min(number("/proc/sys/kernel/threads-max"));
    // `0.10 0.20 0.30 running/all last`
    let all = text("/proc/loadavg");
    let used = all.split(' ').nth(3).and_then(|part| part.split_once('/')?.1.parse().ok()).unwrap_or(0);
    Pids { max, used }
}

/// The kernel's version.
pub fn kernel() -> String {
    text("/proc/sys/kernel/osrelease")
}

/// The distribution's name.
pub fn os_image() -> String {
    let release = text("/etc/os-release");
    let line = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    line.map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned())
}

/// The architecture in Go's words.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The address of the interface with the default route; loopback when there is none.
pub fn default_address() -> IpAddr {
    // Connecting a UDP socket sends nothing: it only chooses the source.
    let chosen = UdpSocket::bind(("0.0.0.0", 0)).and_then(|socket| {
        socket.connect(("192.0.2.1", 9))?;
        socket.local_addr()
    });
    chosen.map_or(IpAddr::from([127, 0, 0, 1]), |address| address.ip())
}

/// Hugepage sizes and their total, bytes, as resource names end: `2Mi`.
pub fn hugepages() -> Vec<(String, i64)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let size = name.strip_prefix("hugepages-").and_then(|size| size.strip_suffix("kB"));
        let Some(size) = size.and_then(|size| size.parse::<i64>().ok()) else { continue };
        let count: i64 = text(&entry.path().join("nr_hugepages").to_string_lossy()).parse().unwrap_or(0);
        found.push((crate::amount::bytes_text(size * 1024).0, count * size * 1024));
    }
    found.sort();
    found
}

/// The filesystem of a directory, or of its nearest parent that exists.
pub fn filesystem(path: &Path) -> runtime::disk::Filesystem {
    path.ancestors().find_map(|path| runtime::disk::filesystem(path).ok()).unwrap_or_default()
}
