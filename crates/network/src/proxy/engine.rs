//! Keeps the wanted table up to date with the objects it hears of, and brings the kernel after it.
//!
//! Must not know where objects come from: whoever watches calls `set_*`. A change marks what depends on it and
//! only that is planned again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::conntrack::{self, Doors};
use super::health::Health;
use super::plan::{
    Context, HostPort, Plan, chosen_owner, plan_host_ports, plan_service, pod_owner, service_owner,
};
use super::service::{ServiceInfo, ServiceKey, SliceInfo};
use crate::exec::ExecError;
use crate::nft::{Base, Family, Model, Nft};

/// Something that has to be planned again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Dirty {
    Service(ServiceKey),
    Pod(String),
}

/// What is known of the cluster, and what of it is not in the plans yet.
#[derive(Debug, Default)]
pub struct Inputs {
    services: BTreeMap<ServiceKey, Arc<ServiceInfo>>,
    slices: BTreeMap<ServiceKey, BTreeMap<String, Arc<SliceInfo>>>,
    /// slice → its Service, for slices that change hands or go.
    slice_services: BTreeMap<String, ServiceKey>,
    pods: BTreeMap<String, Arc<Vec<HostPort>>>,
    dirty: BTreeSet<Dirty>,
}

impl Inputs {
    /// A Service was added or changed (`Some`), is gone or is not for this proxy (`None`). True: look again.
    pub fn set_service(&mut self, key: &str, service: Option<ServiceInfo>) -> bool {
        if self.services.get(key).map(AsRef::as_ref) == service.as_ref() {
            return false;
        }
        match service {
            Some(service) => self.services.insert(key.to_owned(), Arc::new(service)),
            None => self.services.remove(key),
        };
        self.dirty.insert(Dirty::Service(key.to_owned()))
    }

    /// The same for the slice with this `namespace/name`.
    pub fn set_slice(&mut self, key: &str, slice: Option<SliceInfo>) -> bool {
        let mut changed = false;
        let old_service = self.slice_services.remove(key);
        if let Some(service) = old_service.filter(|old| slice.as_ref().is_none_or(|new| new.service != *old))
        {
            if let Some(of_service) = self.slices.get_mut(&service) {
                of_service.remove(key);
                if of_service.is_empty() {
                    self.slices.remove(&service);
                }
            }
            self.dirty.insert(Dirty::Service(service));
            changed = true;
        }
        if let Some(slice) = slice {
            let service = slice.service.clone();
            self.slice_services.insert(key.to_owned(), service.clone());
            let of_service = self.slices.entry(service.clone()).or_default();
            if of_service.get(key).map(AsRef::as_ref) != Some(&slice) {
                of_service.insert(key.to_owned(), Arc::new(slice));
                self.dirty.insert(Dirty::Service(service));
                changed = true;
            }
        }
        changed
    }

    /// The same for the host ports of a pod of this node; no ports when it is gone.
    pub fn set_host_ports(&mut self, key: &str, ports: Vec<HostPort>) -> bool {
        let known = self.pods.get(key).map_or(&[][..], |ports| ports.as_slice());
        if known == ports {
            return false;
        }
        if ports.is_empty() {
            self.pods.remove(key);
        } else {
            self.pods.insert(key.to_owned(), Arc::new(ports));
        }
        self.dirty.insert(Dirty::Pod(key.to_owned()))
    }

    /// Everything heard of is planned.
    pub fn is_clean(&self) -> bool {
        self.dirty.is_empty()
    }

    fn all_dirty(&mut self) {
        self.dirty.extend(self.services.keys().cloned().map(Dirty::Service));
        self.dirty.extend(self.pods.keys().cloned().map(Dirty::Pod));
    }

    /// Takes what has to be planned again, with all that the planning reads.
    fn take(&mut self) -> Vec<Job> {
        let job = |dirty: Dirty, inputs: &Inputs| match dirty {
            Dirty::Service(key) => Job::Service {
                service: inputs.services.get(&key).cloned(),
                slices: inputs.slices.get(&key).into_iter().flat_map(|m| m.values().cloned()).collect(),
                key,
            },
            Dirty::Pod(key) => Job::Pod { ports: inputs.pods.get(&key).cloned(), key },
        };
        std::mem::take(&mut self.dirty).into_iter().map(|dirty| job(dirty, self)).collect()
    }
}

#[derive(Debug)]
enum Job {
    Service { key: ServiceKey, service: Option<Arc<ServiceInfo>>, slices: Vec<Arc<SliceInfo>> },
    Pod { key: String, ports: Option<Arc<Vec<HostPort>>> },
}

/// One family's table.
#[derive(Debug)]
struct Table {
    context: Context,
    model: Model,
    nft: Nft,
    /// UDP front doors of each owner that has some.
    udp: BTreeMap<Arc<str>, Doors>,
    /// Doors whose tracked connections have to be looked at after the next transaction.
    stale: Doors,
    /// The table could not be made at all; for a machine without that family.
    broken: bool,
}

impl Table {
    fn plan(&mut self, job: &Job) {
        let owner = match job {
            Job::Service { key, .. } => service_owner(key),
            Job::Pod { key, .. } => pod_owner(key),
        };
        let plan = match job {
            Job::Service { service, slices, .. } => {
                let slices: Vec<&SliceInfo> = slices.iter().map(AsRef::as_ref).collect();
                service.as_ref().map(|service| plan_service(service, &slices, &self.context))
            }
            Job::Pod { ports, .. } => ports.as_ref().map(|ports| plan_host_ports(ports, &self.context)),
        };
        let Plan { fragment, chosen, udp } = plan.unwrap_or_default();
        self.model.set(&owner, Some(fragment));
        if let Job::Service { key, .. } = job {
            self.model.set(&chosen_owner(key), Some(chosen));
        }
        let old = if udp.is_empty() { self.udp.remove(&owner) } else { self.udp.insert(owner, udp.clone()) };
        let old = old.unwrap_or_default();
        for (door, targets) in udp {
            // Without endpoints there is nobody better to talk to; the first one to come makes it stale.
            if !targets.is_empty() && old.get(&door) != Some(&targets) {
                self.stale.insert(door, targets);
            }
        }
    }
}

/// Plans and applies; one a node.
#[derive(Debug)]
pub struct Engine {
    tables: Vec<Table>,
    health: Health,
}

impl Engine {
    /// An engine that has applied nothing yet, with a context for each family.
    pub fn new(program: &str, contexts: Vec<Context>, health: Health) -> Engine {
        let table = |context: Context| Table {
            model: Model::new(context.base.clone()),
            context,
            nft: Nft::new(program),
            udp: BTreeMap::new(),
            stale: Doors::new(),
            broken: false,
        };
        Engine { tables: contexts.into_iter().map(table).collect(), health }
    }

    /// The contexts that plans are made in.
    pub fn contexts(&self) -> impl Iterator<Item = &Context> {
        self.tables.iter().map(|table| &table.context)
    }

    /// Changes what all plans follow, e.g. when the node's pod network becomes known.
    pub fn set_context(&mut self, inputs: &mut Inputs, change: impl Fn(&mut Context)) {
        for table in &mut self.tables {
            let (place, dns) = (table.context.place.clone(), table.context.dns_address);
            change(&mut table.context);
            if table.model.set_base(table.context.base.clone()) {
                table.nft.forget();
                inputs.all_dirty();
            }
            if place != table.context.place || dns != table.context.dns_address {
                inputs.all_dirty();
            }
        }
    }

    /// Plans what changed in `inputs`. Quick; hold the lock no longer than this.
    pub fn plan(&mut self, inputs: &mut Inputs) {
        for job in inputs.take() {
            self.tables.iter_mut().for_each(|table| table.plan(&job));
            if let Job::Service { key, service, slices } = &job {
                self.report_health(key, service.as_deref(), slices);
            }
        }
    }

    fn report_health(&self, key: &str, service: Option<&ServiceInfo>, slices: &[Arc<SliceInfo>]) {
        let port = service.and_then(|service| service.health_check_node_port);
        let Some(context) = self.contexts().next().filter(|_| port.is_some()) else {
            return self.health.set_service(key, None);
        };
        let mut here = BTreeSet::new();
        for endpoint in slices.iter().flat_map(|slice| slice.ports.values()).flatten() {
            if endpoint.ready && endpoint.node.as_deref() == Some(context.place.node.as_str()) {
                here.insert(endpoint.address);
            }
        }
        self.health.set_service(key, port.map(|port| (port, here.len())));
    }

    /// Looks whether the tables are still there. False: apply again.
    pub async fn look_after(&mut self) -> bool {
        let mut good = true;
        for table in self.tables.iter_mut().filter(|table| !table.broken) {
            let Base { family, table: name, .. } = &table.context.base;
            good &= table.nft.look_after(*family, name).await;
        }
        good
    }

    /// Brings the kernel to the plans. True when there was something to do.
    pub async fn apply(&mut self) -> Result<bool, ExecError> {
        let mut changed = false;
        for table in self.tables.iter_mut().filter(|table| !table.broken) {
            let family = table.context.base.family;
            match table.nft.apply(&mut table.model).await {
                Ok(applied) => changed |= applied,
                Err(error) if family == Family::V6 => {
                    tracing::warn!(%error, "no IPv6 table on this machine");
                    table.broken = true;
                    continue;
                }
                Err(error) => return Err(error),
            }
            clear_stale(family, std::mem::take(&mut table.stale)).await;
        }
        Ok(changed)
    }
}

/// Runs on the blocking pool: the kernel may have many connections to list.
async fn clear_stale(family: Family, doors: Doors) {
    if doors.is_empty() {
        return;
    }
    match tokio::task::spawn_blocking(move || conntrack::clear(family, &doors)).await {
        Ok(Ok(0)) => {}
        Ok(Ok(count)) => tracing::info!(count, "forgot UDP connections to endpoints that left"),
        Ok(Err(error)) => tracing::warn!(%error, "looking for stale UDP connections"),
        Err(error) => tracing::warn!(%error, "looking for stale UDP connections"),
    }
}
