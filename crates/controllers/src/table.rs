//! All controllers: their names, their service accounts, how they start. And the entry that runs them.

use std::time::Duration;

use base::{Clock, Rng, Tasks};
use client::{Election, LeaseConfig, SharedInformers};

use crate::context::{ClientFor, Config, Context};
use crate::{
    aggregation, autoscaler, bootstrap, certificates, cronjob, daemonset, deployment, disruption, endpoints,
    garbage, job, loadbalancer, namespace, node, podgc, policystatus, quota, replicaset, resourceclaim,
    serviceaccount, servicecidr, statefulset, ttl, volume,
};

/// One controller.
pub struct Row {
    /// Upstream's name of it, as in `--controllers`.
    pub name: &'static str,
    /// Its service account in `kube-system`.
    pub account: &'static str,
    /// Starts it.
    pub start: fn(&Context),
}

macro_rules! rows {
    ($($name:literal, $account:expr, $start:expr;)*) => {
        /// Every controller, in the order they start.
        pub const ROWS: &[Row] = &[$(Row { name: $name, account: $account, start: $start }),*];
    };
}

rows! {
    "namespace-controller", "namespace-controller", namespace::start;
    "serviceaccount-controller", "service-account-controller", serviceaccount::start_accounts;
    "root-ca-certificate-publisher-controller", "root-ca-cert-publisher", serviceaccount::start_root_ca;
    "serviceaccount-token-controller", WATCHER, serviceaccount::start_tokens;
    "legacy-serviceaccount-token-cleaner-controller", "legacy-service-account-token-cleaner", serviceaccount::start_legacy;
    "replicaset-controller", "replicaset-controller", replicaset::start_replica_sets;
    "deployment-controller", "deployment-controller", deployment::start;
    "endpointslice-controller", "endpointslice-controller", endpoints::start_slices;
    "endpoints-controller", "endpoint-controller", endpoints::start_endpoints;
    "endpointslice-mirroring-controller", "endpointslicemirroring-controller", endpoints::start_mirroring;
    "garbage-collector-controller", "generic-garbage-collector", garbage::start;
    "node-ipam-controller", "node-controller", node::start_ipam;
    "node-lifecycle-controller", "node-controller", node::start_health;
    "taint-eviction-controller", "node-controller", node::start_eviction;
    "ttl-controller", "ttl-controller", node::start_ttl;
    "service-cidr-controller", "service-cidrs-controller", servicecidr::start;
    "pod-garbage-collector-controller", "pod-garbage-collector", podgc::start;
    "statefulset-controller", "statefulset-controller", statefulset::start;
    "daemonset-controller", "daemon-set-controller", daemonset::start;
    "job-controller", "job-controller", job::start;
    "cronjob-controller", "cronjob-controller", cronjob::start;
    "ttl-after-finished-controller", "ttl-after-finished-controller", ttl::start;
    "disruption-controller", "disruption-controller", disruption::start;
    "resourcequota-controller", "resourcequota-controller", quota::start;
    "clusterrole-aggregation-controller", "clusterrole-aggregation-controller", aggregation::start;
    "certificatesigningrequest-approving-controller", "certificate-controller", certificates::start_approver;
    "certificatesigningrequest-signing-controller", "certificate-controller", certificates::start_signer;
    "certificatesigningrequest-cleaner-controller", "certificate-controller", certificates::start_cleaner;
    "navarch-service-balancer-controller", "service-controller", loadbalancer::start;
    "navarch-serving-approver-controller", certificates::serving::SERVING_APPROVER, certificates::serving::start;
    "bootstrap-signer-controller", "bootstrap-signer", bootstrap::start_signer;
    "token-cleaner-controller", "token-cleaner", bootstrap::start_cleaner;
    "persistentvolume-binder-controller", "persistent-volume-binder", volume::start_binder;
    "local-volume-provisioner", volume::LOCAL_ACCOUNT, volume::start_local;
    "persistentvolume-attach-detach-controller", "attachdetach-controller", volume::start_attach;
    "persistentvolume-expander-controller", "expand-controller", volume::start_expander;
    "persistentvolumeclaim-protection-controller", "pvc-protection-controller", volume::start_claim_protection;
    "persistentvolume-protection-controller", "pv-protection-controller", volume::start_volume_protection;
    "volumeattributesclass-protection-controller", "volumeattributesclass-protection-controller", volume::start_attributes_protection;
    "resourceclaim-controller", "resource-claim-controller", resourceclaim::start;
    "ephemeral-volume-controller", "ephemeral-volume-controller", volume::start_ephemeral;
    "horizontal-pod-autoscaler-controller", "horizontal-pod-autoscaler", autoscaler::start;
    "validatingadmissionpolicy-status-controller", "validatingadmissionpolicy-status-controller", policystatus::start;
    "replicationcontroller-controller", "replication-controller", replicaset::start_replication_controllers;
}

/// The service account whose client lists and watches for all.
pub const WATCHER: &str = "kube-controller-manager";

/// How to take part in an election, when several processes run controllers.
pub type Candidate = Option<LeaseConfig>;

/// Runs the enabled controllers until `tasks` are cancelled, or until leadership is lost. `client_for` gives
/// the client of a service account of `kube-system`; `WATCHER` stands for the process itself.
pub async fn run(
    client_for: ClientFor,
    config: Config,
    candidate: Candidate,
    clock: Clock,
    rng: Rng,
    tasks: Tasks,
) {
    let client = client_for(WATCHER);
    let Some(lease) = candidate else {
        start_all(client_for, config, clock, rng, &tasks);
        return tasks.cancel_token().cancelled().await;
    };
    let mut election = Election::new(client, lease, clock.clone(), rng.clone());
    let cancel = tasks.cancel_token().clone();
    if cancel.run(election.acquire()).await.is_none() {
        return;
    }
    let leading = tasks.child();
    start_all(client_for, config, clock.clone(), rng, &leading);
    if cancel.run(election.keep()).await.is_none() {
        // Shutting down: the next leader need not wait for the lease to run out.
        let _ = clock.timeout(Duration::from_secs(2), election.release()).await;
    } else {
        tracing::error!("leadership lost");
    }
    leading.cancel_token().cancel();
}

/// Starts the enabled controllers; they share one set of caches.
pub fn start_all(client_for: ClientFor, config: Config, clock: Clock, rng: Rng, tasks: &Tasks) {
    let informers = SharedInformers::new(client_for(WATCHER), clock.clone(), rng.clone(), tasks.clone());
    start_with(informers, client_for, config, clock, rng, tasks);
}

/// Starts the enabled controllers on caches that other components may share.
pub fn start_with(
    informers: SharedInformers,
    client_for: ClientFor,
    config: Config,
    clock: Clock,
    rng: Rng,
    tasks: &Tasks,
) {
    let config = config.into();
    let context = Context { client_for, informers, config, clock, rng, tasks: tasks.clone() };
    for row in ROWS.iter().filter(|row| context.config.enabled(row.name)) {
        tracing::debug!(controller = row.name, "starting");
        (row.start)(&context);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_select() {
        let mut names: Vec<&str> = ROWS.iter().map(|row| row.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ROWS.len());
        let config = Config { controllers: vec!["*".into(), "-a".into()], ..Config::default() };
        assert!(config.enabled("b") && !config.enabled("a"));
    }
}
