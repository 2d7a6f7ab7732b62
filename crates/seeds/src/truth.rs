//! What is true: every object as last committed, and what happened to it when. Judges read it; nothing else does.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

/// Namespace and name.
pub type Place = (String, String);

/// All objects as last committed.
#[derive(Default)]
pub struct Truth {
    objects: BTreeMap<String, BTreeMap<Place, Arc<Value>>>,
    uids: BTreeMap<String, (String, Place)>,
}

/// Where a value has text, or nothing.
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("")
}

/// The uid of an object.
pub fn uid(object: &Value) -> &str {
    text(&object["metadata"]["uid"])
}

/// True when it is asked to go.
pub fn is_deleting(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

/// The reference to the controller.
pub fn controller(object: &Value) -> Option<&Value> {
    let owners = object["metadata"]["ownerReferences"].as_array()?;
    owners.iter().find(|owner| owner["controller"] == true)
}

/// The reference to the controller, when it is of this kind.
pub fn controlled_by<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    controller(object).filter(|owner| owner["kind"] == kind)
}

/// A condition's status; empty when it has none.
pub fn condition<'a>(object: &'a Value, kind: &str) -> &'a str {
    let conditions = object["status"]["conditions"].as_array().map_or(&[][..], |all| all);
    conditions.iter().find(|one| one["type"] == kind).map_or("", |one| text(&one["status"]))
}

/// A condition's reason; empty when it has none.
pub fn reason<'a>(object: &'a Value, kind: &str) -> &'a str {
    let conditions = object["status"]["conditions"].as_array().map_or(&[][..], |all| all);
    conditions.iter().find(|one| one["type"] == kind).map_or("", |one| text(&one["reason"]))
}

/// True for a pod that came to its end.
pub fn is_over(pod: &Value) -> bool {
    matches!(text(&pod["status"]["phase"]), "Succeeded" | "Failed")
}

/// True for a pod that serves.
pub fn is_ready(pod: &Value) -> bool {
    !is_deleting(pod) && !is_over(pod) && condition(pod, "Ready") == "True"
}

/// True for a pod that counts: neither over nor going.
pub fn is_active(pod: &Value) -> bool {
    !is_deleting(pod) && !is_over(pod)
}

/// CPU that a pod asks for, thousandths.
pub fn cpu(pod: &Value) -> i64 {
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    containers.map(|one| milli(&one["resources"]["requests"]["cpu"])).sum()
}

/// A pod's priority.
pub fn priority(pod: &Value) -> i64 {
    pod["spec"]["priority"].as_i64().unwrap_or(0)
}

/// A quantity in thousandths.
pub fn milli(value: &Value) -> i64 {
    text(value).parse::<api::quantity::Quantity>().map_or(0, |quantity| quantity.milli_value())
}

/// True when the labels of `object` have all of `selector`'s `matchLabels`.
pub fn selects(selector: &Value, object: &Value) -> bool {
    let Some(wanted) = selector.as_object() else { return false };
    wanted.iter().all(|(key, value)| object["metadata"]["labels"][key] == *value)
}

impl Truth {
    /// Takes a commit over; the object as it was before.
    pub fn take(&mut self, resource: &str, place: Place, object: Option<&Arc<Value>>) -> Option<Arc<Value>> {
        let named = self.objects.entry(resource.to_owned()).or_default();
        match object {
            Some(object) => {
                self.uids.insert(uid(object).to_owned(), (resource.to_owned(), place.clone()));
                named.insert(place, object.clone())
            }
            None => {
                let old = named.remove(&place);
                if let Some(old) = &old {
                    self.uids.remove(uid(old));
                }
                old
            }
        }
    }

    /// All objects of a resource.
    pub fn all(&self, resource: &str) -> impl Iterator<Item = (&Place, &Arc<Value>)> {
        self.objects.get(resource).into_iter().flatten()
    }

    /// All objects.
    pub fn everything(&self) -> impl Iterator<Item = (&str, &Place, &Arc<Value>)> {
        self.objects
            .iter()
            .flat_map(|(resource, all)| all.iter().map(move |(place, one)| (&**resource, place, one)))
    }

    /// One object.
    pub fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<&Arc<Value>> {
        self.objects.get(resource)?.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// An object by its uid, with its resource.
    pub fn by_uid(&self, uid: &str) -> Option<(&str, &Arc<Value>)> {
        let (resource, place) = self.uids.get(uid)?;
        Some((resource, self.objects.get(resource)?.get(place)?))
    }

    /// Pods whose controller has this uid.
    pub fn pods_of<'a>(&'a self, owner: &'a str) -> impl Iterator<Item = &'a Arc<Value>> {
        self.all("pods")
            .map(|(_, pod)| pod)
            .filter(move |pod| controller(pod).is_some_and(|one| one["uid"] == owner))
    }

    /// Pods of all replica sets of a deployment.
    pub fn pods_of_deployment<'a>(&'a self, owner: &'a str) -> impl Iterator<Item = &'a Arc<Value>> {
        let sets = self.all("apps/replicasets").map(|(_, set)| set);
        let sets = sets.filter(move |set| controller(set).is_some_and(|one| one["uid"] == owner));
        sets.flat_map(|set| self.pods_of(uid(set)))
    }
}
