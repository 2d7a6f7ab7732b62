//! How fast pods are scheduled, end to end: created through the API server (memory store), decided, bound. The
//! shapes are those of upstream's scheduler_perf; `cargo xtask bench scheduler` runs them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::UserInfo;
use api::k8s::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use api::k8s::api::scheduling::v1::PriorityClass;
use clap::Parser;
use cli::control::Plane;
use cli::process::Process;
use client::{Client, Informer, Kind, Patch};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Creations under way at one time.
const WRITERS: usize = 64;
const ZONES: usize = 10;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[derive(Parser)]
struct Args {
    /// Nodes.
    #[arg(long, default_value_t = 1_000)]
    nodes: usize,
    /// Pods to measure.
    #[arg(long, default_value_t = 5_000)]
    pods: usize,
    /// Shapes to run; all when none is named.
    shapes: Vec<String>,
}

/// A workload: its name, and what pod number `n` is on so many nodes.
struct Shape {
    name: &'static str,
    pod: fn(usize, usize) -> Value,
    /// Low-priority pods that fill the nodes first.
    filled: bool,
    /// Every pod has a claim bound to a volume.
    volumes: bool,
}

const SHAPES: &[Shape] = &[
    Shape { name: "basic", pod: basic, filled: false, volumes: false },
    Shape { name: "affinity", pod: affinity, filled: false, volumes: false },
    Shape { name: "anti-affinity", pod: anti_affinity, filled: false, volumes: false },
    Shape { name: "preferred-affinity", pod: preferred, filled: false, volumes: false },
    Shape { name: "spread", pod: spread, filled: false, volumes: false },
    Shape { name: "volumes", pod: with_volume, filled: false, volumes: true },
    Shape { name: "preemption", pod: important, filled: true, volumes: false },
    Shape { name: "gated", pod: gated, filled: false, volumes: false },
];

fn named(name: &str, labels: &Value, spec: Value) -> Value {
    let mut full = json!({"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "pause",
        "resources": {"requests": {"cpu": "100m", "memory": "500Mi"}}}]});
    spec.as_object().into_iter().flatten().for_each(|(key, value)| full[key] = value.clone());
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": labels}, "spec": full})
}

fn basic(n: usize, _nodes: usize) -> Value {
    named(&format!("p{n}"), &json!({}), json!({}))
}

fn term(color: &str, key: &str) -> Value {
    json!({"labelSelector": {"matchLabels": {"color": color}}, "topologyKey": key})
}

fn affinity(n: usize, _nodes: usize) -> Value {
    let required = json!([term("blue", "topology.kubernetes.io/zone")]);
    let affinity = json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}});
    named(&format!("p{n}"), &json!({"color": "blue"}), json!({"affinity": affinity}))
}

/// One pod of a color a node: as many colors as are needed for all pods to fit.
fn anti_affinity(n: usize, nodes: usize) -> Value {
    let color = format!("c{}", n / (nodes / 2).max(1));
    let required = json!([term(&color, "kubernetes.io/hostname")]);
    let affinity = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}});
    named(&format!("p{n}"), &json!({"color": color}), json!({"affinity": affinity}))
}

fn preferred(n: usize, _nodes: usize) -> Value {
    let terms = json!([{"weight": 1, "podAffinityTerm": term("red", "kubernetes.io/hostname")}]);
    let affinity = json!({"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": terms}});
    named(&format!("p{n}"), &json!({"color": "red"}), json!({"affinity": affinity}))
}

fn spread(n: usize, _nodes: usize) -> Value {
    let constraints = json!([{"maxSkew": 5, "topologyKey": "topology.kubernetes.io/zone",
        "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"color": "blue"}}}]);
    named(&format!("p{n}"), &json!({"color": "blue"}), json!({"topologySpreadConstraints": constraints}))
}

fn with_volume(n: usize, _nodes: usize) -> Value {
    let volumes = json!([{"name": "v", "persistentVolumeClaim": {"claimName": format!("c{n}")}}]);
    named(&format!("p{n}"), &json!({}), json!({"volumes": volumes}))
}

fn important(n: usize, _nodes: usize) -> Value {
    let containers = json!([{"name": "c", "image": "pause", "resources": {"requests": {"cpu": "3"}}}]);
    named(&format!("p{n}"), &json!({}), json!({"priorityClassName": "high", "containers": containers}))
}

/// Half of the pods wait behind a gate and must cost nothing.
fn gated(n: usize, _nodes: usize) -> Value {
    let gates = if n % 2 == 0 { json!([]) } else { json!([{"name": "wait.example.com/gate"}]) };
    named(&format!("p{n}"), &json!({}), json!({"schedulingGates": gates}))
}

async fn create_all<K: Kind>(
    client: &Client,
    count: usize,
    object: impl Fn(usize) -> Value,
) -> Result<(), BoxError> {
    let writers = Arc::new(Semaphore::new(WRITERS));
    let mut tasks = tokio::task::JoinSet::new();
    for n in 0..count {
        let object = K::from_tree(&object(n))?;
        let (client, permit) = (client.clone(), writers.clone().acquire_owned().await?);
        tasks.spawn(async move {
            let created = client.create(&object).await.map(drop);
            drop(permit);
            created
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

fn node(n: usize) -> Value {
    let name = format!("node-{n}");
    let labels =
        json!({"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": format!("z{}", n % ZONES)});
    let amounts = json!({"cpu": "4", "memory": "32Gi", "pods": "110"});
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels},
        "status": {"capacity": amounts, "allocatable": amounts,
            "conditions": [{"type": "Ready", "status": "True"}]}})
}

async fn volumes(client: &Client, pods: usize) -> Result<(), BoxError> {
    let done = json!({"pv.kubernetes.io/bind-completed": "yes"});
    create_all::<PersistentVolume>(client, pods, |n| {
        json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": format!("v{n}")},
            "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
                "hostPath": {"path": "/x"}, "storageClassName": ""}})
    })
    .await?;
    create_all::<PersistentVolumeClaim>(client, pods, |n| {
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": format!("c{n}"), "namespace": "default", "annotations": done},
            "spec": {"volumeName": format!("v{n}"), "storageClassName": "", "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "1Gi"}}}})
    })
    .await
}

/// Waits until `count` pods are bound that `counts` counts.
async fn bound(pods: &Informer<Pod>, count: usize, counts: impl Fn(&Pod) -> bool) {
    let mut ticks = pods.ticks();
    let is_bound = |pod: &Pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
    loop {
        ticks.mark_unchanged();
        let done = pods.cache().list().iter().filter(|pod| is_bound(pod) && counts(pod)).count();
        if done >= count || ticks.changed().await.is_err() {
            return;
        }
    }
}

/// CPU time of this process so far.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    // Hundredths of a second on every Linux.
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}

async fn run(shape: &Shape, args: &Args) -> Result<(), BoxError> {
    let process = Process::new();
    let config = apiserver::Config { advertise: None, ..apiserver::Config::default() };
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let plane = Plane::start(store::Engine::Memory, config, listener, &process).await?;
    let client = plane.client(UserInfo::component("bench", &["system:masters"]), "bench");
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": "default", "namespace": "default"}});
    create_all::<api::k8s::api::core::v1::ServiceAccount>(&client, 1, |_| account.clone()).await?;
    create_all::<Node>(&client, args.nodes, node).await?;
    // New nodes are not ready until a controller looks at them; none runs here.
    for n in 0..args.nodes {
        let patch = Patch::Merge(json!({"spec": {"taints": null}}));
        client.patch::<Node>("", &format!("node-{n}"), &patch).await?;
    }
    let high = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
        "metadata": {"name": "high"}, "value": 1000});
    create_all::<PriorityClass>(&client, 1, |_| high.clone()).await?;
    if shape.volumes {
        volumes(&client, args.pods).await?;
    }
    let informers = plane.informers(UserInfo::component("system:kube-scheduler", &[]), "kube-scheduler");
    let pods = informers.of::<Pod>();
    let user = UserInfo::component("system:kube-scheduler", &[]);
    let scheduling = scheduler::run(
        plane.client(user, "kube-scheduler"),
        informers,
        scheduler::Setup::default(),
        process.clock.clone(),
        process.rng.clone(),
        process.tasks.clone(),
    );
    process.tasks.spawn("scheduler", scheduling);
    if shape.filled {
        create_all::<Pod>(&client, args.nodes * 4, |n| {
            let containers =
                json!([{"name": "c", "image": "pause", "resources": {"requests": {"cpu": "900m"}}}]);
            named(&format!("low{n}"), &json!({}), json!({"containers": containers}))
        })
        .await?;
        bound(&pods, args.nodes * 4, |_| true).await;
    }
    // Preemption clears a node for each pod: no more of them than nodes.
    let count = if shape.filled { args.pods.min(args.nodes / 2) } else { args.pods };
    let expected = if shape.name == "gated" { count.div_ceil(2) } else { count };
    let (from, used) = (process.clock.monotonic(), cpu());
    create_all::<Pod>(&client, count, |n| (shape.pod)(n, args.nodes)).await?;
    bound(&pods, expected, |pod| pod.metadata.name.as_deref().is_some_and(|name| name.starts_with('p')))
        .await;
    let (took, used) = (process.clock.monotonic() - from, cpu() - used);
    let rate = expected as f64 / took.as_secs_f64();
    let each = used.as_micros() / expected.max(1) as u128;
    println!(
        "{:<20} {:>6} nodes {expected:>6} pods {:>8.2} s {rate:>8.0} pods/s {each:>7} us CPU a pod",
        shape.name,
        args.nodes,
        took.as_secs_f64()
    );
    process.end().await;
    plane.close().await;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let args = Args::parse();
    let known: BTreeMap<&str, &Shape> = SHAPES.iter().map(|shape| (shape.name, shape)).collect();
    if let Some(unknown) = args.shapes.iter().find(|name| !known.contains_key(name.as_str())) {
        return Err(format!("no shape {unknown:?}; there are {:?}", known.keys()).into());
    }
    for shape in SHAPES.iter().filter(|s| args.shapes.is_empty() || args.shapes.iter().any(|n| n == s.name)) {
        run(shape, &args).await?;
    }
    Ok(())
}
