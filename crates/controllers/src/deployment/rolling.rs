//! How many replicas each set should have: during a rolling update, and when the Deployment is scaled.

use api::k8s::api::apps::v1::{DeploymentSpec, DeploymentStatus, ReplicaSet};
use client::Meta;

use super::sets;

/// The size of the new set: as large as the surge allows.
pub fn new_size(spec: &DeploymentSpec, total: i32, new: i32) -> i32 {
    let wanted = sets::wanted(spec);
    if !sets::is_rolling(spec) {
        return wanted;
    }
    let most = wanted + sets::max_surge(spec);
    if total >= most { new } else { new + (most - total).min(wanted - new) }
}

/// Sizes of the old sets (oldest first) after removing what availability allows: unhealthy pods first.
pub fn old_sizes(spec: &DeploymentSpec, new: &ReplicaSet, old: &[ReplicaSet]) -> Vec<i32> {
    let mut sizes: Vec<i32> = old.iter().map(sets::replicas).collect();
    let total: i32 = sizes.iter().sum::<i32>() + sets::replicas(new);
    let least = match base::mutated("rollout-takes-all") {
        true => 0,
        false => sets::wanted(spec) - sets::max_unavailable(spec),
    };
    let new_unavailable = sets::replicas(new) - sets::available(new);
    let most = total - least - new_unavailable;
    if sizes.iter().sum::<i32>() == 0 || most <= 0 {
        return sizes;
    }
    let mut removed = 0;
    for (size, set) in sizes.iter_mut().zip(old) {
        let unhealthy = (*size - sets::available(set)).max(0);
        let take = unhealthy.min(most - removed);
        *size -= take;
        removed += take;
    }
    // A set that was told to shrink still reports the pods that are about to go.
    let standing = |set: &ReplicaSet| sets::available(set).min(sets::replicas(set));
    let available: i32 = old.iter().map(standing).sum::<i32>() + standing(new);
    let mut spare = available - least;
    for size in &mut sizes {
        let take = (*size).min(spare.max(0));
        *size -= take;
        spare -= take;
    }
    sizes
}

/// A new size for each active set so that a scaled Deployment keeps its proportions.
pub fn proportional(
    spec: &DeploymentSpec,
    status: &DeploymentStatus,
    active: &mut [&mut ReplicaSet],
) -> Vec<i32> {
    let wanted = sets::wanted(spec);
    let allowed = if wanted > 0 { wanted + sets::max_surge(spec) } else { 0 };
    let total: i32 = active.iter().map(|set| sets::replicas(set)).sum();
    let to_add = allowed - total;
    let created = |set: &ReplicaSet| set.meta().creation_timestamp.as_ref().map(|time| time.0);
    active.sort_by(|a, b| {
        let by_size = sets::replicas(b).cmp(&sets::replicas(a));
        let by_age = created(a).cmp(&created(b)).then_with(|| a.name().cmp(b.name()));
        by_size.then(if to_add > 0 { by_age.reverse() } else { by_age })
    });
    let mut added = 0;
    let mut sizes: Vec<i32> = Vec::new();
    for set in active.iter() {
        let own = sets::replicas(set);
        let share = share(spec, status, set, to_add, added);
        sizes.push(own + share);
        added += share;
    }
    if let Some(first) = sizes.first_mut().filter(|_| to_add != 0) {
        *first = (*first + to_add - added).max(0);
    }
    sizes
}

fn share(spec: &DeploymentSpec, status: &DeploymentStatus, set: &ReplicaSet, to_add: i32, added: i32) -> i32 {
    let own = sets::replicas(set);
    if own == 0 || to_add == 0 || to_add == added {
        return 0;
    }
    let left = to_add - added;
    let fraction = fraction(spec, status, set);
    if to_add > 0 { fraction.min(left) } else { fraction.max(left) }
}

#[allow(clippy::cast_possible_truncation, reason = "replica counts fit")]
fn fraction(spec: &DeploymentSpec, status: &DeploymentStatus, set: &ReplicaSet) -> i32 {
    let (wanted, own) = (sets::wanted(spec), sets::replicas(set));
    if wanted == 0 {
        return -own;
    }
    let before = sets::maximum(set).filter(|count| *count != 0).unwrap_or(status.replicas.unwrap_or(0));
    if before == 0 {
        return 0;
    }
    let size = f64::from(own) * f64::from(wanted + sets::max_surge(spec)) / f64::from(before);
    size.round() as i32 - own
}
