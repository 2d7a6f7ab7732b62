//! Plans for one namespace's account and CA, and for one token Secret.

use std::collections::BTreeMap;

use api::k8s::api::core::v1::{ConfigMap, Namespace, Secret, ServiceAccount};
use api::k8s::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use client::{Meta, Plan, Step};

/// The account every namespace has.
pub const ACCOUNT: &str = "default";
/// The ConfigMap that publishes the cluster's CA.
pub const ROOT_CA: &str = "kube-root-ca.crt";
/// The annotation of a token Secret that names its account.
pub const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal \
    endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across \
    distributions of Kubernetes clusters.";

fn is_alive(namespace: &Namespace) -> bool {
    let phase = namespace.status.as_ref().and_then(|status| status.phase.as_deref());
    !namespace.is_deleting() && phase != Some("Terminating")
}

/// Makes the namespace's account if it has none.
pub fn account(namespace: Option<&Namespace>, known: bool) -> Plan {
    let mut plan = Plan::none();
    if let Some(namespace) = namespace.filter(|namespace| is_alive(namespace) && !known) {
        let metadata = ObjectMeta {
            name: Some(ACCOUNT.to_owned()),
            namespace: namespace.metadata.name.clone(),
            ..ObjectMeta::default()
        };
        plan.step(Step::create(&ServiceAccount { metadata, ..ServiceAccount::default() }).or_exists());
    }
    plan
}

/// Makes or mends the namespace's CA bundle.
pub fn root_ca(namespace: Option<&Namespace>, known: Option<&ConfigMap>, bundle: &str) -> Plan {
    let mut plan = Plan::none();
    let Some(namespace) = namespace.filter(|namespace| is_alive(namespace)) else { return plan };
    let data = Some(BTreeMap::from([("ca.crt".to_owned(), bundle.to_owned())]));
    let annotations = BTreeMap::from([("kubernetes.io/description".to_owned(), DESCRIPTION.to_owned())]);
    match known {
        None => {
            let metadata = ObjectMeta {
                name: Some(ROOT_CA.to_owned()),
                namespace: namespace.metadata.name.clone(),
                annotations: Some(annotations),
                ..ObjectMeta::default()
            };
            plan.step(Step::create(&ConfigMap { metadata, data, ..ConfigMap::default() }).or_exists());
        }
        Some(known)
            if known.data != data || known.annotation("kubernetes.io/description") != Some(DESCRIPTION) =>
        {
            let mut map = known.clone();
            map.data = data;
            map.metadata.annotations.get_or_insert_default().extend(annotations);
            plan.update(&map);
        }
        Some(_) => {}
    }
    plan
}

/// True for Secrets that hold an account's token.
pub fn is_token(secret: &Secret) -> bool {
    secret.type_.as_deref() == Some("kubernetes.io/service-account-token")
}

/// Removes a token Secret whose account is gone or was replaced.
pub fn token(secret: &Secret, account: Option<&ServiceAccount>) -> Plan {
    let mut plan = Plan::none();
    let uid = secret.annotation(ACCOUNT_UID).unwrap_or("");
    let named = secret.annotation(ACCOUNT_NAME).is_some_and(|name| !name.is_empty());
    let fits = account.is_some_and(|account| uid.is_empty() || uid == account.uid());
    if is_token(secret) && named && !fits && !secret.is_deleting() {
        plan.delete(secret);
    }
    plan
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn living_namespaces_get_their_objects() {
        let alive: Namespace = serde_json::from_value(json!({"metadata": {"name": "n"}})).expect("valid");
        let going: Namespace =
            serde_json::from_value(json!({"metadata": {"name": "n"}, "status": {"phase": "Terminating"}}))
                .expect("valid");
        let summary = |plan: Plan| plan.steps().iter().map(|step| step.summary()).collect::<Vec<_>>();
        assert_eq!(summary(account(Some(&alive), false)), ["create serviceaccounts n/default"]);
        assert!(account(Some(&alive), true).is_empty());
        assert!(account(Some(&going), false).is_empty());
        let made = root_ca(Some(&alive), None, "CA");
        assert_eq!(summary(made), ["create configmaps n/kube-root-ca.crt"]);
        let changed: ConfigMap =
            serde_json::from_value(json!({"metadata": {"name": ROOT_CA, "namespace": "n"}})).expect("valid");
        assert_eq!(
            summary(root_ca(Some(&alive), Some(&changed), "CA")),
            ["update configmaps n/kube-root-ca.crt"]
        );
    }
}
