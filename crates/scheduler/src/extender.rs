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
        candidates: &[Preemption],
        snapshot: &Snapshot,
    ) -> Result<Vec<Preemption>, ExtenderError> {
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
                out.push(Preemption { node, victims: pods, violations: victims.violations });
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
