//! What a namespace's status says about its removal.

use std::collections::BTreeMap;

use api::Gvr;
use api::k8s::api::core::v1::{Namespace, NamespaceCondition};
use api::k8s::apimachinery::pkg::apis::meta::v1::Time;
use client::{Meta, Partial};
use jiff::Timestamp;

/// The finalizer this controller takes away.
const FINALIZER: &str = "kubernetes";

/// Finalizers that a deletion in the background takes away.
const WAITING: &[&str] = &["foregroundDeletion", "orphan"];

/// Condition, the reason and message of its good state.
const CONDITIONS: &[(&str, &str, &str)] = &[
    ("NamespaceDeletionDiscoveryFailure", "ResourcesDiscovered", "All resources successfully discovered"),
    (
        "NamespaceDeletionGroupVersionParsingFailure",
        "ParsedGroupVersions",
        "All legacy kube types successfully parsed",
    ),
    (
        "NamespaceDeletionContentFailure",
        "ContentDeleted",
        "All content successfully deleted, may be waiting on finalization",
    ),
    ("NamespaceContentRemaining", "ContentRemoved", "All content successfully removed"),
    ("NamespaceFinalizersRemaining", "ContentHasNoFinalizers", "All content-preserving finalizers finished"),
];

/// True for an object whose deletion has begun and waits for nothing that deleting it again would end.
pub fn goes_by_itself(object: &Partial) -> bool {
    let mut finalizers = object.meta().finalizers.iter().flatten();
    object.is_deleting() && !finalizers.any(|one| WAITING.contains(&one.as_str()))
}

/// Objects of one resource that are still there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Remaining {
    /// As `pods.`, with the group after the dot.
    pub resource: String,
    pub count: usize,
    pub finalizers: BTreeMap<String, usize>,
}

impl Remaining {
    pub fn of(gvr: &Gvr, objects: &[Partial]) -> Self {
        let mut finalizers = BTreeMap::new();
        for finalizer in objects.iter().flat_map(|object| object.meta().finalizers.iter().flatten()) {
            *finalizers.entry(finalizer.clone()).or_default() += 1;
        }
        let resource = format!("{}.{}", gvr.resource, gvr.group);
        Remaining { resource, count: objects.len(), finalizers }
    }
}

/// What is left of a namespace's content.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Content {
    pub discovery_errors: Vec<String>,
    pub errors: Vec<String>,
    pub remaining: Vec<Remaining>,
}

impl Content {
    pub fn add(&mut self, remaining: Remaining) {
        if remaining.count > 0 {
            self.remaining.push(remaining);
        }
    }

    /// True when the namespace can go.
    pub fn is_empty(&self) -> bool {
        self.discovery_errors.is_empty() && self.errors.is_empty() && self.remaining.is_empty()
    }

    /// The reason and message of a condition's bad state, if it holds.
    fn trouble(&self, kind: &str) -> Option<(&'static str, String)> {
        match kind {
            "NamespaceDeletionDiscoveryFailure" if !self.discovery_errors.is_empty() => {
                let count = self.discovery_errors.len();
                let list = self.discovery_errors.join(", ");
                let why = format!("unable to retrieve the complete list of server APIs: {list}");
                Some(("DiscoveryFailed", format!("Discovery failed for some groups, {count} failing: {why}")))
            }
            "NamespaceDeletionContentFailure" if !self.errors.is_empty() => {
                let mut errors = self.errors.clone();
                errors.sort();
                let (count, list) = (errors.len(), errors.join(", "));
                let text = format!("Failed to delete all resource types, {count} remaining: {list}");
                Some(("ContentDeletionFailed", text))
            }
            "NamespaceContentRemaining" if !self.remaining.is_empty() => {
                let line =
                    |left: &Remaining| format!("{} has {} resource instances", left.resource, left.count);
                let mut lines: Vec<String> = self.remaining.iter().map(line).collect();
                lines.sort();
                Some(("SomeResourcesRemain", format!("Some resources are remaining: {}", lines.join(", "))))
            }
            "NamespaceFinalizersRemaining" => {
                let mut sums: BTreeMap<&str, usize> = BTreeMap::new();
                for (finalizer, count) in self.remaining.iter().flat_map(|left| &left.finalizers) {
                    *sums.entry(finalizer).or_default() += count;
                }
                let line = |(finalizer, count): (&&str, &usize)| {
                    format!("{finalizer} in {count} resource instances")
                };
                let lines: Vec<String> = sums.iter().map(line).collect();
                let text =
                    format!("Some content in the namespace has finalizers remaining: {}", lines.join(", "));
                (!sums.is_empty()).then_some(("SomeFinalizersRemain", text))
            }
            _ => None,
        }
    }
}

/// True when this controller has nothing to do with the namespace any more.
pub fn is_finalized(namespace: &Namespace) -> bool {
    namespace.spec.as_ref().is_none_or(|spec| spec.finalizers.as_ref().is_none_or(Vec::is_empty))
}

/// Sets the phase; true when that changes it.
pub fn mark_terminating(namespace: &mut Namespace) -> bool {
    let status = namespace.status.get_or_insert_default();
    let wanted = Some("Terminating".to_owned());
    let changed = status.phase != wanted;
    status.phase = wanted;
    changed
}

/// Takes our finalizer away; others stay.
pub fn drop_finalizer(namespace: &mut Namespace) {
    if let Some(finalizers) = namespace.spec.as_mut().and_then(|spec| spec.finalizers.as_mut()) {
        finalizers.retain(|finalizer| finalizer != FINALIZER);
    }
}

/// Writes the conditions; true when one changed.
pub fn set_conditions(namespace: &mut Namespace, content: &Content, now: Timestamp) -> bool {
    let list = namespace.status.get_or_insert_default().conditions.get_or_insert_default();
    let mut changed = false;
    for (kind, reason, message) in CONDITIONS {
        let (state, reason, message) = match content.trouble(kind) {
            Some((reason, message)) => ("True", reason, message),
            None => ("False", *reason, (*message).to_owned()),
        };
        let at = list.iter().position(|known| known.type_ == *kind);
        if let Some(known) = at.map(|at| &list[at])
            && known.status == state
            && known.reason.as_deref() == Some(reason)
            && known.message.as_deref() == Some(&message)
        {
            continue;
        }
        changed = true;
        let condition = NamespaceCondition {
            type_: (*kind).to_owned(),
            status: state.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: Some(Time(now)),
        };
        match at {
            Some(at) if list[at].status == state => {
                let since = list[at].last_transition_time.clone();
                list[at] = NamespaceCondition { last_transition_time: since, ..condition };
            }
            Some(at) => list[at] = condition,
            None => list.push(condition),
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn conditions_tell_what_is_left() {
        let object: Partial =
            serde_json::from_value(json!({"metadata": {"name": "a", "finalizers": ["x/y"]}}))
                .expect("an object");
        let mut content = Content::default();
        content.add(Remaining::of(&Gvr::new("", "v1", "pods"), &[object]));
        let mut namespace = Namespace::default();
        assert!(set_conditions(&mut namespace, &content, Timestamp::UNIX_EPOCH));
        assert!(!set_conditions(&mut namespace, &content, Timestamp::UNIX_EPOCH));
        let status = namespace.status.clone().expect("a status");
        let messages: Vec<String> =
            status.conditions.iter().flatten().filter_map(|condition| condition.message.clone()).collect();
        assert_eq!(messages[0], "All resources successfully discovered");
        assert_eq!(messages[3], "Some resources are remaining: pods. has 1 resource instances");
        assert_eq!(
            messages[4],
            "Some content in the namespace has finalizers remaining: x/y in 1 resource instances"
        );
        assert!(set_conditions(&mut namespace, &Content::default(), Timestamp::UNIX_EPOCH));
    }

    #[test]
    fn what_goes_is_not_deleted_again() {
        let check = |deleting: bool, finalizers: &[&str]| {
            let at = deleting.then_some("2030-01-01T00:00:00Z");
            let object =
                json!({"metadata": {"name": "a", "deletionTimestamp": at, "finalizers": finalizers}});
            goes_by_itself(&serde_json::from_value(object).expect("an object"))
        };
        assert!(check(true, &[]) && check(true, &["x/y"]));
        assert!(!check(false, &[]) && !check(true, &["foregroundDeletion"]) && !check(true, &["orphan"]));
    }
}
