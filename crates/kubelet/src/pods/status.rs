//! A pod's status: a pure function of its specification, its former status, what the runtime holds, probe results
//! and what went wrong at the last start.
//!
//! Must not know I/O. The rules are upstream's (`kubelet_pods.go`, `status/generate.go`, `prober_manager.go`).

use std::collections::BTreeMap;

use api::k8s::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, ContainerUser, HostIP, LinuxContainerUser, Pod, PodCondition, PodIP, PodStatus,
    ResourceRequirements, VolumeMountStatus,
};
use api::k8s::apimachinery::pkg::apis::meta::v1::Time;
use jiff::Timestamp;

use super::observed::{Observed, Seen, State};
use super::plan::{Probe, Results, should_start};
use super::pod::{PodExt, is_sidecar, qos, restarts_after};
use super::resize::Resize;
use crate::amount;

/// Conditions that the agent owns; all others are left as they are.
pub const OWN_CONDITIONS: [&str; 5] =
    ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];

/// Conditions that the agent owns while a resize goes on.
pub const RESIZE_CONDITIONS: [&str; 2] = ["PodResizePending", "PodResizeInProgress"];

/// Why a container waits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Such as `ImagePullBackOff`.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// The condition of pods whose place somebody needed.
pub const DISRUPTION: &str = "DisruptionTarget";

/// An end that was decided outside the containers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Such as `DeadlineExceeded`.
    pub reason: String,
    /// For people.
    pub message: String,
    /// How long its containers may take to end, seconds; `None` = as the pod says.
    pub grace: Option<i64>,
    /// The node needed its place: the pod says so in a condition.
    pub disrupted: bool,
}

/// Everything a status is made from.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// The pod as wanted.
    pub pod: &'a Pod,
    /// The status that was generated before, or the API's.
    pub old: &'a PodStatus,
    /// What the runtime holds.
    pub observed: &'a Observed,
    /// Probe results.
    pub results: &'a Results,
    /// By container name: why its start failed.
    pub waiting: &'a BTreeMap<String, Waiting>,
    /// The pod was failed or rejected.
    pub verdict: Option<&'a Verdict>,
    /// Nothing of the pod runs and nothing will be started again.
    pub terminal: bool,
    /// The node's addresses.
    pub host_ips: &'a [String],
    /// The time.
    pub now: Timestamp,
    /// The scheme of container ids, such as `containerd`.
    pub scheme: &'a str,
    /// Resources as admitted, by container name; absent = the specification's.
    pub allocated: &'a BTreeMap<String, ResourceRequirements>,
    /// Resources as applied, by container name; absent = as admitted.
    pub applied: &'a BTreeMap<String, ResourceRequirements>,
    /// What is to be said about a resize.
    pub resize: Option<&'a Resize>,
}

/// The pod's status.
pub fn generate(facts: &Facts<'_>) -> PodStatus {
    let pod = facts.pod;
    let has_inits = !pod.inits().is_empty();
    let apps =
        container_statuses(facts, pod.apps(), facts.old.container_statuses.as_deref(), has_inits, false);
    let inits =
        container_statuses(facts, pod.inits(), facts.old.init_container_statuses.as_deref(), has_inits, true);
    let ephemeral: Vec<Container> =
        (0..pod.ephemerals().len()).filter_map(|i| pod.container(super::pod::Slot::Ephemeral(i))).collect();
    let old_ephemeral = facts.old.ephemeral_container_statuses.as_deref();
    let ephemeral = container_statuses(facts, &ephemeral, old_ephemeral, false, false);
    let mut phase = phase(pod, &apps, &inits, facts.terminal, facts.observed.any_app_started(pod));
    for earlier in [facts.old.phase.as_deref(), pod.status().phase.as_deref()] {
        if let Some(end @ ("Failed" | "Succeeded")) = earlier {
            phase = end.to_owned();
        }
    }
    let (mut reason, mut message) = (None, None);
    if facts.old.phase.as_deref() == Some(phase.as_str()) {
        reason = facts.old.reason.clone().or_else(|| pod.status().reason.clone());
        message = facts.old.message.clone().or_else(|| pod.status().message.clone());
    }
    if let Some(verdict) = facts.verdict.filter(|_| !pod.finished()) {
        phase = "Failed".to_owned();
        reason = Some(verdict.reason.clone());
        message = Some(verdict.message.clone());
    }
    let (pod_ip, pod_ips) = addresses(facts);
    // Of a pod that was refused nothing ever was: it does not look as if something were being made.
    let untouched = facts.observed.sandboxes.is_empty() && facts.observed.containers.is_empty();
    let none_before = facts.old.container_statuses.as_ref().is_none_or(Vec::is_empty);
    let refused = facts.verdict.is_some() && facts.terminal && untouched && none_before;
    let mut status = PodStatus {
        phase: Some(phase),
        reason,
        message,
        host_ip: facts.host_ips.first().cloned(),
        host_ips: Some(facts.host_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect()),
        pod_ip,
        pod_ips,
        qos_class: Some(pod.status().qos_class.clone().unwrap_or_else(|| qos(pod).to_owned())),
        start_time: facts.old.start_time.clone().or_else(|| Some(Time(seconds(facts.now)))),
        observed_generation: pod.metadata.generation,
        container_statuses: (!refused).then_some(apps),
        init_container_statuses: (has_inits && !refused).then_some(inits),
        ephemeral_container_statuses: (!ephemeral.is_empty()).then_some(ephemeral),
        ..PodStatus::default()
    };
    status.conditions = Some(conditions(facts, &status));
    status
}

/// The API's times have whole seconds.
pub fn seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

fn addresses(facts: &Facts<'_>) -> (Option<String>, Option<Vec<PodIP>>) {
    let mut ips: Vec<String> =
        if facts.pod.host_network() { facts.host_ips.to_vec() } else { facts.observed.ips().to_vec() };
    if ips.is_empty() {
        // The address stays visible after the sandbox is gone.
        ips = facts.old.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect();
    }
    let first = ips.first().cloned();
    (first, (!ips.is_empty()).then(|| ips.into_iter().map(|ip| PodIP { ip }).collect()))
}

fn waiting_state(reason: &str, message: Option<&str>) -> ContainerState {
    ContainerState {
        waiting: Some(ContainerStateWaiting {
            reason: (!reason.is_empty()).then(|| reason.to_owned()),
            message: message.filter(|text| !text.is_empty()).map(str::to_owned),
        }),
        ..ContainerState::default()
    }
}

fn terminated_state(terminated: ContainerStateTerminated) -> ContainerState {
    ContainerState { terminated: Some(terminated), ..ContainerState::default() }
}

fn terminated(status: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    status.state.as_ref()?.terminated.as_ref()
}

fn running(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|state| state.running.is_some())
}

fn is_waiting(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|state| state.waiting.is_some())
}

fn last_terminated(status: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    status.last_state.as_ref()?.terminated.as_ref()
}

fn container_statuses(
    facts: &Facts<'_>,
    containers: &[Container],
    old: Option<&[ContainerStatus]>,
    has_inits: bool,
    is_init: bool,
) -> Vec<ContainerStatus> {
    let old = old.unwrap_or(&[]);
    let mut out: Vec<ContainerStatus> = containers
        .iter()
        .map(|container| {
            container_status(
                facts,
                container,
                old.iter().find(|s| s.name == container.name),
                has_inits,
                is_init,
            )
        })
        .collect();
    if !is_init {
        out.sort_by(|a, b| a.name.cmp(&b.name));
    }
    out
}

fn container_status(
    facts: &Facts<'_>,
    container: &Container,
    old: Option<&ContainerStatus>,
    has_inits: bool,
    is_init: bool,
) -> ContainerStatus {
    let mut seen = facts.observed.containers.iter().filter(|seen| seen.name == container.name);
    let (newest, before) = (seen.next(), seen.next());
    let mut status = match newest {
        None => unseen_status(facts, container, old, has_inits),
        Some(newest) => {
            let mut status = seen_status(facts, container, newest, old);
            if let Some(before) = before {
                status.last_state = Some(seen_state(facts, before, None));
            }
            status
        }
    };
    if is_init
        && !is_sidecar(container)
        && newest.is_none()
        && facts.observed.any_app_created(facts.pod)
        && is_waiting(&status)
    {
        let message = "Unable to get init container status from container runtime and pod has been initialized, treat it as exited normally";
        status.state = Some(terminated_state(ContainerStateTerminated {
            reason: Some("Completed".into()),
            message: Some(message.into()),
            ..ContainerStateTerminated::default()
        }));
    } else if let Some(waiting) = facts.waiting.get(&container.name) {
        let done = is_init
            && newest.is_some_and(|seen| {
                seen.state == State::Exited && seen.exit_code == 0 && !is_sidecar(container)
            });
        if !done && should_start(container, facts.pod, newest) {
            if terminated(&status).is_some() {
                status.last_state = status.state.take();
            }
            status.state = Some(waiting_state(&waiting.reason, Some(&waiting.message)));
        }
    }
    set_readiness(facts, container, &mut status, is_init);
    status
}

/// Started and ready, as the probes say.
fn set_readiness(facts: &Facts<'_>, container: &Container, status: &mut ContainerStatus, is_init: bool) {
    let id = status
        .container_id
        .as_deref()
        .and_then(|id| id.split_once("://"))
        .map_or("", |(_, id)| id)
        .to_owned();
    let runs = running(status);
    let started =
        runs && (container.startup_probe.is_none() || facts.results.get(&id, Probe::Startup) == Some(true));
    status.started = Some(started);
    if is_init && !is_sidecar(container) {
        status.ready = terminated(status).is_some_and(|end| end.exit_code == 0);
        return;
    }
    let probed =
        container.readiness_probe.is_none() || facts.results.get(&id, Probe::Readiness) == Some(true);
    status.ready = started && runs && probed;
}

fn mounts(container: &Container) -> Option<Vec<VolumeMountStatus>> {
    let mounts: Vec<VolumeMountStatus> = container
        .volume_mounts
        .iter()
        .flatten()
        .map(|mount| VolumeMountStatus {
            name: mount.name.clone(),
            mount_path: mount.mount_path.clone(),
            read_only: mount.read_only.filter(|on| *on),
            recursive_read_only: mount.read_only.filter(|on| *on).map(|_| "Disabled".to_owned()),
            volume_status: None,
        })
        .collect();
    (!mounts.is_empty()).then_some(mounts)
}

/// The status of a container that the runtime does not know.
fn unseen_status(
    facts: &Facts<'_>,
    container: &Container,
    old: Option<&ContainerStatus>,
    has_inits: bool,
) -> ContainerStatus {
    let reason = if has_inits { "PodInitializing" } else { "ContainerCreating" };
    let mut status = ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        state: Some(waiting_state(reason, None)),
        volume_mounts: mounts(container),
        ..ContainerStatus::default()
    };
    let Some(old) = old else { return status };
    if terminated(old).is_some() {
        return old.clone();
    }
    status.restart_count = old.restart_count;
    status.last_state = old.last_state.clone();
    if running(old) && last_terminated(&status).is_none() {
        // It ran, and nobody knows how it ended: it must not look as if it had never run.
        status.last_state = Some(terminated_state(ContainerStateTerminated {
            reason: Some("ContainerStatusUnknown".into()),
            message: Some("The container could not be located when the pod was deleted.  The container used to be Running".into()),
            exit_code: 137,
            ..ContainerStateTerminated::default()
        }));
        if !facts.pod.deleting() {
            status.restart_count += 1;
        }
    }
    status
}

fn seen_state(facts: &Facts<'_>, seen: &Seen, old: Option<&ContainerStatus>) -> ContainerState {
    let id = format!("{}://{}", facts.scheme, seen.id);
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    match seen.state {
        State::Running => ContainerState {
            running: Some(ContainerStateRunning { started_at: seen.started.map(|at| Time(seconds(at))) }),
            ..ContainerState::default()
        },
        State::Exited => terminated_state(ContainerStateTerminated {
            exit_code: seen.exit_code,
            reason: text(&seen.reason),
            message: text(&seen.message),
            started_at: seen.started.map(|at| Time(seconds(at))),
            finished_at: seen.finished.map(|at| Time(seconds(at))),
            container_id: Some(id),
            signal: None,
        }),
        State::Unknown if old.is_some_and(running) => terminated_state(ContainerStateTerminated {
            reason: Some("ContainerStatusUnknown".into()),
            message: Some("The container could not be located when the pod was terminated".into()),
            exit_code: 137,
            ..ContainerStateTerminated::default()
        }),
        State::Created | State::Unknown => waiting_state("", None),
    }
}

fn seen_status(
    facts: &Facts<'_>,
    container: &Container,
    seen: &Seen,
    old: Option<&ContainerStatus>,
) -> ContainerStatus {
    let id = format!("{}://{}", facts.scheme, seen.id);
    let mut status = ContainerStatus {
        name: seen.name.clone(),
        restart_count: seen.restarts,
        image: seen.image.clone(),
        image_id: seen.image_ref.clone(),
        container_id: Some(id.clone()),
        state: Some(seen_state(facts, seen, old)),
        volume_mounts: mounts(container),
        ..ContainerStatus::default()
    };
    if let Some(old) = old {
        let said = terminated(old)
            .filter(|end| end.container_id.as_deref() == Some(id.as_str()))
            .and_then(|end| end.message.clone());
        if let Some(end) = status.state.as_mut().and_then(|state| state.terminated.as_mut()) {
            end.message = end.message.take().or(said);
        }
        status.restart_count = status.restart_count.max(old.restart_count);
        status.last_state = match terminated(old) {
            Some(end) if old.container_id.as_deref() != Some(id.as_str()) => {
                Some(terminated_state(end.clone()))
            }
            _ => last_terminated(old).map(|end| terminated_state(end.clone())),
        };
    }
    let allocated = facts.allocated.get(&container.name).or(container.resources.as_ref());
    let applied = facts.applied.get(&container.name).or(allocated);
    status.resources = applied.map(|resources| actual_resources(resources, seen));
    status.allocated_resources = allocated.and_then(|resources| resources.requests.clone());
    status.user = seen.user.as_ref().map(|user| ContainerUser {
        linux: Some(LinuxContainerUser {
            uid: user.uid,
            gid: user.gid,
            supplemental_groups: Some(user.supplemental_groups.clone()),
        }),
    });
    status
}

/// Allocated resources with what the runtime has applied in their place.
fn actual_resources(allocated: &ResourceRequirements, seen: &Seen) -> ResourceRequirements {
    let mut out = allocated.clone();
    let Some(applied) = seen.resources.as_ref().filter(|_| seen.state == State::Running) else { return out };
    if let Some(limits) = out.limits.as_mut() {
        let milli = amount::milli_from_quota(applied.cpu_quota, applied.cpu_period);
        // Below 10m the kernel's smallest quota hides what was asked for.
        let wanted = limits.get("cpu").map_or(0, |quantity| amount::milli(&quantity.0));
        if milli > 0 && milli != wanted && (milli > 10 || wanted > 10) {
            limits.insert("cpu".into(), amount::cpu_text(milli));
        }
        let bytes = applied.memory_limit_in_bytes;
        if bytes > 0 && limits.get("memory").map(|quantity| amount::whole(&quantity.0)) != Some(bytes) {
            limits.insert("memory".into(), amount::bytes_text(bytes));
        }
    }
    if let Some(cpu) = out.requests.as_mut().and_then(|requests| requests.get_mut("cpu")) {
        let wanted = amount::milli(&cpu.0);
        let same = amount::shares(wanted) == applied.cpu_shares;
        if applied.cpu_shares > 0 && !same && (applied.cpu_shares > 2 || wanted > 2) {
            *cpu = amount::cpu_text(amount::milli_from_shares(applied.cpu_shares));
        }
    }
    out
}

/// Counts of containers by what they mean for the phase.
#[derive(Default)]
struct Tally {
    unknown: usize,
    running: usize,
    waiting: usize,
    stopped: usize,
    final_: usize,
    succeeded: usize,
    pending_sidecars: usize,
    pending_inits: usize,
    failed_inits: usize,
}

impl Tally {
    fn init(&mut self, pod: &Pod, container: &Container, status: Option<&ContainerStatus>) {
        let end = status.and_then(|status| {
            terminated(status).or_else(|| last_terminated(status).filter(|_| is_waiting(status)))
        });
        match end {
            None => self.pending_inits += 1,
            Some(end) if end.exit_code != 0 && !restarts_after(container, pod, end.exit_code) => {
                self.failed_inits += 1
            }
            Some(_) => {}
        }
    }

    fn sidecar(&mut self, status: Option<&ContainerStatus>) {
        let Some(status) = status else {
            self.unknown += 1;
            return;
        };
        if running(status) {
            self.pending_sidecars += usize::from(status.started != Some(true));
            self.running += 1;
        } else if terminated(status).is_none() && last_terminated(status).is_none() {
            self.pending_sidecars += 1;
            self.waiting += 1;
        }
    }

    fn app(&mut self, pod: &Pod, container: &Container, status: Option<&ContainerStatus>) {
        let Some(status) = status else {
            self.unknown += 1;
            return;
        };
        if running(status) {
            self.running += 1;
        } else if let Some(end) = terminated(status) {
            self.stopped += 1;
            self.final_ += usize::from(!restarts_after(container, pod, end.exit_code));
            self.succeeded += usize::from(end.exit_code == 0);
        } else if let Some(end) = last_terminated(status) {
            self.stopped += 1;
            self.final_ += usize::from(!restarts_after(container, pod, end.exit_code));
        } else {
            self.waiting += 1;
        }
    }
}

fn phase(
    pod: &Pod,
    apps: &[ContainerStatus],
    inits: &[ContainerStatus],
    terminal: bool,
    initialized: bool,
) -> String {
    let find = |list: &[ContainerStatus], name: &str| list.iter().find(|status| status.name == name).cloned();
    let mut tally = Tally::default();
    for container in pod.inits() {
        let status = find(inits, &container.name);
        if is_sidecar(container) {
            tally.sidecar(status.as_ref());
        } else {
            tally.init(pod, container, status.as_ref());
        }
    }
    for container in pod.apps() {
        tally.app(pod, container, find(apps, &container.name).as_ref());
    }
    let ended = if tally.stopped == tally.succeeded { "Succeeded" } else { "Failed" };
    let phase = if tally.failed_inits > 0 {
        "Failed"
    } else if tally.pending_inits > 0 || (tally.pending_sidecars > 0 && !initialized) || tally.waiting > 0 {
        "Pending"
    } else if tally.running > 0 && tally.unknown == 0 {
        "Running"
    } else if tally.running == 0 && tally.stopped > 0 && tally.unknown == 0 {
        match () {
            () if terminal && !pod.is_static() => ended,
            () if tally.stopped != tally.final_ => "Running",
            () => ended,
        }
    } else {
        "Pending"
    };
    phase.to_owned()
}

/// A condition before its times are known.
struct Draft {
    kind: &'static str,
    status: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

fn conditions(facts: &Facts<'_>, status: &PodStatus) -> Vec<PodCondition> {
    let pod = facts.pod;
    let own = |name: &str| OWN_CONDITIONS.contains(&name) || RESIZE_CONDITIONS.contains(&name);
    let foreign = pod.status().conditions.iter().flatten();
    let mut out: Vec<PodCondition> = foreign.filter(|condition| !own(&condition.type_)).cloned().collect();
    out.extend(facts.resize.map(|resize| finish(facts, resize_draft(resize))));
    if let Some(verdict) = facts.verdict.filter(|verdict| verdict.disrupted) {
        let (reason, message) = (Some("TerminationByKubelet"), Some(verdict.message.clone()));
        out.retain(|condition| condition.type_ != DISRUPTION);
        out.push(finish(facts, Draft { kind: DISRUPTION, status: true, reason, message }));
    }
    for kept in facts.old.conditions.iter().flatten().filter(|condition| condition.type_ == DISRUPTION) {
        if !out.iter().any(|condition| condition.type_ == kept.type_) {
            out.push(kept.clone());
        }
    }
    let containers_ready = containers_ready(pod, status);
    let ready = ready(pod, &containers_ready, &out);
    let sandbox = Draft {
        kind: "PodReadyToStartContainers",
        status: !facts.observed.sandbox_need(pod).create,
        reason: None,
        message: None,
    };
    let scheduled = Draft { kind: "PodScheduled", status: true, reason: None, message: None };
    for draft in [sandbox, initialized(pod, status), ready, containers_ready, scheduled] {
        out.push(finish(facts, draft));
    }
    out
}

fn resize_draft(resize: &Resize) -> Draft {
    let pending = "PodResizePending";
    match resize {
        Resize::Infeasible(message) => {
            Draft { kind: pending, status: true, reason: Some("Infeasible"), message: Some(message.clone()) }
        }
        Resize::Deferred(message) => {
            Draft { kind: pending, status: true, reason: Some("Deferred"), message: Some(message.clone()) }
        }
        Resize::InProgress(error) => Draft {
            kind: "PodResizeInProgress",
            status: true,
            reason: error.as_ref().map(|_| "Error"),
            message: error.clone(),
        },
    }
}

/// A condition keeps its time as long as its status stays.
fn finish(facts: &Facts<'_>, draft: Draft) -> PodCondition {
    let status = if draft.status { "True" } else { "False" };
    let old = facts.old.conditions.iter().flatten().find(|condition| condition.type_ == draft.kind);
    let same = old.filter(|old| old.status == status);
    PodCondition {
        type_: draft.kind.to_owned(),
        status: status.to_owned(),
        reason: draft.reason.map(str::to_owned),
        message: draft.message,
        observed_generation: facts.pod.metadata.generation,
        last_transition_time: same
            .and_then(|old| old.last_transition_time.clone())
            .or_else(|| Some(Time(seconds(facts.now)))),
        last_probe_time: None,
    }
}

/// Go prints a list of strings as `[a b]`.
fn list(names: &[&str]) -> String {
    format!("[{}]", names.join(" "))
}

fn unready_message(unknown: &[&str], unready: &[&str], what: &str) -> Option<String> {
    let mut parts = Vec::new();
    if !unknown.is_empty() {
        parts.push(format!("containers with unknown status: {}", list(unknown)));
    }
    if !unready.is_empty() {
        parts.push(format!("containers with {what} status: {}", list(unready)));
    }
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn containers_ready(pod: &Pod, status: &PodStatus) -> Draft {
    let kind = "ContainersReady";
    let statuses: Vec<&ContainerStatus> = status
        .init_container_statuses
        .iter()
        .flatten()
        .chain(status.container_statuses.iter().flatten())
        .collect();
    let watched = pod.inits().iter().filter(|container| is_sidecar(container)).chain(pod.apps());
    let (mut unknown, mut unready) = (Vec::new(), Vec::new());
    for container in watched {
        match statuses.iter().find(|status| status.name == container.name) {
            None => unknown.push(container.name.as_str()),
            Some(status) if !status.ready => unready.push(container.name.as_str()),
            Some(_) => {}
        }
    }
    match status.phase.as_deref() {
        Some("Succeeded") if unknown.is_empty() => {
            Draft { kind, status: false, reason: Some("PodCompleted"), message: None }
        }
        Some("Failed") => Draft { kind, status: false, reason: Some("PodFailed"), message: None },
        _ => {
            let message = unready_message(&unknown, &unready, "unready");
            let reason = message.is_some().then_some("ContainersNotReady");
            Draft { kind, status: message.is_none(), reason, message }
        }
    }
}

fn ready(pod: &Pod, containers_ready: &Draft, conditions: &[PodCondition]) -> Draft {
    let kind = "Ready";
    if !containers_ready.status {
        return Draft {
            kind,
            status: false,
            reason: containers_ready.reason,
            message: containers_ready.message.clone(),
        };
    }
    let mut messages = Vec::new();
    for gate in pod.spec().readiness_gates.iter().flatten() {
        let name = &gate.condition_type;
        match conditions.iter().find(|condition| &condition.type_ == name) {
            None => messages
                .push(format!("corresponding condition of pod readiness gate {name:?} does not exist.")),
            Some(found) if found.status != "True" => messages.push(format!(
                "the status of pod readiness gate {name:?} is not \"True\", but {}",
                found.status
            )),
            Some(_) => {}
        }
    }
    let message = (!messages.is_empty()).then(|| messages.join(", "));
    Draft {
        kind,
        status: message.is_none(),
        reason: message.is_some().then_some("ReadinessGatesNotReady"),
        message,
    }
}

fn initialized(pod: &Pod, status: &PodStatus) -> Draft {
    let kind = "Initialized";
    let statuses = status.init_container_statuses.as_deref().unwrap_or(&[]);
    let (mut unknown, mut incomplete) = (Vec::new(), Vec::new());
    for container in pod.inits() {
        match statuses.iter().find(|status| status.name == container.name) {
            None => unknown.push(container.name.as_str()),
            Some(status) => {
                let done = if is_sidecar(container) { status.started == Some(true) } else { status.ready };
                if !done {
                    incomplete.push(container.name.as_str());
                }
            }
        }
    }
    if status.phase.as_deref() == Some("Succeeded") && unknown.is_empty() {
        return Draft { kind, status: true, reason: Some("PodCompleted"), message: None };
    }
    let app_started = status.container_statuses.iter().flatten().any(|status| {
        pod.apps().iter().any(|container| container.name == status.name)
            && (running(status) || terminated(status).is_some() || last_terminated(status).is_some())
    });
    let message = unready_message(&unknown, &incomplete, "incomplete").filter(|_| !app_started);
    Draft {
        kind,
        status: message.is_none(),
        reason: message.is_some().then_some("ContainersNotInitialized"),
        message,
    }
}

#[cfg(test)]
mod tests {
    use super::super::observed::Sandbox;
    use super::*;
    use serde_json::{Value, json};

    fn pod(spec: Value) -> Pod {
        serde_json::from_value(
            json!({"metadata": {"name": "p", "namespace": "n", "uid": "u", "generation": 3}, "spec": spec}),
        )
        .expect("a pod")
    }

    fn seen(name: &str, state: State, exit_code: i32) -> Seen {
        let at: Timestamp = "2026-01-01T00:00:00.5Z".parse().expect("a time");
        Seen {
            id: format!("id-{name}"),
            name: name.into(),
            sandbox: "s".into(),
            state,
            exit_code,
            created: at,
            started: Some(at),
            finished: (state == State::Exited).then_some(at),
            ..Seen::default()
        }
    }

    fn run(
        pod: &Pod,
        containers: Vec<Seen>,
        old: &PodStatus,
        waiting: &[(&str, &str)],
        terminal: bool,
    ) -> PodStatus {
        let observed = Observed {
            sandboxes: vec![Sandbox {
                id: "s".into(),
                ready: true,
                ips: vec!["10.0.0.1".into()],
                ..Sandbox::default()
            }],
            containers,
        };
        let waiting = waiting
            .iter()
            .map(|(name, reason)| {
                ((*name).to_owned(), Waiting { reason: (*reason).into(), message: String::new() })
            })
            .collect();
        generate(&Facts {
            pod,
            old,
            observed: &observed,
            results: &Results::default(),
            waiting: &waiting,
            verdict: None,
            terminal,
            host_ips: &["192.0.2.1".to_owned()],
            now: "2026-01-01T00:00:09.9Z".parse().expect("a time"),
            scheme: "containerd",
            allocated: &BTreeMap::new(),
            applied: &BTreeMap::new(),
            resize: None,
        })
    }

    /// `phase reason-of-first-container conditions-that-are-true`.
    fn brief(status: &PodStatus) -> String {
        let state =
            status.container_statuses.as_ref().and_then(|s| s.first()?.state.clone()).unwrap_or_default();
        let state = match state {
            ContainerState { waiting: Some(waiting), .. } => waiting.reason.unwrap_or_default(),
            ContainerState { running: Some(_), .. } => "running".into(),
            ContainerState { terminated: Some(end), .. } => format!("exit {}", end.exit_code),
            _ => "none".into(),
        };
        let on: Vec<&str> = status
            .conditions
            .iter()
            .flatten()
            .filter(|c| c.status == "True")
            .map(|c| c.type_.as_str())
            .collect();
        format!("{} {state} {}", status.phase.as_deref().unwrap_or(""), on.join(","))
    }

    #[test]
    fn phases() {
        use State::{Exited, Running};
        let all = "PodReadyToStartContainers,Initialized,Ready,ContainersReady,PodScheduled";
        let base = "PodReadyToStartContainers,Initialized,PodScheduled";
        let plain = |policy: &str| pod(json!({"restartPolicy": policy, "containers": [{"name": "a"}]}));
        for (policy, containers, waiting, terminal, expect) in [
            ("Always", vec![], vec![], false, format!("Pending ContainerCreating {base}")),
            ("Always", vec![], vec![("a", "ErrImagePull")], false, format!("Pending ErrImagePull {base}")),
            ("Always", vec![seen("a", Running, 0)], vec![], false, format!("Running running {all}")),
            (
                "Always",
                vec![seen("a", Exited, 1)],
                vec![("a", "CrashLoopBackOff")],
                false,
                format!("Running CrashLoopBackOff {base}"),
            ),
            ("Never", vec![seen("a", Exited, 1)], vec![], false, format!("Failed exit 1 {base}")),
            ("Never", vec![seen("a", Exited, 0)], vec![], false, format!("Succeeded exit 0 {base}")),
            ("OnFailure", vec![seen("a", Exited, 1)], vec![], false, format!("Running exit 1 {base}")),
            ("Always", vec![seen("a", Exited, 0)], vec![], true, format!("Succeeded exit 0 {base}")),
            ("Always", vec![seen("a", Exited, 137)], vec![], true, format!("Failed exit 137 {base}")),
        ] {
            let status = run(&plain(policy), containers, &PodStatus::default(), &waiting, terminal);
            assert_eq!(brief(&status), expect);
        }
    }

    #[test]
    fn initialization() {
        use State::{Exited, Running};
        let pod = pod(
            json!({"restartPolicy": "Always", "containers": [{"name": "a"}], "initContainers": [{"name": "i"}]}),
        );
        let status = run(&pod, vec![seen("i", Running, 0)], &PodStatus::default(), &[], false);
        assert_eq!(brief(&status), "Pending PodInitializing PodReadyToStartContainers,PodScheduled");
        let condition =
            status.conditions.iter().flatten().find(|c| c.type_ == "Initialized").expect("present");
        assert_eq!(condition.message.as_deref(), Some("containers with incomplete status: [i]"));
        assert_eq!(condition.observed_generation, Some(3));
        let status =
            run(&pod, vec![seen("a", Running, 0), seen("i", Exited, 0)], &PodStatus::default(), &[], false);
        assert_eq!(status.phase.as_deref(), Some("Running"));
        assert!(status.init_container_statuses.expect("inits")[0].ready);
    }

    #[test]
    fn restarts_and_last_state() {
        let pod = pod(json!({"restartPolicy": "Always", "containers": [{"name": "a"}]}));
        let mut again = seen("a", State::Running, 0);
        again.restarts = 2;
        again.id = "second".into();
        let status = run(&pod, vec![again, seen("a", State::Exited, 7)], &PodStatus::default(), &[], false);
        let container = &status.container_statuses.as_ref().expect("some")[0];
        assert_eq!(
            (container.restart_count, last_terminated(container).map(|end| end.exit_code)),
            (2, Some(7))
        );
        assert_eq!(container.container_id.as_deref(), Some("containerd://second"));
        // A lost container is not one that never ran.
        let status = run(&pod, vec![], &status, &[], false);
        let container = &status.container_statuses.as_ref().expect("some")[0];
        assert_eq!(last_terminated(container).map(|end| end.exit_code), Some(7));
        assert_eq!(status.phase.as_deref(), Some("Running"));
    }
}
