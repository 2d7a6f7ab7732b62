//! What to do next for a pod: a pure function of its specification, what the runtime holds, and probe results.
//!
//! Must not know time, I/O or back-off: whoever carries the plan out decides when a start may be tried again.
//! The order of decisions follows upstream's `computePodActions` and `computeInitContainerActions`.

use std::collections::BTreeMap;

use api::k8s::api::core::v1::{Container, Pod};

use super::observed::{Observed, Seen, State};
use super::pod::{PodExt, Slot, container_hash, is_sidecar, restarts_after, restarts_when_killed};

/// The three kinds of probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Probe {
    /// Delays the other two until it succeeds.
    Startup,
    /// Its failure restarts the container.
    Liveness,
    /// Its result is the container's readiness.
    Readiness,
}

/// Results by container id and kind: `true` = success. Absent = no result yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Results(BTreeMap<(String, Probe), bool>);

impl Results {
    /// The result of a probe of a container.
    pub fn get(&self, id: &str, probe: Probe) -> Option<bool> {
        self.0.get(&(id.to_owned(), probe)).copied()
    }

    /// Stores a result; true when it changed.
    pub fn set(&mut self, id: &str, probe: Probe, success: bool) -> bool {
        self.0.insert((id.to_owned(), probe), success) != Some(success)
    }

    /// Keeps only containers that still matter.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.0.retain(|(id, _), _| keep(id));
    }
}

/// Why a container is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Its definition changed, or its pod ends.
    Ordered,
    /// Its liveness probe failed.
    Liveness,
    /// Its startup probe failed.
    Startup,
    /// Nobody knows whether it runs.
    Unknown,
}

/// A container to stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kill {
    /// The runtime's id.
    pub id: String,
    /// The container's name.
    pub name: String,
    /// The text of the event.
    pub message: String,
    /// Why.
    pub reason: Reason,
}

/// What to do, in this order: end the pod or its old sandbox, stop, make the sandbox, start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Stop everything in the runtime.
    pub kill_pod: bool,
    /// Make a sandbox with this attempt number.
    pub create_sandbox: Option<u32>,
    /// The sandbox to start containers in, when none is made.
    pub sandbox: Option<String>,
    /// Stop these.
    pub kill: Vec<Kill>,
    /// Start these, in this order.
    pub start: Vec<Slot>,
}

/// Whether a container that is not running is to be started (again).
pub fn should_start(container: &Container, pod: &Pod, seen: Option<&Seen>) -> bool {
    if pod.deleting() {
        return false;
    }
    match seen {
        None => true,
        Some(seen) => match seen.state {
            State::Running => false,
            State::Created | State::Unknown => true,
            State::Exited => restarts_after(container, pod, seen.exit_code),
        },
    }
}

/// The next steps of a pod that is to run.
pub fn compute(pod: &Pod, observed: &Observed, results: &Results) -> Plan {
    let need = observed.sandbox_need(pod);
    if need.create {
        return with_new_sandbox(pod, observed, need.attempt);
    }
    let mut plan = Plan { sandbox: need.id, ..Plan::default() };
    for (index, container) in pod.ephemerals().iter().enumerate() {
        // Never restarted, and allowed before initialization ends.
        if observed.find(&container.name).is_none() {
            plan.start.push(Slot::Ephemeral(index));
        }
    }
    let (initialized, mut inits) = match init_steps(pod, observed, results, &mut plan.kill) {
        Some(done) => done,
        None => return Plan { kill_pod: true, sandbox: plan.sandbox, ..Plan::default() },
    };
    if !initialized {
        plan.start.extend(inits.into_iter().map(Slot::Init));
        return plan;
    }
    let (mut keep, mut start) = (0, Vec::new());
    for (index, container) in pod.apps().iter().enumerate() {
        match app_step(pod, container, observed.find(&container.name), results) {
            Step::Keep => keep += 1,
            Step::Leave => {}
            Step::Start(kill) => {
                plan.kill.extend(kill);
                start.push(Slot::App(index));
            }
            Step::Stop(kill) => plan.kill.push(kill),
        }
    }
    if keep == 0 && start.is_empty() {
        plan.kill_pod = true;
        inits.clear();
    }
    plan.start.extend(inits.into_iter().map(Slot::Init));
    plan.start.extend(start);
    plan
}

fn with_new_sandbox(pod: &Pod, observed: &Observed, attempt: u32) -> Plan {
    let stop = Plan { kill_pod: true, ..Plan::default() };
    if pod.restart_policy() == "Never" && attempt != 0 && !observed.containers.is_empty() {
        return stop;
    }
    let succeeded = |container: &Container| {
        observed.find(&container.name).is_some_and(|seen| seen.state == State::Exited && seen.exit_code == 0)
    };
    let mut start = Vec::new();
    for (index, container) in pod.apps().iter().enumerate() {
        let policy = container.restart_policy.as_deref().unwrap_or(pod.restart_policy());
        if !(policy == "OnFailure" && succeeded(container)) {
            start.push(Slot::App(index));
        }
    }
    if start.is_empty() && observed.any_app_created(pod) {
        return stop;
    }
    if !pod.inits().is_empty() {
        start = vec![Slot::Init(0)];
    }
    Plan { kill_pod: true, create_sandbox: Some(attempt), start, ..Plan::default() }
}

enum Step {
    Keep,
    Leave,
    Start(Option<Kill>),
    Stop(Kill),
}

fn app_step(pod: &Pod, container: &Container, seen: Option<&Seen>, results: &Results) -> Step {
    let Some(seen) = seen.filter(|seen| seen.state == State::Running) else {
        if !should_start(container, pod, seen) {
            return Step::Leave;
        }
        return Step::Start(
            seen.filter(|seen| seen.state == State::Unknown).map(|seen| unknown_kill(seen, "Container")),
        );
    };
    let (message, reason, restart) = if seen.hash != container_hash(container) {
        (format!("Container {} definition changed", container.name), Reason::Ordered, true)
    } else if results.get(&seen.id, Probe::Liveness) == Some(false) {
        let message = format!("Container {} failed liveness probe", container.name);
        (message, Reason::Liveness, restarts_when_killed(container, pod))
    } else if results.get(&seen.id, Probe::Startup) == Some(false) {
        let message = format!("Container {} failed startup probe", container.name);
        (message, Reason::Startup, restarts_when_killed(container, pod))
    } else {
        return Step::Keep;
    };
    let message = if restart { format!("{message}, will be restarted") } else { message };
    let kill = Kill { id: seen.id.clone(), name: seen.name.clone(), message, reason };
    if restart { Step::Start(Some(kill)) } else { Step::Stop(kill) }
}

fn unknown_kill(seen: &Seen, what: &str) -> Kill {
    let message = format!("{what} is in \"unknown\" state, try killing it before restart");
    Kill { id: seen.id.clone(), name: seen.name.clone(), message, reason: Reason::Unknown }
}

/// Init containers to start and whether all are done; `None` when initialization failed for good.
///
/// From the last to the first: finished ones may be gone from the runtime, so the latest one seen tells.
fn init_steps(
    pod: &Pod,
    observed: &Observed,
    results: &Results,
    kills: &mut Vec<Kill>,
) -> Option<(bool, Vec<usize>)> {
    let inits = pod.inits();
    if inits.is_empty() {
        return Some((true, Vec::new()));
    }
    let begun = |container: &Container| {
        observed
            .find(&container.name)
            .is_some_and(|seen| matches!(seen.state, State::Created | State::Running))
    };
    let mut initialized = pod.apps().iter().any(begun);
    let mut later_seen = initialized;
    let mut start = Vec::new();
    for (index, container) in inits.iter().enumerate().rev() {
        let sidecar = is_sidecar(container);
        let Some(seen) = observed.find(&container.name) else {
            if later_seen && sidecar {
                start.push(index);
            }
            continue;
        };
        if later_seen && !sidecar {
            continue;
        }
        let state = init_state(pod, container, seen, results, kills)?;
        if matches!(state, InitState::Restart) {
            start.push(index);
        }
        if matches!(state, InitState::Done | InitState::DoneRestart) {
            if index + 1 == inits.len() {
                initialized = true;
            } else if !later_seen {
                start.push(index + 1);
            }
        }
        if matches!(state, InitState::DoneRestart) {
            start.push(index);
        }
        later_seen = true;
    }
    if !later_seen {
        start.push(0);
    }
    start.sort_unstable();
    start.dedup();
    Some((initialized, start))
}

enum InitState {
    /// Still at it.
    Wait,
    /// Start it again.
    Restart,
    /// The next one may start.
    Done,
    /// The next one may start, and this sidecar again.
    DoneRestart,
}

fn init_state(
    pod: &Pod,
    container: &Container,
    seen: &Seen,
    results: &Results,
    kills: &mut Vec<Kill>,
) -> Option<InitState> {
    let sidecar = is_sidecar(container);
    let kill =
        |message: String, reason| Kill { id: seen.id.clone(), name: seen.name.clone(), message, reason };
    Some(match seen.state {
        State::Created => InitState::Restart,
        State::Running if !sidecar => InitState::Wait,
        State::Running => {
            if container.startup_probe.is_some() {
                match results.get(&seen.id, Probe::Startup) {
                    Some(true) => {}
                    Some(false) => {
                        let message = format!("Init container {} failed startup probe", container.name);
                        kills.push(kill(message, Reason::Startup));
                        return Some(InitState::Restart);
                    }
                    None => return Some(InitState::Wait),
                }
            }
            if seen.hash != container_hash(container) {
                kills.push(kill(
                    format!("Init container {} definition changed", container.name),
                    Reason::Ordered,
                ));
                InitState::DoneRestart
            } else if container.liveness_probe.is_some()
                && results.get(&seen.id, Probe::Liveness) == Some(false)
            {
                kills.push(kill(
                    format!("Init container {} failed liveness probe", container.name),
                    Reason::Liveness,
                ));
                InitState::DoneRestart
            } else {
                InitState::Done
            }
        }
        State::Exited if sidecar => InitState::Restart,
        State::Exited if seen.exit_code == 0 => InitState::Done,
        State::Exited if should_start(container, pod, Some(seen)) => InitState::Restart,
        State::Exited => return None,
        State::Unknown if sidecar || restarts_when_killed(container, pod) => {
            kills.push(unknown_kill(seen, "Init container"));
            InitState::Restart
        }
        State::Unknown => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::observed::Sandbox;
    use super::*;
    use serde_json::{Value, json};

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec}))
            .expect("a pod")
    }

    fn seen(pod: &Pod, name: &str, state: State, exit_code: i32) -> Seen {
        let hash = container_hash(&pod.container_named(name).expect("known"));
        Seen {
            id: format!("id-{name}"),
            name: name.into(),
            sandbox: "s".into(),
            state,
            exit_code,
            hash,
            ..Seen::default()
        }
    }

    fn up(pod: &Pod, containers: &[(&str, State, i32)]) -> Observed {
        Observed {
            sandboxes: vec![Sandbox {
                id: "s".into(),
                ready: true,
                ips: vec!["10.0.0.1".into()],
                ..Sandbox::default()
            }],
            containers: containers.iter().map(|(name, state, code)| seen(pod, name, *state, *code)).collect(),
        }
    }

    /// `kill_pod create start kill` in short.
    fn brief(plan: &Plan) -> String {
        let start: Vec<String> = plan.start.iter().map(|slot| format!("{slot:?}")).collect();
        let kill: Vec<&str> = plan.kill.iter().map(|kill| kill.name.as_str()).collect();
        let flags = format!(
            "{}{}",
            if plan.kill_pod { "K" } else { "" },
            if plan.create_sandbox.is_some() { "S" } else { "" }
        );
        format!("{flags}|{}|{}", start.join(","), kill.join(","))
    }

    #[test]
    fn app_containers() {
        let policy = |policy: &str| {
            pod(json!({"restartPolicy": policy, "containers": [{"name": "a"}, {"name": "b"}]}))
        };
        use State::{Exited, Running, Unknown};
        for (p, containers, expect) in [
            ("Always", vec![], "|App(0),App(1)|"),
            ("Always", vec![("a", Running, 0), ("b", Running, 0)], "||"),
            ("Always", vec![("a", Running, 0), ("b", Exited, 0)], "|App(1)|"),
            ("OnFailure", vec![("a", Running, 0), ("b", Exited, 0)], "||"),
            ("OnFailure", vec![("a", Exited, 1), ("b", Exited, 0)], "|App(0)|"),
            ("Never", vec![("a", Exited, 1), ("b", Exited, 0)], "K||"),
            ("Never", vec![("a", Running, 0), ("b", Unknown, 0)], "|App(1)|b"),
        ] {
            let pod = policy(p);
            let plan = compute(&pod, &up(&pod, &containers), &Results::default());
            assert_eq!(brief(&plan), expect, "{p} {containers:?}");
        }
    }

    #[test]
    fn init_containers() {
        let pod = |policy: &str| {
            pod(json!({"restartPolicy": policy, "containers": [{"name": "a"}],
                "initContainers": [{"name": "i"}, {"name": "side", "restartPolicy": "Always"}, {"name": "j"}]}))
        };
        use State::{Exited, Running};
        for (p, containers, expect) in [
            ("Always", vec![], "|Init(0)|"),
            ("Always", vec![("i", Running, 0)], "||"),
            ("Always", vec![("i", Exited, 1)], "|Init(0)|"),
            ("Never", vec![("i", Exited, 1)], "K||"),
            ("Always", vec![("i", Exited, 0)], "|Init(1)|"),
            ("Always", vec![("i", Exited, 0), ("side", Running, 0)], "|Init(2)|"),
            ("Always", vec![("i", Exited, 0), ("side", Exited, 1), ("j", Running, 0)], "|Init(1)|"),
            ("Always", vec![("i", Exited, 0), ("side", Running, 0), ("j", Exited, 0)], "|App(0)|"),
            ("Always", vec![("side", Running, 0), ("a", Running, 0)], "||"),
            ("Always", vec![("side", Exited, 0), ("a", Running, 0)], "|Init(1)|"),
            ("Never", vec![("side", Running, 0), ("j", Exited, 0), ("a", Exited, 0)], "K||"),
        ] {
            let pod = pod(p);
            let plan = compute(&pod, &up(&pod, &containers), &Results::default());
            assert_eq!(brief(&plan), expect, "{p} {containers:?}");
        }
    }

    #[test]
    fn sandboxes() {
        let plain = pod(json!({"containers": [{"name": "a"}], "initContainers": [{"name": "i"}]}));
        assert_eq!(brief(&compute(&plain, &Observed::default(), &Results::default())), "KS|Init(0)|");
        let mut observed = up(&plain, &[("a", State::Running, 0)]);
        observed.sandboxes[0].ready = false;
        let plan = compute(&plain, &observed, &Results::default());
        assert_eq!((brief(&plan), plan.create_sandbox), ("KS|Init(0)|".to_owned(), Some(1)));
        let never = pod(json!({"restartPolicy": "Never", "containers": [{"name": "a"}]}));
        let mut observed = up(&never, &[("a", State::Exited, 0)]);
        observed.sandboxes[0].ready = false;
        assert_eq!(brief(&compute(&never, &observed, &Results::default())), "K||");
    }

    #[test]
    fn probes_kill() {
        let always = pod(json!({"containers": [{"name": "a", "livenessProbe": {}}]}));
        let mut results = Results::default();
        assert!(results.set("id-a", Probe::Liveness, false));
        let plan = compute(&always, &up(&always, &[("a", State::Running, 0)]), &results);
        assert_eq!(brief(&plan), "|App(0)|a");
        assert_eq!(plan.kill[0].message, "Container a failed liveness probe, will be restarted");
        let never =
            pod(json!({"restartPolicy": "Never", "containers": [{"name": "a", "livenessProbe": {}}]}));
        let plan = compute(&never, &up(&never, &[("a", State::Running, 0)]), &results);
        assert_eq!(brief(&plan), "K||a");
    }
}
