//! What decisions cost by themselves, without API server and watches:
//! `cargo run --release -p scheduler --example decisions -- [NODES] [PODS]`. The pods are those of upstream's
//! scheduler_perf; each is counted on its node before the next.

use std::sync::Arc;

use base::Rng;
use scheduler::decide::{Decision, Round, decide};
use scheduler::memo::Memo;
use scheduler::plugins::Cycle;
use scheduler::preempt::{best, candidates};
use scheduler::{PodInfo, Profile, Snapshot};
use serde_json::{Value, json};

const ZONE: &str = "topology.kubernetes.io/zone";
const HOST: &str = "kubernetes.io/hostname";

fn node(n: usize) -> Value {
    let name = format!("node-{n}");
    let labels = json!({HOST: name, ZONE: format!("z{}", n % 3)});
    json!({"metadata": {"name": name, "labels": labels},
        "status": {"allocatable": {"cpu": "4", "memory": "32Gi", "pods": "110"}}})
}

/// The shapes: name, how many pods are there first, their specification, and that of the measured ones.
fn shapes() -> Vec<(&'static str, usize, Value, Value)> {
    let term = |key: &str| json!({"labelSelector": {"matchLabels": {"app": "x"}}, "topologyKey": key});
    let (hard, soft) =
        ("requiredDuringSchedulingIgnoredDuringExecution", "preferredDuringSchedulingIgnoredDuringExecution");
    let weighed = json!([{"weight": 1, "podAffinityTerm": term(HOST)}]);
    let spread = |when: &str| {
        json!({"topologySpreadConstraints": [{"maxSkew": 5, "topologyKey": ZONE, "whenUnsatisfiable": when,
            "labelSelector": {"matchLabels": {"app": "x"}}}]})
    };
    let near = json!({"affinity": {"podAffinity": {hard: [term(ZONE)]}}});
    let apart = json!({"affinity": {"podAntiAffinity": {hard: [term(HOST)]}}});
    let prefers = json!({"affinity": {"podAffinity": {soft: weighed}}});
    let wants = |cpu: &str, priority: i32| {
        let resources = json!({"requests": {"cpu": cpu, "memory": "500Mi"}});
        json!({"priority": priority, "containers": [{"name": "c", "image": "pause", "resources": resources}]})
    };
    vec![
        ("basic", 1_000, json!({}), json!({})),
        ("affinity", 5_000, near.clone(), near),
        ("anti-affinity", 1_000, apart.clone(), apart),
        ("preferred-affinity", 5_000, prefers.clone(), prefers),
        ("spread", 5_000, json!({}), spread("DoNotSchedule")),
        ("preferred-spread", 5_000, json!({}), spread("ScheduleAnyway")),
        ("preemption", 20_000, wants("900m", 0), wants("3", 10)),
    ]
}

fn pod(n: usize, spec: &Value) -> Arc<PodInfo> {
    let amounts = json!({"requests": {"cpu": "100m", "memory": "500Mi"}});
    let mut full = json!({"containers": [{"name": "c", "image": "pause", "resources": amounts}]});
    spec.as_object().into_iter().flatten().for_each(|(key, value)| full[key] = value.clone());
    let pod = json!({"metadata": {"name": format!("p{n}"), "uid": format!("u{n}"), "namespace": "d",
        "labels": {"app": "x"}}, "spec": full});
    Arc::new(PodInfo::new(Arc::new(serde_json::from_value(pod).expect("a pod"))))
}

/// CPU time of this thread so far, microseconds.
fn cpu() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|nanos| nanos.parse::<f64>().ok()).unwrap_or(0.0) / 1e3
}

fn main() {
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<usize>().expect("a number"));
    let (nodes, pods) = (numbers.next().unwrap_or(5_000), numbers.next().unwrap_or(2_000));
    let profile = Profile::default();
    println!("| shape | nodes | pods before | decisions | µs CPU a decision |");
    println!("|---|---|---|---|---|");
    for (name, first, before, measured) in shapes() {
        let (mut snapshot, mut memo, mut start, rng) =
            (Snapshot::default(), Memo::default(), 0, Rng::seeded(1));
        for n in 0..nodes {
            snapshot.set_node(Arc::new(serde_json::from_value(node(n)).expect("a node")));
        }
        for n in 0..first {
            snapshot.add_pod(&format!("node-{}", n % nodes), pod(n, &before));
        }
        let wanted: Vec<_> = (0..pods).map(|n| pod(first + n, &measured)).collect();
        let (from, mut placed) = (cpu(), 0);
        for pod in &wanted {
            let cycle = Cycle::with(&mut memo, &profile.settings, pod, &snapshot);
            let mut round = Round { profile: &profile, start: &mut start, rng: &rng, memo: &mut memo };
            match decide(&mut round, &cycle) {
                Decision::Bind(node) => {
                    drop(cycle);
                    placed += usize::from(snapshot.add_pod(&node, pod.clone()));
                }
                Decision::Unschedulable(diagnosis) => {
                    let dry = &mut memo.looks(&profile, pod).dry;
                    let offset = usize::try_from(rng.below(nodes as u64)).unwrap_or(0);
                    let found =
                        candidates(&profile, &cycle, dry, &diagnosis, &[], offset).ok().and_then(best);
                    drop(cycle);
                    if let Some(found) = found {
                        snapshot.nominate(&found.node, pod.clone());
                        placed += 1;
                    }
                }
            }
        }
        let each = (cpu() - from) / pods as f64;
        println!("| {name} | {nodes} | {first} | {placed} | {each:.0} |");
    }
}
