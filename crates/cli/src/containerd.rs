//! The node's own containerd: configured, started, left running when we end, stopped by `navarch down`.
//!
//! It outlives us on purpose: pods keep running over a restart of Navarch.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use base::Clock;
use runtime::containerd::{Settings, config};
use tokio::process::Command;

use crate::error::CliError;

/// How long containerd may take to answer, seconds.
const START_SECONDS: u64 = 30;
const INSTALL_HINT: &str = "; install it with `apt-get install containerd runc containernetworking-plugins`";

/// The short name of the machine's first cluster.
pub const MAIN: &str = "main";

/// A short name for a data directory: sockets' paths are limited to 107 bytes.
pub fn short_name(data_dir: &Path) -> String {
    // The same directory has one name, however it is written.
    let data_dir = std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_owned());
    if data_dir == Path::new(crate::DEFAULT_DATA_DIR) {
        return MAIN.to_owned();
    }
    let digest = ring::digest::digest(&ring::digest::SHA256, data_dir.as_os_str().as_encoded_bytes());
    digest.as_ref()[..4].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Where what lives only while the machine runs is kept.
pub fn run_dir(data_dir: &Path) -> PathBuf {
    Path::new("/run/navarch").join(short_name(data_dir))
}

/// Notes that this process serves a data directory, for `navarch down`. An error when another one does.
pub fn claim(data_dir: &Path) -> Result<(), CliError> {
    if let Some(pid) = crate::down::running(data_dir) {
        return Err(CliError::Join {
            what: format!("starting from {}", data_dir.display()),
            detail: format!("navarch (pid {pid}) runs from it already"),
            next: "stop that first: `navarch down --keep-data`, or name another --data-dir".to_owned(),
        });
    }
    let run_dir = run_dir(data_dir);
    fs::create_dir_all(&run_dir).map_err(|source| CliError::file("create", &run_dir, source))?;
    crate::pki::write(&crate::down::pid_file(data_dir), &format!("{}\n", std::process::id()))
}

/// The socket of a data directory's containerd.
pub fn socket(data_dir: &Path) -> PathBuf {
    run_dir(data_dir).join("containerd.sock")
}

fn pid_file(data_dir: &Path) -> PathBuf {
    run_dir(data_dir).join("containerd.pid")
}

/// The CNI configuration directory of a data directory's node.
pub fn cni_conf_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("cni/net.d")
}

/// Starts containerd unless it runs; returns its socket once it answers.
pub async fn ensure(data_dir: &Path, systemd_cgroup: bool, clock: &Clock) -> Result<PathBuf, CliError> {
    let (run_dir, socket) = (run_dir(data_dir), socket(data_dir));
    for dir in [&run_dir, &cni_conf_dir(data_dir), &data_dir.join("containerd")] {
        fs::create_dir_all(dir).map_err(|source| CliError::file("create", dir, source))?;
    }
    if answers(&socket).await {
        return Ok(socket);
    }
    let settings = Settings {
        root: data_dir.join("containerd/root"),
        state: run_dir.join("containerd"),
        socket: socket.clone(),
        cni_conf_dir: cni_conf_dir(data_dir),
        sandbox_image: crate::image::PAUSE.to_owned(),
        registry_config: Some(data_dir.join("registries")),
        systemd_cgroup,
        ..Settings::default()
    };
    let config_path = data_dir.join("containerd/config.toml");
    crate::pki::write(&config_path, &config(&settings))?;
    let log_path = data_dir.join("containerd/containerd.log");
    let log = fs::File::create(&log_path).map_err(|source| CliError::file("create", &log_path, source))?;
    let log_too = log.try_clone().map_err(|source| CliError::file("open", &log_path, source))?;
    let mut command = Command::new("containerd");
    command.arg("--config").arg(&config_path).stdin(Stdio::null()).stdout(log).stderr(log_too);
    // A process group of its own: a Ctrl-C meant for us does not stop the pods.
    let child = command.process_group(0).spawn().map_err(|error| CliError::Program {
        program: "containerd".to_owned(),
        detail: error.to_string(),
        hint: INSTALL_HINT,
    })?;
    let pid = child.id().unwrap_or_default();
    crate::pki::write(&pid_file(data_dir), &format!("{pid}\n"))?;
    tracing::info!(pid, socket = %socket.display(), "containerd started");
    wait_for(&socket, child, &log_path, clock).await?;
    Ok(socket)
}

async fn wait_for(
    socket: &Path,
    mut child: tokio::process::Child,
    log: &Path,
    clock: &Clock,
) -> Result<(), CliError> {
    let started = clock.monotonic();
    while clock.monotonic() - started < Duration::from_secs(START_SECONDS) {
        if answers(socket).await {
            return Ok(());
        }
        if let Ok(Some(status)) = child.try_wait() {
            let text = fs::read_to_string(log).unwrap_or_default();
            let last = text.lines().last().unwrap_or("no message");
            return Err(CliError::Program {
                program: "containerd".to_owned(),
                detail: format!("{status}: {last}"),
                hint: "",
            });
        }
        clock.sleep(Duration::from_millis(5)).await;
    }
    let what = "starting containerd".to_owned();
    Err(CliError::Timeout { what, seconds: START_SECONDS, log: log.display().to_string() })
}

async fn answers(socket: &Path) -> bool {
    tokio::net::UnixStream::connect(socket).await.is_ok()
}

/// Stops a data directory's containerd, if it is the process that we started.
pub async fn stop(data_dir: &Path, clock: &Clock) -> Result<(), CliError> {
    let text = fs::read_to_string(pid_file(data_dir)).unwrap_or_default();
    let Ok(pid) = text.trim().parse::<i32>() else { return Ok(()) };
    crate::down::stop_process(pid, "containerd", Duration::from_secs(10), clock).await;
    let _ = fs::remove_file(pid_file(data_dir));
    Ok(())
}
