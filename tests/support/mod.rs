//! What the cluster tests stand on: a cluster of the real binary in a directory of its own, and what it leaves.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::Gvr;
use api::meta::ObjectExt as _;
use base::{BoxError, Clock, Tasks};
use client::client::WatchOptions;
use client::streaming;
use client::{
    Client, DeleteOptions, Https, Kubeconfig, ListOptions, Patch, Propagation, WatchEvent, WriteOptions,
};
use serde_json::{Value, json};

pub mod links;

use links::Place;

/// Nothing here takes longer on a slow machine.
const LIMIT: Duration = Duration::from_secs(120);
/// The image of Debian's static busybox that the tests make.
const BUSYBOX: &str = "navarch.test/busybox:1";

/// A running cluster.
pub struct Cluster {
    dir: tempfile::TempDir,
    place: Place,
    /// `up`, or `server` for a control plane without a node.
    command: &'static str,
    process: std::process::Child,
    client: Client,
    tasks: Tasks,
}

fn binary() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_navarch"))
}

/// Starts a Navarch process in a place, its words in `<directory>/log`.
fn spawn(dir: &Path, place: &Place, command: &str, more: &[&str]) -> std::process::Child {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(dir.join("log")).expect("a log");
    place
        .command()
        .arg(command)
        .arg("--data-dir")
        .arg(dir.join("data"))
        .args(["--node-name", place.node])
        .args(&place.flags)
        .args(more)
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("navarch starts")
}

async fn connect(dir: &Path, place: &Place, tasks: &Tasks) -> Client {
    let path = dir.join("data/admin.kubeconfig");
    let clock = Clock::system();
    let started = clock.monotonic();
    loop {
        if let Some(client) = try_connect(&path, place, &clock, tasks).await {
            return client;
        }
        let log = || std::fs::read_to_string(dir.join("log")).unwrap_or_default();
        assert!(clock.monotonic() - started < LIMIT, "no API server:\n{}", log());
        clock.sleep(Duration::from_millis(20)).await;
    }
}

async fn try_connect(path: &Path, place: &Place, clock: &Clock, tasks: &Tasks) -> Option<Client> {
    let mut settings = Kubeconfig::load(path).ok()?.settings(None).ok()?;
    settings.server = settings.server.replace("127.0.0.1", &place.address);
    let https = Https::new(settings, clock.clone(), tasks.clone()).ok()?;
    let client = Client::new(Arc::new(https), "navarch-tests", clock.clone());
    client.get_path::<Value>("/version").await.ok()?;
    Some(client)
}

fn gvr(resource: &str) -> Gvr {
    match resource {
        "deployments" | "replicasets" | "statefulsets" => Gvr::new("apps", "v1", resource),
        "networkpolicies" => Gvr::new("networking.k8s.io", "v1", resource),
        _ => Gvr::new("", "v1", resource),
    }
}

/// A busybox container that runs a script.
pub fn busybox(name: &str, script: &str, mounts: Value) -> Value {
    json!({"name": name, "image": BUSYBOX, "command": ["/bin/sh", "-c", script], "volumeMounts": mounts})
}

impl Cluster {
    /// Starts a cluster and waits for its node.
    pub async fn start() -> Cluster {
        Cluster::start_in(Place::machine()).await
    }

    /// Starts a cluster in a place and waits for its node.
    pub async fn start_in(place: Place) -> Cluster {
        let dir = tempfile::tempdir().expect("a directory");
        let cluster = Cluster::start_on(dir, place, "up").await;
        cluster.node_ready(cluster.place.node).await;
        let archive = cluster.busybox_archive();
        write_busybox(Path::new(&archive));
        cluster.navarch(&["image", "import", &archive]).await;
        cluster
    }

    /// Starts a control plane alone, in a directory whose `data` may hold one already.
    pub async fn server(dir: tempfile::TempDir, place: Place) -> Cluster {
        Cluster::start_on(dir, place, "server").await
    }

    async fn start_on(dir: tempfile::TempDir, place: Place, command: &'static str) -> Cluster {
        let tasks = Tasks::new();
        let process = spawn(dir.path(), &place, command, &[]);
        let client = connect(dir.path(), &place, &tasks).await;
        Cluster { dir, place, command, process, client, tasks }
    }

    /// Ends the process as a crash would; its directory stays.
    pub fn crash(mut self) -> tempfile::TempDir {
        self.process.kill().expect("it runs");
        self.process.wait().expect("it ends");
        std::mem::replace(&mut self.dir, tempfile::tempdir().expect("a directory"))
    }

    /// Ends the process as a crash would and removes what it leaves.
    pub fn lose(mut self) {
        self.process.kill().expect("it runs");
        self.process.wait().expect("it ends");
        let removed =
            self.place.command().args(["down", "--data-dir"]).arg(self.dir.path().join("data")).output();
        assert!(removed.expect("it runs").status.success());
    }

    /// Runs a subcommand against this cluster's directory; its output.
    pub async fn navarch(&self, args: &[&str]) -> String {
        let mut command = tokio::process::Command::from(self.place.command());
        // Flags first: `image import` takes files to its end.
        let words = args.iter().take_while(|word| !word.contains('/')).count();
        command.args(&args[..words]).arg("--data-dir").arg(self.dir.path().join("data")).args(&args[words..]);
        let output = command.output().await.expect("it runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "navarch {args:?}: {out}{err}\n{}", self.log_end());
        out
    }

    /// The archive of the busybox image.
    pub fn busybox_archive(&self) -> String {
        self.dir.path().join("busybox.tar").to_string_lossy().into_owned()
    }

    /// What streams to containers need.
    fn streams(&self) -> streaming::Context {
        let (client, tasks) = (self.client.clone(), self.tasks.clone());
        streaming::Context { client, clock: Clock::system(), rng: base::Rng::system(), tasks }
    }

    /// Runs a command in a pod's only container; what it prints.
    pub async fn exec(&self, pod: &str, command: &[&str]) -> String {
        let options = streaming::CommandOptions {
            namespace: "default".to_owned(),
            pod: pod.to_owned(),
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            stdout: true,
            stderr: true,
            ..streaming::CommandOptions::default()
        };
        let mut running = streaming::exec(&self.streams(), &options)
            .await
            .unwrap_or_else(|error| panic!("exec in {pod}: {error}\n{}", self.log_end()));
        let mut text = Vec::new();
        while let Some(output) = running.output.recv().await {
            match output {
                streaming::Output::Stdout(bytes) | streaming::Output::Stderr(bytes) => text.extend(bytes),
                streaming::Output::Exit(_) => break,
            }
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Runs a script in a pod until it prints a line.
    pub async fn exec_eventually(&self, pod: &str, script: &str, line: &str) {
        let clock = Clock::system();
        let started = clock.monotonic();
        loop {
            let answer = self.exec(pod, &["sh", "-c", script]).await;
            if answer.lines().any(|printed| printed == line) {
                return;
            }
            assert!(clock.monotonic() - started < LIMIT, "{script} in {pod}: {answer}, not {line}");
            clock.sleep(Duration::from_millis(100)).await;
        }
    }

    /// Fetches a page until it says a word.
    pub async fn page_eventually(&self, host: &str, port: u16, word: &str) {
        let clock = Clock::system();
        let started = clock.monotonic();
        loop {
            let answer = page(host, port).await;
            if answer.as_ref().is_ok_and(|text| text.trim() == word) {
                return;
            }
            assert!(clock.monotonic() - started < LIMIT, "http://{host}:{port}/: {answer:?}, not {word}");
            clock.sleep(Duration::from_millis(100)).await;
        }
    }

    /// Deletes an object of `default`.
    pub async fn delete(&self, resource: &str, name: &str) {
        let deleted = self.client.delete_at(&gvr(resource), "default", name, &DeleteOptions::default()).await;
        deleted.unwrap_or_else(|error| panic!("{resource} {name}: {error}"));
    }

    /// Deletes an object of `default` without what it owns.
    pub async fn orphan(&self, resource: &str, name: &str) {
        let options = DeleteOptions::default().propagate(Propagation::Orphan);
        let deleted = self.client.delete_at(&gvr(resource), "default", name, &options).await;
        deleted.unwrap_or_else(|error| panic!("{resource} {name}: {error}"));
    }

    /// Deletes a pod that comes back under its name, and waits until the new one runs.
    pub async fn replace_same(&self, name: &str) {
        let before = self.get("pods", name).await["metadata"]["uid"].clone();
        self.delete("pods", name).await;
        self.pod_when(name, |pod| pod["metadata"]["uid"] != before && pod["status"]["phase"] == "Running")
            .await;
    }

    /// Sends an HTTP request to a port of a pod through a port-forward; the answer.
    pub async fn forward(&self, pod: &str, port: u16) -> String {
        let forward = streaming::port_forward(&self.streams(), "default", pod).await.expect("a port-forward");
        let mut connection = forward.connect(port).await.expect("a connection");
        let request = "GET / HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n";
        connection.data.writer.send(request.into()).await.expect("sent");
        let mut text = Vec::new();
        while let Some(bytes) = connection.data.reader.recv().await {
            text.extend(bytes);
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// The end of the cluster's log, for messages of failed checks.
    fn log_end(&self) -> String {
        let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// Waits until a node is ready.
    pub async fn node_ready(&self, name: &str) {
        self.when("nodes", "", name, |node| condition(node, "Ready") == "True").await;
    }

    /// Waits until nobody knows how a node is.
    pub async fn node_lost(&self, name: &str) {
        self.when("nodes", "", name, |node| condition(node, "Ready") == "Unknown").await;
    }

    /// The node's address.
    pub async fn node_address(&self) -> String {
        let node: Value = self.client.get_at(&gvr("nodes"), "", self.place.node).await.expect("the node");
        node["status"]["addresses"][0]["address"].as_str().expect("an address").to_owned()
    }

    /// Creates an object in `default`.
    pub async fn create(&self, resource: &str, object: Value) {
        let made: Result<Value, _> =
            self.client.create_at(&gvr(resource), "default", &object, &WriteOptions::default()).await;
        made.unwrap_or_else(|error| panic!("{resource}: {error}: {object}"));
    }

    /// Creates a pod in `default`.
    pub async fn create_pod(&self, name: &str, spec: Value) {
        self.create(
            "pods",
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}),
        )
        .await;
    }

    /// An object of `default`.
    pub async fn get(&self, resource: &str, name: &str) -> Value {
        let found: Result<Value, _> = self.client.get_at(&gvr(resource), "default", name).await;
        found.unwrap_or_else(|error| panic!("{resource} {name}: {error}"))
    }

    /// Copies the cluster's keys to where another control plane will look for them.
    pub fn copy_keys(&self, dir: &Path) {
        let (from, to) = (self.dir.path().join("data/pki"), dir.join("data"));
        std::fs::create_dir_all(&to).expect("made");
        let copied = Command::new("cp").arg("-a").args([from, to]).status().expect("it runs");
        assert!(copied.success());
    }

    /// Waits, watching, until an object is as wanted.
    pub async fn when(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Value {
        let mut last = Value::Null;
        let watch = self.watch_until(resource, namespace, name, &wanted, &mut last);
        match Clock::system().timeout(LIMIT, watch).await {
            Some(()) => last,
            None => panic!("{resource} {name} is not as wanted: {last:#}\n{}", self.log_end()),
        }
    }

    async fn watch_until(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
        wanted: &impl Fn(&Value) -> bool,
        last: &mut Value,
    ) {
        let options = WatchOptions { fields: format!("metadata.name={name}"), ..WatchOptions::default() };
        loop {
            let opened = self.client.watch_at::<Value>(&gvr(resource), namespace, &options).await;
            let Ok(mut stream) = opened else {
                Clock::system().sleep(Duration::from_millis(100)).await;
                continue;
            };
            while let Some(Ok(event)) = stream.next().await {
                let (WatchEvent::Added(object) | WatchEvent::Modified(object)) = event else { continue };
                *last = object;
                if wanted(last) {
                    return;
                }
            }
        }
    }

    /// Waits until a pod of `default` is as wanted.
    pub async fn pod_when(&self, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.when("pods", "default", name, wanted).await
    }

    /// Waits for a pod's phase.
    pub async fn pod_phase(&self, name: &str, phase: &str) {
        self.pod_when(name, |pod| pod["status"]["phase"] == phase).await;
    }

    /// Waits until a container has printed a line.
    pub async fn log_line(&self, pod: &str, container: &str, line: &str) {
        let path = format!("/api/v1/namespaces/default/pods/{pod}/log?container={container}");
        let (clock, mut text) = (Clock::system(), String::new());
        let started = clock.monotonic();
        while clock.monotonic() - started < LIMIT {
            let call = client::client::Call::new(http::Method::GET, path.clone());
            match self.client.bytes(&call).await {
                Ok(bytes) => text = String::from_utf8_lossy(&bytes).into_owned(),
                Err(error) => text = error.to_string(),
            }
            if text.lines().any(|found| found.contains(line)) {
                return;
            }
            clock.sleep(Duration::from_millis(100)).await;
        }
        panic!("{pod}/{container} did not print {line:?} but:\n{text}\n{}", self.log_end());
    }

    /// Deletes a pod and waits until it is gone.
    pub async fn delete_pod(&self, name: &str) {
        let options = DeleteOptions::default();
        let deleted = self.client.delete_at(&gvr("pods"), "default", name, &options).await;
        deleted.unwrap_or_else(|error| panic!("pod {name}: {error}"));
        self.gone(name).await;
    }

    /// Waits until a pod is gone.
    pub async fn gone(&self, name: &str) {
        let (clock, path) = (Clock::system(), gvr("pods"));
        let started = clock.monotonic();
        while self.client.get_at::<Value>(&path, "default", name).await.is_ok() {
            assert!(clock.monotonic() - started < LIMIT, "pod {name} stays\n{}", self.log_end());
            clock.sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until a pod of a selector has another in its place; the other's name.
    pub async fn replaced(&self, labels: &str, name: &str) -> String {
        let clock = Clock::system();
        let started = clock.monotonic();
        loop {
            if let Some(other) = self.pods(labels).await.into_iter().find(|other| other != name) {
                return other;
            }
            assert!(clock.monotonic() - started < LIMIT, "pod {name} is not replaced\n{}", self.log_end());
            clock.sleep(Duration::from_millis(100)).await;
        }
    }

    async fn list_pods(&self, labels: &str) -> Vec<Value> {
        let options = ListOptions { labels: labels.to_owned(), ..ListOptions::default() };
        let list =
            self.client.list_at::<Value>(&gvr("pods"), "default", &options, false).await.expect("pods");
        list.items.into_iter().filter(|pod| !pod.is_deleting()).collect()
    }

    /// Names of the pods of a selector that are not being deleted.
    pub async fn pods(&self, labels: &str) -> Vec<String> {
        self.list_pods(labels).await.iter().map(|pod| pod.name().to_owned()).collect()
    }

    /// Pod names with their containers' ids and restarts.
    pub async fn restarts(&self, labels: &str) -> BTreeSet<String> {
        let describe = |pod: &Value| {
            let status = &pod["status"]["containerStatuses"][0];
            format!("{} {} {}", pod.name(), status["containerID"], status["restartCount"])
        };
        self.list_pods(labels).await.iter().map(describe).collect()
    }

    /// Waits until a Deployment has so many available replicas and no others.
    pub async fn available(&self, name: &str, count: i64) {
        let settled = |object: &Value| {
            let status = &object["status"];
            status["availableReplicas"] == count && status["replicas"] == count
        };
        self.when("deployments", "default", name, settled).await;
    }

    /// Merges a patch into a Deployment.
    pub async fn patch_deployment(&self, name: &str, patch: Value) {
        let patched = self
            .client
            .patch_at::<Value>(&gvr("deployments"), "default", name, "", &Patch::Merge(patch))
            .await;
        patched.unwrap_or_else(|error| panic!("deployment {name}: {error}"));
    }

    /// Waits until a Deployment runs its newest template only.
    pub async fn rolled_out(&self, name: &str, count: i64) {
        let done = |object: &Value| {
            let (meta, status) = (&object["metadata"], &object["status"]);
            status["observedGeneration"] == meta["generation"]
                && ["updatedReplicas", "availableReplicas", "replicas"]
                    .iter()
                    .all(|key| status[*key] == count)
        };
        self.when("deployments", "default", name, done).await;
    }

    /// Creates ConfigMaps until the server ends.
    pub fn write_config_maps(&self) -> Writer {
        let (client, acknowledged) = (self.client.clone(), Arc::<Mutex<Vec<String>>>::default());
        let noted = acknowledged.clone();
        let work = tokio::spawn(async move {
            let maps = gvr("configmaps");
            for number in 0..100_000 {
                let name = format!("written-{number}");
                let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
                match client.create_at::<_, Value>(&maps, "default", &object, &WriteOptions::default()).await
                {
                    Ok(_) => noted.lock().expect("nobody panics with it").push(name),
                    Err(_) => break,
                }
            }
        });
        Writer { acknowledged, work }
    }

    /// Ends the process as a crash would.
    pub async fn kill(&mut self) {
        self.process.kill().expect("it runs");
        self.process.wait().expect("it ends");
    }

    /// Starts the process again on the same directory.
    pub async fn start_again(&mut self) {
        self.process = spawn(self.dir.path(), &self.place, self.command, &[]);
        self.client = connect(self.dir.path(), &self.place, &self.tasks).await;
        self.node_ready(self.place.node).await;
    }

    /// Removes the cluster with `navarch down`.
    pub async fn down(mut self) {
        self.navarch(&["down"]).await;
        self.process.wait().expect("it ends");
        self.tasks.drain(Duration::from_secs(1)).await;
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // After a failed check: leave nothing running.
        if self.process.try_wait().is_ok_and(|status| status.is_none()) {
            let data = self.dir.path().join("data");
            let _ = self.place.command().args(["down", "--data-dir"]).arg(data).output();
            let _ = self.process.kill();
        }
    }
}

fn condition<'a>(object: &'a Value, kind: &str) -> &'a str {
    let conditions = object["status"]["conditions"].as_array();
    let found = conditions.into_iter().flatten().find(|condition| condition["type"] == kind);
    found.and_then(|condition| condition["status"].as_str()).unwrap_or("")
}

/// Fetches the demo's page.
pub async fn page(host: &str, port: u16) -> Result<String, BoxError> {
    let limit = Duration::from_secs(5);
    let stream = tokio::time::timeout(limit, tokio::net::TcpStream::connect((host, port))).await??;
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
    let connection = tokio::spawn(connection);
    let request = http::Request::get("/").header("host", host).body(base::http::empty())?;
    let answer = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = base::http::read(base::http::wrap(response.into_body()), 1 << 16).await?;
        Ok::<_, BoxError>((status, body))
    };
    let (status, body) = tokio::time::timeout(limit, answer).await??;
    connection.abort();
    if !status.is_success() {
        return Err(format!("HTTP {status}").into());
    }
    Ok(String::from_utf8_lossy(&body).into_owned())
}

/// Debian's etcd, in a directory of its own.
pub struct Etcd {
    /// Where it answers.
    pub url: String,
    process: std::process::Child,
    _dir: tempfile::TempDir,
}

impl Etcd {
    /// Starts it.
    pub fn start() -> Etcd {
        let dir = tempfile::tempdir().expect("a directory");
        let (url, peers) = ("http://127.0.0.1:16495".to_owned(), "http://127.0.0.1:16494");
        let process = Command::new("etcd")
            .args(["--log-level", "error", "--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers])
            .args(["--initial-cluster", &format!("default={peers}"), "--data-dir"])
            .arg(dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd is installed (./test does)");
        Etcd { url, process, _dir: dir }
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Writes under way.
pub struct Writer {
    acknowledged: Arc<Mutex<Vec<String>>>,
    work: tokio::task::JoinHandle<()>,
}

impl Writer {
    /// Names of the objects acknowledged so far.
    pub fn acknowledged(&self) -> Vec<String> {
        self.acknowledged.lock().expect("nobody panics with it").clone()
    }

    /// Waits for the server's end; all that was acknowledged.
    pub async fn end(self) -> Vec<String> {
        self.work.await.expect("the writer ends with the server");
        self.acknowledged.lock().expect("nobody panics with it").clone()
    }
}

/// One request after the other, each on a new connection, until stopped.
pub struct Load {
    stop: Arc<AtomicBool>,
    work: tokio::task::JoinHandle<(usize, Vec<String>)>,
}

impl Load {
    /// Starts the load.
    pub fn start(host: &str, port: u16) -> Load {
        let (stop, host) = (Arc::new(AtomicBool::new(false)), host.to_owned());
        let stopped = stop.clone();
        let work = tokio::spawn(async move {
            let (mut served, mut failed) = (0, Vec::new());
            while !stopped.load(Ordering::Relaxed) {
                match page(&host, port).await {
                    Ok(_) => served += 1,
                    Err(error) => failed.push(error.to_string()),
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            (served, failed)
        });
        Load { stop, work }
    }

    /// Stops it: requests served, and what failed.
    pub async fn stop(self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        self.work.await.expect("the load ends")
    }
}

/// An archive of an image of Debian's static busybox, as `docker save` writes it.
fn write_busybox(out: &Path) {
    let program = std::fs::read("/bin/busybox").expect("busybox-static is installed (./test does)");
    let entry = |size: usize, mode: u32| {
        let mut header = tar::Header::new_gnu();
        header.set_size(size as u64);
        header.set_mode(mode);
        header
    };
    let mut layer = tar::Builder::new(Vec::new());
    layer.append_data(&mut entry(program.len(), 0o755), "bin/busybox", program.as_slice()).expect("memory");
    for applet in ["sh", "cat", "echo", "sleep", "nslookup", "wget", "head", "ls", "httpd", "wc", "timeout"] {
        let mut header = entry(0, 0o777);
        header.set_entry_type(tar::EntryType::Symlink);
        layer.append_link(&mut header, format!("bin/{applet}"), "busybox").expect("memory");
    }
    let layer = layer.into_inner().expect("memory");
    let hex = |bytes: &[u8]| -> String {
        let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
        digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
    };
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {"Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", hex(&layer))]},
    })
    .to_string();
    let manifest =
        json!([{"Config": "config.json", "RepoTags": [BUSYBOX], "Layers": ["layer.tar"]}]).to_string();
    let mut archive = tar::Builder::new(std::fs::File::create(out).expect("a file"));
    for (name, content) in [
        ("layer.tar", layer.as_slice()),
        ("config.json", config.as_bytes()),
        ("manifest.json", manifest.as_bytes()),
    ] {
        archive.append_data(&mut entry(content.len(), 0o644), name, content).expect("written");
    }
    archive.into_inner().expect("written");
}

/// What a cluster could leave on the machine: links, nftables tables, mounts, namespaces, control groups.
pub fn traces() -> BTreeSet<String> {
    let mut traces = BTreeSet::new();
    let mut add = |what: &str, program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output();
        let text =
            output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        traces.extend(text.lines().map(|line| format!("{what}: {line}")));
    };
    add("table", "nft", &["list", "tables"]);
    add("link", "sh", &["-c", "ip -o link | cut -d: -f2"]);
    add("route", "ip", &["route"]);
    add("netns", "sh", &["-c", "ls /run/netns /var/run/netns 2>/dev/null"]);
    add("mount", "sh", &["-c", "cut -d' ' -f5 /proc/self/mountinfo | sort"]);
    add("cgroup", "sh", &["-c", "find /sys/fs/cgroup -maxdepth 3 -name '*kube*' 2>/dev/null"]);
    add("run", "sh", &["-c", "ls /run/navarch 2>/dev/null"]);
    traces
}
