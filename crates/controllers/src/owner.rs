//! Who controls an object: references, adoption of matching orphans, release of what no longer matches.

use std::sync::Arc;

use api::k8s::apimachinery::pkg::apis::meta::v1::OwnerReference;
use api::labels::Selector;
use client::plan::{disown_patch, owner_patch, to_value};
use client::{Cache, Key, Kind, Meta, Step};

use crate::context::{ORPHANS, controller_of};

/// The reference that makes `owner` the controller of a dependent.
pub fn controller_ref<O: Kind>(owner: &O) -> OwnerReference {
    OwnerReference {
        api_version: O::API_VERSION.to_owned(),
        kind: O::KIND.to_owned(),
        name: owner.name().to_owned(),
        uid: owner.uid().to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// True when `owner` controls `object`.
pub fn is_controlled_by<K: Meta>(object: &K, owner_uid: &str) -> bool {
    controller_of(object).is_some_and(|reference| reference.uid == owner_uid)
}

/// What an owner controls after adoption and release, and the patches for that.
#[derive(Debug)]
pub struct Claimed<K> {
    /// The dependents, by name.
    pub objects: Vec<Arc<K>>,
    /// Adoptions and releases.
    pub steps: Vec<Step>,
}

/// Sorts out which objects of `cache` belong to `owner`. `adoptable` decides which orphans may be taken.
pub fn claim<O: Kind, K: Kind>(
    owner: &O,
    selector: &Selector,
    cache: &Cache<K>,
    adoptable: impl Fn(&K) -> bool,
) -> Claimed<K> {
    let (mut objects, mut steps) = (Vec::new(), Vec::new());
    for object in cache.owned_by(owner.uid()) {
        if !is_controlled_by(&*object, owner.uid()) {
            continue;
        }
        if selector.matches_opt(object.meta().labels.as_ref()) {
            objects.push(object);
        } else if !owner.is_deleting() {
            steps.push(Step::patch::<K>(&Key::of(&*object), "", disown_patch(object.uid(), owner.uid())));
        }
    }
    if owner.is_deleting() {
        return Claimed { objects, steps };
    }
    for object in cache.by_index(ORPHANS, owner.namespace()) {
        if object.is_deleting() || !selector.matches_opt(object.meta().labels.as_ref()) || !adoptable(&object)
        {
            continue;
        }
        let reference = to_value(&controller_ref(owner));
        steps.push(Step::patch::<K>(&Key::of(&*object), "", owner_patch(object.uid(), &reference)));
        objects.push(object);
    }
    objects.sort_by(|a, b| a.name().cmp(b.name()));
    Claimed { objects, steps }
}
