//! Faults built in on purpose, so that the simulation can show that it would catch them. Only a build with the feature
//! `mutations` has them, and only one that names a fault is wrong; in all other builds the question costs nothing.

/// The fault that this process has.
#[cfg(feature = "mutations")]
static FAULT: std::sync::OnceLock<String> = std::sync::OnceLock::new();

/// Every fault: its name, and what the code then fails to do.
pub const FAULTS: &[(&str, &str)] = &[
    ("skip-expectations", "controllers do not wait until their caches show their own writes"),
    ("lose-deletions", "caches miss that pods are deleted"),
    ("lose-changes-of-pods", "replica sets are not told of their pods"),
    ("job-releases-early", "jobs let pods go that are not on record"),
    ("budget-forgets", "budgets forget evictions that pods do not show yet"),
    ("rollout-takes-all", "rollouts do not care how many pods are available"),
    ("scheduler-forgets", "the scheduler does not count pods on their way to a node"),
    ("stateful-at-once", "stateful sets do not wait for the pod before"),
    ("lose-changes-of-endpoints", "endpoint slices do not follow pods"),
    ("garbage-stays", "the collector is not told of deleted owners"),
    ("watch-resumes-late", "a watch that broke goes on without what it missed"),
];

/// Gives this process a fault for good.
#[cfg(feature = "mutations")]
pub fn mutate(name: &str) {
    // The first one stays.
    let _ = FAULT.set(name.to_owned());
}

/// True when the code is to have this fault.
#[cfg(feature = "mutations")]
pub fn mutated(name: &str) -> bool {
    FAULT.get().is_some_and(|fault| fault == name)
}

/// Never: this build has no faults of ours.
#[cfg(not(feature = "mutations"))]
#[inline(always)]
pub const fn mutated(_: &str) -> bool {
    false
}
