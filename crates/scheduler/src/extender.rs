//! Extenders: services over HTTP that have a say in where pods go, as KubeSchedulerConfiguration names them
//! (`k8s.io/kube-scheduler/extender/v1`). Must not know the queue.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use api::k8s::api::core::v1::{Node, Pod};
use base::pki::Identity;
use base::{Clock, Tasks};
use client::client::Call;
use client::kubeconfig;
use client::{Client, ClientError, Https};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::pod::PodInfo;
use crate::preempt::Preemption;
use crate::snapshot::{NodeInfo, Snapshot};

/// The name under which refusals by extenders are counted.
pub const NAME: &str = "Extender";
/// A score of an extender, 0 to 10, times this is one of a plugin.
pub const SCALE: i64 = 10;
/// How long an extender may take when its configuration does not say.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What is told of an extender.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Its URL.
    pub url: String,
    /// Added to the URL to filter nodes; `None` = it does not.
    pub filter: Option<String>,
    /// To score nodes.
    pub prioritize: Option<String>,
    /// To choose among preemptions.
    pub preempt: Option<String>,
    /// To bind pods.
    pub bind: Option<String>,
    /// What its scores weigh.
    pub weight: i64,
    /// How it is trusted, for HTTPS.
    pub tls: Tls,
    /// How long it may take.
    pub timeout: Option<Duration>,
    /// It knows the nodes: names are enough.
    pub knows_nodes: bool,
    /// Only pods that ask for one of these resources concern it; all when empty.
    pub managed: BTreeSet<String>,
    /// Pods are scheduled without it when it fails.
    pub ignorable: bool,
}

/// How an extender is trusted.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// Its certificate is not verified.
    pub insecure: bool,
    /// The name expected in its certificate.
    pub server_name: Option<String>,
    /// Who signed its certificate, PEM.
    pub ca: Option<String>,
    /// The client's certificate and key, PEM.
    pub identity: Option<Identity>,
}

/// Why an extender gave no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub enum ExtenderError {
    /// It cannot be called.
    #[error("extender {url:?}: {source}")]
    Call {
        /// Its URL.
        url: String,
        /// The cause.
        source: ClientError,
    },
    /// It took too long.
    #[error("extender {url:?}: no answer within {seconds} s")]
    Timeout {
        /// Its URL.
        url: String,
        /// The limit.
        seconds: u64,
    },
    /// It says that it failed.
    #[error("{text}")]
    Answer {
        /// What it says.
        text: String,
    },
    /// Its answer makes no sense.
    #[error("extender {url:?} {what}")]
    Nonsense {
        /// Its URL.
        url: String,
        /// What it claims.
        what: String,
    },
}

/// An extender, ready to be asked; cheap to clone.
#[derive(Clone)]
pub struct Extender {
    settings: Arc<Settings>,
    client: Client,
    clock: Clock,
}

/// What an extender leaves of the nodes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Filtered {
    /// The nodes that it takes.
    pub kept: Vec<String>,
    /// Those that it does not, and why.
    pub failed: BTreeMap<String, String>,
    /// Those that removing pods does not help.
    pub unresolvable: BTreeMap<String, String>,
}

/// Go reads field names in whatever case, and so extenders write them.
#[derive(Default, Deserialize)]
#[serde(default)]
struct FilterResult {
    #[serde(rename = "Nodes", alias = "nodes")]
    nodes: Option<Nodes>,
    #[serde(rename = "NodeNames", alias = "nodenames", alias = "nodeNames")]
    names: Option<Vec<String>>,
    #[serde(rename = "FailedNodes", alias = "failedNodes")]
    failed: Option<BTreeMap<String, String>>,
    #[serde(rename = "FailedAndUnresolvableNodes", alias = "failedAndUnresolvableNodes")]
    unresolvable: Option<BTreeMap<String, String>>,
    #[serde(rename = "Error", alias = "error")]
    error: String,
}

#[derive(Deserialize)]
struct Nodes {
    #[serde(default)]
    items: Vec<Node>,
}

#[derive(Deserialize)]
struct HostPriority {
    #[serde(rename = "Host", alias = "host")]
    host: String,
    #[serde(rename = "Score", alias = "score", default)]
    score: i64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PreemptionResult {
    #[serde(rename = "NodeNameToMetaVictims", alias = "nodeNameToMetaVictims")]
    victims: BTreeMap<String, MetaVictims>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct MetaVictims {
    #[serde(rename = "Pods", alias = "pods")]
    pods: Option<Vec<MetaPod>>,
    #[serde(rename = "NumPDBViolations", alias = "numPDBViolations")]
    violations: usize,
}

#[derive(Deserialize)]
struct MetaPod {
    #[serde(rename = "UID", alias = "uid")]
    uid: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct BindResult {
    #[serde(rename = "Error", alias = "error")]
    error: String,
}

impl Extender {
    /// Makes ready to ask; nothing is connected yet.
    pub fn new(settings: Settings, clock: &Clock, tasks: &Tasks) -> Result<Extender, ClientError> {
        let server = kubeconfig::Settings {
            server: settings.url.clone(),
            ca: settings.tls.ca.clone(),
            insecure: settings.tls.insecure,
            server_name: settings.tls.server_name.clone(),
            identity: settings.tls.identity.clone(),
            token: None,
            token_file: None,
            basic: None,
            namespace: String::new(),
        };
        let transport = Https::new(server, clock.clone(), tasks.clone())?;
        let client = Client::new(Arc::new(transport), "kube-scheduler", clock.clone());
        Ok(Extender { settings: Arc::new(settings), client, clock: clock.clone() })
    }

    /// What was told of it.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// True when the pod concerns it.
    pub fn is_interested(&self, pod: &PodInfo) -> bool {
        let managed = &self.settings.managed;
        let spec = pod.pod.spec.as_ref();
        let containers = spec
            .into_iter()
            .flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
        let lists = containers.filter_map(|container| container.resources.as_ref());
        let mut names = lists.flat_map(|resources| [&resources.requests, &resources.limits]).flatten();
        managed.is_empty() || names.any(|list| list.keys().any(|name| managed.contains(name)))
    }

    async fn ask<T: for<'de> Deserialize<'de>>(&self, verb: &str, args: Value) -> Result<T, ExtenderError> {
        let url = || self.settings.url.clone();
        let fail = |source| ExtenderError::Call { url: url(), source };
        let call = Call::new(http::Method::POST, format!("/{verb}")).json(&args).map_err(fail)?;
        let timeout = self.settings.timeout.unwrap_or(TIMEOUT);
        let answer: Value = match self.clock.timeout(timeout, self.client.json(&call)).await {
            Some(answer) => answer.map_err(fail)?,
            None => return Err(ExtenderError::Timeout { url: url(), seconds: timeout.as_secs() }),
        };
        let what = |error: serde_json::Error| format!("gives an answer that cannot be read: {error}");
        serde_json::from_value(answer).map_err(|error| self.nonsense(what(error)))
    }

    fn nonsense(&self, what: String) -> ExtenderError {
        ExtenderError::Nonsense { url: self.settings.url.clone(), what }
    }

    fn args(&self, pod: &Pod, nodes: &[Arc<NodeInfo>]) -> Value {
        if self.settings.knows_nodes {
            let names: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
            return json!({"Pod": pod, "Nodes": null, "NodeNames": names});
        }
        let items: Vec<&Node> = nodes.iter().map(|node| &*node.node).collect();
        json!({"Pod": pod, "Nodes": {"metadata": {}, "items": items}, "NodeNames": null})
    }

    /// Which of the nodes it takes.
    pub async fn filter(&self, pod: &Pod, nodes: &[Arc<NodeInfo>]) -> Result<Filtered, ExtenderError> {
        let Some(verb) = &self.settings.filter else {
            let kept = nodes.iter().map(|node| node.name.clone()).collect();
            return Ok(Filtered { kept, ..Filtered::default() });
        };
        let result: FilterResult = self.ask(verb, self.args(pod, nodes)).await?;
        if !result.error.is_empty() {
            return Err(ExtenderError::Answer { text: result.error });
        }
        let kept = match (result.names.filter(|_| self.settings.knows_nodes), result.nodes) {
            (Some(names), _) => names,
            (None, Some(nodes)) => nodes.items.into_iter().filter_map(|node| node.metadata.name).collect(),
            (None, None) => Vec::new(),
        };
        if let Some(unknown) = kept.iter().find(|name| nodes.iter().all(|node| node.name != **name)) {
            let what =
                format!("claims a filtered node {unknown:?} which is not found in the input node list");
            return Err(self.nonsense(what));
        }
        let (failed, unresolvable) =
            (result.failed.unwrap_or_default(), result.unresolvable.unwrap_or_default());
        Ok(Filtered { kept, failed, unresolvable })
    }

    /// Its scores of the nodes, weighed.
    pub async fn prioritize(
        &self,
        pod: &Pod,
        nodes: &[Arc<NodeInfo>],
    ) -> Result<Vec<(String, i64)>, ExtenderError> {
        let Some(verb) = &self.settings.prioritize else { return Ok(Vec::new()) };
        let list: Option<Vec<HostPriority>> = self.ask(verb, self.args(pod, nodes)).await?;
        let weigh = |one: HostPriority| (one.host, one.score * self.settings.weight);
        Ok(list.unwrap_or_default().into_iter().map(weigh).collect())
    }

    /// The preemptions that it lets stand, perhaps with other victims.
    pub async fn preempt(
        &self,
        pod: &Pod,
        candidates: &[Arc<Preemption>],
        snapshot: &Snapshot,
    ) -> Result<Vec<Arc<Preemption>>, ExtenderError> {
        let Some(verb) = &self.settings.preempt else { return Ok(candidates.to_vec()) };
        let (mut whole, mut meta) = (serde_json::Map::new(), serde_json::Map::new());
        for candidate in candidates {
            let violations = candidate.violations;
            if self.settings.knows_nodes {
                let pods: Vec<Value> = candidate.victims.iter().map(|pod| json!({"UID": pod.uid})).collect();
                let victims = json!({"Pods": pods, "NumPDBViolations": violations});
                meta.insert(candidate.node.clone(), victims);
            } else {
                let pods: Vec<&Pod> = candidate.victims.iter().map(|pod| &*pod.pod).collect();
                let victims = json!({"Pods": pods, "NumPDBViolations": violations});
                whole.insert(candidate.node.clone(), victims);
            }
        }
        let args = json!({"Pod": pod, "NodeNameToVictims": whole, "NodeNameToMetaVictims": meta});
        let result: PreemptionResult = self.ask(verb, args).await?;
        let mut out = Vec::new();
        for (node, victims) in result.victims {
            let info = snapshot
                .node(&node)
                .ok_or_else(|| self.nonsense(format!("names the unknown node {node:?}")))?;
            let find = |meta: &MetaPod| {
                info.pods.iter().find(|pod| pod.uid == meta.uid).cloned().ok_or_else(|| {
                    let what = format!(
                        "claims to preempt pod (UID: {}) on node: {node}, but the pod is not found on that node",
                        meta.uid
                    );
                    self.nonsense(what)
                })
            };
            let pods = victims.pods.iter().flatten().map(find).collect::<Result<Vec<_>, _>>()?;
            if !pods.is_empty() {
                out.push(Arc::new(Preemption::new(node, pods, victims.violations)));
            } else if !self.settings.ignorable {
                return Err(self.nonsense(format!("names no victim on node {node:?}")));
            }
        }
        Ok(out)
    }

    /// Binds a pod in the scheduler's stead.
    pub async fn bind(&self, pod: &PodInfo, node: &str) -> Result<(), ExtenderError> {
        let verb = self.settings.bind.as_deref().unwrap_or_default();
        let name = pod.pod.metadata.name.as_deref().unwrap_or_default();
        let args = json!({"PodName": name, "PodNamespace": pod.namespace, "PodUID": pod.uid, "Node": node});
        let result: BindResult = self.ask(verb, args).await?;
        if result.error.is_empty() { Ok(()) } else { Err(ExtenderError::Answer { text: result.error }) }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// A service on the loopback: answers each path with a body, and gives what it was sent.
    async fn serve(
        answers: Vec<(&'static str, Value)>,
    ) -> (String, tokio::sync::mpsc::UnboundedReceiver<Value>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/scheduler/", listener.local_addr().expect("an address"));
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        let work = async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut read = Vec::new();
                loop {
                    let mut buffer = [0; 4_096];
                    let count = stream.read(&mut buffer).await.unwrap_or(0);
                    read.extend_from_slice(&buffer[..count]);
                    let text = String::from_utf8_lossy(&read).into_owned();
                    let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
                    let whole = body.and_then(|body| serde_json::from_str::<Value>(&body).ok());
                    let Some(whole) = whole else {
                        if count == 0 {
                            break;
                        }
                        continue;
                    };
                    let _ = sender.send(whole);
                    let path = text.split(' ').nth(1).unwrap_or_default().to_owned();
                    let found = answers.iter().find(|(verb, _)| path == format!("/scheduler/{verb}"));
                    let (status, body) = match found {
                        Some((_, body)) => ("200 OK", body.to_string()),
                        None => ("500 Internal Server Error", "{}".to_owned()),
                    };
                    let head = format!(
                        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
                        body.len()
                    );
                    let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
                    break;
                }
            }
        };
        Tasks::new().spawn("extender", work);
        (url, receiver)
    }

    fn extender(url: &str, knows_nodes: bool) -> Extender {
        let verb = |name: &str| Some(name.to_owned());
        let settings = Settings {
            url: url.trim_end_matches('/').to_owned(),
            filter: verb("filter"),
            prioritize: verb("prioritize"),
            preempt: verb("preempt"),
            bind: verb("bind"),
            weight: 3,
            knows_nodes,
            ..Settings::default()
        };
        Extender::new(settings, &Clock::system(), &Tasks::new()).expect("a URL")
    }

    fn pod(name: &str, resources: Value) -> Arc<PodInfo> {
        let pod = json!({"metadata": {"name": name, "namespace": "d", "uid": name},
            "spec": {"containers": [{"name": "c", "resources": resources}]}});
        Arc::new(PodInfo::new(Arc::new(serde_json::from_value(pod).expect("a pod"))))
    }

    fn snapshot() -> Snapshot {
        let mut snapshot = Snapshot::default();
        for name in ["a", "b", "c"] {
            let node = json!({"metadata": {"name": name}});
            snapshot.set_node(Arc::new(serde_json::from_value(node).expect("a node")));
        }
        snapshot
    }

    #[tokio::test]
    async fn nodes_are_filtered_and_scored() {
        let answers = vec![
            ("filter", json!({"nodenames": ["a", "b"], "failedNodes": {"c": "too old"}})),
            ("prioritize", json!([{"Host": "a", "Score": 1}, {"host": "b", "score": 10}])),
        ];
        let (url, mut sent) = serve(answers).await;
        let (extender, snapshot, pod) = (extender(&url, true), snapshot(), pod("p", json!({})));
        let found = extender.filter(&pod.pod, snapshot.nodes()).await.expect("an answer");
        assert_eq!(found.kept, ["a", "b"]);
        assert_eq!(found.failed, BTreeMap::from([("c".to_owned(), "too old".to_owned())]));
        let args = sent.recv().await.expect("a call");
        assert_eq!(args["NodeNames"], json!(["a", "b", "c"]));
        assert_eq!(args["Pod"]["metadata"]["name"], "p");
        let scores = extender.prioritize(&pod.pod, snapshot.nodes()).await.expect("an answer");
        assert_eq!(scores, [("a".to_owned(), 3), ("b".to_owned(), 30)]);
    }

    #[tokio::test]
    async fn who_does_not_know_nodes_is_sent_them() {
        let items = json!({"items": [{"metadata": {"name": "b"}}]});
        let answers = vec![(
            "filter",
            json!({"Nodes": items, "FailedAndUnresolvableNodes": {"a": "no", "c": "never"}}),
        )];
        let (url, mut sent) = serve(answers).await;
        let (extender, snapshot, pod) = (extender(&url, false), snapshot(), pod("p", json!({})));
        let found = extender.filter(&pod.pod, snapshot.nodes()).await.expect("an answer");
        assert_eq!((found.kept.as_slice(), found.unresolvable.len()), (["b".to_owned()].as_slice(), 2));
        assert_eq!(sent.recv().await.expect("a call")["Nodes"]["items"].as_array().map(Vec::len), Some(3));
        let failed = extender.prioritize(&pod.pod, snapshot.nodes()).await.map(drop);
        assert!(matches!(failed, Err(ExtenderError::Call { .. })), "{failed:?}");
    }

    #[tokio::test]
    async fn preemptions_and_bindings_are_its_to_judge() {
        let meta = json!({"NodeNameToMetaVictims": {"a": {"Pods": [{"UID": "y"}], "NumPDBViolations": 1}}});
        let answers = vec![("preempt", meta), ("bind", json!({"Error": "not today"}))];
        let (url, mut sent) = serve(answers).await;
        let (extender, mut snapshot, pod_) = (extender(&url, true), snapshot(), pod("p", json!({})));
        let (x, y) = (pod("x", json!({})), pod("y", json!({})));
        assert!(snapshot.add_pod("a", x.clone()) && snapshot.add_pod("a", y.clone()));
        let candidate = Arc::new(Preemption::new("a".to_owned(), vec![x, y], 0));
        let left = extender.preempt(&pod_.pod, &[candidate], &snapshot).await.expect("an answer");
        let victims: Vec<&str> = left[0].victims.iter().map(|pod| pod.uid.as_str()).collect();
        assert_eq!((victims, left[0].violations), (vec!["y"], 1));
        let args = sent.recv().await.expect("a call");
        assert_eq!(args["NodeNameToMetaVictims"]["a"]["Pods"], json!([{"UID": "x"}, {"UID": "y"}]));
        let error = extender.bind(&pod_, "a").await.expect_err("refused");
        assert_eq!(error.to_string(), "not today");
        assert_eq!(sent.recv().await.expect("a call")["Node"], "a");
    }

    #[test]
    fn only_managed_resources_concern_it() {
        let tasks = Tasks::new();
        let managed = BTreeSet::from(["example.com/gpu".to_owned()]);
        let settings = Settings { url: "http://localhost:1".to_owned(), managed, ..Settings::default() };
        let extender = Extender::new(settings, &Clock::system(), &tasks).expect("a URL");
        assert!(!extender.is_interested(&pod("p", json!({"requests": {"cpu": "1"}}))));
        assert!(extender.is_interested(&pod("p", json!({"limits": {"example.com/gpu": "1"}}))));
    }
}
