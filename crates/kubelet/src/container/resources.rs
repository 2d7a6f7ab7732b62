//! Limits of containers and pods in the runtime's and the kernel's terms.
//!
//! Must not know how they are applied.

use std::collections::BTreeMap;

use api::k8s::api::core::v1::{Container, Pod, ResourceRequirements};
use runtime::cgroup::Limits;
use runtime::cri::messages as m;

use crate::amount::{self, CPU_PERIOD_US};
use crate::pods::pod::{PodExt, is_sidecar, qos};

/// OOM score of pods that have all they asked for.
const GUARANTEED_SCORE: i64 = -997;
/// OOM score of pods that asked for nothing.
const BEST_EFFORT_SCORE: i64 = 1000;
/// Pods of this priority and above are the node's own.
const NODE_CRITICAL_PRIORITY: i32 = 2_000_001_000;

/// The resources of a container as admitted, or else as specified.
pub fn of<'a>(
    container: &'a Container,
    allocated: &'a BTreeMap<String, ResourceRequirements>,
) -> Option<&'a ResourceRequirements> {
    allocated.get(&container.name).or(container.resources.as_ref())
}

/// The score by which the kernel chooses what to kill.
pub fn oom_score(pod: &Pod, resources: Option<&ResourceRequirements>, memory_capacity: i64) -> i64 {
    if pod.spec().priority.is_some_and(|priority| priority >= NODE_CRITICAL_PRIORITY) {
        return GUARANTEED_SCORE;
    }
    match qos(pod) {
        "Guaranteed" => GUARANTEED_SCORE,
        "BestEffort" => BEST_EFFORT_SCORE,
        _ => {
            let request =
                amount::whole_of(resources.and_then(|r| r.requests.as_ref()), "memory").unwrap_or(0);
            let score = 1000 - request.saturating_mul(1000) / memory_capacity.max(1);
            // Above every guaranteed pod, below every best-effort one.
            score.clamp(1000 + GUARANTEED_SCORE, BEST_EFFORT_SCORE - 1)
        }
    }
}

/// A container's limits.
pub fn container(
    pod: &Pod,
    resources: Option<&ResourceRequirements>,
    memory_capacity: i64,
    unified: bool,
) -> m::LinuxContainerResources {
    let requests = resources.and_then(|r| r.requests.as_ref());
    let limits = resources.and_then(|r| r.limits.as_ref());
    let cpu_limit = amount::milli_of(limits, "cpu").unwrap_or(0);
    let cpu_request = amount::milli_of(requests, "cpu").unwrap_or(cpu_limit);
    let hugepages = limits.into_iter().flatten().filter_map(|(name, quantity)| {
        let size =
            name.strip_prefix("hugepages-")?.replace("Mi", "MB").replace("Gi", "GB").replace("Ki", "KB");
        Some(m::HugepageLimit {
            page_size: size,
            limit: u64::try_from(amount::whole(&quantity.0)).unwrap_or(0),
        })
    });
    let mut files = BTreeMap::new();
    if unified {
        // A container dies as a whole.
        files.insert("memory.oom.group".to_owned(), "1".to_owned());
    }
    m::LinuxContainerResources {
        cpu_period: CPU_PERIOD_US,
        cpu_quota: amount::quota(cpu_limit),
        cpu_shares: amount::shares(cpu_request),
        memory_limit_in_bytes: amount::whole_of(limits, "memory").unwrap_or(0),
        oom_score_adj: oom_score(pod, resources, memory_capacity),
        hugepage_limits: hugepages.collect(),
        unified: files,
        ..m::LinuxContainerResources::default()
    }
}

/// Requests and limits of a whole pod for one resource, in thousandths: the sum of its containers and sidecars or
/// its largest init container, and overhead. A limit is `None` when a container has none.
pub fn pod_total(
    pod: &Pod,
    allocated: &BTreeMap<String, ResourceRequirements>,
    name: &str,
) -> (i64, Option<i64>) {
    let get = |container: &Container| {
        let resources = of(container, allocated);
        let limit =
            amount::milli_of(resources.and_then(|r| r.limits.as_ref()), name).filter(|milli| *milli > 0);
        let request =
            amount::milli_of(resources.and_then(|r| r.requests.as_ref()), name).or(limit).unwrap_or(0);
        (request, limit)
    };
    let plus = |a: Option<i64>, b: Option<i64>| Some(a?.saturating_add(b?));
    let largest = |a: Option<i64>, b: Option<i64>| Some(a?.max(b?));
    let (mut request, mut limit) = (0i64, Some(0i64));
    for container in pod.apps() {
        let own = get(container);
        request = request.saturating_add(own.0);
        limit = plus(limit, own.1);
    }
    let (mut sidecars, mut init_request, mut init_limit) = ((0i64, Some(0i64)), 0i64, Some(0i64));
    for container in pod.inits() {
        let own = get(container);
        if is_sidecar(container) {
            request = request.saturating_add(own.0);
            limit = plus(limit, own.1);
            sidecars = (sidecars.0.saturating_add(own.0), plus(sidecars.1, own.1));
            init_request = init_request.max(sidecars.0);
            init_limit = largest(init_limit, sidecars.1);
        } else {
            init_request = init_request.max(own.0.saturating_add(sidecars.0));
            init_limit = largest(init_limit, plus(own.1, sidecars.1));
        }
    }
    let (mut request, mut limit) = (request.max(init_request), largest(limit, init_limit));
    if let Some(whole) = pod.spec().resources.as_ref() {
        let own = amount::milli_of(whole.limits.as_ref(), name).filter(|milli| *milli > 0);
        limit = own.or(limit);
        request = amount::milli_of(whole.requests.as_ref(), name).or(own).unwrap_or(request);
    }
    let overhead = amount::milli_of(pod.spec().overhead.as_ref(), name).unwrap_or(0);
    (request.saturating_add(overhead), limit.map(|limit| limit.saturating_add(overhead)))
}

/// The limits of a pod's own control group.
pub fn pod_limits(
    pod: &Pod,
    allocated: &BTreeMap<String, ResourceRequirements>,
    max_pids: Option<i64>,
) -> Limits {
    let class = qos(pod);
    let (cpu_request, cpu_limit) = pod_total(pod, allocated, "cpu");
    let (_, memory_limit) = pod_total(pod, allocated, "memory");
    let best_effort = class == "BestEffort";
    let shares = if best_effort { amount::shares(0) } else { amount::shares(cpu_request) };
    let quota = cpu_limit.filter(|_| !best_effort).map(amount::quota).filter(|quota| *quota > 0);
    Limits {
        cpu_shares: u64::try_from(shares).ok(),
        cpu_quota_us: Some(quota.unwrap_or(-1)),
        cpu_period_us: u64::try_from(CPU_PERIOD_US).ok(),
        memory_bytes: Some(
            memory_limit.filter(|_| !best_effort).filter(|milli| *milli > 0).map_or(-1, |milli| milli / 1000),
        ),
        pids: max_pids,
    }
}

/// The control group of a pod beneath `root` (empty or `/name`).
pub fn pod_group(root: &str, pod: &Pod) -> String {
    let class = match qos(pod) {
        "Guaranteed" => "",
        "Burstable" => "/burstable",
        _ => "/besteffort",
    };
    format!("{}/kubepods{class}/pod{}", root.trim_end_matches('/'), pod.uid())
}

/// The control group that containerd makes for a container (or sandbox) beneath its pod's.
pub fn container_group(pod_group: &str, id: &str, systemd: bool) -> String {
    if systemd { format!("{pod_group}/cri-containerd-{id}.scope") } else { format!("{pod_group}/{id}") }
}

/// A control group's path as systemd names slices: `/kubepods/burstable/podX` is
/// `/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podX.slice`.
pub fn systemd_group(group: &str) -> String {
    let (mut path, mut name) = (String::new(), String::new());
    for part in group.split('/').filter(|part| !part.is_empty()) {
        let part = part.replace('-', "_");
        name = if name.is_empty() { part } else { format!("{name}-{part}") };
        path.push_str(&format!("/{name}.slice"));
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "uid": "a-b"}, "spec": spec})).expect("a pod")
    }

    #[test]
    fn containers() {
        let pod = pod(json!({"containers": [{"name": "c", "resources": {
            "requests": {"cpu": "250m", "memory": "1Gi"}, "limits": {"cpu": "500m", "memory": "2Gi"}}}]}));
        let limits = container(&pod, pod.apps()[0].resources.as_ref(), 4 << 30, true);
        assert_eq!(
            (limits.cpu_shares, limits.cpu_quota, limits.memory_limit_in_bytes),
            (256, 50_000, 2 << 30)
        );
        assert_eq!((limits.oom_score_adj, limits.unified.len()), (750, 1));
        assert_eq!(pod_group("/x", &pod), "/x/kubepods/burstable/poda-b");
        assert_eq!(systemd_group("/kubepods/poda-b"), "/kubepods.slice/kubepods-poda_b.slice");
    }

    #[test]
    fn totals() {
        let pod = pod(json!({
            "containers": [{"name": "a", "resources": {"requests": {"cpu": "1"}}}, {"name": "b", "resources": {"limits": {"cpu": "2"}}}],
            "initContainers": [
                {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "1"}}},
                {"name": "i", "resources": {"requests": {"cpu": "7"}}}]}));
        assert_eq!(pod_total(&pod, &BTreeMap::new(), "cpu"), (8000, None));
        let limits = pod_limits(&pod, &BTreeMap::new(), None);
        assert_eq!(
            (limits.cpu_shares, limits.cpu_quota_us, limits.memory_bytes),
            (Some(8192), Some(-1), Some(-1))
        );
    }
}
