//! Admission policies in CEL: which of them a request has to face, with which bindings and parameters. What
//! they say is in `validating` and `mutating`.

mod authorizer;
mod compiled;
mod mutating;
mod validating;

use std::collections::BTreeMap;
use std::sync::Arc;

use api::ApiError;
use parking_lot::Mutex;
use registry::Resource;
use registry::tree::Tree;
use serde_json::Value;
use store::Key;

use super::{Review, matching};
use crate::object::{self, Served};
use crate::server::Server;

pub use compiled::{Subject, conditions_hold, webhook_conditions};
pub use mutating::mutate;
pub use validating::validate;

use compiled::Policy;

const VALIDATING: &str = "admissionregistration.k8s.io/validatingadmissionpolicies";
const VALIDATING_BINDINGS: &str = "admissionregistration.k8s.io/validatingadmissionpolicybindings";
const MUTATING: &str = "admissionregistration.k8s.io/mutatingadmissionpolicies";
const MUTATING_BINDINGS: &str = "admissionregistration.k8s.io/mutatingadmissionpolicybindings";

/// Policies, bindings and webhook configurations as parsed and compiled from their stored versions.
#[derive(Default)]
pub struct Cache {
    policies: Made<Policy>,
    trees: Made<Value>,
    /// Conditions of webhooks by their text.
    conditions: Mutex<BTreeMap<String, Arc<compiled::Expression>>>,
}

/// The stored objects of a resource, parsed once for each version.
pub fn trees(server: &Server, resource: &str) -> Vec<Arc<Value>> {
    cached(server, resource, None, &server.policies.trees, |tree| tree)
}

/// What is made of stored objects, with the version it was made of.
pub type Made<T> = Mutex<BTreeMap<Key, (u64, Arc<T>)>>;

/// What `make` gives for each stored object of a resource, in one namespace or in all, made once for each version.
pub fn cached<T>(
    server: &Server,
    resource: &str,
    namespace: Option<&str>,
    held: &Made<T>,
    make: impl Fn(Value) -> T,
) -> Vec<Arc<T>> {
    let snapshot = server.store.snapshot(resource);
    if snapshot.is_empty() {
        return Vec::new();
    }
    let mut held = held.lock();
    let ours = held.keys().filter(|key| &*key.resource == resource).count();
    if ours > snapshot.len() {
        held.retain(|key, _| &*key.resource != resource || snapshot.get(&key.namespace, &key.name).is_some());
    }
    let mut found = |stored: &Arc<store::Object>| match held.get(&stored.key) {
        Some((revision, made)) if *revision == stored.revision => made.clone(),
        _ => {
            let made = Arc::new(make(object::tree(stored)));
            held.insert(stored.key.clone(), (stored.revision, made.clone()));
            made
        }
    };
    snapshot.range(namespace, None).map(&mut found).collect()
}

/// One policy that a request has to face, by one binding and with one parameter object.
struct Invocation {
    policy: Arc<Policy>,
    binding: Arc<Value>,
    /// The row as which the policy sees the object.
    row: Arc<Resource>,
    /// The parameter object; null without one.
    params: Arc<Value>,
}

/// A policy or binding that cannot be used for a request.
struct Misfit {
    policy: Arc<Policy>,
    binding: Option<Arc<Value>>,
    why: String,
}

/// Invocations in order of policies, then bindings; and what is misconfigured.
#[derive(Default)]
struct Matched {
    invocations: Vec<Invocation>,
    misfits: Vec<Misfit>,
}

/// Whether a request is judged at all: admission's own configuration never is.
fn is_exempt(review: &Review<'_>) -> bool {
    review.row.group == matching::GROUP
}

/// Finds what a request has to face.
fn matched(
    review: &Review<'_>,
    resources: (&'static str, &'static str),
    object: &Value,
    old: Option<&Value>,
) -> Matched {
    let mut out = Matched::default();
    if is_exempt(review) {
        return out;
    }
    let (server, cache) = (review.server, &review.server.policies);
    let policies = cached(server, resources.0, None, &cache.policies, Policy::new);
    if policies.is_empty() {
        return out;
    }
    let bindings = trees(server, resources.1);
    for policy in policies {
        let mut own = bindings.iter().filter(|b| b.text("spec.policyName") == policy.name).peekable();
        if own.peek().is_none() {
            continue;
        }
        let Some(row) = fits(review, policy.tree.at("spec.matchConstraints"), object, old) else { continue };
        let param_row = match param_row(review, &policy) {
            Ok(row) => row,
            Err(why) => {
                out.misfits.push(Misfit { policy, binding: None, why });
                continue;
            }
        };
        for binding in own {
            if fits(review, binding.at("spec.matchResources"), object, old).is_none() {
                continue;
            }
            match params(review, param_row.as_ref(), binding.at("spec.paramRef")) {
                Ok(all) => out.invocations.extend(all.into_iter().map(|params| Invocation {
                    policy: policy.clone(),
                    binding: binding.clone(),
                    row: row.clone(),
                    params: params.into(),
                })),
                Err(why) => {
                    let (policy, binding) = (policy.clone(), Some(binding.clone()));
                    out.misfits.push(Misfit { policy, binding, why });
                }
            }
        }
    }
    out
}

/// Whether `matchConstraints` or `matchResources` let the request in; as which row.
fn fits(
    review: &Review<'_>,
    constraints: &Value,
    object: &Value,
    old: Option<&Value>,
) -> Option<Arc<Resource>> {
    if !matching::selected(review, constraints, object, old) {
        return None;
    }
    let (policy, name) = (constraints.text("matchPolicy"), matching::name(review, object, old));
    if matching::row(review, constraints.list("excludeResourceRules"), policy, name).is_some() {
        return None;
    }
    match constraints.list("resourceRules") {
        [] => Some(review.served.row.clone()),
        rules => matching::row(review, rules, policy, name),
    }
}

/// The row of `paramKind`; `None` when the policy has none.
fn param_row(review: &Review<'_>, policy: &Policy) -> Result<Option<Served>, String> {
    let kind = policy.tree.at("spec.paramKind");
    if kind.is_null() {
        return Ok(None);
    }
    let (api_version, name) = (kind.text("apiVersion"), kind.text("kind"));
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let serving = review.server.rows.serving();
    let row = serving.catalog.by_kind(group, version, name).filter(|row| row.storage.is_some());
    let row = row.ok_or_else(|| {
        let shown = if group.is_empty() { format!("/{version}") } else { api_version.to_owned() };
        format!("failed to find resource referenced by paramKind: '{shown}, Kind={name}'")
    })?;
    Ok(Some(Served::new(row.clone(), serving.custom(row).cloned())))
}

/// The parameter objects that a binding names; one null when there are none to be had.
fn params(review: &Review<'_>, kind: Option<&Served>, reference: &Value) -> Result<Vec<Value>, String> {
    let Some(served) = kind.filter(|_| !reference.is_null()) else { return Ok(vec![Value::Null]) };
    let row = &served.row;
    let mut namespace = reference.text("namespace");
    if !row.namespaced && !namespace.is_empty() {
        return Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".to_owned());
    }
    if row.namespaced && namespace.is_empty() {
        namespace = review.namespace.as_str();
        if namespace.is_empty() {
            let why =
                "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources";
            return Err(why.to_owned());
        }
    }
    let snapshot = review.server.store.snapshot(row.storage.as_deref().unwrap_or(""));
    let name = reference.text("name");
    let found: Vec<Value> = if !name.is_empty() {
        snapshot.get(namespace, name).map(|stored| served.tree(stored)).into_iter().collect()
    } else {
        let selector = serde_json::from_value(reference.at("selector").clone()).unwrap_or_default();
        let selector = api::labels::Selector::from_object(Some(&selector)).map_err(|e| e.to_string())?;
        let wants = |stored: &&Arc<store::Object>| {
            selector.matches_with(|key| stored.attrs.label(key).map(|value| &**value))
        };
        let within = Some(namespace).filter(|namespace| !namespace.is_empty());
        snapshot.range(within, None).filter(wants).map(|stored| served.tree(stored)).collect()
    };
    if found.is_empty() && reference.text("parameterNotFoundAction") == "Deny" {
        return Err("no params found for policy binding with `Deny` parameterNotFoundAction".to_owned());
    }
    Ok(found)
}

impl Misfit {
    fn message(&self) -> String {
        let what = if self.binding.is_some() { "binding" } else { "policy" };
        format!("failed to configure {what}: {}", self.why)
    }
}

/// What a conversion to a policy's version could not do.
fn unconverted(review: &Review<'_>, error: &ApiError) -> ApiError {
    review.forbidden(None, &format!("failed to convert object version: {}", error.message))
}
