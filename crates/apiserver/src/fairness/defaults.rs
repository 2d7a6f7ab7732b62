//! The flow schemas and priority levels that exist from the start, as upstream's: a table of facts.

use serde_json::{Value, json};

const API: &str = "flowcontrol.apiserver.k8s.io/v1";

/// Name, shares, percent lent, queues, hand.
const LEVELS: &[(&str, u32, u32, u32, u32)] = &[
    ("system", 30, 33, 64, 6),
    ("node-high", 40, 25, 64, 6),
    ("leader-election", 10, 0, 16, 4),
    ("workload-high", 40, 50, 128, 6),
    ("workload-low", 100, 90, 128, 6),
    ("global-default", 20, 50, 128, 6),
];

/// Everything there is from the start.
pub fn objects() -> Vec<Value> {
    let mut all = vec![
        level(
            "exempt",
            json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}}),
        ),
        level(
            "catch-all",
            json!({"type": "Limited", "limited": {"nominalConcurrencyShares": 5,
            "lendablePercent": 0, "limitResponse": {"type": "Reject"}}}),
        ),
    ];
    for (name, shares, lent, queues, hand) in LEVELS {
        let queuing = json!({"queues": queues, "handSize": hand, "queueLengthLimit": 50});
        let limited = json!({"nominalConcurrencyShares": shares, "lendablePercent": lent,
            "limitResponse": {"type": "Queue", "queuing": queuing}});
        all.push(level(name, json!({"type": "Limited", "limited": limited})));
    }
    all.extend(schemas());
    all
}

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": API, "kind": kind, "metadata": {"name": name,
        "annotations": {"apf.kubernetes.io/autoupdate-spec": "true"}}, "spec": spec})
}

fn level(name: &str, spec: Value) -> Value {
    object("PriorityLevelConfiguration", name, spec)
}

fn schema(name: &str, level: &str, precedence: u32, by: &str, rule: Value) -> Value {
    let mut spec = json!({"priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence,
        "rules": [rule]});
    if !by.is_empty() {
        spec["distinguisherMethod"] = json!({"type": by});
    }
    object("FlowSchema", name, spec)
}

fn groups(names: &[&str]) -> Vec<Value> {
    names.iter().map(|name| json!({"kind": "Group", "group": {"name": name}})).collect()
}

fn users(names: &[&str]) -> Vec<Value> {
    names.iter().map(|name| json!({"kind": "User", "user": {"name": name}})).collect()
}

fn system_accounts() -> Value {
    json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": "kube-system", "name": "*"}})
}

fn resources(verbs: &[&str], group: &str, resources: &[&str], cluster: bool) -> Value {
    let mut rule = json!({"verbs": verbs, "apiGroups": [group], "resources": resources, "namespaces": ["*"]});
    if cluster {
        rule["clusterScope"] = true.into();
    }
    rule
}

/// Everything that the subjects do.
fn everything(subjects: Vec<Value>) -> Value {
    json!({"subjects": subjects, "resourceRules": [resources(&["*"], "*", &["*"], true)],
        "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]})
}

fn schemas() -> Vec<Value> {
    let everyone = || groups(&["system:unauthenticated", "system:authenticated"]);
    let nodes = || groups(&["system:nodes"]);
    let mut leaders = users(&["system:kube-controller-manager", "system:kube-scheduler"]);
    leaders.push(system_accounts());
    let leases = "coordination.k8s.io";
    let election = json!({"subjects": leaders,
        "resourceRules": [resources(&["get", "create", "update"], leases, &["leases"], false)]});
    let node_status = json!({"subjects": nodes(), "resourceRules": [
        resources(&["*"], "", &["nodes", "nodes/status"], true), resources(&["*"], leases, &["leases"], false)]});
    let probes = json!({"subjects": everyone(),
        "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]}]});
    let (manager, scheduler) =
        (users(&["system:kube-controller-manager"]), users(&["system:kube-scheduler"]));
    vec![
        schema("exempt", "exempt", 1, "", everything(groups(&["system:masters"]))),
        schema("probes", "exempt", 2, "", probes),
        schema("system-leader-election", "leader-election", 100, "ByUser", election),
        schema("system-node-high", "node-high", 400, "ByUser", node_status),
        schema("system-nodes", "system", 500, "ByUser", everything(nodes())),
        schema("kube-controller-manager", "workload-high", 800, "ByNamespace", everything(manager)),
        schema("kube-scheduler", "workload-high", 800, "ByNamespace", everything(scheduler)),
        schema(
            "kube-system-service-accounts",
            "workload-high",
            900,
            "ByNamespace",
            everything(vec![system_accounts()]),
        ),
        schema(
            "service-accounts",
            "workload-low",
            9000,
            "ByUser",
            everything(groups(&["system:serviceaccounts"])),
        ),
        schema("global-default", "global-default", 9900, "ByUser", everything(everyone())),
        schema("catch-all", "catch-all", 10_000, "ByUser", everything(everyone())),
    ]
}
