//! Reading a pod's specification: its containers in their three lists, restart policies, identities, names.
//!
//! Must not know the runtime: pure functions over the API's types.

use api::k8s::api::core::v1::{Container, EphemeralContainer, Pod, PodSpec, PodStatus, ResourceRequirements};
use jiff::Timestamp;

/// Annotations of pods that come from files (upstream's `kubetypes`).
pub const CONFIG_SOURCE: &str = "kubernetes.io/config.source";
/// The annotation that names a mirror pod's static pod.
pub const CONFIG_MIRROR: &str = "kubernetes.io/config.mirror";
/// The annotation with a static pod's identity.
pub const CONFIG_HASH: &str = "kubernetes.io/config.hash";

/// One of a pod's containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Slot {
    /// `spec.initContainers[n]`.
    Init(usize),
    /// `spec.containers[n]`.
    App(usize),
    /// `spec.ephemeralContainers[n]`.
    Ephemeral(usize),
}

/// Shorthands over `Pod`.
pub trait PodExt {
    /// `metadata.name`.
    fn name(&self) -> &str;
    /// `metadata.namespace`.
    fn namespace(&self) -> &str;
    /// `metadata.uid`.
    fn uid(&self) -> &str;
    /// The specification; an absent one reads as empty.
    fn spec(&self) -> &PodSpec;
    /// The status; an absent one reads as empty.
    fn status(&self) -> &PodStatus;
    /// `spec.initContainers`.
    fn inits(&self) -> &[Container];
    /// `spec.containers`.
    fn apps(&self) -> &[Container];
    /// `spec.ephemeralContainers`.
    fn ephemerals(&self) -> &[EphemeralContainer];
    /// `name_namespace(uid)`, as upstream writes pods in messages.
    fn display(&self) -> String;
    /// An annotation.
    fn annotation(&self, key: &str) -> Option<&str>;
    /// True when deletion was asked for.
    fn deleting(&self) -> bool;
    /// Uses the node's network.
    fn host_network(&self) -> bool;
    /// The container at `slot`; an ephemeral one is seen as an ordinary one.
    fn container(&self, slot: Slot) -> Option<Container>;
    /// Where the container `name` is.
    fn slot(&self, name: &str) -> Option<Slot>;
    /// All slots in start order.
    fn slots(&self) -> Vec<Slot>;
    /// The container `name`.
    fn container_named(&self, name: &str) -> Option<Container> {
        self.container(self.slot(name)?)
    }
    /// True for Failed and Succeeded.
    fn finished(&self) -> bool;
    /// A pod from a file.
    fn is_static(&self) -> bool;
    /// An API object that stands for a static pod.
    fn is_mirror(&self) -> bool;
    /// `spec.restartPolicy` with its default.
    fn restart_policy(&self) -> &str;
}

static EMPTY_SPEC: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);
static EMPTY_STATUS: std::sync::LazyLock<PodStatus> = std::sync::LazyLock::new(PodStatus::default);

impl PodExt for Pod {
    fn name(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or("")
    }

    fn namespace(&self) -> &str {
        self.metadata.namespace.as_deref().unwrap_or("")
    }

    fn uid(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or("")
    }

    fn spec(&self) -> &PodSpec {
        self.spec.as_ref().unwrap_or(&EMPTY_SPEC)
    }

    fn status(&self) -> &PodStatus {
        self.status.as_ref().unwrap_or(&EMPTY_STATUS)
    }

    fn inits(&self) -> &[Container] {
        self.spec().init_containers.as_deref().unwrap_or(&[])
    }

    fn apps(&self) -> &[Container] {
        &self.spec().containers
    }

    fn ephemerals(&self) -> &[EphemeralContainer] {
        self.spec().ephemeral_containers.as_deref().unwrap_or(&[])
    }

    fn display(&self) -> String {
        format!("{}_{}({})", self.name(), self.namespace(), self.uid())
    }

    fn annotation(&self, key: &str) -> Option<&str> {
        self.metadata.annotations.as_ref()?.get(key).map(String::as_str)
    }

    fn deleting(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    fn host_network(&self) -> bool {
        self.spec().host_network.unwrap_or(false)
    }

    fn container(&self, slot: Slot) -> Option<Container> {
        match slot {
            Slot::Init(index) => self.inits().get(index).cloned(),
            Slot::App(index) => self.apps().get(index).cloned(),
            Slot::Ephemeral(index) => self.ephemerals().get(index).map(as_container),
        }
    }

    fn slot(&self, name: &str) -> Option<Slot> {
        let find = |list: &[Container]| list.iter().position(|container| container.name == name);
        find(self.apps()).map(Slot::App).or_else(|| find(self.inits()).map(Slot::Init)).or_else(|| {
            self.ephemerals().iter().position(|container| container.name == name).map(Slot::Ephemeral)
        })
    }

    fn slots(&self) -> Vec<Slot> {
        let inits = (0..self.inits().len()).map(Slot::Init);
        let apps = (0..self.apps().len()).map(Slot::App);
        inits.chain(apps).chain((0..self.ephemerals().len()).map(Slot::Ephemeral)).collect()
    }

    fn finished(&self) -> bool {
        matches!(self.status().phase.as_deref(), Some("Failed" | "Succeeded"))
    }

    fn is_static(&self) -> bool {
        self.annotation(CONFIG_SOURCE).is_some_and(|source| source != "api")
    }

    fn is_mirror(&self) -> bool {
        self.annotation(CONFIG_MIRROR).is_some()
    }

    fn restart_policy(&self) -> &str {
        self.spec().restart_policy.as_deref().unwrap_or("Always")
    }
}

/// An ephemeral container as an ordinary one.
fn as_container(ephemeral: &EphemeralContainer) -> Container {
    let e = ephemeral.clone();
    Container {
        args: e.args,
        command: e.command,
        env: e.env,
        env_from: e.env_from,
        image: e.image,
        image_pull_policy: e.image_pull_policy,
        name: e.name,
        resources: Some(ResourceRequirements::default()),
        security_context: e.security_context,
        stdin: e.stdin,
        stdin_once: e.stdin_once,
        termination_message_path: e.termination_message_path,
        termination_message_policy: e.termination_message_policy,
        tty: e.tty,
        volume_mounts: e.volume_mounts,
        working_dir: e.working_dir,
        ..Container::default()
    }
}

/// An init container that keeps running beside the others.
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Whether a container that ended with `exit_code` is to run again: its rules, its own policy, the pod's policy.
pub fn restarts_after(container: &Container, pod: &Pod, exit_code: i32) -> bool {
    let by = |policy: &str| match policy {
        "Always" => true,
        "OnFailure" => exit_code != 0,
        _ => false,
    };
    let Some(own) = container.restart_policy.as_deref() else { return by(pod.restart_policy()) };
    let rules = container.restart_policy_rules.iter().flatten();
    let hit =
        rules.filter(|rule| matches!(rule.action.as_str(), "Restart" | "RestartAllContainers")).any(|rule| {
            rule.exit_codes.as_ref().is_some_and(|codes| {
                let listed = codes.values.iter().flatten().any(|code| *code == exit_code);
                if codes.operator == "NotIn" { !listed } else { listed }
            })
        });
    hit || by(own)
}

/// Whether a container that a probe condemned is to run again.
pub fn restarts_when_killed(container: &Container, pod: &Pod) -> bool {
    container.restart_policy.as_deref().unwrap_or(pod.restart_policy()) != "Never"
}

/// The identity of what makes a container: a change restarts it. Only name and image count, as upstream
/// (`HashContainer`), since everything else of a pod is immutable or resized in place.
pub fn container_hash(container: &Container) -> String {
    let text = format!("{}\0{}", container.name, container.image.as_deref().unwrap_or(""));
    format!("{:x}", fnv32(text.as_bytes()))
}

/// 32-bit FNV-1a.
pub fn fnv32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// A pod's class of service.
pub fn qos(pod: &Pod) -> &'static str {
    let zero = |text: &str| text.trim_start_matches('0').is_empty();
    let (mut any, mut guaranteed) = (false, true);
    let mut look = |resources: Option<&ResourceRequirements>| {
        let get = |map: Option<
            &std::collections::BTreeMap<String, api::k8s::apimachinery::pkg::api::resource::Quantity>,
        >,
                   name: &str| {
            map.and_then(|map| map.get(name)).map(|q| q.0.clone()).filter(|text| !zero(text))
        };
        for name in ["cpu", "memory"] {
            let limit = get(resources.and_then(|r| r.limits.as_ref()), name);
            let request = get(resources.and_then(|r| r.requests.as_ref()), name);
            any |= limit.is_some() || request.is_some();
            let same = match (&limit, &request) {
                (Some(limit), Some(request)) => {
                    super::super::amount::milli(limit) == super::super::amount::milli(request)
                }
                (Some(_), None) => true,
                _ => false,
            };
            guaranteed &= same;
        }
    };
    if let Some(resources) =
        pod.spec().resources.as_ref().filter(|r| r.requests.is_some() || r.limits.is_some())
    {
        look(Some(resources));
    } else {
        pod.inits().iter().chain(pod.apps()).for_each(|container| look(container.resources.as_ref()));
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// A pod's grace for termination, seconds: what the deletion says, else the specification, else 30.
pub fn grace_seconds(pod: &Pod) -> i64 {
    let deletion = pod.deleting().then_some(pod.metadata.deletion_grace_period_seconds).flatten();
    deletion.or(pod.spec().termination_grace_period_seconds).unwrap_or(30).max(0)
}

/// When a pod's active deadline ends, if it has one and has started.
pub fn deadline(pod: &Pod, started: Option<Timestamp>) -> Option<Timestamp> {
    let limit = pod.spec().active_deadline_seconds?;
    started?.checked_add(jiff::SignedDuration::from_secs(limit)).ok()
}

/// Host name and domain of a pod; the domain is empty without a subdomain.
pub fn hostname_and_domain(pod: &Pod, cluster_domain: &str) -> (String, String) {
    let spec = pod.spec();
    if let Some(name) = spec.hostname_override.as_deref().filter(|name| !name.is_empty()) {
        return (name.to_owned(), String::new());
    }
    let name = spec.hostname.as_deref().filter(|name| !name.is_empty()).unwrap_or(pod.name());
    let mut hostname: String = name.chars().take(63).collect();
    hostname.truncate(hostname.trim_end_matches(['-', '.']).len());
    let domain = spec.subdomain.as_deref().filter(|domain| !domain.is_empty());
    let domain =
        domain.map(|sub| format!("{sub}.{}.svc.{cluster_domain}", pod.namespace())).unwrap_or_default();
    (hostname, domain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec}))
            .expect("a pod")
    }

    #[test]
    fn classes_of_service() {
        let with = |resources: serde_json::Value| {
            pod(json!({"containers": [{"name": "c", "resources": resources}]}))
        };
        for (resources, expect) in [
            (json!({}), "BestEffort"),
            (json!({"requests": {"cpu": "0"}}), "BestEffort"),
            (json!({"requests": {"cpu": "1"}}), "Burstable"),
            (json!({"limits": {"cpu": "1"}}), "Burstable"),
            (json!({"limits": {"cpu": "1", "memory": "1Gi"}}), "Guaranteed"),
            (
                json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}}),
                "Guaranteed",
            ),
            (
                json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Mi"}}),
                "Burstable",
            ),
        ] {
            assert_eq!(qos(&with(resources.clone())), expect, "{resources}");
        }
    }

    #[test]
    fn restart_policies() {
        let plain = pod(json!({"restartPolicy": "OnFailure", "containers": [{"name": "c"}]}));
        assert!(restarts_after(&plain.apps()[0], &plain, 1));
        assert!(!restarts_after(&plain.apps()[0], &plain, 0));
        let ruled = pod(
            json!({"restartPolicy": "Never", "containers": [{"name": "c", "restartPolicy": "Never",
            "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]}]}),
        );
        assert!(restarts_after(&ruled.apps()[0], &ruled, 42));
        assert!(!restarts_after(&ruled.apps()[0], &ruled, 1));
    }

    #[test]
    fn host_names() {
        let named = pod(json!({"containers": [], "hostname": "h", "subdomain": "s"}));
        assert_eq!(
            hostname_and_domain(&named, "cluster.local"),
            ("h".into(), "s.n.svc.cluster.local".into())
        );
    }
}
