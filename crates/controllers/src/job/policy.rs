//! What a failed pod means to its Job, by the Job's pod failure policy; and whether its success policy is met.

use std::collections::BTreeSet;

use api::k8s::api::batch::v1::{JobSpec, PodFailurePolicyRule};
use api::k8s::api::core::v1::{ContainerStatus, Pod};
use client::Meta;

use super::indexes;
use crate::pods;

/// What follows from a failed pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// It counts.
    Count,
    /// It does not count.
    Ignore,
    /// Its index has failed for good.
    FailIndex,
    /// The Job has failed, for this reason.
    FailJob(String),
}

/// What a failed pod means.
pub fn judge(spec: &JobSpec, pod: &Pod) -> Action {
    let rules = spec.pod_failure_policy.as_ref().map(|policy| policy.rules.as_slice()).unwrap_or(&[]);
    for (index, rule) in rules.iter().enumerate() {
        let Some(why) = matched(rule, pod) else { continue };
        return match rule.action.as_str() {
            "Ignore" => Action::Ignore,
            "FailIndex" => Action::FailIndex,
            "FailJob" => Action::FailJob(format!("{why} matching FailJob rule at index {index}")),
            _ => Action::Count,
        };
    }
    Action::Count
}

/// Why the rule applies, if it does.
fn matched(rule: &PodFailurePolicyRule, pod: &Pod) -> Option<String> {
    let who = format!("{}/{}", pod.namespace(), pod.name());
    if let Some(codes) = &rule.on_exit_codes {
        let status = pod.status.as_ref()?;
        let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
        let fits = |container: &&ContainerStatus| {
            let named = codes.container_name.as_ref().is_none_or(|name| *name == container.name);
            let code = exit_code(container).unwrap_or(0);
            let listed = codes.values.contains(&code);
            named && code != 0 && (listed == (codes.operator == "In"))
        };
        let container = all.into_iter().find(fits)?;
        let code = exit_code(container).unwrap_or(0);
        return Some(format!("Container {} for pod {who} failed with exit code {code}", container.name));
    }
    for pattern in rule.on_pod_conditions.iter().flatten() {
        let condition = pods::condition(pod, &pattern.type_);
        if condition.is_some_and(|condition| Some(condition.status.as_str()) == Some(pattern_status(pattern)))
        {
            return Some(format!("Pod {who} has condition {}", pattern.type_));
        }
    }
    None
}

fn pattern_status(pattern: &api::k8s::api::batch::v1::PodFailurePolicyOnPodConditionsPattern) -> &str {
    pattern.status.as_deref().unwrap_or("True")
}

fn exit_code(container: &ContainerStatus) -> Option<i32> {
    container.state.as_ref()?.terminated.as_ref().map(|terminated| terminated.exit_code)
}

/// The message of the success rule that holds, if one does.
pub fn success(spec: &JobSpec, succeeded: &BTreeSet<i32>) -> Option<String> {
    let rules = spec.success_policy.as_ref()?.rules.iter().enumerate();
    for (number, rule) in rules {
        let wanted = rule.succeeded_indexes.as_deref();
        let relevant: BTreeSet<i32> = match wanted {
            None => succeeded.clone(),
            Some(text) => {
                let listed = indexes::parse(text, spec.completions.unwrap_or(i32::MAX));
                succeeded.intersection(&listed).copied().collect()
            }
        };
        let goal = match (rule.succeeded_count, wanted) {
            (Some(count), _) => usize::try_from(count).unwrap_or(0),
            (None, Some(text)) => indexes::parse(text, spec.completions.unwrap_or(i32::MAX)).len(),
            (None, None) => continue,
        };
        if relevant.len() >= goal {
            return Some(format!("Matched rules at index {number}"));
        }
    }
    None
}
