//! ResourceQuotas: what a namespace uses of what it may. Watches quotas and what they count.

mod usage;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::Quantity;
use api::k8s::api::core::v1::{
    ConfigMap, PersistentVolumeClaim, Pod, ReplicationController, ResourceQuota, Secret, Service,
};
use base::Clock;
use client::{
    Cache, Change, Client, ClientError, Discovery, Informer, Key, Kind, ListOptions, Meta, Partial, Queue,
};
use parking_lot::Mutex;

use crate::context::Context;
use crate::{pods, worker};
use usage::Usage;

const WORKERS: usize = 5;
/// Changes that come together are counted together.
const GATHER: Duration = Duration::from_millis(100);
/// Resources that no cache holds are counted again after this time.
const RECOUNT: Duration = Duration::from_secs(60);

/// Admission counts an object before it is stored, and a cache shows it later still: what a quota says is believed
/// for this long, unless more is found.
const SETTLE: Duration = Duration::from_secs(2);
/// How soon to look again whether a cache that was behind a quota has caught up: a bookmark comes each minute.
const CATCH_UP: Duration = Duration::from_secs(5);

struct Counter {
    client: Client,
    clock: Clock,
    /// The version of each quota that was counted last, and when it was first counted. Noted here and not when the
    /// cache changes: a count under way may read the new version before anyone is told of it.
    versions: Mutex<BTreeMap<Key, (u64, Duration)>>,
    quotas: Cache<ResourceQuota>,
    pods: Cache<Pod>,
    services: Cache<Service>,
    claims: Cache<PersistentVolumeClaim>,
    secrets: Cache<Secret>,
    maps: Cache<ConfigMap>,
    controllers: Cache<ReplicationController>,
    discovery: Mutex<Option<Arc<Discovery>>>,
}

impl Counter {
    async fn sync(&self, key: Key) -> Result<Option<Duration>, ClientError> {
        let Some(quota) = self.quotas.get_key(&key) else {
            self.versions.lock().remove(&key);
            return Ok(None);
        };
        let since = self.first_counted(&key, quota.revision());
        let spec = quota.spec.clone().unwrap_or_default();
        let hard = spec.hard.clone().unwrap_or_default();
        let mut used = Usage::new(hard.keys());
        let namespace = &*key.namespace;
        for pod in self.pods.namespace(namespace) {
            if usage::in_scope(&spec, &pod) && !pods::is_finished(&pod) {
                used.add_pod(&pod);
            }
        }
        if !usage::is_for_pods_only(&spec) {
            self.services.namespace(namespace).iter().for_each(|service| used.add_service(service));
            self.claims.namespace(namespace).iter().for_each(|claim| used.add_claim(claim));
            used.count("secrets", "", self.secrets.namespace(namespace).len());
            used.count("configmaps", "", self.maps.namespace(namespace).len());
            used.count("replicationcontrollers", "", self.controllers.namespace(namespace).len());
            used.count("resourcequotas", "", self.quotas.namespace(namespace).len());
        }
        let others = used.uncounted();
        for (resource, group) in &others {
            let count = self.count(namespace, resource, group).await?;
            used.count(resource, group, count);
        }
        let (mut used, mut status) = (used.finish(), quota.status.clone().unwrap_or_default());
        let late = hold(status.used.as_ref(), &mut used, |name| self.seen(name) < quota.revision());
        let same = status.hard.as_ref() == Some(&hard) && same_amounts(status.used.as_ref(), &used);
        if !same {
            if shrinks(status.used.as_ref(), &used).next().is_some() {
                let left = (since + SETTLE).saturating_sub(self.clock.monotonic());
                if !left.is_zero() {
                    return Ok(Some(left));
                }
            }
            status.hard = Some(hard);
            status.used = Some(used);
            let mut after = (*quota).clone();
            after.status = Some(status);
            self.client.update_status(&after).await?;
        }
        let recount = (!others.is_empty()).then_some(RECOUNT);
        Ok(if late { Some(CATCH_UP) } else { recount })
    }

    /// The revision up to which the objects are known that count for this name of an amount.
    fn seen(&self, name: &str) -> u64 {
        match usage::resource_of(name) {
            Some("pods") => self.pods.revision(),
            Some("services") => self.services.revision(),
            Some("persistentvolumeclaims") => self.claims.revision(),
            Some("secrets") => self.secrets.revision(),
            Some("configmaps") => self.maps.revision(),
            Some("replicationcontrollers") => self.controllers.revision(),
            Some("resourcequotas") => self.quotas.revision(),
            // Counted at the server, just now.
            _ => u64::MAX,
        }
    }

    /// When this version of a quota was first counted.
    fn first_counted(&self, key: &Key, revision: u64) -> Duration {
        let now = self.clock.monotonic();
        let mut versions = self.versions.lock();
        let noted = versions.entry(key.clone()).or_insert((revision, now));
        if noted.0 != revision {
            *noted = (revision, now);
        }
        noted.1
    }

    async fn count(&self, namespace: &str, resource: &str, group: &str) -> Result<usize, ClientError> {
        let known = self.discovery.lock().clone();
        let discovery = match known {
            Some(discovery) => discovery,
            None => Arc::new(Discovery::fetch(&self.client).await?),
        };
        let fits = |gvr: &api::Gvr| gvr.group == group && gvr.resource == resource;
        let Some(found) = discovery.preferred().find(|found| fits(&found.resource.gvr)) else {
            // It may be defined later: ask again next time.
            *self.discovery.lock() = None;
            return Ok(0);
        };
        *self.discovery.lock() = Some(discovery.clone());
        let options = ListOptions::default();
        let list = self.client.list_at::<Partial>(&found.resource.gvr, namespace, &options, true).await?;
        Ok(list.items.len())
    }
}

/// The names of which less is used than was known.
fn shrinks<'a>(
    known: Option<&'a Amounts>,
    used: &'a Amounts,
) -> impl Iterator<Item = (&'a String, &'a Amount)> {
    let value = |amount: Option<&Amount>| amount.map(api::quantity::of).unwrap_or_default();
    known.into_iter().flatten().filter(move |(name, amount)| value(used.get(*name)) < value(Some(amount)))
}

/// Admission has counted what a cache behind the quota does not show yet: such amounts stay as they were known. True
/// when there are any.
fn hold(known: Option<&Amounts>, used: &mut Amounts, is_behind: impl Fn(&str) -> bool) -> bool {
    let too_low: Amounts = shrinks(known, used)
        .filter(|(name, _)| used.contains_key(*name) && is_behind(name))
        .map(|(name, amount)| (name.clone(), amount.clone()))
        .collect();
    let late = !too_low.is_empty();
    used.extend(too_low);
    late
}

type Amount = api::k8s::apimachinery::pkg::api::resource::Quantity;
type Amounts = BTreeMap<String, Amount>;

fn same_amounts(known: Option<&Amounts>, used: &Amounts) -> bool {
    let Some(known) = known else { return false };
    let value = |text: &str| text.parse::<Quantity>().ok();
    known.len() == used.len()
        && known.iter().zip(used).all(|((a, x), (b, y))| a == b && value(&x.0) == value(&y.0))
}

fn follow<K: Kind>(
    informer: &Informer<K>,
    quotas: &Cache<ResourceQuota>,
    queue: &Queue<Key>,
    matters: fn(&Change<K>) -> bool,
) {
    let (quotas, queue) = (quotas.clone(), queue.clone());
    informer.on_change(move |change| {
        if matters(change) {
            for quota in quotas.namespace(change.object().namespace()) {
                queue.add_after(Key::of(&*quota), GATHER);
            }
        }
    });
}

/// Starts the controller.
pub fn start(context: &Context) {
    let queue: Queue<Key> = Queue::new(context.clock.clone());
    let informers = &context.informers;
    let quotas = informers.of::<ResourceQuota>();
    let pods = informers.of::<Pod>();
    let services = informers.of::<Service>();
    let claims = informers.of::<PersistentVolumeClaim>();
    let secrets = informers.of::<Secret>();
    let maps = informers.of::<ConfigMap>();
    let controllers = informers.of::<ReplicationController>();
    let own = queue.clone();
    quotas.on_change(move |change| own.add(Key::of(&**change.object())));
    fn comes_or_goes<K>(change: &Change<K>) -> bool {
        !matches!(change, Change::Modified { .. })
    }
    fn pod_matters(change: &Change<Pod>) -> bool {
        let amounts = |pod: &Pod| {
            let scope = pod.spec.as_ref().map(|spec| spec.active_deadline_seconds);
            (pods::is_finished(pod), scope, usage::requests(pod))
        };
        change.old().is_none_or(|old| comes_or_goes(change) || amounts(old) != amounts(change.object()))
    }
    follow(&pods, quotas.cache(), &queue, pod_matters);
    follow(&services, quotas.cache(), &queue, |_| true);
    follow(&claims, quotas.cache(), &queue, |_| true);
    follow(&secrets, quotas.cache(), &queue, comes_or_goes);
    follow(&maps, quotas.cache(), &queue, comes_or_goes);
    follow(&controllers, quotas.cache(), &queue, comes_or_goes);
    let counter = Arc::new(Counter {
        clock: context.clock.clone(),
        versions: Mutex::default(),
        client: (context.client_for)("resourcequota-controller"),
        quotas: quotas.cache().clone(),
        pods: pods.cache().clone(),
        services: services.cache().clone(),
        claims: claims.cache().clone(),
        secrets: secrets.cache().clone(),
        maps: maps.cache().clone(),
        controllers: controllers.cache().clone(),
        discovery: Mutex::default(),
    });
    let tasks = context.tasks.clone();
    context.tasks.spawn("quota start", async move {
        // Counting half-filled caches would tell too little.
        pods.synced().await;
        services.synced().await;
        claims.synced().await;
        secrets.synced().await;
        maps.synced().await;
        controllers.synced().await;
        quotas.synced().await;
        worker::start("quota", queue, WORKERS, &tasks, move |key| {
            let counter = counter.clone();
            async move { counter.sync(key).await }
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amounts(all: &[(&str, &str)]) -> Amounts {
        all.iter()
            .map(|(name, amount)| {
                (
                    (*name).to_owned(),
                    api::k8s::apimachinery::pkg::api::resource::Quantity((*amount).to_owned()),
                )
            })
            .collect()
    }

    #[test]
    fn what_a_late_cache_does_not_show_stays_counted() {
        let known = amounts(&[("pods", "3"), ("services", "2"), ("secrets", "1")]);
        let counted = amounts(&[("pods", "0"), ("services", "1"), ("secrets", "4")]);
        let pods_late = |name: &str| usage::resource_of(name) == Some("pods");
        for (is_behind, late, expect) in [
            (&pods_late as &dyn Fn(&str) -> bool, true, [("pods", "3"), ("services", "1"), ("secrets", "4")]),
            (&|_| false, false, [("pods", "0"), ("services", "1"), ("secrets", "4")]),
            (&|_| true, true, [("pods", "3"), ("services", "2"), ("secrets", "4")]),
        ] {
            let mut used = counted.clone();
            assert_eq!(hold(Some(&known), &mut used, is_behind), late);
            assert_eq!(used, amounts(&expect));
        }
        // A name that is no longer limited is no longer told.
        let mut used = amounts(&[("pods", "3")]);
        assert!(!hold(Some(&known), &mut used, |_| true));
        assert_eq!(used, amounts(&[("pods", "3")]));
    }
}
