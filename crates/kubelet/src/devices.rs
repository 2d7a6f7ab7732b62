//! Devices that plugins offer: which there are, which container has which, and what comes with them.
//!
//! Must not know what a device is good for.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use api::k8s::api::core::v1::Pod;
use parking_lot::Mutex;
use runtime::cri::messages as m;
use runtime::device::{self, Grant, Plugin, RegisterRequest};
use tokio::net::UnixListener;
use tokio::sync::{Notify, mpsc};

use crate::amount;
use crate::pods::pod::{PodExt, Slot, is_sidecar};
use crate::pods::status::Verdict;
use crate::shared::Shared;

/// How long a plugin may take to serve after it registered.
const CONNECT: Duration = Duration::from_secs(10);
/// The file that remembers who has what.
const STATE: &str = "devices.json";

/// Ids by resource.
type Held = BTreeMap<String, Vec<String>>;
/// What containers hold, by pod uid and container.
type Holders = BTreeMap<String, BTreeMap<String, Held>>;

#[derive(Default)]
struct Resource {
    /// Healthy or not, by id.
    devices: BTreeMap<String, bool>,
    /// `None` while the plugin is away.
    plugin: Option<Plugin>,
    /// The plugin is told before each start.
    pre_start: bool,
    /// Counts registrations: what belongs to an earlier one is over.
    turn: u64,
}

#[derive(Default)]
struct State {
    resources: BTreeMap<String, Resource>,
    holders: Holders,
}

/// All devices; cheap to clone.
#[derive(Clone, Default)]
pub struct Devices {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
    file: PathBuf,
}

impl Devices {
    /// Remembers in `root` who has what.
    pub fn new(root: &Path) -> Devices {
        let file = root.join(STATE);
        let text = std::fs::read(&file).unwrap_or_default();
        let holders: Holders = serde_json::from_slice(&text).unwrap_or_default();
        let state = State { holders, ..State::default() };
        Devices { state: Arc::new(Mutex::new(state)), changed: Arc::default(), file }
    }

    /// Waits until the number of devices changes.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// How many devices there are of each resource, and how many are healthy.
    pub fn counts(&self) -> BTreeMap<String, (usize, usize)> {
        let state = self.state.lock();
        let count = |resource: &Resource| {
            let healthy = resource.devices.values().filter(|healthy| **healthy).count();
            (resource.devices.len(), if resource.plugin.is_some() { healthy } else { 0 })
        };
        state.resources.iter().map(|(name, resource)| (name.clone(), count(resource))).collect()
    }

    /// Chooses devices for all containers of a pod; nothing is kept when there are too few.
    pub fn allocate(&self, pod: &Pod) -> Result<(), Verdict> {
        let mut state = self.state.lock();
        if state.holders.contains_key(pod.uid()) {
            return Ok(());
        }
        let held = choose(&state, pod)?;
        if held.is_empty() {
            return Ok(());
        }
        state.holders.insert(pod.uid().to_owned(), held);
        self.save(&state);
        Ok(())
    }

    /// A pod is over: its devices are free.
    pub fn release(&self, uid: &str) {
        let mut state = self.state.lock();
        if state.holders.remove(uid).is_some() {
            self.save(&state);
        }
    }

    fn save(&self, state: &State) {
        let temporary = self.file.with_extension("new");
        let text = serde_json::to_vec(&state.holders).unwrap_or_default();
        let written = std::fs::write(&temporary, text).and_then(|()| std::fs::rename(&temporary, &self.file));
        if let Err(error) = written {
            tracing::warn!(%error, "who has which devices is not remembered");
        }
    }

    /// Adds what comes with a container's devices.
    pub async fn add(
        &self,
        uid: &str,
        container: &str,
        config: &mut m::ContainerConfig,
    ) -> Result<(), String> {
        let wanted: Vec<(String, Vec<String>, Option<Plugin>, bool)> = {
            let state = self.state.lock();
            let held = state.holders.get(uid).and_then(|pod| pod.get(container));
            let of = |(name, ids): (&String, &Vec<String>)| {
                let resource = state.resources.get(name);
                let plugin = resource.and_then(|resource| resource.plugin.clone());
                (name.clone(), ids.clone(), plugin, resource.is_some_and(|resource| resource.pre_start))
            };
            held.into_iter().flatten().map(of).collect()
        };
        for (name, ids, plugin, pre_start) in wanted {
            let plugin = plugin.ok_or_else(|| format!("the device plugin of {name} is not there"))?;
            let failed =
                |error: runtime::CriError| format!("device plugin of {name}: {}", error.description());
            let grant = plugin.allocate(ids.clone()).await.map_err(failed)?;
            if pre_start {
                plugin.pre_start(ids).await.map_err(failed)?;
            }
            add_grant(grant, config);
        }
        Ok(())
    }

    fn set(&self, name: &str, turn: u64, devices: Vec<device::Device>) -> bool {
        let mut state = self.state.lock();
        let Some(resource) = state.resources.get_mut(name).filter(|resource| resource.turn == turn) else {
            return false;
        };
        resource.devices = devices.into_iter().map(|one| (one.id, one.health == "Healthy")).collect();
        self.changed.notify_one();
        true
    }

    fn lose(&self, name: &str, turn: u64) {
        let mut state = self.state.lock();
        if let Some(resource) = state.resources.get_mut(name).filter(|resource| resource.turn == turn) {
            resource.plugin = None;
            self.changed.notify_one();
        }
    }

    /// A plugin registered, perhaps again; its turn.
    fn register(&self, request: &RegisterRequest, plugin: Plugin) -> u64 {
        let mut state = self.state.lock();
        let resource = state.resources.entry(request.resource_name.clone()).or_default();
        resource.plugin = Some(plugin);
        resource.pre_start = request.options.as_ref().is_some_and(|options| options.pre_start_required);
        resource.turn += 1;
        resource.turn
    }
}

fn add_grant(grant: Grant, config: &mut m::ContainerConfig) {
    let env = |(key, value): (String, String)| m::KeyValue { key, value: value.into_bytes() };
    config.envs.extend(grant.envs.into_iter().map(env));
    config.annotations.extend(grant.annotations);
    config.mounts.extend(grant.mounts.into_iter().map(|mount| m::Mount {
        container_path: mount.container_path,
        host_path: mount.host_path,
        readonly: mount.read_only,
        ..m::Mount::default()
    }));
    config.devices.extend(grant.devices.into_iter().map(|file| m::Device {
        container_path: file.container_path,
        host_path: file.host_path,
        permissions: file.permissions,
    }));
    config.cdi_devices.extend(grant.cdi_devices.into_iter().map(|named| m::CDIDevice { name: named.name }));
}

/// Devices for each container. What init containers had, the pod's containers have after them.
fn choose(state: &State, pod: &Pod) -> Result<BTreeMap<String, Held>, Verdict> {
    let mut taken: BTreeSet<(&str, &str)> = BTreeSet::new();
    for held in state.holders.values().flat_map(BTreeMap::values).flatten() {
        taken.extend(held.1.iter().map(|id| (held.0.as_str(), id.as_str())));
    }
    let (mut out, mut passed_on): (BTreeMap<String, Held>, BTreeSet<(String, String)>) = Default::default();
    for slot in pod.slots() {
        let Some(container) = pod.container(slot) else { continue };
        let passes_on = matches!(slot, Slot::Init(_)) && !is_sidecar(&container);
        let limits = container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
        for (name, resource) in &state.resources {
            let wanted = usize::try_from(amount::whole_of(limits, name).unwrap_or(0)).unwrap_or(0);
            if wanted == 0 {
                continue;
            }
            let healthy =
                resource.devices.iter().filter(|(_, healthy)| **healthy && resource.plugin.is_some());
            let mine = |id: &str| passed_on.contains(&(name.clone(), id.to_owned()));
            let mut free: Vec<&String> =
                healthy.map(|(id, _)| id).filter(|id| mine(id) || !taken.contains(&(name, id))).collect();
            if free.len() < wanted {
                return Err(too_few(name, wanted, free.len()));
            }
            free.sort_by_key(|id| !mine(id));
            let ids: Vec<String> = free.into_iter().take(wanted).cloned().collect();
            for id in &ids {
                let known = resource.devices.get_key_value(id).map_or("", |(id, _)| id.as_str());
                taken.insert((name, known));
                let key = (name.clone(), id.clone());
                if passes_on {
                    passed_on.insert(key)
                } else {
                    passed_on.remove(&key)
                };
            }
            out.entry(container.name.clone()).or_default().insert(name.clone(), ids);
        }
    }
    Ok(out)
}

fn too_few(name: &str, wanted: usize, available: usize) -> Verdict {
    let message = format!(
        "Pod was rejected: Allocate failed due to requested number of devices unavailable for {name}. \
         Requested: {wanted}, Available: {available}, which is unexpected"
    );
    Verdict { reason: "UnexpectedAdmissionError".to_owned(), message, ..Verdict::default() }
}

/// Lets plugins register and follows them until cancelled.
pub async fn run(shared: Arc<Shared>) {
    let Some(dir) = shared.config.device_plugins.clone() else { return };
    let socket = dir.join(device::SOCKET);
    // Plugins watch this socket: a new one tells them to register again.
    let bound = std::fs::create_dir_all(&dir).and_then(|()| {
        let _ = std::fs::remove_file(&socket);
        UnixListener::bind(&socket)
    });
    let listener = match bound {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(socket = %socket.display(), %error, "device plugins cannot register");
            return;
        }
    };
    let (sender, mut registrations) = mpsc::unbounded_channel();
    shared.tasks.spawn("device registration", device::serve(listener, sender));
    while let Some(request) = registrations.recv().await {
        let plugin = Plugin::new(&dir.join(&request.endpoint));
        let turn = shared.devices.register(&request, plugin.clone());
        tracing::info!(
            resource = request.resource_name,
            endpoint = request.endpoint,
            "device plugin registered"
        );
        shared.tasks.spawn("device plugin", follow(shared.clone(), request.resource_name, plugin, turn));
    }
}

/// Takes over a plugin's devices until it goes away.
async fn follow(shared: Arc<Shared>, name: String, plugin: Plugin, turn: u64) {
    match shared.clock.timeout(CONNECT, plugin.watch()).await {
        Some(Ok(mut devices)) => {
            while let Ok(Some(list)) = devices.message().await {
                if !shared.devices.set(&name, turn, list.devices) {
                    return;
                }
            }
        }
        Some(Err(error)) => tracing::warn!(name, %error, "device plugin not followed"),
        None => tracing::warn!(name, "device plugin takes too long"),
    }
    tracing::info!(name, "device plugin gone");
    shared.devices.lose(&name, turn);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn devices_are_chosen_shared_and_given_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let devices = Devices::new(dir.path());
        let request = RegisterRequest { resource_name: "example.com/x".into(), ..RegisterRequest::default() };
        let turn = {
            // A channel needs a runtime, which nothing here polls.
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            let _guard = runtime.enter();
            devices.register(&request, Plugin::new(Path::new("/none")))
        };
        let device = |id: &str, health: &str| device::Device { id: id.into(), health: health.into() };
        let all = vec![device("a", "Healthy"), device("b", "Healthy"), device("c", "Unhealthy")];
        assert!(
            devices.set("example.com/x", turn, all) && !devices.set("example.com/x", turn + 1, Vec::new())
        );
        assert_eq!(devices.counts()["example.com/x"], (3, 2));
        let pod = |uid: &str, init: i64, main: i64| -> Pod {
            let container = |name: &str, count: i64| json!({"name": name, "resources": {"limits": {"example.com/x": count.to_string()}}});
            serde_json::from_value(json!({"metadata": {"name": uid, "uid": uid}, "spec": {
                "initContainers": [container("i", init)], "containers": [container("c", main)]}}))
            .expect("a pod")
        };
        devices.allocate(&pod("p", 2, 1)).expect("init containers pass their devices on");
        let held = devices.state.lock().holders["p"].clone();
        assert_eq!((held["i"]["example.com/x"].len(), held["c"]["example.com/x"].len()), (2, 1));
        let refused = devices.allocate(&pod("q", 0, 1)).expect_err("none is left");
        assert!(refused.message.ends_with("Requested: 1, Available: 0, which is unexpected"), "{refused:?}");
        let again = Devices::new(dir.path());
        assert_eq!(again.state.lock().holders["p"], held);
        devices.release("p");
        devices.allocate(&pod("q", 0, 2)).expect("they were given back");
        devices.lose("example.com/x", turn);
        assert_eq!(devices.counts()["example.com/x"], (3, 0));
    }

    #[test]
    fn grants_reach_the_container() {
        let grant = Grant {
            envs: [("A".to_owned(), "b".to_owned())].into(),
            devices: vec![device::DeviceFile {
                container_path: "/dev/x".into(),
                host_path: "/dev/y".into(),
                permissions: "rw".into(),
            }],
            cdi_devices: vec![device::Named { name: "v/c=d".into() }],
            ..Grant::default()
        };
        let mut config = m::ContainerConfig::default();
        add_grant(grant, &mut config);
        assert_eq!((config.envs[0].key.as_str(), config.envs[0].value.as_slice()), ("A", &b"b"[..]));
        assert_eq!(
            (config.devices[0].host_path.as_str(), config.cdi_devices[0].name.as_str()),
            ("/dev/y", "v/c=d")
        );
    }
}
