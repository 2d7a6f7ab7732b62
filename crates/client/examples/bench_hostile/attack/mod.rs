//! Attacks on an API server that was started for them: what is sent, and how a well-behaved client fares meanwhile.
//! A test of the binary uses them, too. Must not know the server's insides.

mod bodies;
mod slow;
mod wire;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use base::Clock;
use base::trust::{self, Trust};
use parking_lot::Mutex;
use tokio::task::JoinSet;

use bodies::Shot;
use wire::{Peer, Sums, head};

/// The promise: resident memory of the server, MB.
const MEMORY_MB: u64 = 500;
/// Between two requests of the well-behaved client.
const PAUSE: Duration = Duration::from_millis(20);
/// Objects of 100 KB that the lists hold.
const LISTED: usize = 150;

/// How much of it all.
pub struct Plan {
    /// Bytes of all attacks that send bodies.
    pub bytes: u64,
    /// Where the server listens.
    pub port: u16,
    /// Only attacks whose name has one of these in it; all when there is none.
    pub only: Vec<String>,
    /// Connections that send bodies at one time.
    pub senders: usize,
    /// No attack that sends bodies begins a request later, whatever it has sent until then.
    pub limit: Duration,
    /// How long an attack by what is not sent goes on, and how long others wait for their last answers.
    pub lasts: Duration,
    /// Each of those has this many times fewer connections than it might.
    pub fewer: usize,
}

impl Plan {
    fn has(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|part| name.contains(part))
    }
}

/// What came of it.
pub struct Outcome {
    /// All was answered that should be, within the memory promised.
    pub fine: bool,
    /// The most memory of the server, MB.
    pub peak_mb: u64,
    /// Requests of the well-behaved client.
    pub served: usize,
    /// Bytes sent.
    pub sent: u64,
}

/// Starts a server of its own, attacks it, and stops it.
pub fn run(binary: &Path, plan: &Plan) -> Result<Outcome, String> {
    let dir = std::env::temp_dir().join(format!("navarch-hostile-{}", std::process::id()));
    let outcome = start(binary, plan, &dir).map_err(|error| error.to_string()).and_then(|mut server| {
        let runtime = tokio::runtime::Runtime::new().map_err(|error| error.to_string())?;
        let outcome = runtime.block_on(attack(plan, server.id()));
        runtime.shutdown_background();
        let _ = server.kill();
        let _ = server.wait();
        outcome
    });
    let _ = std::fs::remove_dir_all(&dir);
    outcome
}

/// What is seen while an attack goes on.
#[derive(Default)]
struct Seen {
    latencies: Mutex<Vec<Duration>>,
    failures: Mutex<Vec<String>>,
    memory_kb: AtomicU64,
}

fn start(binary: &Path, plan: &Plan, dir: &Path) -> std::io::Result<Child> {
    std::fs::create_dir_all(dir)?;
    let tokens = "admin,admin,1,system:masters\ngood,good,2\nevil,evil,3\n";
    std::fs::write(dir.join("tokens"), tokens)?;
    let log = std::fs::File::create(dir.join("log"))?;
    Command::new(binary)
        .args(["apiserver", "--bind-address", "127.0.0.1", "--secure-port", &plan.port.to_string()])
        .arg("--token-auth-file")
        .arg(dir.join("tokens"))
        .arg("--cert-dir")
        .arg(dir.join("certs"))
        .arg("--data-dir")
        .arg(dir.join("data"))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
}

/// Any certificate will do: the server is on loopback and was started here.
fn tls(alpn: &[u8]) -> Arc<rustls::ClientConfig> {
    let mut config = trust::client_config(Trust::Anyone, None).expect("nothing is read for it");
    config.alpn_protocols = vec![alpn.to_vec()];
    Arc::new(config)
}

/// Sends one request on a connection of its own; its code.
async fn once(peer: &Peer, method: &str, path: &str, token: &str, body: &str) -> Option<u16> {
    let mut stream = peer.connect(false).await?;
    let request = [&head(method, path, token, "application/json", body.len())[..], body.as_bytes()].concat();
    peer.write(&mut stream, &request).await.then_some(())?;
    Some(peer.answer(&mut stream).await?.0)
}

async fn prepare(peer: &Peer) -> Result<(), String> {
    for _ in 0..300 {
        if once(peer, "GET", "/readyz", "admin", "").await == Some(200) {
            break;
        }
        peer.clock.sleep(Duration::from_millis(100)).await;
    }
    let binding = r#"{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRoleBinding","metadata":{"name":"bench"},
        "roleRef":{"apiGroup":"rbac.authorization.k8s.io","kind":"ClusterRole","name":"cluster-admin"},
        "subjects":[{"kind":"User","name":"good"},{"kind":"User","name":"evil"}]}"#;
    let path = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
    let bound = once(peer, "POST", path, "admin", binding).await;
    if bound != Some(201) {
        return Err(format!("the server does not take its first object: {bound:?}"));
    }
    let filler = "x".repeat(100_000);
    let names = (0..LISTED).map(|at| format!("listed-{at}")).chain(["victim".to_owned()]);
    for name in names {
        let body = format!(
            r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}"}},"data":{{"a":"{filler}"}}}}"#
        );
        let _ = once(peer, "POST", "/api/v1/namespaces/default/configmaps", "admin", &body).await;
    }
    let pod = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"victim"},"spec":{"containers":[{"name":"a","image":"a"}]}}"#;
    let _ = once(peer, "POST", "/api/v1/namespaces/default/pods", "admin", pod).await;
    Ok(())
}

/// Creates, reads and deletes a small object in its own namespace, over and over.
async fn behave(peer: Peer, seen: Arc<Seen>, over: Arc<AtomicBool>) {
    let maps = "/api/v1/namespaces/kube-public/configmaps";
    let mut stream = None;
    for round in 0u64.. {
        if over.load(Ordering::Relaxed) {
            return;
        }
        let name = format!("good-{round}");
        let body = format!(
            r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}"}},"data":{{"a":"b"}}}}"#
        );
        let own = format!("{maps}/{name}");
        for (method, path, body) in [("POST", maps, body.as_str()), ("GET", &own, ""), ("DELETE", &own, "")] {
            let started = peer.clock.monotonic();
            if stream.is_none() {
                stream = peer.connect(false).await;
            }
            let request =
                [&head(method, path, "good", "application/json", body.len())[..], body.as_bytes()].concat();
            let answer = match stream.as_mut() {
                Some(stream) => match peer.write(stream, &request).await {
                    true => peer.answer(stream).await,
                    false => None,
                },
                None => None,
            };
            if !matches!(answer, Some((_, true))) {
                stream = None;
            }
            seen.latencies.lock().push(peer.clock.monotonic().saturating_sub(started));
            if !matches!(answer, Some((200..=299, _))) {
                seen.failures.lock().push(format!("{method}: {:?}", answer.map(|(code, _)| code)));
            }
            peer.clock.sleep(PAUSE).await;
        }
    }
}

fn resident_kb(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("");
    line.trim().trim_end_matches(" kB").parse().unwrap_or(0)
}

async fn weigh(clock: Clock, pid: u32, seen: Arc<Seen>, over: Arc<AtomicBool>) {
    while !over.load(Ordering::Relaxed) {
        seen.memory_kb.fetch_max(resident_kb(pid), Ordering::Relaxed);
        clock.sleep(Duration::from_millis(50)).await;
    }
}

/// Sends the shots in turn from many connections until the bytes are sent or the time is over.
async fn fire(peer: &Peer, shots: Vec<Shot>, bytes: u64, plan: &Plan) {
    let (shots, next) = (Arc::new(shots), Arc::new(AtomicU64::new(0)));
    let end = peer.clock.monotonic() + plan.limit;
    let mut tasks = JoinSet::new();
    for _ in 0..plan.senders {
        let (peer, shots, next) = (peer.clone(), Arc::clone(&shots), Arc::clone(&next));
        tasks.spawn(async move {
            let mut stream = None;
            while peer.sums.sent.load(Ordering::Relaxed) < bytes && peer.clock.monotonic() < end {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let shot = &shots[usize::try_from(number).expect("small") % shots.len()];
                // One in eight has no identity.
                let token = if number % 8 == 7 { "" } else { "evil" };
                let path = shot.path.replace("{n}", &number.to_string());
                let mut start = head(shot.method, &path, token, shot.media, shot.body.len());
                start.splice(start.len() - 2.., format!("{}\r\n", shot.extra).into_bytes());
                if stream.is_none() {
                    stream = peer.connect(false).await;
                }
                let Some(open) = stream.as_mut() else {
                    peer.sums.count(None);
                    continue;
                };
                let _ = peer.write(open, &start).await && peer.write(open, &shot.body).await;
                let answer = peer.answer(open).await;
                peer.sums.count(answer.map(|(code, _)| code));
                if !matches!(answer, Some((_, true))) {
                    stream = None;
                }
            }
        });
    }
    let ended = async { while tasks.join_next().await.is_some() {} };
    peer.clock.timeout(plan.limit + plan.lasts, ended).await;
}

/// Runs one attack under observation and prints its row.
async fn observe(peer: &Peer, pid: u32, name: &str, run: impl Future<Output = ()>, all: &mut Outcome) {
    let (seen, over) = (Arc::new(Seen::default()), Arc::new(AtomicBool::new(false)));
    let apart = Peer { sums: Arc::default(), ..peer.clone() };
    let mut watchers = JoinSet::new();
    watchers.spawn(behave(apart, Arc::clone(&seen), Arc::clone(&over)));
    watchers.spawn(weigh(peer.clock.clone(), pid, Arc::clone(&seen), Arc::clone(&over)));
    let started = peer.clock.monotonic();
    run.await;
    let took = peer.clock.monotonic().saturating_sub(started);
    over.store(true, Ordering::Relaxed);
    while watchers.join_next().await.is_some() {}
    let mut latencies = seen.latencies.lock().clone();
    latencies.sort();
    let at = |part: f64| {
        latencies.get(((latencies.len() as f64 - 1.0) * part) as usize).map_or(0.0, Duration::as_secs_f64)
            * 1e3
    };
    let failures = seen.failures.lock().clone();
    let memory = seen.memory_kb.load(Ordering::Relaxed) / 1024;
    let [refused, done, broken, cut] =
        [0, 1, 2, 3].map(|at: usize| peer.sums.answers[at].load(Ordering::Relaxed));
    println!(
        "{name:<44} {:>7.2} GB {:>5.0} s | 4xx {refused:>6} 2xx {done:>6} 5xx {broken:>4} cut {cut:>5} | {memory:>5} MB | others: {:>5} p50 {:>6.1} p99 {:>7.1} max {:>8.1} ms, failed {}",
        peer.sums.sent.load(Ordering::Relaxed) as f64 / 1e9,
        took.as_secs_f64(),
        latencies.len(),
        at(0.5),
        at(0.99),
        at(1.0),
        failures.len(),
    );
    failures.iter().take(3).for_each(|failure| println!("    {failure}"));
    all.fine &= failures.is_empty() && !latencies.is_empty() && memory <= MEMORY_MB;
    all.peak_mb = all.peak_mb.max(memory);
    all.served += latencies.len();
    all.sent += peer.sums.sent.load(Ordering::Relaxed);
}

async fn attack(plan: &Plan, pid: u32) -> Result<Outcome, String> {
    let (clock, port) = (Clock::system(), plan.port);
    let fresh = || Peer {
        port,
        clock: clock.clone(),
        tls: tls(b"http/1.1"),
        tls2: tls(b"h2"),
        sums: Arc::new(Sums::default()),
    };
    prepare(&fresh()).await?;
    println!("{} MB at first", resident_kb(pid) / 1024);
    let mut all = Outcome { fine: true, peak_mb: 0, served: 0, sent: 0 };
    let parts: u64 = bodies::ALL.iter().map(|(_, part, _)| part).sum();
    for (name, part, make) in bodies::ALL.iter().filter(|attack| plan.has(attack.0)) {
        let peer = fresh();
        let firing = fire(&peer, make(), plan.bytes * part / parts, plan);
        observe(&peer, pid, name, firing, &mut all).await;
    }
    for (name, connections, kind) in slow::ALL.iter().filter(|attack| plan.has(attack.0)) {
        let peer = fresh();
        let token = if name.contains("anonymous") { "" } else { "evil" };
        let holding = slow::run(&peer, token, connections / plan.fewer, *kind, plan.lasts);
        observe(&peer, pid, name, holding, &mut all).await;
    }
    println!(
        "in all: {:.1} GB sent, {} requests of others, memory at most {} MB, {} MB at the end",
        all.sent as f64 / 1e9,
        all.served,
        all.peak_mb,
        resident_kb(pid) / 1024
    );
    Ok(all)
}
