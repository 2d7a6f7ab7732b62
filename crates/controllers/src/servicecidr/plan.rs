//! The plan for one ServiceCIDR: ready and held by a finalizer; once deleted, let go only when no service's address
//! would be left outside of every range.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use api::k8s::api::networking::v1::ServiceCIDR;
use api::k8s::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use client::{Meta, Plan};
use ipnet::IpNet;
use jiff::Timestamp;

/// Keeps a range while addresses depend on it.
pub const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
/// API servers hear of a deletion within this time and allocate no more from the range.
const GRACE: Duration = Duration::from_secs(10);

/// The ranges an object names.
pub fn ranges(object: &ServiceCIDR) -> Vec<IpNet> {
    let texts = object.spec.as_ref().and_then(|spec| spec.cidrs.as_ref());
    texts.into_iter().flatten().filter_map(|text| text.parse().ok()).collect()
}

/// True when the ranges of two objects have addresses in common.
pub fn overlap(one: &ServiceCIDR, other: &ServiceCIDR) -> bool {
    let others = ranges(other);
    ranges(one).iter().any(|range| others.iter().any(|other| other.contains(range) || range.contains(other)))
}

/// What to do about one ServiceCIDR among all, with the addresses of services.
pub fn plan(
    object: &ServiceCIDR,
    all: &[Arc<ServiceCIDR>],
    addresses: &dyn Fn() -> Vec<IpAddr>,
    now: Timestamp,
) -> Plan {
    let mut plan = Plan::none();
    let held = object.metadata.finalizers.iter().flatten().any(|known| known == FINALIZER);
    let mut after = object.clone();
    let finalizers = after.metadata.finalizers.get_or_insert_default();
    let Some(deleted) = object.metadata.deletion_timestamp.as_ref() else {
        if !held {
            finalizers.push(FINALIZER.to_owned());
            plan.update(&after);
        }
        set_ready(&mut plan, object, "True", "", "Kubernetes Service CIDR is ready", now);
        return plan;
    };
    if !can_go(object, all, addresses) {
        let text = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new \
                    ServiceCIDR";
        set_ready(&mut plan, object, "False", "Terminating", text, now);
        return plan;
    }
    let left = Duration::try_from((deleted.0 + GRACE).duration_since(now)).unwrap_or(Duration::ZERO);
    if !left.is_zero() {
        plan.requeue(left);
    } else if held {
        finalizers.retain(|known| known != FINALIZER);
        plan.update(&after);
    }
    plan
}

fn set_ready(plan: &mut Plan, object: &ServiceCIDR, status: &str, reason: &str, text: &str, now: Timestamp) {
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let mut after = object.clone();
    let conditions = after.status.get_or_insert_default().conditions.get_or_insert_default();
    let known = conditions.iter().position(|condition| condition.type_ == "Ready");
    let since =
        known.filter(|at| conditions[*at].status == status).map(|at| &conditions[at].last_transition_time);
    let condition = Condition {
        type_: "Ready".to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: text.to_owned(),
        last_transition_time: since.cloned().unwrap_or(Time(now)),
        observed_generation: known.and_then(|at| conditions[at].observed_generation),
    };
    match known {
        Some(at) if conditions[at] == condition => return,
        Some(at) => conditions[at] = condition,
        None => conditions.push(condition),
    }
    plan.update_status(&after);
}

/// True when each of its ranges lies in another object's, or when no address is in this object's ranges alone.
fn can_go(object: &ServiceCIDR, all: &[Arc<ServiceCIDR>], addresses: &dyn Fn() -> Vec<IpAddr>) -> bool {
    let others: Vec<IpNet> =
        all.iter().filter(|other| other.name() != object.name()).flat_map(|other| ranges(other)).collect();
    let own = ranges(object);
    if own.iter().all(|range| others.iter().any(|other| other.contains(range))) {
        return true;
    }
    let alone = |address: &IpAddr| {
        own.iter().any(|range| range.contains(address)) && !others.iter().any(|range| range.contains(address))
    };
    !addresses().iter().any(alone)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn range(name: &str, cidr: &str, deleted: bool) -> ServiceCIDR {
        let mut value =
            json!({"metadata": {"name": name, "finalizers": [FINALIZER]}, "spec": {"cidrs": [cidr]}});
        if deleted {
            value["metadata"]["deletionTimestamp"] = json!("2030-01-01T00:00:00Z");
        }
        serde_json::from_value(value).expect("a ServiceCIDR")
    }

    fn check(
        object: &ServiceCIDR,
        others: &[&str],
        addresses: &[&str],
        second: i64,
    ) -> (Vec<String>, Option<u64>) {
        let mut all = vec![Arc::new(object.clone())];
        all.extend(others.iter().map(|cidr| Arc::new(range(cidr, cidr, false))));
        let addresses = || addresses.iter().map(|text| text.parse().expect("an address")).collect();
        let start: Timestamp = "2030-01-01T00:00:00Z".parse().expect("a time");
        let plan = plan(object, &all, &addresses, start + Duration::from_secs(second.unsigned_abs()));
        let steps = plan.steps().iter().map(|step| step.summary()).collect();
        (steps, plan.requeue_after.map(|wait| wait.as_secs()))
    }

    const STATUS: &str = "update servicecidrs.networking.k8s.io/status r";
    const OBJECT: &str = "update servicecidrs.networking.k8s.io r";

    #[test]
    fn ranges_become_ready_and_are_held() {
        let mut fresh = range("r", "10.0.0.0/24", false);
        assert_eq!(check(&fresh, &[], &[], 0).0, [STATUS]);
        fresh.metadata.finalizers = None;
        assert_eq!(check(&fresh, &[], &[], 0).0, [OBJECT, STATUS]);
    }

    #[test]
    fn ranges_go_when_no_address_is_left_alone() {
        let going = range("r", "10.0.0.0/24", true);
        let cases: &[(&[&str], &[&str], i64, &[&str], Option<u64>)] = &[
            (&[], &["10.0.0.5"], 60, &[STATUS], None),
            (&["10.0.0.0/28"], &["10.0.0.5"], 60, &[OBJECT], None),
            (&["10.0.0.0/28"], &["10.0.0.50"], 60, &[STATUS], None),
            (&["10.0.0.0/16"], &["10.0.0.50"], 60, &[OBJECT], None),
            (&[], &["10.0.1.5"], 60, &[OBJECT], None),
            (&[], &[], 4, &[], Some(6)),
        ];
        for (others, addresses, second, steps, wait) in cases {
            let (found, later) = check(&going, others, addresses, *second);
            assert_eq!(
                (found, later),
                (steps.iter().map(ToString::to_string).collect(), *wait),
                "{others:?}"
            );
        }
    }
}
