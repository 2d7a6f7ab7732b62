//! The control groups above pods: what all pods may use together, and how the classes of service share CPUs.
//!
//! Must not know single containers.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::k8s::api::core::v1::Pod;
use base::tasks::blocking;
use parking_lot::Mutex;
use runtime::cgroup::Limits;

use crate::amount;
use crate::container::resources::{pod_total, systemd_group};
use crate::pods::pod::qos;
use crate::shared::Shared;

/// What was set last; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Classes(Arc<Mutex<Vec<(String, Limits)>>>);

impl Classes {
    /// Brings the groups in line with the pods here. Without a change nothing is written.
    pub async fn keep(&self, shared: &Shared) {
        let pods: Vec<Arc<Pod>> = shared.registry.others("");
        let wanted: Vec<(String, Limits)> = groups(shared, &pods)
            .into_iter()
            .map(|(group, limits)| (if shared.systemd { systemd_group(&group) } else { group }, limits))
            .collect();
        if *self.0.lock() == wanted {
            return;
        }
        let (cgroups, groups) = (shared.cgroups.clone(), wanted.clone());
        let made =
            blocking(move || groups.iter().try_for_each(|(group, limits)| cgroups.ensure(group, limits)));
        match made.await {
            Ok(()) => *self.0.lock() = wanted,
            Err(error) => tracing::warn!(%error, "control groups of pods' classes not set"),
        }
    }
}

/// The groups from the outermost on.
fn groups(shared: &Shared, pods: &[Arc<Pod>]) -> Vec<(String, Limits)> {
    let root = &shared.config.cgroup_root;
    let reserved = |name: &str| shared.config.reserved.get(name).map_or(0, |text| amount::milli(text));
    let cpus = (shared.machine.cpus * 1000 - reserved("cpu")).max(0);
    // Eviction keeps its threshold free; the group's limit is the last resort.
    let memory = (shared.machine.memory_bytes - reserved("memory") / 1000).max(0);
    let shares =
        |milli| Limits { cpu_shares: u64::try_from(amount::shares(milli)).ok(), ..Limits::default() };
    vec![
        (format!("{root}/kubepods"), Limits { memory_bytes: Some(memory), ..shares(cpus) }),
        (format!("{root}/kubepods/burstable"), shares(burstable(pods))),
        (format!("{root}/kubepods/besteffort"), shares(0)),
    ]
}

/// CPU that burstable pods asked for, thousandths.
fn burstable(pods: &[Arc<Pod>]) -> i64 {
    let none = BTreeMap::new();
    let of_class = pods.iter().filter(|pod| qos(pod) == "Burstable");
    of_class.map(|pod| pod_total(pod, &none, "cpu").0).fold(0, i64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_burstable_pods_add_to_their_class() {
        let pod = |resources: serde_json::Value| -> Arc<Pod> {
            let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "resources": resources}]}});
            Arc::new(serde_json::from_value(pod).expect("a pod"))
        };
        let all = [
            pod(json!({"requests": {"cpu": "100m"}})),
            pod(json!({"requests": {"cpu": "250m"}, "limits": {"memory": "1Gi"}})),
            pod(json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "1Gi"}})),
            pod(json!({})),
        ];
        assert_eq!(burstable(&all), 350);
    }
}
