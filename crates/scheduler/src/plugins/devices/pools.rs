//! Pools of devices as drivers publish them: which devices a node reaches, and which pools are complete.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::k8s::api::core::v1::NodeSelector;
use api::k8s::api::resource::v1::{Device, ResourceSlice};
use api::nodes;

use crate::snapshot::NodeInfo;

/// A device: driver, pool, name.
pub type DeviceId = (String, String, String);

/// All slices, sorted out once a pod.
#[derive(Debug, Default)]
pub struct Slices {
    /// Those of one node.
    local: BTreeMap<String, Vec<Arc<ResourceSlice>>>,
    /// Those that several nodes may reach, and those with counters.
    shared: Vec<Arc<ResourceSlice>>,
    /// By driver and pool: the slices of the newest generation.
    newest: BTreeMap<(String, String), Vec<Arc<ResourceSlice>>>,
}

/// The devices of a pool that a node reaches.
#[derive(Debug)]
pub struct Pool {
    /// The driver.
    pub driver: String,
    /// The pool's name.
    pub name: String,
    /// Slices with devices.
    pub slices: Vec<Arc<ResourceSlice>>,
    /// All slices of the pool, for its counters.
    pub all: Vec<Arc<ResourceSlice>>,
    /// Why nothing may be taken from it.
    pub unusable: Option<&'static str>,
}

fn counts(slice: &ResourceSlice) -> bool {
    slice.spec.shared_counters.as_ref().is_some_and(|counters| !counters.is_empty())
}

fn reaches(node: &NodeInfo, name: Option<&str>, all: Option<bool>, selector: Option<&NodeSelector>) -> bool {
    let labels = node.node.metadata.labels.as_ref();
    name == Some(node.name.as_str())
        || all == Some(true)
        || selector.is_some_and(|selector| nodes::admits(selector, &node.name, labels))
}

/// True when the node reaches the device, where that is said device by device.
pub fn reaches_device(slice: &ResourceSlice, device: &Device, node: &NodeInfo) -> bool {
    slice.spec.per_device_node_selection != Some(true)
        || reaches(node, device.node_name.as_deref(), device.all_nodes, device.node_selector.as_ref())
}

fn reaches_slice(slice: &ResourceSlice, node: &NodeInfo) -> bool {
    let spec = &slice.spec;
    if spec.per_device_node_selection == Some(true) {
        return spec.devices.iter().flatten().any(|device| reaches_device(slice, device, node));
    }
    reaches(node, spec.node_name.as_deref(), spec.all_nodes, spec.node_selector.as_ref())
}

impl Slices {
    /// Sorts out the slices of all drivers.
    pub fn new(mut slices: Vec<Arc<ResourceSlice>>) -> Slices {
        slices.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        let mut out = Slices::default();
        for slice in slices {
            let pool = &slice.spec.pool;
            let newest = out.newest.entry((slice.spec.driver.clone(), pool.name.clone())).or_default();
            match newest.first().map(|first| first.spec.pool.generation.cmp(&pool.generation)) {
                Some(std::cmp::Ordering::Greater) => continue,
                Some(std::cmp::Ordering::Less) => newest.clear(),
                _ => {}
            }
            newest.push(slice);
        }
        for slice in out.newest.values().flatten() {
            match slice.spec.node_name.as_deref().filter(|name| !name.is_empty() && !counts(slice)) {
                Some(name) => out.local.entry(name.to_owned()).or_default().push(slice.clone()),
                None => out.shared.push(slice.clone()),
            }
        }
        out
    }

    /// The pools with devices that the node reaches.
    pub fn pools(&self, node: &NodeInfo) -> Vec<Pool> {
        let mut found: BTreeMap<(&str, &str), Vec<Arc<ResourceSlice>>> = BTreeMap::new();
        let local = self.local.get(&node.name).into_iter().flatten();
        let shared = self.shared.iter().filter(|slice| !counts(slice) && reaches_slice(slice, node));
        for slice in local.chain(shared) {
            let key = (slice.spec.driver.as_str(), slice.spec.pool.name.as_str());
            found.entry(key).or_default().push(slice.clone());
        }
        let pool = |((driver, name), slices): ((&str, &str), Vec<Arc<ResourceSlice>>)| {
            let all = self.newest.get(&(driver.to_owned(), name.to_owned())).cloned().unwrap_or_default();
            let wanted = slices.first().map_or(0, |slice| slice.spec.pool.resource_slice_count);
            let mut names = BTreeSet::new();
            let devices = slices.iter().flat_map(|slice| slice.spec.devices.iter().flatten());
            let twice = devices.filter(|device| !names.insert(device.name.as_str())).count() > 0;
            let unusable = match i64::try_from(all.len()) == Ok(wanted) {
                false => Some("is currently being updated"),
                true if twice => Some("is currently invalid"),
                true => None,
            };
            Pool { driver: driver.to_owned(), name: name.to_owned(), slices, all, unusable }
        };
        found.into_iter().map(pool).collect()
    }
}
