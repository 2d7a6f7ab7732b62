//! How fast pods are scheduled, end to end: created through the API server, decided, bound, seen bound.
//!
//! ```text
//! cargo xtask bench scheduler [--nodes N] [--scale PERCENT] [--server KUBECONFIG:PID[,PID...]] [SHAPE...]
//! ```
//!
//! The shapes are those of upstream's scheduler_perf with its counts, beside its published thresholds. Without
//! `--server` API server (memory store) and scheduler run in this process; with it, any API server and scheduler that
//! run already are measured, and the processes named are those whose CPU time counts.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use api::UserInfo;
use api::k8s::api::core::v1::{
    Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, ServiceAccount,
};
use api::k8s::api::scheduling::v1::PriorityClass;
use api::k8s::api::storage::v1::CSINode;
use api::wire::Wire;
use base::Clock;
use clap::Parser;
use cli::control::Plane;
use cli::process::Process;
use client::{Change, Client, ClientError, DeleteOptions, Kind, Patch, SharedInformers};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore};

/// Creations under way at one time.
const WRITERS: usize = 64;
/// Pods that cannot all be bound are given up after so long without progress.
const STALLED: Duration = Duration::from_secs(60);
const ZONE: &str = "topology.kubernetes.io/zone";
const HOST: &str = "kubernetes.io/hostname";
/// The namespaces pods come in: those that are there first, and those measured.
const SPACES: [&str; 2] = ["sched-0", "sched-1"];
const EBS: &str = "ebs.csi.aws.com";

type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[derive(Parser)]
struct Args {
    /// Nodes, instead of the shape's.
    #[arg(long)]
    nodes: Option<usize>,
    /// Pods to measure, instead of the shape's.
    #[arg(long)]
    pods: Option<usize>,
    /// All counts by so many percent.
    #[arg(long, default_value_t = 100)]
    scale: usize,
    /// A server to measure, with a scheduler that runs beside it: its kubeconfig, and the processes whose CPU counts.
    #[arg(long, value_name = "KUBECONFIG:PID[,PID...]")]
    server: Option<String>,
    /// Shapes to run; all when none is named.
    shapes: Vec<String>,
}

/// A workload: upstream's name of it and its threshold in pods/s, and how it is made.
#[derive(Clone)]
struct Shape {
    name: &'static str,
    upstream: &'static str,
    threshold: u32,
    nodes: usize,
    zones: &'static [&'static str],
    /// Pods bound before anything is measured.
    first: usize,
    first_pod: fn() -> Value,
    /// Pods measured.
    pods: usize,
    pod: fn() -> Value,
    extra: Extra,
}

/// What a shape has besides nodes and pods.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extra {
    Nothing,
    /// Every pod has a claim bound to a volume in the tree.
    Volumes,
    /// Every pod has a claim bound to a volume of a CSI driver, of which a node takes 39.
    CsiVolumes,
    /// Important pods that displace others come five a second beside the measured ones.
    Preempting,
    /// Pods that no node can take come five a second beside the measured ones.
    Unschedulable,
    /// Gated pods wait while others are deleted and measured ones come.
    Gated,
}

const BASIC: Shape = Shape {
    name: "basic",
    upstream: "SchedulingBasic",
    threshold: 270,
    nodes: 5_000,
    zones: &[],
    first: 1_000,
    first_pod: plain,
    pods: 10_000,
    pod: plain,
    extra: Extra::Nothing,
};
const MOONS: &[&str] = &["moon-1", "moon-2", "moon-3"];

fn shapes() -> Vec<Shape> {
    let row =
        |name, upstream, threshold, first: (usize, fn() -> Value), pods: (usize, fn() -> Value)| Shape {
            name,
            upstream,
            threshold,
            first: first.0,
            first_pod: first.1,
            pods: pods.0,
            pod: pods.1,
            ..BASIC
        };
    let zoned = |zones, shape: Shape| Shape { zones, ..shape };
    let with = |extra, shape: Shape| Shape { extra, ..shape };
    let one_zone: &[&str] = &["zone1"];
    vec![
        Shape { name: "target", upstream: "", threshold: 0, nodes: 1_000, first: 0, pods: 5_000, ..BASIC },
        BASIC,
        zoned(
            one_zone,
            row("node-affinity", "SchedulingNodeAffinity", 220, (5_000, in_zone), (10_000, in_zone)),
        ),
        zoned(one_zone, row("affinity", "SchedulingPodAffinity", 35, (5_000, near), (5_000, near))),
        row("anti-affinity", "SchedulingPodAntiAffinity", 60, (1_000, apart), (2_000, apart)),
        row(
            "matching-anti-affinity",
            "SchedulingPodMatchingAntiAffinity",
            540,
            (1_000, apart),
            (5_000, green),
        ),
        row("preferred-affinity", "SchedulingPreferredPodAffinity", 90, (5_000, prefers), (5_000, prefers)),
        row(
            "preferred-anti-affinity",
            "SchedulingPreferredPodAntiAffinity",
            90,
            (5_000, avoids),
            (5_000, avoids),
        ),
        row(
            "anti-affinity-ns",
            "SchedulingRequiredPodAntiAffinityWithNSSelector",
            24,
            (4_000, apart_ns),
            (1_000, apart_ns),
        ),
        zoned(MOONS, row("spread", "TopologySpreading", 85, (5_000, plain), (5_000, spread))),
        zoned(
            MOONS,
            row(
                "preferred-spread",
                "PreferredTopologySpreading",
                125,
                (5_000, plain),
                (5_000, spread_softly),
            ),
        ),
        with(Extra::Volumes, row("volumes", "SchedulingInTreePVs", 90, (1_000, plain), (2_000, plain))),
        with(Extra::CsiVolumes, row("csi-volumes", "SchedulingCSIPVs", 48, (5_000, plain), (5_000, plain))),
        with(Extra::Preempting, row("preemption", "PreemptionAsync", 160, (20_000, low), (5_000, plain))),
        row("preempting-all", "", 0, (20_000, low), (2_500, high)),
        with(Extra::Unschedulable, row("unschedulable", "Unschedulable", 140, (100, plain), (10_000, plain))),
        Shape {
            nodes: 1,
            ..with(Extra::Gated, row("gated", "SchedulingWhileGated", 130, (20_000, light), (20_000, light)))
        },
    ]
}

fn pod(labels: &Value, spec: Value) -> Value {
    let amounts = json!({"cpu": "100m", "memory": "500Mi"});
    let container = json!({"name": "pause", "image": "pause:3.10.1", "ports": [{"containerPort": 80}],
        "resources": {"requests": amounts, "limits": amounts}});
    let mut full = json!({"containers": [container]});
    spec.as_object().into_iter().flatten().for_each(|(key, value)| full[key] = value.clone());
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"labels": labels}, "spec": full})
}

fn plain() -> Value {
    pod(&json!({}), json!({}))
}

fn term(color: &str, key: &str) -> Value {
    json!({"labelSelector": {"matchLabels": {"color": color}}, "topologyKey": key, "namespaces": SPACES})
}

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

fn in_zone() -> Value {
    let one = json!({"key": ZONE, "operator": "In", "values": ["zone1", "zone2"]});
    let terms = json!({"nodeSelectorTerms": [{"matchExpressions": [one]}]});
    pod(&json!({}), json!({"affinity": {"nodeAffinity": {REQUIRED: terms}}}))
}

fn near() -> Value {
    pod(&json!({"color": "blue"}), json!({"affinity": {"podAffinity": {REQUIRED: [term("blue", ZONE)]}}}))
}

fn apart() -> Value {
    pod(
        &json!({"color": "green"}),
        json!({"affinity": {"podAntiAffinity": {REQUIRED: [term("green", HOST)]}}}),
    )
}

fn apart_ns() -> Value {
    let mut term = term("green", HOST);
    term["namespaces"] = json!([]);
    term["namespaceSelector"] = json!({"matchLabels": {"team": "devops"}});
    pod(&json!({"color": "green"}), json!({"affinity": {"podAntiAffinity": {REQUIRED: [term]}}}))
}

fn green() -> Value {
    pod(&json!({"color": "green"}), json!({}))
}

fn weighed(color: &str) -> Value {
    json!([{"weight": 1, "podAffinityTerm": term(color, HOST)}])
}

fn prefers() -> Value {
    pod(&json!({"color": "red"}), json!({"affinity": {"podAffinity": {PREFERRED: weighed("red")}}}))
}

fn avoids() -> Value {
    pod(&json!({"color": "yellow"}), json!({"affinity": {"podAntiAffinity": {PREFERRED: weighed("yellow")}}}))
}

fn spread_over(when: &str) -> Value {
    let constraint = json!({"maxSkew": 5, "topologyKey": ZONE, "whenUnsatisfiable": when,
        "labelSelector": {"matchLabels": {"color": "blue"}}});
    pod(&json!({"color": "blue"}), json!({"topologySpreadConstraints": [constraint]}))
}

fn spread() -> Value {
    spread_over("DoNotSchedule")
}

fn spread_softly() -> Value {
    spread_over("ScheduleAnyway")
}

fn wanting(cpu: &str, spec: Value) -> Value {
    let mut pod = pod(&json!({}), spec);
    let amounts = json!({"cpu": cpu, "memory": "500Mi"});
    pod["spec"]["containers"][0]["resources"] = json!({"requests": amounts, "limits": amounts});
    pod
}

fn low() -> Value {
    wanting("900m", json!({"terminationGracePeriodSeconds": 0}))
}

fn high() -> Value {
    wanting("3", json!({"priorityClassName": "high"}))
}

fn huge() -> Value {
    wanting("9", json!({"priorityClassName": "high"}))
}

fn light() -> Value {
    pod(&json!({}), json!({"containers": [{"name": "pause", "image": "pause:3.10.1"}]}))
}

fn gated() -> Value {
    let gates = json!([{"name": "test.k8s.io/hold"}]);
    pod(&json!({}), json!({"schedulingGates": gates}))
}

async fn create_all<K: Kind>(
    client: &Client,
    count: usize,
    object: impl Fn(usize) -> Value,
    started: impl Fn(usize),
) -> Result<(), BoxError> {
    let writers = Arc::new(Semaphore::new(WRITERS));
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..count {
        let object = K::from_tree(&object(n))?;
        let (client, permit) = (client.clone(), writers.clone().acquire_owned().await?);
        started(n);
        tasks.spawn(async move {
            let created = client.create(&object).await.map(drop);
            drop(permit);
            match created {
                Err(error) if error.is_already_exists() => Ok(()),
                other => other,
            }
        });
        while let Some(done) = tasks.try_join_next() {
            done??;
        }
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

fn node(n: usize, shape: &Shape) -> Value {
    let name = format!("node-{n}");
    let mut labels = json!({HOST: name});
    if !shape.zones.is_empty() {
        labels[ZONE] = json!(shape.zones[n % shape.zones.len()]);
    }
    let amounts = if shape.nodes == 1 {
        json!({"cpu": "4000", "memory": "32Ti", "pods": "90000"})
    } else {
        json!({"cpu": "4", "memory": "32Gi", "pods": "110"})
    };
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels},
        "status": {"capacity": amounts, "allocatable": amounts,
            "conditions": [{"type": "Ready", "status": "True"}]}})
}

async fn volumes(client: &Client, prefix: &str, space: &str, pods: usize, csi: bool) -> Result<(), BoxError> {
    let done = json!({"pv.kubernetes.io/bind-completed": "true"});
    create_all::<PersistentVolume>(
        client,
        pods,
        |n| {
            let source = json!({"driver": EBS, "volumeHandle": format!("{prefix}{n}")});
            let disk = json!({"volumeID": format!("{prefix}{n}")});
            let (key, source) = if csi { ("csi", source) } else { ("awsElasticBlockStore", disk) };
            json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": format!("{prefix}{n}")},
                "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadOnlyMany"], key: source,
                    "persistentVolumeReclaimPolicy": "Retain", "storageClassName": ""}})
        },
        |_| {},
    )
    .await?;
    let claim = |n: usize| {
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": format!("{prefix}{n}"), "namespace": space, "annotations": done},
            "spec": {"volumeName": format!("{prefix}{n}"), "storageClassName": "", "accessModes": ["ReadOnlyMany"],
                "resources": {"requests": {"storage": "1Gi"}}}})
    };
    create_all::<PersistentVolumeClaim>(client, pods, claim, |_| {}).await
}

/// When pods were created and seen bound, by their number.
struct Seen {
    clock: Clock,
    times: Mutex<Times>,
    progress: Notify,
}

#[derive(Default)]
struct Times {
    created: BTreeMap<String, Duration>,
    bound: BTreeMap<String, Duration>,
    /// How many are bound, by the first letter of their name.
    counts: BTreeMap<char, usize>,
}

impl Seen {
    fn watch(informers: &SharedInformers, clock: &Clock) -> Arc<Seen> {
        let seen = Arc::new(Seen { clock: clock.clone(), times: Mutex::default(), progress: Notify::new() });
        let own = seen.clone();
        informers.of::<Pod>().on_change(move |change| {
            let is_bound = |pod: &Pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
            let pod = change.object();
            let new = !matches!(change, Change::Deleted(_)) && is_bound(pod);
            if new && !change.old().is_some_and(|old| is_bound(old)) {
                let name = pod.metadata.name.clone().unwrap_or_default();
                let now = own.clock.monotonic();
                let mut times = own.times.lock();
                if let Some(prefix) = name.chars().next().filter(|_| !times.bound.contains_key(&name)) {
                    *times.counts.entry(prefix).or_default() += 1;
                    times.bound.insert(name, now);
                }
                drop(times);
                own.progress.notify_one();
            }
        });
        seen
    }

    /// Waits until `count` pods whose names begin so are bound; false when it takes too long.
    async fn bound(&self, prefix: char, count: usize) -> bool {
        while self.times.lock().counts.get(&prefix).copied().unwrap_or(0) < count {
            if self.clock.timeout(STALLED, self.progress.notified()).await.is_none() {
                return false;
            }
        }
        true
    }
}

/// CPU time of these processes so far.
fn cpu(pids: &[String]) -> Duration {
    let of = |pid: &String| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        ticks(11) + ticks(12)
    };
    // Hundredths of a second on every Linux.
    Duration::from_millis(pids.iter().map(of).sum::<u64>() * 10)
}

/// Where the work is done.
struct Bench {
    process: Process,
    plane: Option<Plane>,
    client: Client,
    informers: SharedInformers,
    pids: Vec<String>,
}

impl Bench {
    /// API server and scheduler in this process.
    async fn own() -> Result<Bench, BoxError> {
        let process = Process::new();
        let config = apiserver::Config { advertise: None, ..apiserver::Config::default() };
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let plane = Plane::start(store::Engine::Memory, config, listener, &process).await?;
        let client = plane.client(UserInfo::component("bench", &["system:masters"]), "bench");
        let user = || UserInfo::component("system:kube-scheduler", &[]);
        let informers = plane.informers(user(), "kube-scheduler");
        let scheduling = scheduler::run(
            plane.client(user(), "kube-scheduler"),
            informers.clone(),
            scheduler::Setup::default(),
            process.clock.clone(),
            process.rng.clone(),
            process.tasks.clone(),
        );
        process.tasks.spawn("scheduler", scheduling);
        Ok(Bench { process, plane: Some(plane), client, informers, pids: vec!["self".to_owned()] })
    }

    /// What runs already.
    fn remote(server: &str) -> Result<Bench, BoxError> {
        let process = Process::new();
        let (path, pids) = server.rsplit_once(':').ok_or("--server is KUBECONFIG:PID[,PID...]")?;
        let client = process.client(Path::new(path), "bench")?;
        let informers = process.informers(&client);
        let pids = pids.split(',').map(str::to_owned).collect();
        Ok(Bench { process, plane: None, client, informers, pids })
    }

    async fn close(self) {
        self.process.end().await;
        if let Some(plane) = self.plane {
            plane.close().await;
        }
    }

    async fn prepare(&self, shape: &Shape) -> Result<(), BoxError> {
        let client = &self.client;
        let space = |n: usize| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SPACES[n], "labels": {"team": "devops"}}});
        create_all::<Namespace>(client, SPACES.len(), space, |_| {}).await?;
        let account = |n: usize| {
            json!({"apiVersion": "v1", "kind": "ServiceAccount",
                "metadata": {"name": "default", "namespace": SPACES[n]}})
        };
        create_all::<ServiceAccount>(client, SPACES.len(), account, |_| {}).await?;
        let high = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
            "metadata": {"name": "high"}, "value": 10});
        create_all::<PriorityClass>(client, 1, |_| high.clone(), |_| {}).await?;
        create_all::<Node>(client, shape.nodes, |n| node(n, shape), |_| {}).await?;
        // New nodes are not ready until a controller looks at them; none runs here.
        let writers = Arc::new(Semaphore::new(WRITERS));
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..shape.nodes {
            let (client, permit) = (client.clone(), writers.clone().acquire_owned().await?);
            tasks.spawn(async move {
                let _permit = permit;
                let patch = Patch::Merge(json!({"spec": {"taints": null}}));
                client.patch::<Node>("", &format!("node-{n}"), &patch).await.map(drop)
            });
        }
        while let Some(done) = tasks.join_next().await {
            done??;
        }
        if shape.extra == Extra::CsiVolumes {
            let node = |n: usize| {
                let name = format!("node-{n}");
                let driver = json!({"name": EBS, "nodeID": name, "allocatable": {"count": 39}});
                json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSINode", "metadata": {"name": name},
                    "spec": {"drivers": [driver]}})
            };
            create_all::<CSINode>(client, shape.nodes, node, |_| {}).await?;
        }
        if matches!(shape.extra, Extra::Volumes | Extra::CsiVolumes) {
            let csi = shape.extra == Extra::CsiVolumes;
            volumes(client, "first", SPACES[0], shape.first, csi).await?;
            volumes(client, "p", SPACES[1], shape.pods, csi).await?;
        }
        Ok(())
    }

    /// Creates pods, `prefix` and a number each.
    async fn pods(
        &self,
        shape: &Shape,
        seen: &Seen,
        (prefix, space, count, make): (&str, &str, usize, fn() -> Value),
    ) -> Result<(), BoxError> {
        let template = make();
        let claims = matches!(shape.extra, Extra::Volumes | Extra::CsiVolumes);
        let object = |n: usize| {
            let mut pod = template.clone();
            let name = format!("{prefix}{n}");
            if claims {
                let claim = json!({"claimName": name});
                pod["spec"]["volumes"] = json!([{"name": "v", "persistentVolumeClaim": claim}]);
            }
            pod["metadata"]["name"] = json!(name);
            pod["metadata"]["namespace"] = json!(space);
            pod
        };
        let started = |n: usize| {
            let now = seen.clock.monotonic();
            seen.times.lock().created.insert(format!("{prefix}{n}"), now);
        };
        create_all::<Pod>(&self.client, count, object, started).await
    }

    /// What goes on beside the measured pods.
    fn disturb(&self, shape: &Shape) -> tokio::task::JoinHandle<()> {
        let (client, clock, extra) = (self.client.clone(), self.process.clock.clone(), shape.extra);
        let first = shape.first;
        // Ends with the measurement.
        tokio::spawn(async move {
            for n in 0_usize.. {
                let outcome: Result<(), ClientError> = match extra {
                    Extra::Preempting | Extra::Unschedulable => {
                        let mut pod = if extra == Extra::Preempting { high() } else { huge() };
                        pod["metadata"]["name"] = json!(format!("churn{n}"));
                        pod["metadata"]["namespace"] = json!(SPACES[0]);
                        clock.sleep(Duration::from_millis(200)).await;
                        let Ok(pod) = Pod::from_tree(&pod) else { return };
                        client.create(&pod).await.map(drop)
                    }
                    Extra::Gated if n < first => {
                        clock.sleep(Duration::from_millis(20)).await;
                        let options = DeleteOptions::default();
                        client.delete::<Pod>(SPACES[0], &format!("first{n}"), &options).await.map(drop)
                    }
                    _ => return,
                };
                if let Err(error) = outcome {
                    println!("beside: {error}");
                    return;
                }
            }
        })
    }
}

fn quantile(sorted: &[Duration], q: f64) -> f64 {
    let at = ((sorted.len() as f64 - 1.0) * q).round() as usize;
    sorted.get(at).map_or(0.0, |time| time.as_secs_f64() * 1_000.0)
}

async fn run(shape: &Shape, server: Option<&str>) -> Result<(), BoxError> {
    let bench = match server {
        Some(server) => Bench::remote(server)?,
        None => Bench::own().await?,
    };
    bench.prepare(shape).await?;
    let pods = bench.informers.of::<Pod>();
    pods.synced().await;
    let seen = Seen::watch(&bench.informers, &bench.process.clock);
    if shape.extra == Extra::Gated {
        bench.pods(shape, &seen, ("gated", SPACES[0], 10_000, gated)).await?;
    }
    bench.pods(shape, &seen, ("first", SPACES[0], shape.first, shape.first_pod)).await?;
    if !seen.bound('f', shape.first).await {
        return Err(format!("{}: the pods that come first are not bound", shape.name).into());
    }
    let beside = bench.disturb(shape);
    let (from, used) = (bench.process.clock.monotonic(), cpu(&bench.pids));
    bench.pods(shape, &seen, ("p", SPACES[1], shape.pods, shape.pod)).await?;
    let all = seen.bound('p', shape.pods).await;
    let used = cpu(&bench.pids) - used;
    beside.abort();
    report(shape, &seen, from, used, all);
    bench.close().await;
    Ok(())
}

fn report(shape: &Shape, seen: &Seen, from: Duration, used: Duration, all: bool) {
    let times = seen.times.lock();
    let measured = times.bound.iter().filter(|(name, _)| name.starts_with('p'));
    let mut last = from;
    let mut waits: Vec<Duration> = measured
        .filter_map(|(name, bound)| {
            last = last.max(*bound);
            Some(bound.saturating_sub(*times.created.get(name)?))
        })
        .collect();
    waits.sort();
    let took = (last - from).as_secs_f64();
    let count = waits.len();
    println!(
        "| {}{} | {} | {} | {count} | {:.0} | {} | {:.0} / {:.0} | {} |",
        shape.name,
        if all { "" } else { " (not all bound)" },
        shape.nodes,
        shape.first,
        count as f64 / took,
        used.as_micros() / count.max(1) as u128,
        quantile(&waits, 0.5),
        quantile(&waits, 0.99),
        if shape.threshold == 0 {
            "".to_owned()
        } else {
            format!("{} ({})", shape.threshold, shape.upstream)
        },
    );
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let args = Args::parse();
    let shapes = shapes();
    let unknown = args.shapes.iter().find(|name| shapes.iter().all(|shape| shape.name != **name));
    if let Some(unknown) = unknown {
        let known: Vec<&str> = shapes.iter().map(|shape| shape.name).collect();
        return Err(format!("no shape {unknown:?}; there are {known:?}").into());
    }
    println!(
        "| shape | nodes | pods before | pods | pods/s | CPU µs a pod | p50 / p99 ms | upstream's threshold |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for shape in shapes {
        if !args.shapes.is_empty() && !args.shapes.iter().any(|name| *name == shape.name) {
            continue;
        }
        let scale = |count: usize| (count * args.scale / 100).max(usize::from(count > 0));
        let scaled = Shape {
            nodes: args.nodes.unwrap_or(scale(shape.nodes)),
            first: scale(shape.first),
            pods: args.pods.unwrap_or(scale(shape.pods)),
            ..shape
        };
        run(&scaled, args.server.as_deref()).await?;
    }
    Ok(())
}
