//! Plans for one namespace's account and CA, and for one token Secret.

use std::collections::BTreeMap;

use api::k8s::ByteString;
use api::k8s::api::core::v1::{ConfigMap, Namespace, Secret, ServiceAccount};
use api::k8s::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use client::{Meta, Plan, Step};

/// The account every namespace has.
pub const ACCOUNT: &str = "default";
/// The ConfigMap that publishes the cluster's CA.
pub const ROOT_CA: &str = "kube-root-ca.crt";
/// The annotation of a token Secret that names its account.
pub const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";
/// The annotation of a token Secret with its account's uid.
pub const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";
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

/// Fills a token Secret, or removes it when its account is gone or was replaced.
pub fn token(
    secret: &Secret,
    account: Option<&ServiceAccount>,
    root_ca: &str,
    sign: &dyn Fn(&ServiceAccount, &str) -> Option<String>,
) -> Plan {
    let mut plan = Plan::none();
    let uid = secret.annotation(ACCOUNT_UID).unwrap_or("");
    let named = secret.annotation(ACCOUNT_NAME).is_some_and(|name| !name.is_empty());
    if !is_token(secret) || !named || secret.is_deleting() {
        return plan;
    }
    let Some(account) = account.filter(|account| uid.is_empty() || uid == account.uid()) else {
        plan.delete(secret);
        return plan;
    };
    let mut after = secret.clone();
    let annotations = after.metadata.annotations.get_or_insert_default();
    annotations.insert(ACCOUNT_UID.to_owned(), account.uid().to_owned());
    let data = after.data.get_or_insert_default();
    let mut put = |name: &str, text: &str| data.insert(name.to_owned(), ByteString(text.as_bytes().to_vec()));
    if !root_ca.is_empty() {
        put("ca.crt", root_ca);
    }
    put("namespace", secret.namespace());
    let missing =
        secret.data.as_ref().and_then(|data| data.get("token")).is_none_or(|token| token.0.is_empty());
    if missing {
        match sign(account, secret.name()) {
            Some(token) => drop(put("token", &token)),
            None => return plan,
        }
    }
    if after != *secret {
        plan.update(&after);
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

    #[test]
    fn token_secrets_are_filled_and_go_with_their_account() {
        let secret: Secret = serde_json::from_value(json!({
            "metadata": {"name": "t", "namespace": "n", "annotations": {ACCOUNT_NAME: "a"}},
            "type": "kubernetes.io/service-account-token",
        }))
        .expect("valid");
        let account: ServiceAccount =
            serde_json::from_value(json!({"metadata": {"name": "a", "namespace": "n", "uid": "u"}}))
                .expect("valid");
        let sign = |account: &ServiceAccount, name: &str| Some(format!("{}-{name}", account.name()));
        let filled = token(&secret, Some(&account), "CA", &sign);
        let Step::Update { object, .. } = filled.steps()[0] else { panic!("an update") };
        let filled: Secret = serde_json::from_value(object.clone()).expect("valid");
        assert_eq!(filled.data.as_ref().map(|data| data["token"].0.clone()), Some(b"a-t".to_vec()));
        assert!(token(&filled, Some(&account), "CA", &sign).is_empty(), "filled already");
        assert!(token(&secret, Some(&account), "CA", &|_, _| None).is_empty(), "nobody signs");
        let summary = |plan: Plan| plan.steps().iter().map(|step| step.summary()).collect::<Vec<_>>();
        assert_eq!(summary(token(&filled, None, "CA", &sign)), ["delete secrets n/t"]);
    }
}
