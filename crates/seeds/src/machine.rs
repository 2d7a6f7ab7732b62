//! The machines: agents without containers that do what pods' annotations say, die, forget, and come back.
//!
//! What runs on a machine outlives its agent, as containers do; it does not outlive the machine.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::Gvr;
use api::k8s::api::core::v1::Pod;
use base::{Clock, Rng, Tasks};
use client::{Client, ClientError, DeleteOptions, Key, Meta, Patch, Queue, Scope, SharedInformers};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};

/// Between renewals of a node's lease.
const BEAT: Duration = Duration::from_secs(10);
/// Between two runs of a container that ended.
const RESTART: Duration = Duration::from_secs(10);

/// One pod's containers.
#[derive(Clone, Debug)]
struct Running {
    key: Key,
    uid: String,
    /// CPU in thousandths.
    cpu: u64,
    ready_at: Duration,
    /// When the present run ends, and how.
    ends: Option<(Duration, i64)>,
    restarts: u64,
    began: Timestamp,
    stops_at: Option<Duration>,
    /// The last word on pods that have come to their end.
    finished: Option<i64>,
}

/// A machine, on or off.
#[derive(Default)]
pub struct Hardware {
    running: BTreeMap<String, Running>,
}

impl Hardware {
    /// Uids of pods whose containers run now, by namespace and name.
    pub fn live(&self) -> impl Iterator<Item = (&Key, &str)> {
        self.running.values().filter(|one| one.finished.is_none()).map(|one| (&one.key, one.uid.as_str()))
    }

    /// The power goes off.
    pub fn lose_power(&mut self) {
        self.running.clear();
    }
}

/// What an agent works with.
pub struct Agent {
    /// The node's name.
    pub name: String,
    /// What it has.
    pub size: (u64, u64),
    /// A zone label.
    pub zone: String,
    /// The machine.
    pub hardware: Arc<Mutex<Hardware>>,
    /// The client.
    pub client: Client,
    /// Time.
    pub clock: Clock,
    /// Randomness.
    pub rng: Rng,
    /// False once faults have ended: pods behave.
    pub wild: Arc<std::sync::atomic::AtomicBool>,
}

fn leases() -> Gvr {
    Gvr::new("coordination.k8s.io", "v1", "leases")
}

fn pods() -> Gvr {
    Gvr::new("", "v1", "pods")
}

fn nodes() -> Gvr {
    Gvr::new("", "v1", "nodes")
}

/// Runs an agent until its tasks are cancelled.
pub fn start(agent: Agent, tasks: &Tasks) {
    let agent = Arc::new(agent);
    let informers =
        SharedInformers::new(agent.client.clone(), agent.clock.clone(), agent.rng.clone(), tasks.clone());
    let scope = Scope { fields: format!("spec.nodeName={}", agent.name), ..Scope::default() };
    let queue: Queue<Key> = Queue::new(agent.clock.clone());
    let (beating, walking, add) = (agent.clone(), agent, queue.clone());
    let pods = informers.scoped::<Pod>(scope);
    tasks.spawn("agent heart", async move {
        loop {
            if let Err(error) = beating.beat().await {
                tracing::debug!(node = beating.name, %error, "no heartbeat");
            }
            beating.clock.sleep(BEAT).await;
        }
    });
    tasks.spawn("agent", async move {
        pods.synced().await;
        pods.on_change(move |change| add.add(Key::of(&**change.object())));
        // What ran before this agent began and is nobody's pod any more.
        let known: Vec<Key> = walking.hardware.lock().running.values().map(|one| one.key.clone()).collect();
        known.into_iter().for_each(|key| queue.add(key));
        loop {
            let key = queue.next().await;
            let pod = pods.cache().get_key(&key);
            match walking.step(&key, pod.as_deref()).await {
                Ok(again) => {
                    queue.forget(&key);
                    if let Some(again) = again {
                        queue.add_after(key.clone(), again);
                    }
                }
                Err(error) => {
                    tracing::debug!(node = walking.name, %key, %error, "a pod's step failed");
                    queue.add_after(key.clone(), Duration::from_millis(500 + walking.rng.below(1500)));
                }
            }
            queue.done(&key);
        }
    });
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

fn cpu_of(pod: &Pod) -> u64 {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let requests = containers.filter_map(|one| one.resources.as_ref()?.requests.as_ref()?.get("cpu"));
    requests.map(|cpu| u64::try_from(api::quantity::of(cpu).milli_value()).unwrap_or(0)).sum()
}

fn setting(pod: &Pod, name: &str) -> u64 {
    pod.annotation(name).and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn restarts(pod: &Pod, code: i64) -> bool {
    match pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()) {
        Some("Never") => false,
        Some("OnFailure") => code != 0,
        _ => true,
    }
}

fn ready_in(pod: &Pod) -> Option<bool> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|one| one.type_ == "Ready").map(|one| one.status == "True")
}

fn restart_count(pod: &Pod) -> i32 {
    let status = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    status.into_iter().flatten().map(|one| one.restart_count).sum()
}

impl Agent {
    fn now(&self) -> String {
        api::time::format(self.clock.now())
    }

    async fn beat(&self) -> Result<(), ClientError> {
        match self.client.get_at::<Value>(&nodes(), "", &self.name).await {
            Ok(node) => {
                let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
                let mut ready = conditions.filter(|one| one["type"] == "Ready");
                if !ready.any(|one| one["status"] == "True") {
                    let patch = Patch::Strategic(json!({"status": {"conditions": self.conditions()}}));
                    self.client.patch_at::<Value>(&nodes(), "", &self.name, "status", &patch).await?;
                }
            }
            Err(error) if error.is_not_found() => {
                let options = client::WriteOptions::default();
                self.client.create_at::<_, Value>(&nodes(), "", &self.node(), &options).await?;
            }
            Err(error) => return Err(error),
        }
        self.renew().await
    }

    async fn renew(&self) -> Result<(), ClientError> {
        let now = api::time::format_micro(self.clock.now());
        let spec = json!({"holderIdentity": self.name, "leaseDurationSeconds": 40, "renewTime": now});
        let patch = Patch::Merge(json!({"spec": spec}));
        let space = "kube-node-lease";
        match self.client.patch_at::<Value>(&leases(), space, &self.name, "", &patch).await {
            Err(error) if error.is_not_found() => {
                let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                    "metadata": {"name": self.name, "namespace": space}, "spec": spec});
                let options = client::WriteOptions::default();
                self.client.create_at::<_, Value>(&leases(), space, &lease, &options).await.map(drop)
            }
            other => other.map(drop),
        }
    }

    fn conditions(&self) -> Value {
        let now = self.now();
        let one = |kind: &str, status: &str| {
            json!({"type": kind, "status": status, "reason": "Simulated", "message": "",
                "lastHeartbeatTime": now, "lastTransitionTime": now})
        };
        json!([
            one("MemoryPressure", "False"),
            one("DiskPressure", "False"),
            one("PIDPressure", "False"),
            one("Ready", "True")
        ])
    }

    fn node(&self) -> Value {
        let room =
            json!({"cpu": format!("{}m", self.size.0), "memory": "64Gi", "pods": self.size.1.to_string()});
        json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": self.name, "labels": {"kubernetes.io/hostname": self.name, "kubernetes.io/os": "linux",
                "topology.kubernetes.io/zone": self.zone}},
            "status": {"capacity": room, "allocatable": room, "conditions": self.conditions()},
        })
    }

    /// Brings one pod a step further; when to look again.
    async fn step(&self, key: &Key, pod: Option<&Pod>) -> Result<Option<Duration>, ClientError> {
        let uid = pod.map_or("", |pod| pod.uid());
        self.hardware.lock().running.retain(|id, one| one.key != *key || id == uid);
        let Some(pod) = pod else { return Ok(None) };
        if matches!(phase(pod), "Succeeded" | "Failed") {
            if let Some(one) = self.hardware.lock().running.get_mut(uid) {
                one.finished.get_or_insert(0);
            }
            if pod.is_deleting() {
                self.remove(pod).await?;
            }
            return Ok(None);
        }
        if pod.is_deleting() {
            return self.stop(pod).await;
        }
        let known = self.hardware.lock().running.get(uid).cloned();
        match known {
            None => self.begin(pod).await,
            Some(one) => self.carry_on(pod, one).await,
        }
    }

    async fn remove(&self, pod: &Pod) -> Result<(), ClientError> {
        let options = DeleteOptions::uid(pod.uid()).grace(0);
        match self.client.delete_at(&pods(), pod.namespace(), pod.name(), &options).await {
            Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
            _ => Ok(()),
        }
    }

    async fn stop(&self, pod: &Pod) -> Result<Option<Duration>, ClientError> {
        let now = self.clock.monotonic();
        let grace = Duration::from_secs(
            u64::try_from(pod.meta().deletion_grace_period_seconds.unwrap_or(0)).unwrap_or(0),
        );
        let wish = Duration::from_millis(self.rng.below(3_000)).min(grace);
        {
            let mut hardware = self.hardware.lock();
            if let Some(one) = hardware.running.get_mut(pod.uid()) {
                let stops = *one.stops_at.get_or_insert(now + wish);
                if now < stops && one.finished.is_none() {
                    return Ok(Some(stops - now));
                }
                one.finished.get_or_insert(137);
            }
        }
        let code = self.hardware.lock().running.get(pod.uid()).and_then(|one| one.finished).unwrap_or(137);
        self.finish(pod, code).await?;
        self.remove(pod).await?;
        Ok(None)
    }

    async fn finish(&self, pod: &Pod, code: i64) -> Result<(), ClientError> {
        let (name, now) = (container(pod), self.now());
        let phase = if code == 0 { "Succeeded" } else { "Failed" };
        let state = json!({"terminated": {"exitCode": code, "reason": if code == 0 { "Completed" } else { "Error" },
            "finishedAt": now, "startedAt": now}});
        let status = json!({"phase": phase, "conditions": conditions(&now, false), "containerStatuses": [
            {"name": name, "image": "i", "imageID": "i", "ready": false, "started": false,
                "restartCount": restart_count(pod), "state": state}]});
        self.write(pod, status).await
    }

    async fn write(&self, pod: &Pod, status: Value) -> Result<(), ClientError> {
        // Conditions of others (DisruptionTarget) must stay: merge by type.
        let patch = Patch::Strategic(json!({"metadata": {"uid": pod.uid()}, "status": status}));
        match self.client.patch_at::<Value>(&pods(), pod.namespace(), pod.name(), "status", &patch).await {
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
            other => other.map(drop),
        }
    }

    /// A pod that this machine has never run, or that ran before the power went off.
    async fn begin(&self, pod: &Pod) -> Result<Option<Duration>, ClientError> {
        if phase(pod) == "Running" && !restarts(pod, 137) {
            self.finish(pod, 137).await?;
            return Ok(None);
        }
        let cpu = cpu_of(pod);
        let fits = {
            let hardware = self.hardware.lock();
            let live = || hardware.running.values().filter(|one| one.finished.is_none());
            let used: u64 = live().map(|one| one.cpu).sum();
            used + cpu <= self.size.0 && (live().count() as u64) < self.size.1
        };
        if !fits {
            let status = json!({"phase": "Failed", "reason": "OutOfcpu", "message": "Pod was rejected"});
            self.write(pod, status).await?;
            return Ok(None);
        }
        let wait = Duration::from_millis(100 + self.rng.below(1 + setting(pod, "sim/start-ms").max(1_000)));
        let ready_at = self.clock.monotonic() + wait;
        let one = Running {
            key: Key::of(pod),
            uid: pod.uid().to_owned(),
            cpu,
            ready_at,
            ends: self.fate(pod, ready_at),
            restarts: u64::try_from(restart_count(pod)).unwrap_or(0),
            began: self.clock.now(),
            stops_at: None,
            finished: None,
        };
        self.hardware.lock().running.insert(pod.uid().to_owned(), one);
        Ok(Some(wait))
    }

    /// When and how the next run of the pod's container ends.
    fn fate(&self, pod: &Pod, from: Duration) -> Option<(Duration, i64)> {
        let wild = self.wild.load(std::sync::atomic::Ordering::Relaxed);
        let fails = (wild || pod.annotation("sim/fail-always").is_some())
            && self.rng.below(100) < setting(pod, "sim/fail-percent");
        let run = setting(pod, "sim/run-ms");
        match (run, fails) {
            (0, false) => None,
            (0, true) => Some((from + Duration::from_millis(1 + self.rng.below(60_000)), 1)),
            (run, true) => {
                let code = pod.annotation("sim/fail-code").and_then(|text| text.parse().ok()).unwrap_or(1);
                Some((from + Duration::from_millis(1 + self.rng.below(run)), code))
            }
            (run, false) => Some((from + Duration::from_millis(run), 0)),
        }
    }

    async fn carry_on(&self, pod: &Pod, mut one: Running) -> Result<Option<Duration>, ClientError> {
        let now = self.clock.monotonic();
        if let Some((at, code)) = one.ends.filter(|(at, _)| *at <= now) {
            let _ = at;
            if !restarts(pod, code) {
                one.finished = Some(code);
                self.hardware.lock().running.insert(one.uid.clone(), one);
                self.finish(pod, code).await?;
                return Ok(None);
            }
            one.restarts += 1;
            one.ready_at = now + RESTART;
            one.ends = self.fate(pod, one.ready_at);
            self.hardware.lock().running.insert(one.uid.clone(), one.clone());
        }
        if let Some(code) = one.finished {
            self.finish(pod, code).await?;
            return Ok(None);
        }
        let ready = now >= one.ready_at;
        let same = phase(pod) == "Running"
            && ready_in(pod) == Some(ready)
            && i64::from(restart_count(pod)) == i64::try_from(one.restarts).unwrap_or(0);
        if !same && (ready || one.restarts > 0) {
            self.write(pod, self.running(pod, &one, ready)).await?;
        }
        let next = if ready { one.ends.map(|(at, _)| at) } else { Some(one.ready_at) };
        Ok(next.map(|at| at.saturating_sub(now).max(Duration::from_millis(1))))
    }

    fn running(&self, pod: &Pod, one: &Running, ready: bool) -> Value {
        let (name, now) = (container(pod), self.now());
        let address = format!("10.{}.{}.{}", self.size.1 % 200, one.cpu % 250, 1 + self.rng.below(250));
        let known = pod.status.as_ref().and_then(|status| status.pod_ip.clone()).unwrap_or(address);
        let state = if ready {
            json!({"running": {"startedAt": api::time::format(one.began)}})
        } else {
            json!({"waiting": {"reason": "CrashLoopBackOff"}})
        };
        json!({"phase": "Running", "conditions": conditions(&now, ready), "startTime": api::time::format(one.began),
            "hostIP": "10.0.0.1", "podIP": known, "podIPs": [{"ip": known}], "containerStatuses": [
                {"name": name, "image": "i", "imageID": "i", "ready": ready, "started": ready,
                    "restartCount": one.restarts, "state": state}]})
    }
}

fn container(pod: &Pod) -> String {
    pod.spec.as_ref().and_then(|spec| spec.containers.first()).map(|one| one.name.clone()).unwrap_or_default()
}

fn conditions(now: &str, ready: bool) -> Value {
    let one = |kind: &str, status: bool| json!({"type": kind, "status": if status { "True" } else { "False" }, "lastTransitionTime": now});
    json!([one("Initialized", true), one("ContainersReady", ready), one("Ready", ready)])
}
