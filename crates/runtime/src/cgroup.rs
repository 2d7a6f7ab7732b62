//! Control groups of pods: made, limited, measured and removed, on cgroup v1 and v2.
//!
//! Must not know pods: a group is a path such as `/kubepods/burstable/pod1` and limits are numbers.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where the kernel's hierarchies are mounted.
const ROOT: &str = "/sys/fs/cgroup";
/// The v1 controllers in which pod groups are made; runc makes the others as it needs them.
const LIMITED_V1: [&str; 3] = ["cpu", "memory", "pids"];
/// v1's way to say "no limit" is at least this.
const NO_LIMIT_V1: u64 = 1 << 62;
/// The controllers that pods need on v2.
const NEEDED_V2: [&str; 4] = ["cpu", "memory", "pids", "cpuset"];

/// Why a control group could not be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} cgroup file {path}: {source}")]
pub struct CgroupError {
    /// What was tried.
    pub action: &'static str,
    /// On which path.
    pub path: PathBuf,
    /// The cause.
    pub source: io::Error,
}

/// The kernel's interface version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// One hierarchy a controller.
    V1,
    /// One hierarchy.
    V2,
}

/// Limits of one group; `None` leaves the kernel's value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Relative CPU weight in v1's units (1024 = one CPU).
    pub cpu_shares: Option<u64>,
    /// CPU time per period, µs; -1 = unlimited.
    pub cpu_quota_us: Option<i64>,
    /// The period, µs.
    pub cpu_period_us: Option<u64>,
    /// Memory, bytes; -1 = unlimited.
    pub memory_bytes: Option<i64>,
    /// Processes; -1 = unlimited.
    pub pids: Option<i64>,
}

/// What a group uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time, ns.
    pub cpu_ns: u64,
    /// Memory with caches, bytes.
    pub memory_bytes: u64,
    /// Memory less inactive file pages, bytes.
    pub working_set_bytes: u64,
    /// Anonymous memory, bytes.
    pub rss_bytes: u64,
    /// Page faults.
    pub page_faults: u64,
    /// Page faults that read a disk.
    pub major_page_faults: u64,
    /// Processes.
    pub pids: u64,
}

/// The machine's control groups.
#[derive(Clone, Debug)]
pub struct Cgroups {
    version: Version,
    root: PathBuf,
    /// systemd makes and limits groups: a path's last part is a slice.
    systemd: bool,
}

/// v1 shares as a v2 weight, by the curve that runc and upstream use: through the least (2 to 1), the most (262144 to
/// 10000) and both defaults (1024 to 100).
pub fn weight_from_shares(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        shares => {
            #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "within 1 and 10000")]
            let weight = 10f64.powf(exponent).ceil() as u64;
            weight
        }
    }
}

impl Cgroups {
    /// What this machine has mounted.
    pub fn detect() -> Cgroups {
        Cgroups::at(Path::new(ROOT))
    }

    /// The hierarchies under `root`.
    pub fn at(root: &Path) -> Cgroups {
        let unified = root.join("cgroup.controllers").exists();
        let version = if unified { Version::V2 } else { Version::V1 };
        Cgroups { version, root: root.to_owned(), systemd: false }
    }

    /// The same, whose groups systemd makes.
    pub fn through_systemd(self, systemd: bool) -> Cgroups {
        Cgroups { systemd, ..self }
    }

    /// The interface version.
    pub fn version(&self) -> Version {
        self.version
    }

    fn dir(&self, controller: &str, group: &str) -> PathBuf {
        let group = group.trim_start_matches('/');
        match self.version {
            Version::V1 => self.root.join(controller).join(group),
            Version::V2 => self.root.join(group),
        }
    }

    /// Makes a group (and its parents) and sets its limits. Repeatable. Blocks.
    pub fn ensure(&self, group: &str, limits: &Limits) -> Result<(), CgroupError> {
        if self.systemd {
            let slice = slice_of(group);
            set_properties(slice, limits)?;
            return systemctl("start", &["start", slice]);
        }
        match self.version {
            Version::V1 => {
                for controller in LIMITED_V1 {
                    if self.root.join(controller).exists() {
                        make(&self.dir(controller, group))?;
                    }
                }
            }
            Version::V2 => self.make_v2(group)?,
        }
        self.limit(group, limits)
    }

    fn make_v2(&self, group: &str) -> Result<(), CgroupError> {
        let mut dir = self.root.clone();
        let offered = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
        self.free_root();
        for part in group.split('/').filter(|part| !part.is_empty()) {
            for controller in NEEDED_V2.iter().filter(|name| offered.split_whitespace().any(|o| o == **name))
            {
                // Refused where the parent holds processes itself; the limits then fail and say so.
                let _ = fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
            }
            dir.push(part);
            make(&dir)?;
        }
        Ok(())
    }

    /// In a container our root is no real root: it may not hold processes and give controllers to its children, so
    /// that its processes (we among them) move one down.
    fn free_root(&self) {
        let real = !self.root.join("cgroup.type").exists();
        let given = fs::read_to_string(self.root.join("cgroup.subtree_control")).unwrap_or_default();
        if real || NEEDED_V2.iter().all(|needed| given.split_whitespace().any(|have| have == *needed)) {
            return;
        }
        let below = self.root.join("init");
        if make(&below).is_err() {
            return;
        }
        let processes = fs::read_to_string(self.root.join("cgroup.procs")).unwrap_or_default();
        for process in processes.lines() {
            // One that has ended meanwhile cannot be moved, nor need it be.
            let _ = fs::write(below.join("cgroup.procs"), process);
        }
    }

    /// Sets the limits of an existing group. Blocks.
    pub fn limit(&self, group: &str, limits: &Limits) -> Result<(), CgroupError> {
        if self.systemd {
            return set_properties(slice_of(group), limits);
        }
        for (controller, file, value) in settings(self.version, limits) {
            let dir = self.dir(controller, group);
            if self.version == Version::V1 && !self.root.join(controller).exists() {
                continue;
            }
            put(&dir.join(file), &value)?;
        }
        Ok(())
    }

    /// Removes a group and the groups beneath it; processes must be gone. Repeatable. Blocks.
    pub fn remove(&self, group: &str) -> Result<(), CgroupError> {
        if self.systemd {
            // A slice that is not loaded is as good as stopped; its settings go with it.
            let stopped = systemctl("stop", &["stop", slice_of(group)]);
            let _ = systemctl("revert", &["revert", slice_of(group)]);
            return stopped;
        }
        match self.version {
            Version::V2 => remove_tree(&self.dir("", group)),
            Version::V1 => {
                let mounted = fs::read_dir(&self.root).into_iter().flatten().flatten();
                for entry in mounted.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
                    remove_tree(&entry.path().join(group.trim_start_matches('/')))?;
                }
                Ok(())
            }
        }
    }

    /// True when the group exists.
    pub fn exists(&self, group: &str) -> bool {
        self.dir("memory", group).exists()
    }

    /// Names of the groups directly beneath `group`.
    pub fn children(&self, group: &str) -> Vec<String> {
        let entries = fs::read_dir(self.dir("memory", group)).into_iter().flatten().flatten();
        let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let mut names: Vec<String> =
            dirs.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// CPU time that a group has used, ns; `None` when it does not exist.
    pub fn cpu_ns(&self, group: &str) -> Option<u64> {
        match self.version {
            Version::V1 => {
                let text = fs::read_to_string(self.dir("cpuacct", group).join("cpuacct.usage")).ok()?;
                text.trim().parse().ok()
            }
            Version::V2 => {
                let text = fs::read_to_string(self.dir("", group).join("cpu.stat")).ok()?;
                Some(field(&text, "usage_usec") * 1000)
            }
        }
    }

    /// The first process directly in a group.
    pub fn first_process(&self, group: &str) -> Option<u32> {
        let text = fs::read_to_string(self.dir("memory", group).join("cgroup.procs")).ok()?;
        text.lines().next()?.trim().parse().ok()
    }

    /// The memory limit of a group, bytes; `None` when it has none.
    pub fn memory_limit(&self, group: &str) -> Option<u64> {
        let file = if self.version == Version::V1 { "memory.limit_in_bytes" } else { "memory.max" };
        let limit: u64 =
            fs::read_to_string(self.dir("memory", group).join(file)).ok()?.trim().parse().ok()?;
        // v1 says no limit as the largest whole number of pages.
        (limit < NO_LIMIT_V1).then_some(limit)
    }

    /// What a group and those beneath it use; `None` when it does not exist.
    pub fn usage(&self, group: &str) -> Option<Usage> {
        match self.version {
            Version::V1 => self.usage_v1(group),
            Version::V2 => self.usage_v2(group),
        }
    }

    fn usage_v1(&self, group: &str) -> Option<Usage> {
        let memory = self.dir("memory", group);
        let stat = fs::read_to_string(memory.join("memory.stat")).ok()?;
        let total = number(&memory.join("memory.usage_in_bytes"));
        Some(Usage {
            cpu_ns: self.cpu_ns(group).unwrap_or(0),
            memory_bytes: total,
            working_set_bytes: total.saturating_sub(field(&stat, "total_inactive_file")),
            rss_bytes: field(&stat, "total_rss"),
            page_faults: field(&stat, "total_pgfault"),
            major_page_faults: field(&stat, "total_pgmajfault"),
            pids: number(&self.dir("pids", group).join("pids.current")),
        })
    }

    fn usage_v2(&self, group: &str) -> Option<Usage> {
        let dir = self.dir("", group);
        let cpu_ns = self.cpu_ns(group)?;
        // The root group has no files of amounts: what it says of memory is left at zero.
        let stat = fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
        let total = number(&dir.join("memory.current"));
        Some(Usage {
            cpu_ns,
            memory_bytes: total,
            working_set_bytes: total.saturating_sub(field(&stat, "inactive_file")),
            rss_bytes: field(&stat, "anon"),
            page_faults: field(&stat, "pgfault"),
            major_page_faults: field(&stat, "pgmajfault"),
            pids: number(&dir.join("pids.current")),
        })
    }
}

/// Controller (v1 only), file and text of each limit.
fn settings(version: Version, limits: &Limits) -> Vec<(&'static str, &'static str, String)> {
    let mut out = Vec::new();
    let unlimited = |value: i64| if value < 0 { "max".to_owned() } else { value.to_string() };
    if version == Version::V1 {
        out.extend(limits.cpu_shares.map(|shares| ("cpu", "cpu.shares", shares.to_string())));
        out.extend(limits.cpu_period_us.map(|period| ("cpu", "cpu.cfs_period_us", period.to_string())));
        out.extend(limits.cpu_quota_us.map(|quota| ("cpu", "cpu.cfs_quota_us", quota.to_string())));
        out.extend(limits.memory_bytes.map(|bytes| ("memory", "memory.limit_in_bytes", bytes.to_string())));
    } else {
        out.extend(
            limits.cpu_shares.map(|shares| ("", "cpu.weight", weight_from_shares(shares).to_string())),
        );
        if let Some(quota) = limits.cpu_quota_us {
            let period = limits.cpu_period_us.unwrap_or(100_000);
            out.push(("", "cpu.max", format!("{} {period}", unlimited(quota))));
        }
        out.extend(limits.memory_bytes.map(|bytes| ("", "memory.max", unlimited(bytes))));
    }
    out.extend(limits.pids.map(|pids| ("pids", "pids.max", unlimited(pids))));
    out
}

/// The slice that a path ends with.
fn slice_of(group: &str) -> &str {
    group.rsplit('/').next().unwrap_or_default()
}

/// Limits as systemd's properties of a slice (systemd.resource-control).
fn properties(limits: &Limits) -> Vec<String> {
    let unlimited = |value: i64| if value < 0 { "infinity".to_owned() } else { value.to_string() };
    let mut out = Vec::new();
    out.extend(limits.cpu_shares.map(|shares| format!("CPUWeight={}", weight_from_shares(shares))));
    if let Some(quota) = limits.cpu_quota_us {
        let period = limits.cpu_period_us.unwrap_or(100_000).max(1);
        // Percent of one CPU, a hundredth at the finest.
        let share = u64::try_from(quota).ok().map(|quota| (quota * 10_000).div_ceil(period));
        out.push(match share {
            Some(share) => format!("CPUQuota={}.{:02}%", share / 100, share % 100),
            None => "CPUQuota=".to_owned(),
        });
    }
    out.extend(limits.memory_bytes.map(|bytes| format!("MemoryMax={}", unlimited(bytes))));
    out.extend(limits.pids.map(|pids| format!("TasksMax={}", unlimited(pids))));
    out
}

fn set_properties(slice: &str, limits: &Limits) -> Result<(), CgroupError> {
    let properties = properties(limits);
    if properties.is_empty() {
        return Ok(());
    }
    let mut words = vec!["set-property", "--runtime", slice];
    words.extend(properties.iter().map(String::as_str));
    systemctl("set properties of", &words)
}

fn systemctl(action: &'static str, words: &[&str]) -> Result<(), CgroupError> {
    let slice = words.iter().find(|word| word.ends_with(".slice")).copied().unwrap_or_default();
    let fail = |source: io::Error| CgroupError { action, path: slice.into(), source };
    let output = std::process::Command::new("systemctl").args(words).output().map_err(fail)?;
    if output.status.success() {
        return Ok(());
    }
    Err(fail(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned())))
}

fn make(dir: &Path) -> Result<(), CgroupError> {
    fs::create_dir_all(dir).map_err(|source| CgroupError { action: "make", path: dir.to_owned(), source })
}

fn put(path: &Path, value: &str) -> Result<(), CgroupError> {
    fs::write(path, value).map_err(|source| CgroupError { action: "write", path: path.to_owned(), source })
}

fn remove_tree(dir: &Path) -> Result<(), CgroupError> {
    let Ok(entries) = fs::read_dir(dir) else { return Ok(()) };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_tree(&entry.path())?;
    }
    match fs::remove_dir(dir) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(CgroupError { action: "remove", path: dir.to_owned(), source })
        }
        _ => Ok(()),
    }
}

fn number(path: &Path) -> u64 {
    fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

fn field(stat: &str, name: &str) -> u64 {
    let line = stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_as_files() {
        let limits = Limits {
            cpu_shares: Some(1024),
            cpu_quota_us: Some(50_000),
            cpu_period_us: Some(100_000),
            memory_bytes: Some(-1),
            pids: None,
        };
        let v2: Vec<_> =
            settings(Version::V2, &limits).into_iter().map(|(_, file, value)| (file, value)).collect();
        let expect = [("cpu.weight", "100"), ("cpu.max", "50000 100000"), ("memory.max", "max")];
        assert_eq!(v2, expect.map(|(file, value)| (file, value.to_owned())));
        assert_eq!(settings(Version::V1, &limits)[3], ("memory", "memory.limit_in_bytes", "-1".to_owned()));
        assert_eq!((weight_from_shares(2), weight_from_shares(262_144)), (1, 10_000));
        let expect = ["CPUWeight=100", "CPUQuota=50.00%", "MemoryMax=infinity"];
        assert_eq!(properties(&limits), expect);
        let odd = Limits { cpu_quota_us: Some(-1), pids: Some(5), ..Limits::default() };
        assert_eq!(properties(&odd), ["CPUQuota=", "TasksMax=5"]);
        assert_eq!(slice_of("/kubepods.slice/kubepods-podx.slice"), "kubepods-podx.slice");
    }

    #[test]
    fn a_root_that_is_none_is_freed() {
        let (dir, cgroups) = fake(Version::V2);
        fs::write(dir.path().join("cgroup.procs"), "7\n8\n").expect("written");
        cgroups.ensure("/kubepods", &Limits::default()).expect("made");
        assert_eq!(
            read(dir.path(), "init/cgroup.procs"),
            "no init/cgroup.procs",
            "a real root stays as it is"
        );
        fs::write(dir.path().join("cgroup.type"), "domain\n").expect("written");
        fs::write(dir.path().join("cgroup.subtree_control"), "cpu\n").expect("written");
        cgroups.ensure("/kubepods", &Limits::default()).expect("made");
        assert_eq!(read(dir.path(), "init/cgroup.procs"), "8", "the fake keeps only the last");
    }

    /// A directory that looks like a hierarchy of v2 or like the mounts of v1.
    fn fake(version: Version) -> (tempfile::TempDir, Cgroups) {
        let dir = tempfile::tempdir().expect("a directory");
        if version == Version::V2 {
            fs::write(dir.path().join("cgroup.controllers"), "cpuset cpu io memory pids\n").expect("written");
        } else {
            for controller in ["cpu", "cpuacct", "memory", "pids", "freezer"] {
                fs::create_dir(dir.path().join(controller)).expect("made");
            }
        }
        let cgroups = Cgroups::at(dir.path());
        assert_eq!(cgroups.version(), version);
        (dir, cgroups)
    }

    fn read(dir: &Path, file: &str) -> String {
        fs::read_to_string(dir.join(file)).unwrap_or_else(|_| format!("no {file}"))
    }

    #[test]
    fn groups_are_made_and_limited() {
        let limits = Limits {
            cpu_shares: Some(512),
            cpu_quota_us: Some(-1),
            memory_bytes: Some(1 << 20),
            pids: Some(7),
            ..Limits::default()
        };
        let (dir, v2) = fake(Version::V2);
        v2.ensure("/kubepods/burstable/pod1", &limits).expect("made");
        for (file, expect) in [
            ("kubepods/burstable/pod1/cpu.weight", "59"),
            ("kubepods/burstable/pod1/cpu.max", "max 100000"),
            ("kubepods/burstable/pod1/memory.max", "1048576"),
            ("kubepods/burstable/pod1/pids.max", "7"),
            // Enabled in every parent; the fake file keeps only the last.
            ("cgroup.subtree_control", "+cpuset"),
            ("kubepods/burstable/cgroup.subtree_control", "+cpuset"),
            (
                "kubepods/burstable/pod1/cgroup.subtree_control",
                "no kubepods/burstable/pod1/cgroup.subtree_control",
            ),
        ] {
            assert_eq!(read(dir.path(), file), expect, "{file}");
        }
        let (dir, v1) = fake(Version::V1);
        v1.ensure("/kubepods/pod1", &limits).expect("made");
        for (file, expect) in [
            ("cpu/kubepods/pod1/cpu.shares", "512"),
            ("cpu/kubepods/pod1/cpu.cfs_quota_us", "-1"),
            ("memory/kubepods/pod1/memory.limit_in_bytes", "1048576"),
            ("pids/kubepods/pod1/pids.max", "7"),
        ] {
            assert_eq!(read(dir.path(), file), expect, "{file}");
        }
        assert!(!dir.path().join("freezer/kubepods").exists());
        assert_eq!(v1.children("/kubepods"), ["pod1"]);
        assert_eq!(v1.memory_limit("/kubepods/pod1"), Some(1 << 20));
    }

    #[test]
    fn usage_of_both_versions() {
        let (dir, v2) = fake(Version::V2);
        let (other, v1) = fake(Version::V1);
        let put = |root: &Path, file: &str, text: &str| {
            let path = root.join(file);
            fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            fs::write(path, text).expect("written");
        };
        put(dir.path(), "g/cpu.stat", "usage_usec 5\nuser_usec 3\n");
        put(dir.path(), "g/memory.stat", "anon 10\nfile 9\ninactive_file 4\npgfault 2\npgmajfault 1\n");
        put(dir.path(), "g/memory.current", "20\n");
        put(dir.path(), "g/pids.current", "3\n");
        put(dir.path(), "g/cgroup.procs", "42\n43\n");
        put(dir.path(), "g/memory.max", "max\n");
        put(other.path(), "cpuacct/g/cpuacct.usage", "5000\n");
        let stat = "total_rss 10\ntotal_inactive_file 4\ntotal_pgfault 2\ntotal_pgmajfault 1\n";
        put(other.path(), "memory/g/memory.stat", stat);
        put(other.path(), "memory/g/memory.usage_in_bytes", "20\n");
        put(other.path(), "memory/g/memory.limit_in_bytes", "9223372036854771712\n");
        put(other.path(), "memory/g/cgroup.procs", "42\n");
        put(other.path(), "pids/g/pids.current", "3\n");
        let expect = Usage {
            cpu_ns: 5000,
            memory_bytes: 20,
            working_set_bytes: 16,
            rss_bytes: 10,
            page_faults: 2,
            major_page_faults: 1,
            pids: 3,
        };
        for cgroups in [v2, v1] {
            assert_eq!(cgroups.usage("/g"), Some(expect), "{cgroups:?}");
            assert_eq!((cgroups.cpu_ns("/g"), cgroups.cpu_ns("/none")), (Some(5000), None));
            assert_eq!((cgroups.first_process("/g"), cgroups.memory_limit("/g")), (Some(42), None));
            assert_eq!(cgroups.usage("/none"), None);
        }
        put(dir.path(), "cpu.stat", "usage_usec 7\n");
        let root = Cgroups::at(dir.path()).usage("/").expect("the root of v2 has CPU time");
        assert_eq!((root.cpu_ns, root.memory_bytes), (7000, 0));
    }

    #[test]
    fn stat_fields() {
        assert_eq!(field("anon 5\nanon_thp 7\n", "anon"), 5);
        assert_eq!(field("", "anon"), 0);
    }
}
