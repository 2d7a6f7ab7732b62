//! The processes: API servers of the real binary, and members of an etcd. It must not know what is asked of them.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use base::pki::{Ca, Identity, Subject};
use base::{Clock, Rng, Tasks};
use client::Https;
use client::kubeconfig::Settings;
use rustix::process::{Pid, Signal, kill_process};

/// Longer than any run.
const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// Keys and certificates of the servers, and of us.
pub struct Keys {
    dir: PathBuf,
    ca: String,
    us: Identity,
}

impl Keys {
    /// Makes them in a directory.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn make(dir: &Path, clock: &Clock, rng: &Rng) -> io::Result<Keys> {
        let now = clock.now();
        let ca = Ca::new("soak", now, YEAR, rng).map_err(io::Error::other)?;
        let issue = |name: &str, server: bool| {
            let subject = Subject {
                common_name: name.to_owned(),
                organization: Some("system:masters".to_owned()),
                dns_names: vec!["localhost".to_owned()],
                addresses: vec![[127, 0, 0, 1].into()],
                server,
                client: !server,
            };
            ca.issue(&subject, now, YEAR, rng).map_err(io::Error::other)
        };
        let (server, us) = (issue("kube-apiserver", true)?, issue("soak", false)?);
        let accounts = base::pki::new_key_pem().map_err(io::Error::other)?;
        let ca = ca.identity().cert.clone();
        for (name, text) in [
            ("ca.crt", &ca),
            ("server.crt", &server.cert),
            ("server.key", &server.key),
            ("us.crt", &us.cert),
            ("us.key", &us.key),
            ("sa.key", &accounts),
        ] {
            fs::write(dir.join(name), text)?;
        }
        Ok(Keys { dir: dir.to_owned(), ca, us })
    }

    /// A kubeconfig for the server at a port.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn kubeconfig(&self, port: u16) -> io::Result<PathBuf> {
        let file = |name: &str| self.dir.join(name).to_string_lossy().into_owned();
        let config = serde_json::json!({"apiVersion": "v1", "kind": "Config", "current-context": "soak",
            "clusters": [{"name": "soak", "cluster": {"server": format!("https://127.0.0.1:{port}"),
                "certificate-authority": file("ca.crt")}}],
            "users": [{"name": "soak", "user": {"client-certificate": file("us.crt"),
                "client-key": file("us.key")}}],
            "contexts": [{"name": "soak", "context": {"cluster": "soak", "user": "soak"}}]});
        let path = self.dir.join(format!("{port}.kubeconfig"));
        fs::write(&path, config.to_string())?;
        Ok(path)
    }

    /// A connection to the server at a port.
    pub fn connect(&self, port: u16, clock: &Clock, tasks: &Tasks) -> Arc<Https> {
        let settings = Settings {
            server: format!("https://127.0.0.1:{port}"),
            ca: Some(self.ca.clone()),
            insecure: false,
            server_name: None,
            identity: Some(self.us.clone()),
            token: None,
            token_file: None,
            basic: None,
            namespace: String::new(),
        };
        let https = Https::new(settings, clock.clone(), tasks.clone());
        Arc::new(https.expect("made of good parts"))
    }
}

/// A process that can be ended at any time and begun again with the same words.
pub struct Process {
    program: PathBuf,
    words: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
}

impl Process {
    /// Not begun yet; what it says goes to `log`.
    pub fn new(program: &Path, words: Vec<String>, log: PathBuf) -> Process {
        Process { program: program.to_owned(), words, log, child: None }
    }

    /// Begins it.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(&mut self) -> io::Result<()> {
        let log = fs::OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(&self.program);
        command.args(&self.words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn()?);
        Ok(())
    }

    /// Ends it at once, as `kill -9` does, and waits until it is gone.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub fn kill(&mut self) -> io::Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        // It may have ended by itself.
        let _ = child.kill();
        child.wait().map(drop)
    }

    /// Holds it still, or lets it go on.
    ///
    /// # Errors
    /// It does not run.
    pub fn freeze(&self, still: bool) -> io::Result<()> {
        let child = self.child.as_ref().ok_or(io::ErrorKind::NotFound)?;
        let signal = if still { Signal::STOP } else { Signal::CONT };
        Ok(kill_process(Pid::from_child(child), signal)?)
    }

    /// What it ended with, if it did so by itself.
    pub fn ended(&mut self) -> Option<String> {
        let status = self.child.as_mut()?.try_wait().ok()??;
        Some(format!("{status}\n{}", self.log_end()))
    }

    /// The last lines it said.
    pub fn log_end(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nothing is left to do about a failure.
        let _ = self.kill();
    }
}

/// Ports that nobody has at the moment.
///
/// # Errors
/// There are none.
pub fn free_ports(count: usize) -> io::Result<Vec<u16>> {
    let listeners: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<io::Result<_>>()?;
    listeners.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}

/// The words of an API server on a port; `store` says where it keeps its objects.
pub fn server_words(keys: &Keys, port: u16, store: &[String]) -> Vec<String> {
    let file = |name: &str| keys.dir.join(name).to_string_lossy().into_owned();
    let mut words = vec!["apiserver".to_owned(), "--bind-address=127.0.0.1".to_owned()];
    words.push(format!("--secure-port={port}"));
    for (flag, value) in [
        ("tls-cert-file", file("server.crt")),
        ("tls-private-key-file", file("server.key")),
        ("client-ca-file", file("ca.crt")),
        ("service-account-key-file", file("sa.key")),
        ("service-account-signing-key-file", file("sa.key")),
        // Small, so that what leaks is missed soon.
        ("service-cluster-ip-range", "10.99.0.0/24".to_owned()),
        ("service-node-port-range", "30000-30199".to_owned()),
    ] {
        words.push(format!("--{flag}={value}"));
    }
    words.extend_from_slice(store);
    words
}

/// Members of an etcd that keep their data below a directory, and the addresses at which they answer.
///
/// # Errors
/// There are no free ports.
pub fn etcd_members(dir: &Path, count: usize) -> io::Result<(Vec<Process>, Vec<String>)> {
    let ports = free_ports(2 * count)?;
    let url = |at: usize| format!("http://127.0.0.1:{}", ports[at]);
    let cluster: Vec<String> = (0..count).map(|at| format!("m{at}={}", url(count + at))).collect();
    let member = |at: usize| {
        let (client, peer) = (url(at), url(count + at));
        let data = dir.join(format!("m{at}"));
        let words = [
            format!("--name=m{at}"),
            format!("--data-dir={}", data.display()),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster={}", cluster.join(",")),
            "--log-level=error".to_owned(),
        ];
        Process::new(Path::new("etcd"), words.to_vec(), dir.join(format!("m{at}.log")))
    };
    Ok(((0..count).map(member).collect(), (0..count).map(url).collect()))
}
