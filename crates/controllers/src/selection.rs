//! Which pods a selector selects, and whose selectors select a pod, without looking at every pod or every selector.
//!
//! Must not know whose selectors they are.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::labels::{Operator, Requirement, Selector};
use client::{Cache, Meta};

/// The index of objects by namespace and label.
const BY_LABEL: &str = "label";
/// The index of selecting objects by namespace and a label that they demand, or by namespace alone.
const BY_SELECTOR: &str = "selector";

fn label(namespace: &str, key: &str, value: &str) -> String {
    format!("{namespace}/{key}={value}")
}

/// A label without which nothing is selected, if there is such a label.
fn demanded<'a>(namespace: &str, selector: &'a Selector) -> Option<String> {
    let exact = |one: &&'a Requirement| one.operator == Operator::In && one.values.len() == 1;
    selector.requirements.iter().find(exact).map(|one| label(namespace, &one.key, &one.values[0]))
}

/// Lets [`selected`] find the objects of a cache.
pub fn index_labels<K: Meta>(cache: &Cache<K>) {
    let labels = |object: &K| {
        let labels = object.meta().labels.iter().flatten();
        labels.map(|(key, value)| label(object.namespace(), key, value)).collect()
    };
    cache.add_index(BY_LABEL, Arc::new(labels));
}

/// The objects of a namespace that a selector selects, by name.
pub fn selected<K: Meta>(cache: &Cache<K>, namespace: &str, selector: &Selector) -> Vec<Arc<K>> {
    if selector.is_nothing() {
        return Vec::new();
    }
    let mut found = match demanded(namespace, selector) {
        Some(label) => cache.by_index(BY_LABEL, &label),
        None => cache.namespace(namespace),
    };
    found.retain(|object| selector.matches_opt(object.meta().labels.as_ref()));
    found
}

/// Objects with a selector, found by what they select; cheap to clone.
pub struct Selecting<K> {
    cache: Cache<K>,
    selector_of: fn(&K) -> Selector,
}

impl<K> Clone for Selecting<K> {
    fn clone(&self) -> Self {
        Selecting { cache: self.cache.clone(), selector_of: self.selector_of }
    }
}

impl<K: Meta> Selecting<K> {
    /// Over the objects of a cache; one that selects nothing has [`Selector::nothing`].
    pub fn new(cache: &Cache<K>, selector_of: fn(&K) -> Selector) -> Self {
        let values = move |object: &K| {
            let selector = selector_of(object);
            if selector.is_nothing() {
                return Vec::new();
            }
            vec![demanded(object.namespace(), &selector).unwrap_or_else(|| object.namespace().to_owned())]
        };
        cache.add_index(BY_SELECTOR, Arc::new(values));
        Selecting { cache: cache.clone(), selector_of }
    }

    /// Those of a namespace that select an object with these labels.
    pub fn of(&self, namespace: &str, labels: Option<&BTreeMap<String, String>>) -> Vec<Arc<K>> {
        let mut found = self.cache.by_index(BY_SELECTOR, namespace);
        for (key, value) in labels.into_iter().flatten() {
            found.extend(self.cache.by_index(BY_SELECTOR, &label(namespace, key, value)));
        }
        found.retain(|object| (self.selector_of)(object).matches_opt(labels));
        found
    }
}

#[cfg(test)]
mod tests {
    use api::k8s::api::core::v1::{Pod, Service};
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, labels: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": name, "namespace": "n", "labels": labels}}))
            .expect("a pod")
    }

    fn service(name: &str, selector: Value) -> Service {
        let object = json!({"metadata": {"name": name, "namespace": "n"}, "spec": {"selector": selector, "ports": []}});
        serde_json::from_value(object).expect("a service")
    }

    fn selector_of(service: &Service) -> Selector {
        let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        selector.map_or_else(Selector::nothing, Selector::from_map)
    }

    #[test]
    fn what_is_selected_is_found_by_label() {
        let pods = Cache::of([
            pod("a", json!({"app": "x", "tier": "1"})),
            pod("b", json!({"app": "x"})),
            pod("c", json!({"app": "y"})),
        ]);
        index_labels(&pods);
        let check = |text: &str, expect: &[&str]| {
            let selector = Selector::parse(text).expect("a selector");
            let found: Vec<String> =
                selected(&pods, "n", &selector).iter().map(|pod| pod.name().to_owned()).collect();
            assert_eq!(found, expect, "{text}");
        };
        check("app=x", &["a", "b"]);
        check("app=x,tier=1", &["a"]);
        check("app in (x,y),!tier", &["b", "c"]);
        check("", &["a", "b", "c"]);
        assert!(selected(&pods, "n", &Selector::nothing()).is_empty());
        assert!(selected(&pods, "m", &Selector::everything()).is_empty());
    }

    #[test]
    fn who_selects_is_found_by_label() {
        let services = Cache::of([
            service("all", json!({})),
            service("none", Value::Null),
            service("x", json!({"app": "x"})),
            service("x1", json!({"app": "x", "tier": "1"})),
            service("y", json!({"app": "y"})),
        ]);
        let selecting = Selecting::new(&services, selector_of);
        let check = |labels: Value, expect: &[&str]| {
            let pod = pod("p", labels.clone());
            let found = selecting.of("n", pod.metadata.labels.as_ref());
            let names: Vec<&str> = found.iter().map(|service| service.name()).collect();
            assert_eq!(names, expect, "{labels}");
        };
        check(json!({"app": "x"}), &["all", "x"]);
        check(json!({"app": "x", "tier": "1"}), &["all", "x", "x1"]);
        check(json!({"other": "x"}), &["all"]);
        check(Value::Null, &["all"]);
    }
}
