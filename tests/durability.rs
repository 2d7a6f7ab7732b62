//! The real binary, killed: what was acknowledged is there, secrets are not readable on disk, and one of several
//! controller managers leads. Loopback only; what is not to be had on a machine (FUSE, etcd) is said and left out.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use base::{Clock, Rng, Tasks};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use serde_json::{Value, json};
use soak::{Answer, Caller, Disk, Keys, Options, Pace, Process, etcd_members, free_ports, server_words};

/// Nothing here takes longer on a slow machine.
const LIMIT: Duration = Duration::from_secs(120);

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_navarch"))
}

fn etcd_is_there() -> bool {
    let there = Command::new("etcd").arg("--version").output().is_ok();
    if !there {
        println!("etcd is not installed: not tested");
    }
    there
}

fn disks_are_there() -> bool {
    let dir = tempfile::tempdir().expect("a directory");
    let there = Disk::mount(dir.path(), Pace::default(), Rng::seeded(1));
    if let Err(error) = &there {
        println!("a disk of our own is not to be had ({error}): not tested");
    }
    there.is_ok()
}

async fn short(options: Options) {
    let report = soak::run(options).await.unwrap_or_else(|why| panic!("{why}"));
    println!("{report}");
    assert!(report.tally.acknowledged > 50, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_under_load_nothing_acknowledged_is_lost() {
    short(Options::short(binary(), 4)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_when_the_power_goes_and_the_disk_is_slow() {
    if disks_are_there() {
        short(Options { torn: true, slow: true, ..Options::short(binary(), 3) }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_with_two_servers_on_three_members_of_an_etcd() {
    if etcd_is_there() {
        short(Options { etcd: true, ..Options::short(binary(), 3) }).await;
    }
}

/// One API server that can be begun again with other words.
struct Plane {
    dir: tempfile::TempDir,
    keys: Keys,
    port: u16,
    store: String,
    clock: Clock,
    tasks: Tasks,
    server: Option<Process>,
    _members: Vec<Process>,
}

impl Plane {
    fn new(etcd: bool) -> Plane {
        let (clock, rng, dir) = (Clock::system(), Rng::system(), tempfile::tempdir().expect("a directory"));
        let keys = Keys::make(dir.path(), &clock, &rng).expect("keys");
        let port = free_ports(1).expect("a port")[0];
        let (mut members, urls) = etcd_members(dir.path(), usize::from(etcd)).expect("ports");
        members.iter_mut().for_each(|member| member.start().expect("etcd starts"));
        let store = match etcd {
            true => format!("--etcd-servers={}", urls.join(",")),
            false => format!("--data-dir={}", dir.path().join("data").display()),
        };
        Plane { dir, keys, port, store, clock, tasks: Tasks::new(), server: None, _members: members }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn caller(&self) -> Caller {
        Caller::new(self.keys.connect(self.port, &self.clock, &self.tasks), self.clock.clone())
    }

    /// Kills what runs and begins anew; the answer of `/readyz`, or what the server said before it ended.
    async fn start(&mut self, more: &[String]) -> Result<(), String> {
        self.server = None;
        let words = [std::slice::from_ref(&self.store), more].concat();
        let words = server_words(&self.keys, self.port, &words);
        let mut server = Process::new(binary(), words, self.path("log"));
        server.start().expect("navarch starts");
        let started = self.clock.monotonic();
        loop {
            if let Some(ended) = server.ended() {
                return Err(ended);
            }
            let answer = self.caller().open(Method::GET, "/readyz", None).await;
            if answer.is_ok_and(|answer| answer.status() == 200) {
                self.server = Some(server);
                return Ok(());
            }
            assert!(self.clock.monotonic() - started < LIMIT, "not ready:\n{}", server.log_end());
            self.clock.sleep(Duration::from_millis(20)).await;
        }
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Value {
        match self.caller().call(method.clone(), path, body).await {
            Answer::Told(200..300, value) => value,
            other => panic!("{method} {path}: {other:?}"),
        }
    }

    /// Repeats a request until its answer is as wanted.
    async fn when(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let started = self.clock.monotonic();
        loop {
            let answer = self.caller().call(Method::GET, path, None).await;
            if let Answer::Told(200, value) = &answer
                && wanted(value)
            {
                return value.clone();
            }
            assert!(self.clock.monotonic() - started < LIMIT, "{path}: {answer:?}");
            self.clock.sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Whether a text is somewhere in the files below a directory.
fn on_disk(dir: &Path, text: &str) -> bool {
    let found = |entry: std::fs::DirEntry| {
        let path = entry.path();
        if path.is_dir() {
            on_disk(&path, text)
        } else {
            contains(&std::fs::read(path).unwrap_or_default(), text)
        }
    };
    std::fs::read_dir(dir).expect("a directory").flatten().any(found)
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// The flag that names a configuration with these keys; the first one seals.
fn sealed_with(plane: &Plane, keys: &[&str]) -> Vec<String> {
    let path = plane.path(&format!("{}.encryption", keys.concat()));
    let key = |name: &&str| json!({"name": name, "secret": STANDARD.encode(name.repeat(32))});
    let keys: Vec<Value> = keys.iter().map(key).collect();
    let config = json!({"apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration",
        "resources": [{"resources": ["secrets"], "providers": [{"aesgcm": {"keys": keys}}, {"identity": {}}]}]});
    std::fs::write(&path, config.to_string()).expect("written");
    vec![format!("--encryption-provider-config={}", path.display())]
}

const SECRET: &str = "/api/v1/namespaces/default/secrets/word";

/// Sealed with one key, then with another; the first one is not needed any more once everything is written again.
async fn sealed(etcd: bool) {
    let mut plane = Plane::new(etcd);
    let (word, open) = (STANDARD.encode("opensesame-5309"), "in-the-clear-5309");
    plane.start(&sealed_with(&plane, &["a"])).await.expect("it starts");
    let secret =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "word"}, "data": {"word": word}});
    let made = plane.call(Method::POST, "/api/v1/namespaces/default/secrets", Some(&secret)).await;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "open"}, "data": {"word": open}});
    plane.call(Method::POST, "/api/v1/namespaces/default/configmaps", Some(&map)).await;
    assert!(on_disk(plane.dir.path(), open), "what is not sealed is found");
    assert!(!on_disk(plane.dir.path(), &word) && !on_disk(plane.dir.path(), "opensesame-5309"));

    let (both, second) = (sealed_with(&plane, &["b", "a"]), sealed_with(&plane, &["b"]));
    plane.start(&both).await.expect("both keys open");
    let found = plane.call(Method::GET, SECRET, None).await;
    assert_eq!((&found["data"], &found["metadata"]["uid"]), (&secret["data"], &made["metadata"]["uid"]));
    let rewritten = plane.call(Method::PUT, SECRET, Some(&found)).await;
    assert_ne!(
        rewritten["metadata"]["resourceVersion"], found["metadata"]["resourceVersion"],
        "written again"
    );
    plane.start(&second).await.expect("the first key is not needed any more");
    assert_eq!(plane.call(Method::GET, SECRET, None).await["data"], secret["data"]);
    assert!(!on_disk(plane.dir.path(), &word));

    backed_up(&mut plane, &second, &word, open).await;
    let wrong = sealed_with(&plane, &["c"]);
    let refused = plane.start(&wrong).await.expect_err("without its key nothing is served");
    assert!(refused.contains("no configured key"), "{refused}");
}

/// A backup is sealed as the store is, and opens with the same key elsewhere.
async fn backed_up(plane: &mut Plane, keys: &[String], word: &str, open: &str) {
    let (file, restored) = (plane.path("backup"), plane.path("restored"));
    let kubeconfig = plane.keys.kubeconfig(plane.port).expect("written");
    let run = |words: &[&std::ffi::OsStr]| {
        let output = Command::new(binary()).args(words).output().expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    run(&["backup".as_ref(), "--kubeconfig".as_ref(), kubeconfig.as_ref(), file.as_ref()]);
    let bytes = std::fs::read(&file).expect("a backup");
    assert!(contains(&bytes, open) && !contains(&bytes, word) && !contains(&bytes, "opensesame-5309"));
    run(&["restore".as_ref(), "--data-dir".as_ref(), restored.as_ref(), file.as_ref()]);
    let store =
        std::mem::replace(&mut plane.store, format!("--data-dir={}", restored.join("store").display()));
    plane.start(keys).await.expect("it starts from a backup");
    assert_eq!(plane.call(Method::GET, SECRET, None).await["data"]["word"], word);
    plane.store = store;
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_sealed_in_the_embedded_store() {
    sealed(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_sealed_in_etcd() {
    if etcd_is_there() {
        sealed(true).await;
    }
}

const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/kube-controller-manager";
/// How long a lease lasts.
const LEASE_TIME: Duration = Duration::from_secs(15);

fn time(value: &Value) -> jiff::Timestamp {
    value.as_str().expect("a time").parse().expect("a time")
}

/// Waits until another than `before` holds the lease: the lease as it was last held by that one, and as it is now.
async fn next_leader(plane: &Plane, before: &str) -> (Value, Value) {
    let last = std::cell::RefCell::new(Value::Null);
    let now = plane
        .when(LEASE, |lease| {
            let holder = lease["spec"]["holderIdentity"].as_str().unwrap_or("");
            if holder == before {
                *last.borrow_mut() = lease.clone();
            }
            !holder.is_empty() && holder != before
        })
        .await;
    (last.into_inner(), now)
}

/// The new one began when the lease of the old one had run out, and not much later.
fn in_turn(last: &Value, now: &Value) {
    let (renewed, acquired) = (time(&last["spec"]["renewTime"]), time(&now["spec"]["acquireTime"]));
    let between = Duration::try_from(acquired.duration_since(renewed)).expect("the new one came later");
    assert!(between > LEASE_TIME, "two led at one time: {last} {now}");
    assert!(between < 2 * LEASE_TIME, "nobody led for {between:?}");
    println!("the next one led {:.1} s after the last renewal", between.as_secs_f64());
}

async fn deployment(plane: &Plane, name: &str) {
    let template =
        json!({"metadata": {"labels": {"app": name}}, "spec": {"containers": [{"name": "a", "image": "a"}]}});
    let object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": name}}, "template": template}});
    let path = "/apis/apps/v1/namespaces/default/deployments";
    plane.call(Method::POST, path, Some(&object)).await;
    plane.when(&format!("{path}/{name}"), |found| found["status"]["replicas"] == 2).await;
}

/// Of two controller managers one leads; when it is killed or stands still, the other follows once the lease has run
/// out; one that stood still ends when it goes on.
#[tokio::test(flavor = "multi_thread")]
async fn one_controller_manager_leads_at_a_time() {
    let mut plane = Plane::new(false);
    plane.start(&[]).await.expect("it starts");
    let kubeconfig = plane.keys.kubeconfig(plane.port).expect("written");
    let begin = |log: &str| {
        let words = vec!["controller-manager".to_owned(), format!("--kubeconfig={}", kubeconfig.display())];
        let mut process = Process::new(binary(), words, plane.path(log));
        process.start().expect("navarch starts");
        process
    };
    let mut first = begin("first");
    let (_, lease) = next_leader(&plane, "").await;
    let holder = |lease: &Value| lease["spec"]["holderIdentity"].as_str().expect("a holder").to_owned();
    let mut second = begin("second");
    deployment(&plane, "one").await;

    first.kill().expect("killed");
    let (last, lease) = next_leader(&plane, &holder(&lease)).await;
    in_turn(&last, &lease);
    deployment(&plane, "two").await;

    let mut third = begin("third");
    second.freeze(true).expect("it runs");
    let (last, lease) = next_leader(&plane, &holder(&lease)).await;
    in_turn(&last, &lease);
    deployment(&plane, "three").await;
    second.freeze(false).expect("it runs");
    let started = plane.clock.monotonic();
    while second.ended().is_none() {
        assert!(plane.clock.monotonic() - started < LIMIT, "it goes on: {}", second.log_end());
        plane.clock.sleep(Duration::from_millis(100)).await;
    }
    assert!(third.ended().is_none());
    let pods = plane.call(Method::GET, "/api/v1/namespaces/default/pods", None).await;
    assert_eq!(pods["items"].as_array().map(Vec::len), Some(6), "two for each, made once");
    assert_eq!(lease["spec"]["leaseTransitions"], 2);
}
