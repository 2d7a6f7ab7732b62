//! `navarch down`: stops the cluster of a data directory and removes everything it made.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base::Clock;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::containerd;
use crate::error::CliError;

/// Flags of `navarch down`.
#[derive(Clone, Debug, clap::Args)]
pub struct DownArgs {
    /// Where the cluster keeps its things.
    #[arg(long, default_value = crate::DEFAULT_DATA_DIR, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Stop everything but keep the data: the next `navarch up` goes on with it.
    #[arg(long)]
    pub keep_data: bool,
}

/// How long the server may take to end, seconds.
const STOP_SECONDS: u64 = 20;

/// The file with the pid of a data directory's `navarch up`.
pub fn pid_file(data_dir: &Path) -> PathBuf {
    containerd::run_dir(data_dir).join("navarch.pid")
}

/// What containerd, its shims, CNI and device plugins have outside of our directories; inner ones first. They go when
/// nobody else uses them.
const SHARED_DIRS: &[&str] = &[
    "/run/navarch",
    "/run/containerd/fifo",
    "/run/containerd/s",
    "/run/containerd/runc/k8s.io",
    "/run/containerd/runc",
    "/run/containerd",
    "/run/netns",
    "/var/lib/cni/results",
    "/var/lib/cni",
    "/var/lib/kubelet/device-plugins",
    "/var/lib/kubelet",
];

/// Stops and removes; each step goes on where an earlier one found nothing to do.
pub async fn run(args: &DownArgs) -> Result<(), CliError> {
    let (dir, clock) = (&args.data_dir, Clock::system());
    let run_dir = containerd::run_dir(dir);
    if !dir.exists() && !run_dir.exists() {
        println!("nothing to remove: no cluster in {}", dir.display());
        return Ok(());
    }
    if let Some(pid) = read_pid(&pid_file(dir)) {
        println!("stopping navarch (pid {pid})");
        stop_process(pid, "navarch", Duration::from_secs(STOP_SECONDS), &clock).await;
    }
    println!("removing pods");
    crate::node::remove_pods(&containerd::socket(dir)).await;
    containerd::stop(dir, &clock).await?;
    println!("removing the network");
    crate::node::remove_network(dir).await;
    unmount_below(dir);
    unmount_below(&run_dir);
    crate::node::remove_cgroups(dir);
    remove_dir(&run_dir)?;
    SHARED_DIRS.iter().for_each(|dir| remove_dir_if_empty(Path::new(dir)));
    if !args.keep_data {
        println!("removing {}", dir.display());
        remove_dir(dir)?;
    }
    println!("done");
    Ok(())
}

fn read_pid(path: &Path) -> Option<i32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The Navarch process, other than this one, that serves a data directory.
pub fn running(data_dir: &Path) -> Option<i32> {
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    read_pid(&pid_file(data_dir)).filter(|pid| *pid != own && program(*pid) == "navarch")
}

/// The name of a process' program; empty when there is none.
fn program(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

/// Ends a process with SIGTERM, after `limit` with SIGKILL, if it is the program we think it is: a pid may
/// belong to somebody else by now.
pub async fn stop_process(pid: i32, name: &str, limit: Duration, clock: &Clock) {
    let Some(process) = Pid::from_raw(pid) else { return };
    if program(pid) != name {
        return;
    }
    for (signal, limit) in [(Signal::TERM, limit), (Signal::KILL, Duration::from_secs(5))] {
        if kill_process(process, signal).is_err() {
            return;
        }
        let started = clock.monotonic();
        while clock.monotonic() - started < limit {
            if test_kill_process(process).is_err() || is_zombie(pid) {
                return;
            }
            clock.sleep(Duration::from_millis(20)).await;
        }
    }
}

fn is_zombie(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
}

/// Unmounts everything mounted below a directory, deepest first.
pub fn unmount_below(dir: &Path) {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut points: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|text| PathBuf::from(text.replace("\\040", " ")))
        .filter(|point| point.starts_with(dir))
        .collect();
    points.sort_by_key(|point| std::cmp::Reverse(point.components().count()));
    for point in points {
        if let Err(error) = rustix::mount::unmount(&point, rustix::mount::UnmountFlags::DETACH) {
            tracing::warn!(point = %point.display(), %error, "cannot unmount");
        }
    }
}

fn remove_dir(dir: &Path) -> Result<(), CliError> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(CliError::file("remove", dir, error))
        }
        _ => Ok(()),
    }
}

fn remove_dir_if_empty(dir: &Path) {
    // Another cluster's directory may still be there.
    let _ = fs::remove_dir(dir);
}
