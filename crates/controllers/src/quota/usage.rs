//! What objects use of a quota.

use std::collections::{BTreeMap, BTreeSet};

use api::Quantity;
use api::k8s::api::core::v1::{
    Container, PersistentVolumeClaim, Pod, ResourceQuotaSpec, ScopedResourceSelectorRequirement, Service,
};
use api::k8s::apimachinery::pkg::api::resource::Quantity as Text;
use client::Meta;

type Amounts = BTreeMap<String, Quantity>;

fn amounts(list: Option<&BTreeMap<String, Text>>) -> Amounts {
    let parse = |(name, text): (&String, &Text)| Some((name.clone(), text.0.parse().ok()?));
    list.into_iter().flatten().filter_map(parse).collect()
}

fn add(sum: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let entry = sum.entry(name.clone()).or_default();
        *entry = entry.add(amount);
    }
}

fn at_least(sum: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        let entry = sum.entry(name.clone()).or_default();
        if *entry < *amount {
            *entry = *amount;
        }
    }
}

fn total(pod: &Pod, of: impl Fn(&Container) -> Amounts) -> Amounts {
    let Some(spec) = &pod.spec else { return Amounts::new() };
    let mut sum = Amounts::new();
    for container in &spec.containers {
        add(&mut sum, &of(container));
    }
    // Sidecars run along; each other init container runs beside the sidecars before it.
    let (mut sidecars, mut peak) = (Amounts::new(), Amounts::new());
    for container in spec.init_containers.iter().flatten() {
        let mut here = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut sidecars, &here);
            at_least(&mut peak, &sidecars);
        } else {
            add(&mut here, &sidecars);
            at_least(&mut peak, &here);
        }
    }
    add(&mut sum, &sidecars);
    at_least(&mut sum, &peak);
    add(&mut sum, &amounts(spec.overhead.as_ref()));
    sum
}

/// What the pod asks for.
pub fn requests(pod: &Pod) -> Amounts {
    let own = |container: &Container| {
        let resources = container.resources.as_ref();
        let mut requests = amounts(resources.and_then(|resources| resources.limits.as_ref()));
        requests.extend(amounts(resources.and_then(|resources| resources.requests.as_ref())));
        requests
    };
    total(pod, own)
}

fn limits(pod: &Pod) -> Amounts {
    total(pod, |container| {
        amounts(container.resources.as_ref().and_then(|resources| resources.limits.as_ref()))
    })
}

fn is_best_effort(pod: &Pod) -> bool {
    let relevant = |list: Amounts| list.keys().any(|name| name == "cpu" || name == "memory");
    !relevant(requests(pod)) && !relevant(limits(pod))
}

fn scope_holds(requirement: &ScopedResourceSelectorRequirement, pod: &Pod) -> bool {
    let spec = pod.spec.clone().unwrap_or_default();
    let bounded = spec.active_deadline_seconds.is_some_and(|seconds| seconds >= 0);
    match requirement.scope_name.as_str() {
        "Terminating" => bounded,
        "NotTerminating" => !bounded,
        "BestEffort" => is_best_effort(pod),
        "NotBestEffort" => !is_best_effort(pod),
        "PriorityClass" => {
            let class = spec.priority_class_name.filter(|name| !name.is_empty());
            let listed = class
                .as_ref()
                .is_some_and(|class| requirement.values.iter().flatten().any(|one| one == class));
            match requirement.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                "DoesNotExist" => class.is_none(),
                _ => class.is_some(),
            }
        }
        "CrossNamespacePodAffinity" => {
            let affinity = spec.affinity.unwrap_or_default();
            let text = serde_json::to_string(&(affinity.pod_affinity, affinity.pod_anti_affinity))
                .unwrap_or_default();
            text.contains("\"namespaces\":[\"") || text.contains("\"namespaceSelector\":{")
        }
        _ => false,
    }
}

/// True when the quota counts this pod.
pub fn in_scope(spec: &ResourceQuotaSpec, pod: &Pod) -> bool {
    let plain = spec.scopes.iter().flatten().map(|name| ScopedResourceSelectorRequirement {
        scope_name: name.clone(),
        operator: "Exists".to_owned(),
        values: None,
    });
    let selected =
        spec.scope_selector.iter().flat_map(|selector| selector.match_expressions.iter().flatten().cloned());
    plain.chain(selected).all(|requirement| scope_holds(&requirement, pod))
}

/// A quota with scopes counts pods only.
pub fn is_for_pods_only(spec: &ResourceQuotaSpec) -> bool {
    spec.scopes.as_ref().is_some_and(|scopes| !scopes.is_empty())
        || spec.scope_selector.as_ref().is_some_and(|selector| selector.match_expressions.is_some())
}

/// The resource whose objects count for an amount, if it is one of those that caches hold.
pub fn resource_of(name: &str) -> Option<&str> {
    const PLAIN: &[&str] = &[
        "services",
        "persistentvolumeclaims",
        "secrets",
        "configmaps",
        "replicationcontrollers",
        "resourcequotas",
    ];
    let plural = name.strip_prefix("count/");
    let first = plural.unwrap_or(name).split('.').next().unwrap_or_default();
    if name == "requests.storage" || name.contains(".storageclass.storage.k8s.io/") {
        Some("persistentvolumeclaims")
    } else if let Some(found) =
        PLAIN.iter().find(|one| **one == first && (plural.is_none() || plural == Some(first)))
    {
        Some(found)
    } else if plural.is_none_or(|plural| plural == "pods") {
        Some("pods")
    } else {
        None
    }
}

/// A sum over the names a quota limits.
pub struct Usage {
    sums: BTreeMap<String, Quantity>,
    counted: BTreeSet<String>,
}

impl Usage {
    pub fn new<'a>(names: impl Iterator<Item = &'a String>) -> Self {
        Usage { sums: names.map(|name| (name.clone(), Quantity::zero())).collect(), counted: BTreeSet::new() }
    }

    fn bump(&mut self, name: &str, amount: &Quantity) {
        if let Some(sum) = self.sums.get_mut(name) {
            *sum = sum.add(amount);
        }
    }

    fn one(&mut self, name: &str) {
        self.bump(name, &Quantity::new(1, api::quantity::Format::DecimalSi));
    }

    pub fn add_pod(&mut self, pod: &Pod) {
        self.one("pods");
        self.one("count/pods");
        for (name, amount) in requests(pod) {
            self.bump(&format!("requests.{name}"), &amount);
            self.bump(&name, &amount);
        }
        for (name, amount) in limits(pod) {
            self.bump(&format!("limits.{name}"), &amount);
        }
    }

    pub fn add_service(&mut self, service: &Service) {
        self.one("services");
        self.one("count/services");
        let spec = service.spec.clone().unwrap_or_default();
        let ports = i64::try_from(spec.ports.as_ref().map_or(0, Vec::len)).unwrap_or(0);
        let ports = Quantity::new(ports, api::quantity::Format::DecimalSi);
        match spec.type_.as_deref() {
            Some("NodePort") => self.bump("services.nodeports", &ports),
            Some("LoadBalancer") => {
                self.one("services.loadbalancers");
                if spec.allocate_load_balancer_node_ports != Some(false) {
                    self.bump("services.nodeports", &ports);
                }
            }
            _ => {}
        }
    }

    pub fn add_claim(&mut self, claim: &PersistentVolumeClaim) {
        let spec = claim.spec.clone().unwrap_or_default();
        let class = spec
            .storage_class_name
            .as_deref()
            .or(claim.annotation("volume.beta.kubernetes.io/storage-class"));
        let prefix = class.map(|class| format!("{class}.storageclass.storage.k8s.io/"));
        let asked = amounts(spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()));
        let storage = asked.get("storage").copied().unwrap_or_default();
        self.one("persistentvolumeclaims");
        self.one("count/persistentvolumeclaims");
        self.bump("requests.storage", &storage);
        if let Some(prefix) = prefix {
            self.one(&format!("{prefix}persistentvolumeclaims"));
            self.bump(&format!("{prefix}requests.storage"), &storage);
        }
    }

    /// The number of objects of a resource.
    pub fn count(&mut self, resource: &str, group: &str, count: usize) {
        let amount =
            Quantity::new(i64::try_from(count).unwrap_or(i64::MAX), api::quantity::Format::DecimalSi);
        let qualified = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
        let name = format!("count/{qualified}");
        self.bump(&name, &amount);
        self.counted.insert(name);
        if group.is_empty() {
            self.bump(resource, &amount);
        }
    }

    /// Resources that are limited but were not counted: plural and group.
    pub fn uncounted(&self) -> Vec<(String, String)> {
        let own = ["count/pods", "count/services", "count/persistentvolumeclaims"];
        let open =
            self.sums.keys().filter(|name| !own.contains(&name.as_str()) && !self.counted.contains(*name));
        let split = |name: &String| {
            let qualified = name.strip_prefix("count/")?;
            let (resource, group) = qualified.split_once('.').unwrap_or((qualified, ""));
            Some((resource.to_owned(), group.to_owned()))
        };
        open.filter_map(split).collect()
    }

    pub fn finish(self) -> BTreeMap<String, Text> {
        self.sums.into_iter().map(|(name, sum)| (name, Text(sum.to_string()))).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn amounts_come_from_resources() {
        for (name, resource) in [
            ("pods", Some("pods")),
            ("requests.cpu", Some("pods")),
            ("requests.nvidia.com/gpu", Some("pods")),
            ("count/pods", Some("pods")),
            ("requests.storage", Some("persistentvolumeclaims")),
            ("fast.storageclass.storage.k8s.io/requests.storage", Some("persistentvolumeclaims")),
            ("services.nodeports", Some("services")),
            ("count/services", Some("services")),
            ("count/services.example.com", None),
            ("count/deployments.apps", None),
            ("secrets", Some("secrets")),
        ] {
            assert_eq!(resource_of(name), resource, "{name}");
        }
    }

    #[test]
    fn pods_are_summed_in_scope() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p"},
            "spec": {
                "containers": [
                    {"name": "a", "resources": {"requests": {"cpu": "100m"}, "limits": {"memory": "1Gi"}}},
                    {"name": "b", "resources": {"requests": {"cpu": "200m"}}},
                ],
                "initContainers": [{"name": "i", "resources": {"requests": {"cpu": "1"}}}],
            },
        }))
        .expect("a pod");
        let names = ["pods", "requests.cpu", "cpu", "limits.memory", "requests.memory", "count/jobs.batch"];
        let names: Vec<String> = names.map(str::to_owned).into();
        let mut usage = Usage::new(names.iter());
        usage.add_pod(&pod);
        assert_eq!(usage.uncounted(), [("jobs".to_owned(), "batch".to_owned())]);
        let used: Vec<String> =
            usage.finish().into_iter().map(|(name, text)| format!("{name}={}", text.0)).collect();
        let expect = [
            "count/jobs.batch=0",
            "cpu=1",
            "limits.memory=1Gi",
            "pods=1",
            "requests.cpu=1",
            "requests.memory=1Gi",
        ];
        assert_eq!(used, expect);
        let spec = |scope: &str| ResourceQuotaSpec {
            scopes: Some(vec![scope.into()]),
            ..ResourceQuotaSpec::default()
        };
        assert!(in_scope(&spec("NotBestEffort"), &pod) && !in_scope(&spec("BestEffort"), &pod));
        assert!(in_scope(&spec("NotTerminating"), &pod) && !in_scope(&spec("Terminating"), &pod));
    }
}
