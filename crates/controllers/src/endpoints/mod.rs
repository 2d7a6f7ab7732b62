//! Which pods serve a Service: EndpointSlices, the older Endpoints, and slices that mirror Endpoints written by
//! hand. Watches Services, pods, nodes, EndpointSlices and Endpoints.

mod facts;
mod mirror;
mod plain;
mod slices;

use std::collections::BTreeSet;
use std::sync::Arc;

use api::k8s::api::core::v1::{Endpoints, Node, Pod, Service};
use api::k8s::api::discovery::v1::EndpointSlice;
use client::{Cache, Key, Meta, Plan, Reconcile, ReconcileError};
use jiff::Timestamp;

use crate::context::{Context, Setup};
use crate::selection::{self, Selecting};

const WORKERS: usize = 5;
/// The index of slices by `namespace/service`.
const BY_SERVICE: &str = "service";

struct Slices {
    services: Cache<Service>,
    pods: Cache<Pod>,
    nodes: Cache<Node>,
    slices: Cache<EndpointSlice>,
}

impl Reconcile for Slices {
    fn reconcile(&self, key: &Key, _: Timestamp) -> Result<Plan, ReconcileError> {
        let Some(service) = self.services.get_key(key).filter(|service| !service.is_deleting()) else {
            return Ok(Plan::none());
        };
        let selector = facts::selector(&service);
        if selector.is_nothing() {
            return Ok(Plan::none());
        }
        let pods = selection::selected(&self.pods, service.namespace(), &selector);
        let existing = self.slices.by_index(BY_SERVICE, &key.to_string());
        let zone = |node: &str| {
            let node = self.nodes.get("", node)?;
            node.label("topology.kubernetes.io/zone").map(str::to_owned)
        };
        Ok(slices::plan(&service, &pods, &existing, &zone))
    }
}

struct Plain {
    services: Cache<Service>,
    pods: Cache<Pod>,
    endpoints: Cache<Endpoints>,
}

impl Reconcile for Plain {
    fn reconcile(&self, key: &Key, _: Timestamp) -> Result<Plan, ReconcileError> {
        let known = self.endpoints.get_key(key);
        let Some(service) = self.services.get_key(key) else {
            let mut plan = Plan::none();
            // Upstream removes the Endpoints of a Service that is gone, whoever wrote them.
            if let Some(known) = known {
                plan.delete(&*known);
            }
            return Ok(plan);
        };
        let selector = facts::selector(&service);
        if selector.is_nothing() {
            return Ok(Plan::none());
        }
        let pods = selection::selected(&self.pods, service.namespace(), &selector);
        Ok(plain::plan(&service, &pods, known.as_deref()))
    }
}

struct Mirror {
    services: Cache<Service>,
    endpoints: Cache<Endpoints>,
    slices: Cache<EndpointSlice>,
}

impl Reconcile for Mirror {
    fn reconcile(&self, key: &Key, _: Timestamp) -> Result<Plan, ReconcileError> {
        let existing = self.slices.by_index(BY_SERVICE, &key.to_string());
        let (service, endpoints) = (self.services.get_key(key), self.endpoints.get_key(key));
        Ok(mirror::plan(service.as_deref(), endpoints.as_deref(), &existing))
    }
}

fn index_slices(cache: &Cache<EndpointSlice>) {
    let service = |slice: &EndpointSlice| {
        let name = slice.label(facts::SERVICE_NAME).filter(|name| !name.is_empty());
        name.map(|name| Key::new(slice.namespace(), name).to_string()).into_iter().collect()
    };
    cache.add_index(BY_SERVICE, Arc::new(service));
}

/// Every change of a pod enqueues the Services that select it, before or after.
fn map_pods(setup: &Setup, pods: &client::Informer<Pod>, services: &Cache<Service>) {
    let services = Selecting::new(services, facts::selector);
    if base::mutated("lose-changes-of-endpoints") {
        return;
    }
    setup.map(pods, move |change| {
        let pod = change.object();
        if let Some(old) = change.old()
            && !matches!(change, client::Change::Deleted(_))
            && facts::serves_alike(old, pod)
        {
            return Vec::new();
        }
        let mut keys = BTreeSet::new();
        for pod in change.old().into_iter().chain([pod]) {
            let selecting = services.of(pod.namespace(), pod.meta().labels.as_ref());
            keys.extend(selecting.iter().map(|service| Key::of(&**service)));
        }
        keys.into_iter().collect()
    });
}

/// Starts the controller of EndpointSlices.
pub fn start_slices(context: &Context) {
    let mut setup = context.setup("endpointslice-controller", "endpoint-slice-controller");
    let services = setup.read::<Service>();
    let pods = setup.read::<Pod>();
    let nodes = setup.read::<Node>();
    let slices = setup.watch::<EndpointSlice>();
    selection::index_labels(pods.cache());
    index_slices(slices.cache());
    setup.enqueue(&services);
    map_pods(&setup, &pods, services.cache());
    setup.map(&slices, |change| {
        let slice = change.object();
        let ours = slice.label(facts::MANAGED_BY) == Some(slices::MANAGER);
        let name = slice.label(facts::SERVICE_NAME).filter(|_| ours);
        name.map(|name| Key::new(slice.namespace(), name)).into_iter().collect()
    });
    let controller = Slices {
        services: services.cache().clone(),
        pods: pods.cache().clone(),
        nodes: nodes.cache().clone(),
        slices: slices.cache().clone(),
    };
    setup.start(Arc::new(controller), WORKERS);
}

/// Starts the controller of Endpoints.
pub fn start_endpoints(context: &Context) {
    let mut setup = context.setup("endpoint-controller", "endpoint-controller");
    let services = setup.read::<Service>();
    let pods = setup.read::<Pod>();
    let endpoints = setup.watch::<Endpoints>();
    selection::index_labels(pods.cache());
    setup.enqueue(&services);
    map_pods(&setup, &pods, services.cache());
    // Endpoints that somebody removed come back. Those without a Service are left alone: people write them
    // before the Service that uses them.
    setup.map(&endpoints, |change| match change {
        client::Change::Deleted(endpoints) => vec![Key::of(&**endpoints)],
        _ => Vec::new(),
    });
    let controller = Plain {
        services: services.cache().clone(),
        pods: pods.cache().clone(),
        endpoints: endpoints.cache().clone(),
    };
    setup.start(Arc::new(controller), WORKERS);
}

/// Starts the mirroring controller.
pub fn start_mirroring(context: &Context) {
    let mut setup = context.setup("endpointslicemirroring-controller", "endpoint-slice-mirroring-controller");
    let services = setup.read::<Service>();
    let endpoints = setup.read::<Endpoints>();
    let slices = setup.watch::<EndpointSlice>();
    index_slices(slices.cache());
    setup.enqueue(&services);
    setup.enqueue(&endpoints);
    setup.map(&slices, |change| {
        let slice = change.object();
        let ours = slice.label(facts::MANAGED_BY) == Some(mirror::MANAGER);
        let name = slice.label(facts::SERVICE_NAME).filter(|_| ours);
        name.map(|name| Key::new(slice.namespace(), name)).into_iter().collect()
    });
    let controller = Mirror {
        services: services.cache().clone(),
        endpoints: endpoints.cache().clone(),
        slices: slices.cache().clone(),
    };
    setup.start(Arc::new(controller), WORKERS);
}

#[cfg(test)]
mod tests;
