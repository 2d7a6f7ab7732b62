//! ClusterRoles made of others: their rules are those of all roles their selectors name. Watches ClusterRoles.

use std::sync::Arc;

use api::k8s::api::rbac::v1::{ClusterRole, PolicyRule};
use api::labels::Selector;
use client::{Cache, Key, Meta, Plan, Reconcile, ReconcileError};
use jiff::Timestamp;

use crate::context::Context;

struct Controller {
    roles: Cache<ClusterRole>,
}

impl Reconcile for Controller {
    fn reconcile(&self, key: &Key, _: Timestamp) -> Result<Plan, ReconcileError> {
        let Some(role) = self.roles.get_key(key) else { return Ok(Plan::none()) };
        plan(&role, &self.roles.list())
    }
}

fn plan(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Result<Plan, ReconcileError> {
    let mut plan = Plan::none();
    let Some(rule) = &role.aggregation_rule else { return Ok(plan) };
    let mut rules: Vec<PolicyRule> = Vec::new();
    for selector in rule.cluster_role_selectors.iter().flatten() {
        let selector = Selector::from_object(Some(selector))
            .map_err(|error| ReconcileError::Object(error.to_string()))?;
        let chosen = all.iter().filter(|other| {
            other.name() != role.name() && selector.matches_opt(other.meta().labels.as_ref())
        });
        for rule in chosen.flat_map(|other| other.rules.iter().flatten()) {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    if rules != role.rules.clone().unwrap_or_default() {
        let mut after = role.clone();
        after.rules = Some(rules);
        plan.update(&after);
    }
    Ok(plan)
}

/// Starts the controller.
pub fn start(context: &Context) {
    let mut setup = context.setup("clusterrole-aggregation-controller", "clusterrole-aggregation-controller");
    let roles = setup.watch::<ClusterRole>();
    let all = roles.cache().clone();
    setup.map(&roles, move |_| {
        let aggregated = all.list().into_iter().filter(|role| role.aggregation_rule.is_some());
        aggregated.map(|role| Key::of(&*role)).collect()
    });
    setup.start(Arc::new(Controller { roles: roles.cache().clone() }), 1);
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn rules_are_collected_once() {
        let role =
            |value: Value| -> Arc<ClusterRole> { Arc::new(serde_json::from_value(value).expect("a role")) };
        let part = |name: &str| {
            let rules = json!([{"verbs": ["get"], "resources": ["pods"], "apiGroups": [""]}]);
            role(json!({"metadata": {"name": name, "labels": {"a": "b"}}, "rules": rules}))
        };
        let selectors = json!([{"matchLabels": {"a": "b"}}]);
        let sum =
            role(json!({"metadata": {"name": "s"}, "aggregationRule": {"clusterRoleSelectors": selectors}}));
        let plan = plan(&sum, &[part("x"), part("y"), sum.clone()]).expect("a plan");
        let client::Step::Update { object, .. } = plan.steps()[0] else { panic!("an update") };
        assert_eq!(object["rules"].as_array().map(Vec::len), Some(1));
    }
}
