//! One row of the Resource table: everything generic code needs to know of a kind.
//! It must not know HTTP, the store, or any particular kind.

use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use crate::columns::Columns;
use crate::strategy::{Part, Strategy};

/// What a client may do to a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Verb {
    Create,
    Delete,
    DeleteCollection,
    Get,
    List,
    Patch,
    Update,
    Watch,
}

impl Verb {
    /// Every verb, in the order discovery prints them.
    pub const ALL: [Verb; 8] = [
        Verb::Create,
        Verb::Delete,
        Verb::DeleteCollection,
        Verb::Get,
        Verb::List,
        Verb::Patch,
        Verb::Update,
        Verb::Watch,
    ];

    /// The verb's name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Create => "create",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Patch => "patch",
            Verb::Update => "update",
            Verb::Watch => "watch",
        }
    }
}

/// A set of verbs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verbs(u8);

impl Verbs {
    /// create, delete, deletecollection, get, list, patch, update, watch.
    pub const STANDARD: Verbs = Verbs(0xff);
    /// get, patch, update: what status, scale and their like offer.
    pub const VIEW: Verbs = Verbs::of(&[Verb::Get, Verb::Patch, Verb::Update]);
    /// create, delete, get, patch, update: what the proxy subresources offer.
    pub const PROXY: Verbs = Verbs::of(&[Verb::Create, Verb::Delete, Verb::Get, Verb::Patch, Verb::Update]);
    /// create only.
    pub const CREATE: Verbs = Verbs::of(&[Verb::Create]);
    /// get and create: the streaming subresources.
    pub const STREAM: Verbs = Verbs::of(&[Verb::Create, Verb::Get]);

    /// The set of the given verbs.
    pub const fn of(verbs: &[Verb]) -> Verbs {
        let mut bits = 0;
        let mut i = 0;
        while i < verbs.len() {
            bits |= 1 << verbs[i] as u8;
            i += 1;
        }
        Verbs(bits)
    }

    /// This set without one verb.
    pub const fn without(self, verb: Verb) -> Verbs {
        Verbs(self.0 & !(1 << verb as u8))
    }

    /// Whether the set holds the verb.
    pub const fn has(self, verb: Verb) -> bool {
        self.0 & (1 << verb as u8) != 0
    }

    /// The verbs in discovery order.
    pub fn iter(self) -> impl Iterator<Item = Verb> {
        Verb::ALL.into_iter().filter(move |v| self.has(*v))
    }
}

/// What a subresource is for; the API server has one handler per role.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Role {
    /// The same object; only status (and metadata) may change.
    Status,
    /// An autoscaling/v1 Scale view of the object.
    Scale(ScalePaths),
    Binding,
    Eviction,
    EphemeralContainers,
    Resize,
    Exec,
    Attach,
    PortForward,
    Proxy,
    Log,
    /// TokenRequest of a service account.
    Token,
    /// Conditions of a certificate signing request.
    Approval,
    /// spec.finalizers of a namespace.
    Finalize,
}

/// Where the Scale view finds its numbers, as dot-separated JSON paths without a leading dot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScalePaths {
    /// Desired replicas, as `spec.replicas`.
    pub spec_replicas: String,
    /// Observed replicas, as `status.replicas`.
    pub status_replicas: String,
    /// The selector: a label selector object, a plain label map, or (custom resources) its text.
    pub selector: Option<String>,
}

impl ScalePaths {
    /// The paths that every built-in workload uses.
    pub fn workload() -> ScalePaths {
        ScalePaths {
            spec_replicas: "spec.replicas".into(),
            status_replicas: "status.replicas".into(),
            selector: Some("spec.selector".into()),
        }
    }
}

/// One subresource of a row.
#[derive(Clone, Debug)]
pub struct Subresource {
    /// The path segment, as `status`.
    pub name: String,
    /// Group of the body's kind; it differs from the parent's for scale, eviction and token.
    pub group: String,
    /// Version of the body's kind.
    pub version: String,
    /// The body's kind.
    pub kind: String,
    /// What clients may do.
    pub verbs: Verbs,
    /// Which generic handler serves it.
    pub role: Role,
}

/// One field that a field selector may name.
#[derive(Clone, Debug)]
pub struct SelectableField {
    /// What clients write, as `spec.nodeName`.
    pub label: String,
    /// How the value is read from an object.
    pub source: FieldSource,
}

/// How a selectable field's text is found.
#[derive(Clone, Debug)]
pub enum FieldSource {
    /// Dot-separated JSON path; absent reads as the empty string.
    Path(String),
    /// As `Path`, absent reads as the given text (numbers "0", booleans "false").
    PathOr(String, &'static str),
    /// The first of several paths that holds a non-empty text.
    FirstOf(&'static [&'static str]),
    /// Anything else.
    Function(fn(&Value) -> String),
}

impl SelectableField {
    /// The field's text in the given object.
    pub fn read(&self, object: &Value) -> String {
        match &self.source {
            FieldSource::Path(path) => text_at(object, path).unwrap_or_default(),
            FieldSource::PathOr(path, absent) => {
                text_at(object, path).unwrap_or_else(|| (*absent).to_string())
            }
            FieldSource::FirstOf(paths) => {
                paths.iter().filter_map(|p| text_at(object, p)).find(|t| !t.is_empty()).unwrap_or_default()
            }
            FieldSource::Function(f) => f(object),
        }
    }
}

fn text_at(object: &Value, path: &str) -> Option<String> {
    let mut at = object;
    for segment in path.split('.') {
        at = at.get(segment)?;
    }
    match at {
        Value::String(s) => Some(s.clone()),
        Value::Bool(b) => Some(b.to_string()),
        Value::Number(n) => Some(n.to_string()),
        _ => None,
    }
}

/// How the served form of a row differs from the stored form of the same storage.
#[derive(Clone, Copy)]
pub struct Conversion {
    /// Stored form to the row's version, in place.
    pub to_served: fn(&mut Value),
    /// The row's version to the stored form, in place.
    pub to_stored: fn(&mut Value),
}

/// One row of the table: a kind in one served version.
#[derive(Clone)]
pub struct Resource {
    /// API group; empty for the core group.
    pub group: String,
    /// Served version, as `v1`.
    pub version: String,
    /// Kind, as `Deployment`.
    pub kind: String,
    /// Kind of its list, as `DeploymentList`.
    pub list_kind: String,
    /// Path segment, as `deployments`.
    pub plural: String,
    /// Singular name, as `deployment`.
    pub singular: String,
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// Abbreviations that the CLI accepts.
    pub short_names: Vec<String>,
    /// Groups of resources that the CLI accepts, as `all`.
    pub categories: Vec<String>,
    /// What clients may do; a row without `Get` and `List` is virtual (a review, say).
    pub verbs: Verbs,
    /// Its subresources.
    pub subresources: Vec<Subresource>,
    /// Key prefix in the store, as `pods` or `apps/deployments`; `None` when nothing is stored.
    pub storage: Option<Arc<str>>,
    /// Set when the stored form is another version's.
    pub conversion: Option<Conversion>,
    /// How the kind behaves.
    pub strategy: Arc<dyn Strategy>,
    /// How tables of it print.
    pub columns: Columns,
    /// What field selectors may name, beside metadata.name and metadata.namespace.
    pub selectable: Vec<SelectableField>,
    /// Whether the row came from a CustomResourceDefinition.
    pub custom: bool,
}

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Resource({}/{} {})", self.group, self.version, self.plural)
    }
}

impl Resource {
    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        api::meta::api_version(&self.group, &self.version)
    }

    /// `pods` or `deployments.apps`, as error messages name it.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() { self.plural.clone() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// The subresource of the given name.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// Whether a status subresource exists.
    pub fn has_status(&self) -> bool {
        self.subresources.iter().any(|s| s.role == Role::Status)
    }

    /// Fields that a write through a subresource (or, for an empty name, to the object itself) resets: dotted
    /// paths that nobody comes to own by it.
    pub fn resets(&self, subresource: &str) -> &'static [&'static str] {
        let part = match self.subresource(subresource).map(|sub| &sub.role) {
            None => Part::Main,
            Some(Role::Status) => Part::Status,
            Some(Role::Approval) => Part::Approval,
            Some(Role::Finalize) => return &["status"],
            Some(_) => return &[],
        };
        let usual: &[&str] = match part {
            Part::Status => &["spec"],
            Part::Main if self.has_status() => &["status"],
            _ => &[],
        };
        self.strategy.resets(part).unwrap_or(usual)
    }

    /// Every selectable field with its text in the object, metadata.name and namespace first.
    pub fn fields(&self, object: &Value) -> Vec<(String, String)> {
        let mut out =
            vec![("metadata.name".to_string(), text_at(object, "metadata.name").unwrap_or_default())];
        if self.namespaced {
            let ns = text_at(object, "metadata.namespace").unwrap_or_default();
            out.push(("metadata.namespace".to_string(), ns));
        }
        out.extend(self.selectable.iter().map(|f| (f.label.clone(), f.read(object))));
        out
    }

    /// Whether a field selector may name this label.
    pub fn is_selectable(&self, label: &str) -> bool {
        label == "metadata.name"
            || (label == "metadata.namespace" && self.namespaced)
            || self.selectable.iter().any(|f| f.label == label)
    }

    /// Stored form to this row's version; sets apiVersion and kind.
    pub fn to_served(&self, object: &mut Value) {
        if let Some(conversion) = self.conversion {
            (conversion.to_served)(object);
        }
        self.stamp(object);
    }

    /// This row's version to the stored form.
    pub fn to_stored(&self, object: &mut Value) {
        if let Some(conversion) = self.conversion {
            (conversion.to_stored)(object);
        }
    }

    /// Writes the row's apiVersion and kind into the object.
    pub fn stamp(&self, object: &mut Value) {
        if let Value::Object(map) = object {
            map.insert("apiVersion".into(), self.api_version().into());
            map.insert("kind".into(), self.kind.clone().into());
        }
    }
}
