//! The metrics API (`metrics.k8s.io`): what nodes and pods use now, asked of the nodes' agents when somebody asks, and
//! kept for a moment. It must not know how agents measure: they answer upstream's `/stats/summary`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use api::ApiError;
use base::http::Body;
use futures::StreamExt as _;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Limited};
use parking_lot::Mutex;
use registry::Verb;
use serde::Deserialize;
use serde_json::{Value, json};
use store::{Key, Object};

use super::{agent, computed};
use crate::negotiate::Offer;
use crate::object;
use crate::server::Server;
use crate::verbs::{self, Call, Selection};

/// What is asked of an agent.
const SUMMARY: &str = "/stats/summary?only_cpu_and_memory=true";
/// An answer is good for so long.
const FRESH: Duration = Duration::from_secs(5);
/// An agent may take so long.
const ANSWER: Duration = Duration::from_secs(8);
/// Agents asked at once.
const AT_ONCE: usize = 32;
/// The largest answer taken: a node of 500 pods with ten containers each has less.
const MAX_BYTES: usize = 16 << 20;
/// Nodes whose answers are kept.
const MAX_NODES: usize = 10_000;
/// The time over which agents take their rates.
const WINDOW: &str = "10s";

/// An agent's answer, as far as it is needed.
#[derive(Debug, Default, Deserialize)]
struct Summary {
    node: Used,
    #[serde(default)]
    pods: Vec<PodUsed>,
}

#[derive(Debug, Default, Deserialize)]
struct PodUsed {
    #[serde(rename = "podRef")]
    reference: Reference,
    #[serde(default)]
    containers: Vec<Used>,
}

#[derive(Debug, Default, Deserialize)]
struct Reference {
    name: String,
    namespace: String,
}

/// A node's or a container's part.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Used {
    name: String,
    cpu: Cpu,
    memory: Memory,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Cpu {
    time: String,
    usage_nano_cores: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Memory {
    working_set_bytes: Option<u64>,
}

impl Used {
    /// Quantities as metrics servers write them; `None` until both are known.
    fn quantities(&self) -> Option<Value> {
        let (cpu, memory) = (self.cpu.usage_nano_cores?, self.memory.working_set_bytes?);
        let cpu = if cpu == 0 { "0".to_owned() } else { format!("{cpu}n") };
        let memory = if memory % 1024 == 0 { format!("{}Ki", memory / 1024) } else { memory.to_string() };
        Some(json!({"cpu": cpu, "memory": memory}))
    }
}

/// What is known of one node, and since when; nothing, when its agent did not answer.
type Known = (Duration, Option<Arc<Summary>>);

/// Agents' last answers, by node.
#[derive(Default)]
pub struct Answers {
    known: Mutex<BTreeMap<String, Known>>,
}

impl Answers {
    /// A node's answer, at most [`FRESH`] old.
    async fn of(&self, server: &Server, node: &str) -> Option<Arc<Summary>> {
        let now = server.clock.monotonic();
        if let Some((at, summary)) = self.known.lock().get(node)
            && now.saturating_sub(*at) < FRESH
        {
            return summary.clone();
        }
        let asked = server.clock.timeout(ANSWER, ask(server, node)).await;
        let summary = match asked.unwrap_or_else(|| Err(ApiError::internal("the agent takes too long"))) {
            Ok(summary) => Some(Arc::new(summary)),
            Err(error) => {
                tracing::debug!(node, %error, "no statistics");
                None
            }
        };
        let mut known = self.known.lock();
        if known.len() >= MAX_NODES {
            known.retain(|_, (at, _)| now.saturating_sub(*at) < FRESH);
        }
        known.insert(node.to_owned(), (server.clock.monotonic(), summary.clone()));
        summary
    }

    /// The answers of several nodes.
    async fn of_all(&self, server: &Server, nodes: BTreeSet<String>) -> BTreeMap<String, Arc<Summary>> {
        let ask = |node: String| async move {
            let summary = self.of(server, &node).await;
            (node, summary)
        };
        let answers: Vec<_> = futures::stream::iter(nodes).map(ask).buffer_unordered(AT_ONCE).collect().await;
        answers.into_iter().filter_map(|(node, summary)| Some((node, summary?))).collect()
    }
}

async fn ask(server: &Server, name: &str) -> Result<Summary, ApiError> {
    let node = server.store.get(&Key::new("nodes", "", name));
    let node = node.ok_or_else(|| ApiError::not_found("", "nodes", name))?;
    let target = server.agents.target(&object::tree(&node))?;
    let request = Request::get(SUMMARY).header(http::header::HOST, target.host.as_str());
    let request = request.body(base::http::empty()).map_err(ApiError::internal)?;
    let response = agent::send(server, &target, request).await?;
    if !response.status().is_success() {
        return Err(ApiError::internal(format!("the agent answered {}", response.status())));
    }
    let body = Limited::new(response.into_body(), MAX_BYTES).collect().await.map_err(ApiError::internal)?;
    serde_json::from_slice(&body.to_bytes()).map_err(ApiError::internal)
}

fn node_of(pod: &Object) -> Option<String> {
    pod.attrs.field("spec.nodeName").filter(|node| !node.is_empty()).map(|node| (**node).to_owned())
}

/// The metadata of an object's metrics: its name and labels, made now.
fn metadata(call: &Call<'_>, of: &Object) -> Value {
    let labels: serde_json::Map<String, Value> =
        of.attrs.labels.iter().map(|(key, value)| ((**key).to_owned(), Value::from(&**value))).collect();
    let mut out = json!({"name": &*of.key.name, "creationTimestamp": api::time::format(call.exchange.now)});
    if !of.key.namespace.is_empty() {
        out["namespace"] = Value::from(&*of.key.namespace);
    }
    if !labels.is_empty() {
        out["labels"] = Value::Object(labels);
    }
    out
}

/// In whole seconds, as API times are.
fn time(text: &str) -> Value {
    text.parse::<jiff::Timestamp>().map_or(Value::Null, |at| api::time::format(at).into())
}

fn node_metrics(call: &Call<'_>, node: &Object, summary: &Summary) -> Option<Value> {
    let usage = summary.node.quantities()?;
    Some(
        json!({"kind": "NodeMetrics", "apiVersion": call.row().api_version(), "metadata": metadata(call, node),
        "timestamp": time(&summary.node.cpu.time), "window": WINDOW, "usage": usage}),
    )
}

fn pod_metrics(call: &Call<'_>, pod: &Object, summary: &Summary) -> Option<Value> {
    let (namespace, name) = (&*pod.key.namespace, &*pod.key.name);
    let same = |used: &&PodUsed| used.reference.name == name && used.reference.namespace == namespace;
    let used = summary.pods.iter().find(same)?;
    let container = |one: &Used| Some(json!({"name": one.name, "usage": one.quantities()?}));
    // Part of a pod would look like a pod that uses little.
    let containers = used.containers.iter().map(container).collect::<Option<Vec<Value>>>()?;
    let latest = used.containers.iter().map(|one| one.cpu.time.as_str()).max()?;
    Some(
        json!({"kind": "PodMetrics", "apiVersion": call.row().api_version(), "metadata": metadata(call, pod),
        "timestamp": time(latest), "window": WINDOW, "containers": containers}),
    )
}

/// GET and LIST of NodeMetrics and PodMetrics.
pub async fn serve(call: &Call<'_>, verb: Verb) -> Result<Response<Body>, ApiError> {
    let accept = call.exchange.accept(Offer { tables: true, protobuf: false, watch: false })?;
    let (server, of_pods) = (call.server, call.row().kind == "PodMetrics");
    let storage = if of_pods { "pods" } else { "nodes" };
    let objects: Vec<Arc<Object>> = match verb {
        Verb::Get => {
            server.store.get(&Key::new(storage, call.namespace(), call.name())).into_iter().collect()
        }
        Verb::List => {
            let selection = Selection::parse(call)?;
            let namespace = Some(call.namespace()).filter(|namespace| !namespace.is_empty());
            let snapshot = server.store.snapshot(storage);
            let all = snapshot.range(namespace, None).cloned();
            all.filter(|object| selection.wants(&call.served, object)).collect()
        }
        _ => return Err(verbs::method_not_allowed()),
    };
    let node_name = |object: &Object| match of_pods {
        true => node_of(object),
        false => Some((*object.key.name).to_owned()),
    };
    let nodes: BTreeSet<String> = objects.iter().filter_map(|object| node_name(object)).collect();
    let answers = server.usage.of_all(server, nodes).await;
    let metrics = |object: &Arc<Object>| {
        let summary = answers.get(&node_name(object)?)?;
        if of_pods { pod_metrics(call, object, summary) } else { node_metrics(call, object, summary) }
    };
    let items: Vec<Value> = objects.iter().filter_map(metrics).collect();
    if verb == Verb::List {
        return computed::list(call, &accept, &items);
    }
    let resource = if of_pods { "podmetrics" } else { "nodemetrics" };
    let name = match call.namespace() {
        "" => call.name().to_owned(),
        namespace => format!("{namespace}/{}", call.name()),
    };
    let item = items.first().ok_or_else(|| ApiError::not_found("metrics.k8s.io", resource, &name))?;
    computed::one(call, &accept, item)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_become_quantities() {
        let summary: Summary = serde_json::from_value(json!({
            "node": {"nodeName": "n", "cpu": {"time": "2026-01-01T00:00:00Z", "usageNanoCores": 1500},
                "memory": {"workingSetBytes": 2048}},
            "pods": [{"podRef": {"name": "p", "namespace": "d", "uid": "u"}, "containers": [
                {"name": "a", "cpu": {"usageNanoCores": 0}, "memory": {"workingSetBytes": 1000}},
                {"name": "b", "cpu": {}, "memory": {"workingSetBytes": 1}}]}]}))
        .expect("a summary");
        let shown = |used: &Used| used.quantities().map(|value| value.to_string());
        assert_eq!(shown(&summary.node).as_deref(), Some(r#"{"cpu":"1500n","memory":"2Ki"}"#));
        let containers = &summary.pods[0].containers;
        assert_eq!(shown(&containers[0]).as_deref(), Some(r#"{"cpu":"0","memory":"1000"}"#));
        assert_eq!(shown(&containers[1]), None);
        assert_eq!(time("2026-01-01T00:00:00.123456Z"), json!("2026-01-01T00:00:00Z"));
    }
}
