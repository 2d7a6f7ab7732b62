//! ValidatingAdmissionPolicies: expressions that do not fit the kinds they are about are named in the policy's status.
//! That never changes what a policy does. Watches the policies.

mod schemas;

use std::sync::Arc;
use std::time::Duration;

use api::k8s::api::admissionregistration::v1::{ExpressionWarning, ValidatingAdmissionPolicy};
use client::{Cache, Client, ClientError, Discovery, Key, Patch, Queue, ResourceRef};
use machinery::policy::{self, Gvk};
use serde_json::{Value, json};

use crate::context::Context;
use crate::worker;
use schemas::Known;

/// Who owns what is written, as upstream.
const MANAGER: &str = "validatingadmissionpolicy-status";

struct Checker {
    client: Client,
    policies: Cache<ValidatingAdmissionPolicy>,
}

/// True when the status is not of the policy as it is.
fn is_due(policy: &ValidatingAdmissionPolicy) -> bool {
    let seen = policy.status.as_ref().and_then(|status| status.observed_generation).unwrap_or(0);
    policy.metadata.generation.unwrap_or(0) > seen
}

impl Checker {
    async fn sync(&self, key: Key) -> Result<Option<Duration>, ClientError> {
        let Some(policy) = self.policies.get_key(&key).filter(|policy| is_due(policy)) else {
            return Ok(None);
        };
        let warnings = self.check(&policy).await?;
        let gvr = ResourceRef::of::<ValidatingAdmissionPolicy>().gvr;
        let object = status(&policy, &warnings);
        let patch = Patch::Apply { object, manager: MANAGER.to_owned(), force: true };
        let written = self.client.patch_at::<Value>(&gvr, "", &key.name, "status", &patch).await;
        client::client::absent(written)?;
        Ok(None)
    }

    async fn check(&self, policy: &ValidatingAdmissionPolicy) -> Result<Vec<ExpressionWarning>, ClientError> {
        let discovery = Discovery::fetch(&self.client).await?;
        let kind_of = |group: &str, version: &str, plural: &str| {
            let gvr = api::Gvr::new(group, version, plural);
            let found = discovery.resources.iter().find(|found| found.resource.gvr == gvr);
            found.map(|found| found.resource.kind.clone())
        };
        let kinds = policy::kinds(policy, &kind_of);
        let params = policy.spec.as_ref().and_then(|spec| spec.param_kind.as_ref()).map(Gvk::of_params);
        let mut known = Known::default();
        for kind in kinds.iter().chain(&params).filter(|kind| !schemas::is_builtin(kind)) {
            let path = format!("/openapi/v3/apis/{}/{}", kind.group, kind.version);
            // A kind without a schema is not checked.
            if let Some(document) = client::client::absent(self.client.get_path::<Value>(&path).await)? {
                known.learn(kind, &document);
            }
        }
        Ok(policy::check(policy, &kinds, &known))
    }
}

/// The status to apply.
fn status(policy: &ValidatingAdmissionPolicy, warnings: &[ExpressionWarning]) -> Value {
    let checked = if warnings.is_empty() { json!({}) } else { json!({"expressionWarnings": warnings}) };
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": policy.metadata.name},
        "status": {"observedGeneration": policy.metadata.generation, "typeChecking": checked},
    })
}

/// Starts the controller.
pub fn start(context: &Context) {
    let queue: Queue<Key> = Queue::new(context.clock.clone());
    let policies = context.informers.of::<ValidatingAdmissionPolicy>();
    let changed = queue.clone();
    policies.on_change(move |change| {
        if !matches!(change, client::Change::Deleted(_)) {
            changed.add(Key::of(&**change.object()));
        }
    });
    let client = (context.client_for)("validatingadmissionpolicy-status-controller");
    let checker = Arc::new(Checker { client, policies: policies.cache().clone() });
    let tasks = context.tasks.clone();
    context.tasks.spawn("policy status start", async move {
        policies.synced().await;
        worker::start("policy status", queue, 1, &tasks, move |key| {
            let checker = checker.clone();
            async move { checker.sync(key).await }
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_written_once_a_generation() {
        let policy = |generation: i64, seen: Value| -> ValidatingAdmissionPolicy {
            let object = json!({"metadata": {"name": "p", "generation": generation}, "status": seen});
            serde_json::from_value(object).expect("a policy")
        };
        assert!(is_due(&policy(1, Value::Null)));
        assert!(is_due(&policy(2, json!({"observedGeneration": 1}))));
        assert!(!is_due(&policy(2, json!({"observedGeneration": 2}))));
        let warning = ExpressionWarning { field_ref: "f".to_owned(), warning: "w".to_owned() };
        let written = status(&policy(3, Value::Null), &[warning]);
        assert_eq!(
            written["status"],
            json!({"observedGeneration": 3,
                "typeChecking": {"expressionWarnings": [{"fieldRef": "f", "warning": "w"}]}})
        );
        assert_eq!(status(&policy(3, Value::Null), &[])["status"]["typeChecking"], json!({}));
    }
}
