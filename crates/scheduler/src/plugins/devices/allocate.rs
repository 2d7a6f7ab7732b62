//! Finds devices for claims on one node: an exhaustive search that takes the first solution, as upstream's structured
//! allocator. Pure; what is allocated elsewhere comes in.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use api::k8s::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};
use api::k8s::api::resource::v1::{
    AllocationResult, Device, DeviceAllocationConfiguration, DeviceAllocationResult, DeviceAttribute,
    DeviceClass, DeviceConstraint, DeviceRequest, DeviceRequestAllocationResult, DeviceSelector, DeviceTaint,
    DeviceToleration, ResourceClaim, ResourceSlice,
};

use super::pools::{DeviceId, Pool, Slices, reaches_device};
use super::select::Selectors;
use crate::snapshot::NodeInfo;

/// A claim holds at most so many devices.
const MAX_RESULTS: usize = 32;
/// The search ends without a solution after so many steps: devices that are alike can be tried in endless ways.
const MAX_STEPS: usize = 100_000;

/// One way to satisfy a request.
#[derive(Debug)]
struct Want {
    /// The request's name, or `request/subrequest`.
    name: String,
    /// The request's name.
    request: String,
    class: Arc<DeviceClass>,
    selectors: Vec<DeviceSelector>,
    /// `None` = all there are.
    count: Option<usize>,
    admin: bool,
    tolerations: Option<Vec<DeviceToleration>>,
}

/// A claim to allocate: the ways to satisfy each of its requests, the first that works counts.
#[derive(Debug)]
struct Job {
    claim: Arc<ResourceClaim>,
    requests: Vec<Vec<Want>>,
}

/// What is needed to allocate a pod's claims, prepared once for all nodes.
#[derive(Debug, Default)]
pub struct Work {
    jobs: Vec<Job>,
    slices: Slices,
    selectors: Selectors,
    /// Devices that other claims have.
    taken: BTreeSet<DeviceId>,
}

fn key(claim: &ResourceClaim) -> String {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    format!("{}/{}", text(&claim.metadata.namespace), text(&claim.metadata.name))
}

fn count_of(mode: Option<&str>, count: Option<i64>) -> Result<Option<usize>, String> {
    match mode {
        None | Some("" | "ExactCount") => {
            let count = count.unwrap_or(1);
            usize::try_from(count).map(Some).map_err(|_| format!("exact count {count} is too large"))
        }
        Some("All") => Ok(None),
        Some(other) => Err(format!("unsupported count mode {other}")),
    }
}

impl Work {
    /// Sorts out claims and slices. An error tells why the claims cannot be allocated anywhere.
    pub fn new(
        claims: &[Arc<ResourceClaim>],
        class: &dyn Fn(&str) -> Option<Arc<DeviceClass>>,
        slices: Vec<Arc<ResourceSlice>>,
        taken: BTreeSet<DeviceId>,
    ) -> Result<Work, String> {
        let mut work = Work { slices: Slices::new(slices), taken, ..Work::default() };
        for claim in claims {
            let requests = claim.spec.devices.as_ref().and_then(|devices| devices.requests.as_deref());
            let requests = requests.unwrap_or_default().iter().map(|request| {
                wants(request, class).map_err(|what| format!("request {}: {what}", request.name))
            });
            let requests = requests.collect::<Result<Vec<_>, _>>()?;
            for want in requests.iter().flatten() {
                let of_class = want.class.spec.selectors.iter().flatten();
                for selector in of_class.chain(&want.selectors) {
                    let cel =
                        selector.cel.as_ref().ok_or("CEL expression empty (unsupported selector type?)")?;
                    work.selectors.add(&cel.expression);
                }
            }
            work.jobs.push(Job { claim: claim.clone(), requests });
        }
        Ok(work)
    }

    /// An allocation for each claim on the node; `None` when there is none.
    pub fn allocate(&self, node: &NodeInfo) -> Result<Option<Vec<AllocationResult>>, String> {
        let pools = self.slices.pools(node);
        let mut devices = Vec::new();
        for (at, pool) in pools.iter().enumerate().filter(|(_, pool)| pool.unusable.is_none()) {
            for slice in &pool.slices {
                let reached =
                    slice.spec.devices.iter().flatten().filter(|device| reaches_device(slice, device, node));
                for device in reached {
                    let id = (pool.driver.clone(), pool.name.clone(), device.name.clone());
                    devices.push(Candidate { id, device, slice, pool: at });
                }
            }
        }
        let (available, consumed) = (HashMap::new(), HashMap::new());
        let mut search = Search {
            work: self,
            pools: &pools,
            devices,
            selected: HashMap::new(),
            chosen: vec![Vec::new(); self.jobs.len()],
            ways: self.jobs.iter().map(|job| vec![0; job.requests.len()]).collect(),
            available,
            consumed,
            steps: 0,
        };
        search.check_all_pools()?;
        if !search.next(At::default())? {
            return Ok(None);
        }
        (0..self.jobs.len()).map(|job| search.result(job)).collect::<Result<Vec<_>, _>>().map(Some)
    }

    /// The claims to allocate, in the order of the results.
    pub fn claims(&self) -> impl Iterator<Item = &Arc<ResourceClaim>> {
        self.jobs.iter().map(|job| &job.claim)
    }
}

fn wants(
    request: &DeviceRequest,
    class: &dyn Fn(&str) -> Option<Arc<DeviceClass>>,
) -> Result<Vec<Want>, String> {
    let class = |name: &str| class(name).ok_or_else(|| format!("device class {name} does not exist"));
    if let Some(exact) = &request.exactly {
        return Ok(vec![Want {
            name: request.name.clone(),
            request: request.name.clone(),
            class: class(&exact.device_class_name)?,
            selectors: exact.selectors.clone().unwrap_or_default(),
            count: count_of(exact.allocation_mode.as_deref(), exact.count)?,
            admin: exact.admin_access == Some(true),
            tolerations: exact.tolerations.clone(),
        }]);
    }
    let alternatives = request.first_available.as_deref().unwrap_or_default();
    if alternatives.is_empty() {
        return Err("unsupported request type".to_owned());
    }
    let want = |sub: &api::k8s::api::resource::v1::DeviceSubRequest| {
        Ok(Want {
            name: format!("{}/{}", request.name, sub.name),
            request: request.name.clone(),
            class: class(&sub.device_class_name)?,
            selectors: sub.selectors.clone().unwrap_or_default(),
            count: count_of(sub.allocation_mode.as_deref(), sub.count)?,
            admin: false,
            tolerations: sub.tolerations.clone(),
        })
    };
    alternatives.iter().map(want).collect()
}

/// A device that the node reaches.
struct Candidate<'a> {
    id: DeviceId,
    device: &'a Device,
    slice: &'a ResourceSlice,
    pool: usize,
}

/// A device chosen for a request.
#[derive(Clone, Copy)]
struct Chosen {
    candidate: usize,
    request: usize,
    way: usize,
}

/// Where the search is: the claim, its request, the way tried (`None` = not chosen yet) and the device of it.
#[derive(Clone, Copy, Default)]
struct At {
    job: usize,
    request: usize,
    way: Option<usize>,
    device: usize,
}

/// Counters by set and name, thousandths.
type Counters = BTreeMap<(String, String), i64>;

struct Search<'a> {
    work: &'a Work,
    pools: &'a [Pool],
    devices: Vec<Candidate<'a>>,
    /// Whether selectors of a request take a device.
    selected: HashMap<(usize, usize, usize, usize), bool>,
    /// By claim.
    chosen: Vec<Vec<Chosen>>,
    /// The way chosen, by claim and request.
    ways: Vec<Vec<usize>>,
    /// By pool: counters not consumed by allocated devices.
    available: HashMap<usize, Counters>,
    /// By pool: counters consumed by the devices chosen.
    consumed: HashMap<usize, Counters>,
    steps: usize,
}

impl<'a> Search<'a> {
    fn want(&self, at: At, way: usize) -> &'a Want {
        &self.work.jobs[at.job].requests[at.request][way]
    }

    /// Who asks for all devices must not be given those of half a pool.
    fn check_all_pools(&self) -> Result<(), String> {
        for job in &self.work.jobs {
            let all = job.requests.iter().flatten().find(|want| want.count.is_none());
            let broken = self.pools.iter().find_map(|pool| Some((pool, pool.unusable?)));
            if let (Some(want), Some((pool, why))) = (all, broken) {
                let pool = format!("{}/{}", pool.driver, pool.name);
                return Err(format!(
                    "claim {}, request {}: asks for all devices, but resource pool {pool} {why}",
                    key(&job.claim),
                    want.request
                ));
            }
        }
        Ok(())
    }

    /// Satisfies everything from here on; false when that cannot be.
    fn next(&mut self, at: At) -> Result<bool, String> {
        self.steps += 1;
        if self.steps > MAX_STEPS {
            return Err("timed out trying to allocate devices".to_owned());
        }
        let Some(job) = self.work.jobs.get(at.job) else { return Ok(true) };
        let Some(ways) = job.requests.get(at.request) else {
            return self.next(At { job: at.job + 1, ..At::default() });
        };
        let Some(way) = at.way else {
            for way in 0..ways.len() {
                if self.next(At { way: Some(way), ..at })? {
                    self.ways[at.job][at.request] = way;
                    return Ok(true);
                }
            }
            return Ok(false);
        };
        let want = &ways[way];
        let mut all = Vec::new();
        if want.count.is_none() {
            for candidate in 0..self.devices.len() {
                if self.selects(at, way, candidate)? {
                    all.push(candidate);
                }
            }
            if all.is_empty() {
                return Ok(false);
            }
        }
        if at.device >= want.count.unwrap_or(all.len()) {
            return self.next(At { job: at.job, request: at.request + 1, ..At::default() });
        }
        if self.chosen[at.job].len() >= MAX_RESULTS {
            return Ok(false);
        }
        if want.count.is_none() {
            return self.try_one(at, way, all[at.device]);
        }
        for candidate in 0..self.devices.len() {
            if self.selects(at, way, candidate)? && self.try_one(at, way, candidate)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Chooses a device and goes on; undone when that leads nowhere.
    fn try_one(&mut self, at: At, way: usize, candidate: usize) -> Result<bool, String> {
        if !self.is_free(at, way, candidate) {
            return Ok(false);
        }
        self.chosen[at.job].push(Chosen { candidate, request: at.request, way });
        self.consume(candidate, 1);
        if self.next(At { device: at.device + 1, ..at })? {
            return Ok(true);
        }
        self.chosen[at.job].pop();
        self.consume(candidate, -1);
        Ok(false)
    }

    /// True when the selectors of class and request take the device.
    fn selects(&mut self, at: At, way: usize, candidate: usize) -> Result<bool, String> {
        let memo = (at.job, at.request, way, candidate);
        if let Some(known) = self.selected.get(&memo) {
            return Ok(*known);
        }
        let (want, found) = (self.want(at, way), &self.devices[candidate]);
        // Devices that are to be prepared before they are bound are not waited for here.
        let mut selected = found.device.binding_conditions.as_ref().is_none_or(Vec::is_empty);
        let class = || format!("class {}", want.class.metadata.name.as_deref().unwrap_or_default());
        let claim = || format!("claim {}", key(&self.work.jobs[at.job].claim));
        let of_class = want.class.spec.selectors.iter().flatten().enumerate().map(|one| (true, one));
        for (by_class, (index, selector)) in
            of_class.chain(want.selectors.iter().enumerate().map(|one| (false, one)))
        {
            let Some(cel) = selector.cel.as_ref().filter(|_| selected) else { continue };
            selected =
                self.work.selectors.matches(&cel.expression, &found.id.0, found.device).map_err(|error| {
                    let whose = if by_class { class() } else { claim() };
                    format!("{whose}: selector #{index}: {error}")
                })?;
        }
        self.selected.insert(memo, selected);
        Ok(selected)
    }

    /// True when nothing but the selectors keeps the device from the request.
    fn is_free(&mut self, at: At, way: usize, candidate: usize) -> bool {
        let want = self.want(at, way);
        let found = &self.devices[candidate];
        let chosen = |job: usize| self.chosen[job].iter().any(|chosen| chosen.candidate == candidate);
        let used = match want.admin {
            true => chosen(at.job),
            false => self.work.taken.contains(&found.id) || (0..self.chosen.len()).any(chosen),
        };
        let keeps_off = |taint: &DeviceTaint| {
            matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute")
                && !want.tolerations.iter().flatten().any(|toleration| tolerates(toleration, taint))
        };
        !used
            && !found.device.taints.iter().flatten().any(keeps_off)
            && self.meets_constraints(at, want, candidate)
            && self.has_counters(candidate)
    }

    fn meets_constraints(&self, at: At, want: &Want, candidate: usize) -> bool {
        let job = &self.work.jobs[at.job];
        let constraints = job.claim.spec.devices.as_ref().and_then(|devices| devices.constraints.as_deref());
        constraints.unwrap_or_default().iter().filter(|constraint| concerns(constraint, want)).all(
            |constraint| {
                let others = self.chosen[at.job]
                    .iter()
                    .filter(|chosen| concerns(constraint, &job.requests[chosen.request][chosen.way]));
                let others = others.map(|chosen| chosen.candidate);
                if let Some(name) = &constraint.match_attribute {
                    let Some(own) = self.attribute(candidate, name) else { return false };
                    others
                        .clone()
                        .all(|other| self.attribute(other, name).is_some_and(|other| same(own, other)))
                } else if let Some(name) = &constraint.distinct_attribute {
                    let Some(own) = self.attribute(candidate, name) else { return false };
                    others
                        .clone()
                        .all(|other| self.attribute(other, name).is_none_or(|other| !same(own, other)))
                } else {
                    false
                }
            },
        )
    }

    fn attribute(&self, candidate: usize, name: &str) -> Option<&'a DeviceAttribute> {
        let found = &self.devices[candidate];
        let attributes = found.device.attributes.as_ref()?;
        let short = || name.split_once('/').filter(|(domain, _)| *domain == found.id.0).map(|(_, id)| id);
        attributes.get(name).or_else(|| attributes.get(short()?))
    }

    fn has_counters(&mut self, candidate: usize) -> bool {
        let found = &self.devices[candidate];
        let wanted = consumption(found.device);
        if wanted.is_empty() {
            return true;
        }
        let (pool, work) = (&self.pools[found.pool], self.work);
        let available = self.available.entry(found.pool).or_insert_with(|| available(pool, &work.taken));
        let consumed = self.consumed.entry(found.pool).or_default();
        wanted.iter().all(|(counter, amount)| {
            available
                .get(counter)
                .is_some_and(|have| have - consumed.get(counter).copied().unwrap_or(0) >= *amount)
        })
    }

    fn consume(&mut self, candidate: usize, sign: i64) {
        let found = &self.devices[candidate];
        for (counter, amount) in consumption(found.device) {
            *self.consumed.entry(found.pool).or_default().entry(counter).or_default() += sign * amount;
        }
    }

    fn result(&self, job: usize) -> Result<AllocationResult, String> {
        let claim = &self.work.jobs[job].claim;
        let requests = &self.work.jobs[job].requests;
        let result = |chosen: &Chosen| {
            let (want, found) = (&requests[chosen.request][chosen.way], &self.devices[chosen.candidate]);
            DeviceRequestAllocationResult {
                request: want.name.clone(),
                driver: found.id.0.clone(),
                pool: found.id.1.clone(),
                device: found.id.2.clone(),
                admin_access: want.admin.then_some(true),
                tolerations: want.tolerations.clone(),
                ..DeviceRequestAllocationResult::default()
            }
        };
        let results: Vec<_> = self.chosen[job].iter().map(result).collect();
        let wants: Vec<&Want> = requests.iter().zip(&self.ways[job]).map(|(ways, way)| &ways[*way]).collect();
        let config = config(claim, &wants);
        let devices = DeviceAllocationResult {
            results: (!results.is_empty()).then_some(results),
            config: (!config.is_empty()).then_some(config),
        };
        let node_selector = self
            .node_selector(&self.chosen[job])
            .map_err(|what| format!("create NodeSelector for claim {}: {what}", key(claim)))?;
        Ok(AllocationResult { devices: Some(devices), node_selector, ..AllocationResult::default() })
    }

    /// Where the chosen devices can be reached; `None` = everywhere.
    fn node_selector(&self, chosen: &[Chosen]) -> Result<Option<NodeSelector>, String> {
        let mut term = NodeSelectorTerm::default();
        for chosen in chosen {
            let Candidate { device, slice, .. } = &self.devices[chosen.candidate];
            let (name, selector) = match slice.spec.per_device_node_selection {
                Some(true) => (&device.node_name, &device.node_selector),
                _ => (&slice.spec.node_name, &slice.spec.node_selector),
            };
            if let Some(name) = name.as_ref().filter(|name| !name.is_empty()) {
                let field = NodeSelectorRequirement {
                    key: "metadata.name".to_owned(),
                    operator: "In".to_owned(),
                    values: Some(vec![name.clone()]),
                };
                let term = NodeSelectorTerm { match_fields: Some(vec![field]), match_expressions: None };
                return Ok(Some(NodeSelector { node_selector_terms: vec![term] }));
            }
            match selector.as_ref().map(|selector| selector.node_selector_terms.as_slice()) {
                None | Some([]) => {}
                Some([one]) => {
                    add_new(&mut term.match_fields, one.match_fields.as_deref());
                    add_new(&mut term.match_expressions, one.match_expressions.as_deref());
                }
                Some(many) => {
                    return Err(format!("unsupported ResourceSlice.NodeSelector with {} terms", many.len()));
                }
            }
        }
        let somewhere = term.match_fields.is_some() || term.match_expressions.is_some();
        Ok(somewhere.then(|| NodeSelector { node_selector_terms: vec![term] }))
    }
}

fn add_new(to: &mut Option<Vec<NodeSelectorRequirement>>, from: Option<&[NodeSelectorRequirement]>) {
    for requirement in from.unwrap_or_default() {
        let known = to.get_or_insert_default();
        if !known.contains(requirement) {
            known.push(requirement.clone());
        }
    }
}

fn concerns(constraint: &DeviceConstraint, want: &Want) -> bool {
    let requests = constraint.requests.as_deref().unwrap_or_default();
    requests.is_empty() || requests.iter().any(|name| *name == want.request || *name == want.name)
}

fn same(a: &DeviceAttribute, b: &DeviceAttribute) -> bool {
    let known = a.string.is_some() || a.int.is_some() || a.bool.is_some() || a.version.is_some();
    known && a.string == b.string && a.int == b.int && a.bool == b.bool && a.version == b.version
}

/// True when the toleration covers the taint.
fn tolerates(toleration: &DeviceToleration, taint: &DeviceTaint) -> bool {
    let key = toleration.key.as_deref().unwrap_or_default();
    let effect = toleration.effect.as_deref().unwrap_or_default();
    if (!effect.is_empty() && effect != taint.effect) || (!key.is_empty() && key != taint.key) {
        return false;
    }
    match toleration.operator.as_deref().unwrap_or("Equal") {
        "" | "Equal" => {
            toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default()
        }
        "Exists" => true,
        _ => false,
    }
}

/// The counters a device uses up.
fn consumption(device: &Device) -> Counters {
    let mut out = Counters::new();
    for consumed in device.consumes_counters.iter().flatten() {
        for (name, counter) in &consumed.counters {
            let amount = api::quantity::of(&counter.value).milli_value();
            *out.entry((consumed.counter_set.clone(), name.clone())).or_default() += amount;
        }
    }
    out
}

/// The counters of a pool that its allocated devices leave.
fn available(pool: &Pool, taken: &BTreeSet<DeviceId>) -> Counters {
    let mut out = Counters::new();
    for set in pool.all.iter().flat_map(|slice| slice.spec.shared_counters.iter().flatten()) {
        for (name, counter) in &set.counters {
            out.insert((set.name.clone(), name.clone()), api::quantity::of(&counter.value).milli_value());
        }
    }
    for device in pool.all.iter().flat_map(|slice| slice.spec.devices.iter().flatten()) {
        if taken.contains(&(pool.driver.clone(), pool.name.clone(), device.name.clone())) {
            for (counter, amount) in consumption(device) {
                if let Some(left) = out.get_mut(&counter) {
                    *left -= amount;
                }
            }
        }
    }
    out
}

/// The configuration of classes, each once, and of the claim, for the requests as they were satisfied.
fn config(claim: &ResourceClaim, wants: &[&Want]) -> Vec<DeviceAllocationConfiguration> {
    let mut out: Vec<DeviceAllocationConfiguration> = Vec::new();
    let mut classes: BTreeMap<&str, std::ops::Range<usize>> = BTreeMap::new();
    for want in wants {
        let class = want.class.metadata.name.as_deref().unwrap_or_default();
        if let Some(range) = classes.get(class) {
            for config in &mut out[range.clone()] {
                config.requests.get_or_insert_default().push(want.name.clone());
            }
            continue;
        }
        let from = out.len();
        out.extend(want.class.spec.config.iter().flatten().map(|config| DeviceAllocationConfiguration {
            source: "FromClass".to_owned(),
            requests: Some(vec![want.name.clone()]),
            opaque: config.opaque.clone(),
        }));
        classes.insert(class, from..out.len());
    }
    let devices = claim.spec.devices.as_ref();
    for config in devices.and_then(|devices| devices.config.as_deref()).unwrap_or_default() {
        let requests = config.requests.as_deref().unwrap_or_default();
        let named = |want: &&Want| requests.iter().any(|name| *name == want.request || *name == want.name);
        let times = if requests.is_empty() { 1 } else { wants.iter().copied().filter(named).count() };
        out.extend((0..times).map(|_| DeviceAllocationConfiguration {
            source: "FromClaim".to_owned(),
            requests: config.requests.clone(),
            opaque: config.opaque.clone(),
        }));
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const DRIVER: &str = "gpu.example.com";

    fn slice(name: &str, spec: Value) -> Arc<ResourceSlice> {
        let mut full =
            json!({"driver": DRIVER, "pool": {"name": name, "generation": 1, "resourceSliceCount": 1}});
        spec.as_object().into_iter().flatten().for_each(|(key, value)| full[key] = value.clone());
        let slice = json!({"metadata": {"name": name}, "spec": full});
        Arc::new(serde_json::from_value(slice).expect("a slice"))
    }

    fn gpu(name: &str, model: &str, numa: i64) -> Value {
        json!({"name": name, "attributes": {"model": {"string": model}, "numa": {"int": numa}}})
    }

    fn class(name: &str) -> Option<Arc<DeviceClass>> {
        let selectors = match name {
            "gpu" => json!([{"cel": {"expression": "device.driver == 'gpu.example.com'"}}]),
            "big" => json!([{"cel": {"expression": "device.attributes['gpu.example.com'].model == 'big'"}}]),
            _ => return None,
        };
        let config = json!([{"opaque": {"driver": DRIVER, "parameters": {"of": name}}}]);
        let class = json!({"metadata": {"name": name}, "spec": {"selectors": selectors, "config": config}});
        Some(Arc::new(serde_json::from_value(class).expect("a class")))
    }

    fn exactly(extra: Value) -> Value {
        let mut exact = json!({"deviceClassName": "gpu"});
        extra.as_object().into_iter().flatten().for_each(|(key, value)| exact[key] = value.clone());
        json!({"requests": [{"name": "r", "exactly": exact}]})
    }

    fn node(name: &str) -> NodeInfo {
        let node = json!({"metadata": {"name": name, "labels": {"rack": "one"}}});
        NodeInfo::new(Arc::new(serde_json::from_value(node).expect("a node")))
    }

    /// The devices that one claim gets on node `a`, `none`, or the error.
    fn check(slices: &[Arc<ResourceSlice>], taken: &[&str], devices: Value) -> String {
        let claim = json!({"metadata": {"name": "c", "namespace": "d"}, "spec": {"devices": devices}});
        let claim = Arc::new(serde_json::from_value(claim).expect("a claim"));
        let id = |name: &&str| {
            let (pool, device) = name.split_once('/').expect("pool/device");
            (DRIVER.to_owned(), pool.to_owned(), device.to_owned())
        };
        let work = Work::new(&[claim], &class, slices.to_vec(), taken.iter().map(id).collect());
        match work.and_then(|work| work.allocate(&node("a"))) {
            Err(error) => error,
            Ok(None) => "none".to_owned(),
            Ok(Some(found)) => {
                let results = found[0].devices.as_ref().and_then(|devices| devices.results.as_ref());
                let name = |result: &DeviceRequestAllocationResult| {
                    format!("{}={}/{}", result.request, result.pool, result.device)
                };
                results.into_iter().flatten().map(name).collect::<Vec<_>>().join(" ")
            }
        }
    }

    #[test]
    fn requests_get_devices() {
        let on = |node: &str, name: &str, devices: Value| {
            slice(name, json!({"nodeName": node, "devices": devices}))
        };
        let four =
            json!([gpu("g0", "small", 0), gpu("g1", "big", 1), gpu("g2", "small", 1), gpu("g3", "big", 0)]);
        let slices = [on("a", "pool", four.clone()), on("b", "other", json!([gpu("h0", "big", 0)]))];
        let select = |expression: &str| json!([{"cel": {"expression": expression}}]);
        let numa = format!("{DRIVER}/numa");
        let two = |constraint: Value| {
            let exact = |class: &str| json!({"deviceClassName": class});
            json!({"requests": [{"name": "x", "exactly": exact("gpu")}, {"name": "y", "exactly": exact("big")}],
                "constraints": [constraint]})
        };
        let first = json!({"requests": [{"name": "r", "firstAvailable": [
            {"name": "five", "deviceClassName": "big", "count": 5},
            {"name": "two", "deviceClassName": "big", "count": 2}]}]});
        for (taken, devices, expect) in [
            (vec![], exactly(json!({})), "r=pool/g0"),
            (vec!["pool/g0"], exactly(json!({})), "r=pool/g1"),
            (vec![], exactly(json!({"count": 3})), "r=pool/g0 r=pool/g1 r=pool/g2"),
            (vec![], exactly(json!({"count": 5})), "none"),
            (
                vec![],
                exactly(json!({"allocationMode": "All", "deviceClassName": "big"})),
                "r=pool/g1 r=pool/g3",
            ),
            (vec!["pool/g3"], exactly(json!({"allocationMode": "All", "deviceClassName": "big"})), "none"),
            (vec!["pool/g0"], exactly(json!({"adminAccess": true})), "r=pool/g0"),
            (
                vec![],
                exactly(json!({"selectors": select("device.attributes['gpu.example.com'].numa == 1")})),
                "r=pool/g1",
            ),
            (
                vec![],
                exactly(json!({"selectors": select("device.attributes['gpu.example.com'].none == 1")})),
                "claim d/c: selector #0: CEL runtime error: no such key: none",
            ),
            (
                vec![],
                exactly(json!({"deviceClassName": "none"})),
                "request r: device class none does not exist",
            ),
            (vec![], two(json!({"matchAttribute": numa})), "x=pool/g0 y=pool/g3"),
            (vec!["pool/g3"], two(json!({"matchAttribute": numa})), "x=pool/g2 y=pool/g1"),
            (vec![], two(json!({"matchAttribute": numa, "requests": ["x"]})), "x=pool/g0 y=pool/g1"),
            (vec![], first.clone(), "r/two=pool/g1 r/two=pool/g3"),
            (vec!["pool/g1"], first.clone(), "none"),
        ] {
            assert_eq!(check(&slices, &taken, devices.clone()), expect, "{taken:?} {devices}");
        }
    }

    #[test]
    fn slices_say_who_reaches_devices() {
        let devices = json!([gpu("g0", "small", 0)]);
        let rack = |value: &str| json!({"nodeSelectorTerms": [{"matchExpressions": [{"key": "rack", "operator": "In", "values": [value]}]}]});
        let tainted = json!([{"name": "g0", "taints": [{"key": "broken", "effect": "NoSchedule"}]}]);
        let each = json!([{"name": "g0", "nodeName": "b"}, {"name": "g1", "nodeName": "a"}]);
        let half = json!({"name": "p", "generation": 1, "resourceSliceCount": 2});
        let counted = json!([{"name": "half", "consumesCounters": [{"counterSet": "s", "counters": {"mem": {"value": "4Gi"}}}]},
            {"name": "whole", "consumesCounters": [{"counterSet": "s", "counters": {"mem": {"value": "8Gi"}}}]}]);
        let counters = json!({"sharedCounters": [{"name": "s", "counters": {"mem": {"value": "8Gi"}}}],
            "pool": half, "devices": []});
        let tolerates = json!({"tolerations": [{"key": "broken", "operator": "Exists"}]});
        let one = |spec: Value| vec![slice("p", spec)];
        for (slices, devices, expect) in [
            (one(json!({"allNodes": true, "devices": devices})), json!({}), "r=p/g0"),
            (one(json!({"nodeSelector": rack("one"), "devices": devices})), json!({}), "r=p/g0"),
            (one(json!({"nodeSelector": rack("two"), "devices": devices})), json!({}), "none"),
            (one(json!({"perDeviceNodeSelection": true, "devices": each})), json!({}), "r=p/g1"),
            (one(json!({"allNodes": true, "devices": tainted})), json!({}), "none"),
            (one(json!({"allNodes": true, "devices": tainted})), tolerates, "r=p/g0"),
            (one(json!({"allNodes": true, "devices": devices, "pool": half})), json!({}), "none"),
            (
                one(json!({"allNodes": true, "devices": devices, "pool": half})),
                json!({"allocationMode": "All"}),
                "claim d/c, request r: asks for all devices, but resource pool gpu.example.com/p is currently being updated",
            ),
            (
                vec![
                    slice("p", json!({"allNodes": true, "devices": counted, "pool": half})),
                    slice("q", counters.clone()),
                ],
                json!({"count": 2}),
                "none",
            ),
            (
                vec![
                    slice("p", json!({"allNodes": true, "devices": counted, "pool": half})),
                    slice("q", counters),
                ],
                json!({}),
                "r=p/half",
            ),
        ] {
            assert_eq!(check(&slices, &[], exactly(devices.clone())), expect, "{devices}");
        }
    }

    #[test]
    fn allocations_tell_configuration_and_place() {
        let slices = vec![slice("p", json!({"nodeName": "a", "devices": [gpu("g0", "big", 0)]}))];
        let devices = json!({"requests": [{"name": "r", "exactly": {"deviceClassName": "big"}}],
            "config": [{"requests": ["r"], "opaque": {"driver": DRIVER, "parameters": {"of": "claim"}}}]});
        let claim = json!({"metadata": {"name": "c", "namespace": "d"}, "spec": {"devices": devices}});
        let claim = Arc::new(serde_json::from_value(claim).expect("a claim"));
        let work = Work::new(&[claim], &class, slices, BTreeSet::new()).expect("valid");
        let found = work.allocate(&node("a")).expect("no error").expect("allocated");
        let told = serde_json::to_value(&found[0]).expect("JSON");
        let source = |at: usize| told["devices"]["config"][at]["source"].clone();
        assert_eq!((source(0), source(1)), (json!("FromClass"), json!("FromClaim")));
        let field = &told["nodeSelector"]["nodeSelectorTerms"][0]["matchFields"][0];
        assert_eq!(field, &json!({"key": "metadata.name", "operator": "In", "values": ["a"]}));
        assert_eq!(work.allocate(&node("b")), Ok(None));
    }
}
