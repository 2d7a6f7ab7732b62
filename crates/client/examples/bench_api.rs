//! Drives API servers over TLS with one workload and prints what they did, side by side.
//!
//! ```text
//! cargo xtask bench api NAME=KUBECONFIG:PID[,PID...] [NAME=...] [--pods N] [--clients N] [--settings N]
//! ```
//!
//! Each server must be empty; the processes named by PID are the ones whose CPU time and memory count (server and
//! store). Objects are made in the namespace `bench`. Must not know which server it talks to.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base::{Clock, Tasks};
use client::{ClientError, Https, Kubeconfig, Transport};
use http::{HeaderValue, Method, Request};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use serde_json::json;

/// How many nodes the pods are spread over.
const NODES: usize = 200;
/// Watchers of the fan-out measurement.
const WATCHERS: usize = 200;
/// Environment variables of a pod, by which its size is chosen: with these it takes 3.3 KB as stored.
const SETTINGS: usize = 1;
/// Changes each of them must see.
const CHANGES: usize = 1_000;
/// The watchers must have seen all changes by then.
const FAN_OUT_LIMIT: Duration = Duration::from_secs(60);
const PODS: &str = "/api/v1/namespaces/bench/pods";
const JSON: &str = "application/json";
/// Kernel clock ticks a second, in which `/proc/PID/stat` counts (`USER_HZ`).
const TICKS: f64 = 100.0;

struct Target {
    name: String,
    pids: Vec<u32>,
    clients: Vec<Https>,
}

/// Rows of the report: what was measured, and the figure of each target.
type Report = BTreeMap<&'static str, Vec<String>>;

impl Target {
    fn parse(text: &str, clients: usize, clock: &Clock, tasks: &Tasks) -> Result<Target, String> {
        let usage = || format!("{text:?} is not NAME=KUBECONFIG:PID[,PID...]");
        let (name, rest) = text.split_once('=').ok_or_else(usage)?;
        let (path, pids) = rest.rsplit_once(':').ok_or_else(usage)?;
        let pids = pids.split(',').map(str::parse).collect::<Result<_, _>>().map_err(|_| usage())?;
        let config = Kubeconfig::load(Path::new(path)).map_err(|error| error.to_string())?;
        let connect = |_| Https::from_kubeconfig(&config, None, clock.clone(), tasks.clone());
        let clients = (0..clients).map(connect).collect::<Result<_, _>>();
        Ok(Target { name: name.to_owned(), pids, clients: clients.map_err(|error| error.to_string())? })
    }

    /// CPU seconds used so far by the target's processes.
    fn cpu(&self) -> f64 {
        let of = |pid: &u32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
            let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok()).unwrap_or(0.0);
            ticks(11) + ticks(12)
        };
        self.pids.iter().map(of).sum::<f64>() / TICKS
    }

    /// Resident memory of the target's processes, MB.
    fn memory(&self) -> f64 {
        let of = |pid: &u32| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("");
            line.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or(0.0)
        };
        self.pids.iter().map(of).sum::<f64>() / 1024.0
    }
}

/// Sends one request; the length of the answer.
async fn send(
    client: &Https,
    (method, path, media, body): (Method, String, &'static str, String),
) -> Result<usize, ClientError> {
    let mut request = Request::new(base::http::full(body));
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().expect("paths here are plain");
    request.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static(media));
    request.headers_mut().insert(http::header::ACCEPT, HeaderValue::from_static(JSON));
    let response = client.call(request).await?;
    let code = response.status();
    let bytes = response.into_body().collect().await.expect("a whole answer").to_bytes();
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(500)]);
    assert!(code.is_success() || code.as_u16() == 409, "{path}: {code} {text}");
    Ok(bytes.len())
}

fn pod(at: usize, settings: usize) -> String {
    let env: Vec<_> = (0..settings)
        .map(|n| json!({"name": format!("SETTING_{n}"), "value": format!("value-{n}-{at}")}))
        .collect();
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("pod-{at}"), "labels": {"app": format!("app-{}", at % 100), "tier": "bench"},
            "annotations": {"example.com/owner": "team", "example.com/note": "a pod of the benchmark"}},
        "spec": {"nodeName": format!("node-{}", at % NODES), "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "main", "image": "example.com/app:1", "env": env,
                "ports": [{"containerPort": 8080, "name": "http"}],
                "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
                "readinessProbe": {"httpGet": {"path": "/", "port": "http"}}}]}})
    .to_string()
}

fn status(at: usize, round: usize) -> String {
    let since = "2026-01-01T00:00:00Z";
    json!({"status": {"phase": "Running", "hostIP": "10.0.0.1", "startTime": since,
        "podIP": format!("10.1.{}.{}", at / 250 % 250, at % 250), "message": format!("round {round}"),
        "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": since}],
        "containerStatuses": [{"name": "main", "ready": true, "restartCount": round, "image": "example.com/app:1",
            "imageID": "sha256:0123", "state": {"running": {"startedAt": since}}}]}})
    .to_string()
}

/// What one request of a measurement is: method, path, media type, body.
type Plan = Arc<dyn Fn(usize) -> (Method, String, &'static str, String) + Send + Sync>;

struct Figures {
    count: usize,
    seconds: f64,
    cpu: f64,
    latencies: Vec<Duration>,
}

impl Figures {
    /// Milliseconds.
    fn percentile(&self, part: f64) -> f64 {
        let last = self.latencies.len().saturating_sub(1);
        let at = (last as f64 * part) as usize;
        self.latencies.get(at).map_or(0.0, |took| took.as_secs_f64() * 1e3)
    }

    fn show(&self) -> String {
        let (rate, cpu) = (self.count as f64 / self.seconds, self.cpu * 1e6 / self.count as f64);
        let (middle, tail) = (self.percentile(0.5), self.percentile(0.99));
        format!("{rate:.0}/s, {cpu:.0} us CPU, p50 {middle:.2} ms, p99 {tail:.2} ms")
    }
}

/// What the measurements share.
struct Bench {
    pods: usize,
    settings: usize,
    clock: Clock,
    tasks: Tasks,
}

impl Bench {
    /// Runs `count` requests, shared out among the first clients.
    async fn drive(&self, target: &Target, clients: usize, count: usize, plan: Plan) -> Figures {
        let next = Arc::new(AtomicUsize::new(0));
        let latencies = Arc::new(Mutex::new(Vec::with_capacity(count)));
        let (began, cpu) = (self.clock.monotonic(), target.cpu());
        let mut workers = Vec::new();
        for client in target.clients.iter().take(clients) {
            let (client, next, latencies) = (client.clone(), next.clone(), latencies.clone());
            let (plan, clock) = (plan.clone(), self.clock.clone());
            workers.push(self.tasks.spawn("bench client", async move {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= count {
                        return;
                    }
                    let request = plan(at);
                    let began = clock.monotonic();
                    send(&client, request).await.expect("an answer");
                    latencies.lock().push(clock.monotonic().saturating_sub(began));
                }
            }));
        }
        for worker in workers {
            worker.await.expect("clients do not fail");
        }
        let seconds = self.clock.monotonic().saturating_sub(began).as_secs_f64();
        let mut latencies = std::mem::take(&mut *latencies.lock());
        latencies.sort();
        Figures { count, seconds, cpu: target.cpu() - cpu, latencies }
    }

    fn gets(&self) -> Plan {
        let pods = self.pods;
        Arc::new(move |at| (Method::GET, format!("{PODS}/pod-{}", at * 7919 % pods), JSON, String::new()))
    }

    /// Status patches of a round: another round changes every status again.
    fn patches(&self, round: usize) -> Plan {
        let pods = self.pods;
        Arc::new(move |at| {
            let pod = at * 7919 % pods;
            let media = "application/strategic-merge-patch+json";
            (Method::PATCH, format!("{PODS}/pod-{pod}/status"), media, status(pod, round * 1_000_000 + at))
        })
    }

    /// Watchers, each of which must see every change; CPU time of an event, without that of the changes.
    async fn fan_out(&self, target: &Target, patch_cpu: f64) -> String {
        let seen = Arc::new(AtomicUsize::new(0));
        let mut watchers = Vec::new();
        let first = target.clients[0].call(list_request(1)).await.expect("a list");
        let bytes = first.into_body().collect().await.expect("a list").to_bytes();
        let list: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
        let revision = list["metadata"]["resourceVersion"].as_str().unwrap_or("0").to_owned();
        for at in 0..WATCHERS {
            let (client, seen) = (target.clients[at % target.clients.len()].clone(), seen.clone());
            let mut request = Request::new(base::http::empty());
            let path = format!("{PODS}?watch=true&resourceVersion={revision}");
            *request.uri_mut() = path.parse().expect("a path");
            let mut body = client.call(request).await.expect("a watch").into_body();
            watchers.push(self.tasks.spawn("watcher", async move {
                while let Some(Ok(frame)) = body.frame().await {
                    let Ok(data) = frame.into_data() else { continue };
                    // An event is a line.
                    let events = data.iter().filter(|byte| **byte == b'\n').count();
                    seen.fetch_add(events, Ordering::Relaxed);
                }
            }));
        }
        self.settle(target).await;
        let (before, began) = (target.cpu(), self.clock.monotonic());
        self.drive(target, 16, CHANGES, self.patches(2)).await;
        let lasted = || self.clock.monotonic().saturating_sub(began);
        while seen.load(Ordering::Relaxed) < WATCHERS * CHANGES && lasted() < FAN_OUT_LIMIT {
            self.clock.sleep(Duration::from_millis(20)).await;
        }
        let (seconds, cpu) = (lasted().as_secs_f64(), target.cpu() - before - patch_cpu * CHANGES as f64);
        watchers.iter().for_each(|watcher| watcher.abort());
        let got = seen.load(Ordering::Relaxed);
        let each = cpu * 1e6 / got.max(1) as f64;
        format!("{each:.2} us CPU an event ({got} of {} in {seconds:.1} s)", WATCHERS * CHANGES)
    }

    /// Waits until the target uses little CPU.
    async fn settle(&self, target: &Target) {
        for _ in 0..60 {
            let before = target.cpu();
            self.clock.sleep(Duration::from_secs(1)).await;
            if target.cpu() - before < 0.08 {
                return;
            }
        }
    }

    async fn measure(&self, target: &Target, report: &mut Report) {
        let mut row = |what: &'static str, text: String| {
            println!("{:<12} {what:<34} {text}", target.name);
            report.entry(what).or_default().push(text);
        };
        self.settle(target).await;
        row("0 memory, empty", format!("{:.0} MB", target.memory()));
        for (path, body) in [
            ("/api/v1/namespaces", json!({"metadata": {"name": "bench"}})),
            ("/api/v1/namespaces/bench/serviceaccounts", json!({"metadata": {"name": "default"}})),
        ] {
            let request = (Method::POST, path.to_owned(), JSON, body.to_string());
            send(&target.clients[0], request).await.expect("an answer");
        }
        let all = target.clients.len();
        let settings = self.settings;
        let create: Plan = Arc::new(move |at| (Method::POST, PODS.to_owned(), JSON, pod(at, settings)));
        row("1 create pod", self.drive(target, all, self.pods, create).await.show());
        row("2 get pod", self.drive(target, all, self.pods, self.gets()).await.show());
        let patched = self.drive(target, all, self.pods / 2, self.patches(1)).await;
        row("3 patch pod status", patched.show());
        self.settle(target).await;
        let list: Plan = Arc::new(|_| (Method::GET, PODS.to_owned(), JSON, String::new()));
        let size = send(&target.clients[0], list(0)).await.expect("a list") as f64 / 1e6;
        let listed = self.drive(target, 1, 5, list).await;
        let (took, cpu) = (listed.percentile(0.5), listed.cpu * 1e3 / 5.0);
        row("4 list all pods", format!("{took:.0} ms ({size:.0} MB), {cpu:.0} ms CPU"));
        let of_node: Plan = Arc::new(|at| {
            let path = format!("/api/v1/pods?fieldSelector=spec.nodeName%3Dnode-{}", at % NODES);
            (Method::GET, path, JSON, String::new())
        });
        row("5 list one node's pods", self.drive(target, 1, 400, of_node).await.show());
        let patch_cpu = patched.cpu / patched.count as f64;
        row("6 watch fan-out, 200 watchers", self.fan_out(target, patch_cpu).await);
        self.settle(target).await;
        row("7 memory, pods held", format!("{:.0} MB", target.memory()));
    }
}

fn list_request(limit: usize) -> Request<base::http::Body> {
    let mut request = Request::new(base::http::empty());
    *request.uri_mut() = format!("{PODS}?limit={limit}").parse().expect("a path");
    request
}

#[tokio::main]
async fn main() -> Result<(), String> {
    let mut bench = Bench { pods: 20_000, settings: SETTINGS, clock: Clock::system(), tasks: Tasks::new() };
    let (mut clients, mut named) = (64, Vec::new());
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut number =
            || args.next().and_then(|text| text.parse().ok()).ok_or(format!("{arg} needs a number"));
        match arg.as_str() {
            "--pods" => bench.pods = number()?,
            "--settings" => bench.settings = number()?,
            "--clients" => clients = number()?,
            _ => named.push(arg),
        }
    }
    if named.is_empty() {
        return Err(
            "usage: bench api NAME=KUBECONFIG:PID[,PID...] ... [--pods N] [--clients N] [--settings N]"
                .to_owned(),
        );
    }
    let mut report = Report::new();
    let mut names = Vec::new();
    for text in &named {
        let target = Target::parse(text, clients, &bench.clock, &bench.tasks)?;
        bench.measure(&target, &mut report).await;
        names.push(target.name);
    }
    println!("\n| work | {} |\n|---{}|", names.join(" | "), "|---".repeat(names.len()));
    report.iter().for_each(|(what, figures)| println!("| {} | {} |", &what[2..], figures.join(" | ")));
    bench.tasks.drain(Duration::from_secs(1)).await;
    Ok(())
}
