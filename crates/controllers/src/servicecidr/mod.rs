//! ServiceCIDRs: each is made ready, and kept while services have addresses that no other range holds. Watches
//! ServiceCIDRs and the IPAddresses of services.

mod plan;

use std::net::IpAddr;
use std::sync::Arc;

use api::k8s::api::networking::v1::{IPAddress, ServiceCIDR};
use client::{Cache, Key, Meta, Partial, Plan, Reconcile, ReconcileError, ResourceRef, Scope};
use jiff::Timestamp;

use crate::context::Context;

/// The IPAddresses that belong to services.
const OF_SERVICES: &str = "ipaddress.kubernetes.io/managed-by=ipallocator.k8s.io";

struct Controller {
    ranges: Cache<ServiceCIDR>,
    addresses: Cache<Partial>,
}

impl Reconcile for Controller {
    fn reconcile(&self, key: &Key, now: Timestamp) -> Result<Plan, ReconcileError> {
        let Some(object) = self.ranges.get_key(key) else { return Ok(Plan::none()) };
        let addresses = || -> Vec<IpAddr> {
            self.addresses.list().iter().filter_map(|address| address.name().parse().ok()).collect()
        };
        Ok(plan::plan(&object, &self.ranges.list(), &addresses, now))
    }
}

/// Starts the controller.
pub fn start(context: &Context) {
    let mut setup = context.setup("service-cidrs-controller", "service-cidrs-controller");
    let ranges = setup.watch::<ServiceCIDR>();
    let scope = Scope { labels: OF_SERVICES.to_owned(), metadata_only: true, ..Scope::default() };
    let addresses = setup.read_any::<Partial>(ResourceRef::of::<IPAddress>(), scope);
    let all = ranges.cache().clone();
    setup.map(&ranges, move |change| {
        let object = change.object();
        let touched = all.list().into_iter().filter(|other| plan::overlap(object, other));
        touched.map(|other| Key::of(&*other)).chain([Key::of(&**object)]).collect()
    });
    // An address that comes or goes matters to ranges that wait to go.
    let all = ranges.cache().clone();
    setup.map(&addresses, move |_| {
        all.list().iter().filter(|range| range.is_deleting()).map(|range| Key::of(&**range)).collect()
    });
    let controller = Controller { ranges: ranges.cache().clone(), addresses: addresses.cache().clone() };
    setup.start(Arc::new(controller), 1);
}
