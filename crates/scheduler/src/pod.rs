//! What the scheduler keeps of a pod: its requests, terms and ports, parsed once.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::k8s::api::core::v1::{
    Container, NodeSelector, Pod, PodAffinityTerm, PreferredSchedulingTerm, Toleration,
    TopologySpreadConstraint, Volume,
};
use api::labels::Selector;
use api::quantity;

use crate::plugins::volumes;

/// What the scheduler assumes a container without a CPU request uses when spreading load, in thousandths.
const DEFAULT_MILLI_CPU: i64 = 100;
/// The same for memory, in bytes.
const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

/// Amounts of resources. CPU in thousandths, everything else in whole units.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// CPU, thousandths of a core.
    pub milli_cpu: i64,
    /// Memory, bytes.
    pub memory: i64,
    /// Local storage, bytes.
    pub ephemeral: i64,
    /// Extended resources and huge pages.
    pub scalar: BTreeMap<String, i64>,
}

impl Resources {
    /// From a resource list of a typed object.
    pub fn from_list(
        list: Option<&BTreeMap<String, api::k8s::apimachinery::pkg::api::resource::Quantity>>,
    ) -> Self {
        let mut out = Resources::default();
        for (name, amount) in list.into_iter().flatten() {
            let amount = quantity::of(amount);
            match name.as_str() {
                "cpu" => out.milli_cpu = amount.milli_value(),
                "memory" => out.memory = amount.value(),
                "ephemeral-storage" => out.ephemeral = amount.value(),
                "pods" => {}
                _ => {
                    out.scalar.insert(name.clone(), amount.value());
                }
            }
        }
        out
    }

    /// Adds or, with `sign` -1, takes away.
    pub fn add(&mut self, other: &Resources, sign: i64) {
        self.milli_cpu += sign * other.milli_cpu;
        self.memory += sign * other.memory;
        self.ephemeral += sign * other.ephemeral;
        for (name, amount) in &other.scalar {
            *self.scalar.entry(name.clone()).or_default() += sign * amount;
        }
    }

    /// Each amount at least as large as the other's.
    pub fn max(&mut self, other: &Resources) {
        self.milli_cpu = self.milli_cpu.max(other.milli_cpu);
        self.memory = self.memory.max(other.memory);
        self.ephemeral = self.ephemeral.max(other.ephemeral);
        for (name, amount) in &other.scalar {
            let own = self.scalar.entry(name.clone()).or_default();
            *own = (*own).max(*amount);
        }
    }
}

/// An inter-pod affinity term, ready to match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AffinityTerm {
    /// Namespaces it looks at, besides those `namespace_selector` selects.
    pub namespaces: Vec<String>,
    /// Selects namespaces by label.
    pub namespace_selector: Selector,
    /// Selects pods.
    pub selector: Selector,
    /// The label of nodes that makes a domain.
    pub topology_key: String,
    /// 0 for required terms.
    pub weight: i64,
}

/// A topology spread constraint, ready to match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spread {
    /// The constraint's `maxSkew`.
    pub max_skew: i64,
    /// The label of nodes that makes a domain.
    pub topology_key: String,
    /// True for `DoNotSchedule`.
    pub hard: bool,
    /// Selects the pods that count.
    pub selector: Selector,
    /// `minDomains`, 1 when absent.
    pub min_domains: usize,
    /// Nodes the pod's node affinity excludes do not count.
    pub honor_affinity: bool,
    /// Nodes with taints the pod does not tolerate do not count.
    pub honor_taints: bool,
}

/// A claim a pod uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodClaim {
    /// The claim's name.
    pub name: String,
    /// It is made for this pod alone.
    pub ephemeral: bool,
}

/// A host port in use: protocol, address, port.
pub type HostPort = (String, String, i32);

/// A pod with what decides where it can run.
#[derive(Clone, Debug)]
pub struct PodInfo {
    /// The object.
    pub pod: Arc<Pod>,
    /// `namespace/name`.
    pub key: String,
    /// `metadata.uid`.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// What it requests.
    pub requests: Resources,
    /// CPU and memory as spreading counts them: absent requests have a default.
    pub nonzero: (i64, i64),
    /// Its priority.
    pub priority: i32,
    /// Host ports it wants.
    pub host_ports: Vec<HostPort>,
    /// Required inter-pod affinity.
    pub affinity: Vec<AffinityTerm>,
    /// Required inter-pod anti-affinity.
    pub anti_affinity: Vec<AffinityTerm>,
    /// Preferred terms; anti-affinity has negative weights.
    pub preferred: Vec<AffinityTerm>,
    /// Its spread constraints.
    pub spread: Vec<Spread>,
    /// The volume claims it uses.
    pub claims: Vec<PodClaim>,
    /// It uses disks that others may not write to.
    pub has_disks: bool,
}

impl PodInfo {
    /// Reads a pod.
    pub fn new(pod: Arc<Pod>) -> PodInfo {
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let affinity = pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref());
        let pods = affinity.and_then(|a| a.pod_affinity.as_ref());
        let anti = affinity.and_then(|a| a.pod_anti_affinity.as_ref());
        let required = |terms: Option<&Vec<PodAffinityTerm>>| -> Vec<AffinityTerm> {
            terms.into_iter().flatten().map(|term| affinity_term(&pod, term, 0)).collect()
        };
        let mut preferred = Vec::new();
        for (terms, sign) in [
            (pods.and_then(|p| p.preferred_during_scheduling_ignored_during_execution.as_ref()), 1),
            (anti.and_then(|p| p.preferred_during_scheduling_ignored_during_execution.as_ref()), -1),
        ] {
            for term in terms.into_iter().flatten() {
                preferred.push(affinity_term(&pod, &term.pod_affinity_term, sign * i64::from(term.weight)));
            }
        }
        PodInfo {
            key: format!("{namespace}/{name}"),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            requests: requests(&pod, false),
            nonzero: {
                let nonzero = requests(&pod, true);
                (nonzero.milli_cpu, nonzero.memory)
            },
            priority: pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0),
            host_ports: host_ports(&pod),
            affinity: required(
                pods.and_then(|p| p.required_during_scheduling_ignored_during_execution.as_ref()),
            ),
            anti_affinity: required(
                anti.and_then(|p| p.required_during_scheduling_ignored_during_execution.as_ref()),
            ),
            preferred,
            spread: spread(&pod),
            claims: claims(&pod),
            has_disks: pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).any(volumes::is_disk),
            namespace,
            pod,
        }
    }

    /// Labels of the pod.
    pub fn labels(&self) -> Option<&BTreeMap<String, String>> {
        self.pod.metadata.labels.as_ref()
    }

    /// The node it is bound to.
    pub fn node_name(&self) -> Option<&str> {
        self.pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
    }

    /// The scheduler it asks for.
    pub fn scheduler_name(&self) -> &str {
        let spec = self.pod.spec.as_ref();
        spec.and_then(|spec| spec.scheduler_name.as_deref()).unwrap_or("default-scheduler")
    }

    /// Its tolerations.
    pub fn tolerations(&self) -> &[Toleration] {
        self.pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default()
    }

    /// Its `nodeSelector`.
    pub fn node_selector(&self) -> Option<&BTreeMap<String, String>> {
        self.pod.spec.as_ref()?.node_selector.as_ref()
    }

    /// Its required node affinity.
    pub fn node_affinity(&self) -> Option<&NodeSelector> {
        let affinity = self.pod.spec.as_ref()?.affinity.as_ref()?;
        affinity.node_affinity.as_ref()?.required_during_scheduling_ignored_during_execution.as_ref()
    }

    /// Its preferred node affinity.
    pub fn preferred_nodes(&self) -> &[PreferredSchedulingTerm] {
        let affinity = self.pod.spec.as_ref().and_then(|spec| spec.affinity.as_ref());
        affinity
            .and_then(|affinity| affinity.node_affinity.as_ref())
            .and_then(|node| node.preferred_during_scheduling_ignored_during_execution.as_deref())
            .unwrap_or_default()
    }

    /// The node a preemption has cleared for it.
    pub fn nominated_node(&self) -> Option<&str> {
        self.pod.status.as_ref()?.nominated_node_name.as_deref().filter(|name| !name.is_empty())
    }

    /// True once it has ended.
    pub fn is_terminal(&self) -> bool {
        let phase = self.pod.status.as_ref().and_then(|status| status.phase.as_deref());
        matches!(phase, Some("Succeeded" | "Failed"))
    }

    /// True when it is being deleted.
    pub fn is_deleting(&self) -> bool {
        self.pod.metadata.deletion_timestamp.is_some()
    }
}

fn container_requests(container: &Container, nonzero: bool) -> Resources {
    let list = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    let mut out = Resources::from_list(list);
    if nonzero {
        let has = |name: &str| list.is_some_and(|list| list.contains_key(name));
        if !has("cpu") {
            out.milli_cpu = DEFAULT_MILLI_CPU;
        }
        if !has("memory") {
            out.memory = DEFAULT_MEMORY;
        }
    }
    out
}

/// What a pod needs at most at one time: all containers and started sidecars together, or an init container
/// with the sidecars started before it; plus the overhead (KEP-753).
fn requests(pod: &Pod, nonzero: bool) -> Resources {
    let mut total = Resources::default();
    let Some(spec) = &pod.spec else { return total };
    for container in &spec.containers {
        total.add(&container_requests(container, nonzero), 1);
    }
    let (mut sidecars, mut peak) = (Resources::default(), Resources::default());
    for container in spec.init_containers.iter().flatten() {
        let mut own = container_requests(container, nonzero);
        if container.restart_policy.as_deref() == Some("Always") {
            total.add(&own, 1);
            sidecars.add(&own, 1);
            own = sidecars.clone();
        } else {
            own.add(&sidecars, 1);
        }
        peak.max(&own);
    }
    total.max(&peak);
    if let Some(pod_level) = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()) {
        let set = Resources::from_list(Some(pod_level));
        if pod_level.contains_key("cpu") {
            total.milli_cpu = set.milli_cpu;
        }
        if pod_level.contains_key("memory") {
            total.memory = set.memory;
        }
    }
    total.add(&Resources::from_list(spec.overhead.as_ref()), 1);
    total
}

fn claims(pod: &Pod) -> Vec<PodClaim> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let claim = |volume: &Volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(source), _) => Some(PodClaim { name: source.claim_name.clone(), ephemeral: false }),
        (None, Some(_)) => {
            let pod = pod.metadata.name.as_deref().unwrap_or_default();
            Some(PodClaim { name: format!("{pod}-{}", volume.name), ephemeral: true })
        }
        (None, None) => None,
    };
    volumes.filter_map(claim).collect()
}

fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let sidecars =
        spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let number = port.host_port.filter(|number| *number > 0)?;
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
            let address = port.host_ip.clone().filter(|ip| !ip.is_empty());
            Some((protocol, address.unwrap_or_else(|| "0.0.0.0".to_owned()), number))
        })
        .collect()
}

/// `matchLabelKeys` are merged into selectors by the API server for affinity; for spread we do it here.
fn affinity_term(pod: &Pod, term: &PodAffinityTerm, weight: i64) -> AffinityTerm {
    let own = || pod.metadata.namespace.iter().cloned().collect::<Vec<_>>();
    let named = term.namespaces.clone().unwrap_or_default();
    let namespaces = if named.is_empty() && term.namespace_selector.is_none() { own() } else { named };
    // Validation has refused selectors that cannot be read; select nothing rather than everything.
    let read = |selector| Selector::from_object(selector).unwrap_or_else(|_| Selector::nothing());
    AffinityTerm {
        namespaces,
        namespace_selector: read(term.namespace_selector.as_ref()),
        selector: read(term.label_selector.as_ref()),
        topology_key: term.topology_key.clone(),
        weight,
    }
}

fn spread(pod: &Pod) -> Vec<Spread> {
    let constraints = pod.spec.as_ref().and_then(|spec| spec.topology_spread_constraints.as_ref());
    constraints.into_iter().flatten().map(|constraint| spread_constraint(pod, constraint)).collect()
}

/// A constraint, ready to match.
pub fn spread_constraint(pod: &Pod, constraint: &TopologySpreadConstraint) -> Spread {
    let selector = Selector::from_object(constraint.label_selector.as_ref());
    let mut selector = selector.unwrap_or_else(|_| Selector::nothing());
    for key in constraint.match_label_keys.iter().flatten() {
        let value = pod.metadata.labels.as_ref().and_then(|labels| labels.get(key));
        if let Some(value) = value {
            selector.requirements.push(api::labels::Requirement {
                key: key.clone(),
                operator: api::labels::Operator::In,
                values: vec![value.clone()],
            });
        }
    }
    Spread {
        max_skew: i64::from(constraint.max_skew),
        topology_key: constraint.topology_key.clone(),
        hard: constraint.when_unsatisfiable == "DoNotSchedule",
        selector,
        min_domains: constraint.min_domains.and_then(|n| usize::try_from(n).ok()).unwrap_or(1),
        honor_affinity: constraint.node_affinity_policy.as_deref() != Some("Ignore"),
        honor_taints: constraint.node_taints_policy.as_deref() == Some("Honor"),
    }
}
