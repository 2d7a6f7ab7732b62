//! What a controller wants written, in order: data, so that a test can compare it.

use std::fmt;
use std::time::Duration;

use api::Gvr;
use api::wire::Wire;
use serde_json::{Value, json};

use crate::client::{DeleteOptions, Patch};
use crate::events::EventKind;
use crate::{Key, Kind, Meta, ResourceRef};

/// The object an event is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct About {
    /// `apiVersion`.
    pub api_version: String,
    /// `kind`.
    pub kind: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.resourceVersion`.
    pub resource_version: String,
    /// A part of the object, such as `spec.containers{web}`.
    pub field_path: String,
}

impl About {
    /// An object of a built-in type.
    pub fn of<K: Kind>(object: &K) -> Self {
        About {
            api_version: K::API_VERSION.to_owned(),
            kind: K::KIND.to_owned(),
            namespace: object.namespace().to_owned(),
            name: object.name().to_owned(),
            uid: object.uid().to_owned(),
            resource_version: object.meta().resource_version.clone().unwrap_or_default(),
            field_path: String::new(),
        }
    }
}

/// An event to be recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The object it is about.
    pub about: About,
    /// Normal or warning.
    pub kind: EventKind,
    /// A CamelCase word.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// Events that tell how a create or delete went. The object's name is appended to a `done` that ends with a space,
/// the error to `failed`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The object the events are about.
    pub about: About,
    /// Reason and text on success, such as `SuccessfulCreate` and `Created pod: `.
    pub done: (&'static str, String),
    /// Reason and text on failure, such as `FailedCreate` and `Error creating: `.
    pub failed: (&'static str, String),
}

/// One write.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Create an object.
    Create {
        /// Its resource.
        resource: ResourceRef,
        /// The object.
        object: Value,
        /// An existing object of that name is as good.
        exists_is_fine: bool,
        /// Events to tell about it.
        report: Option<Report>,
    },
    /// Replace an object, or a subresource.
    Update {
        /// Its resource.
        resource: ResourceRef,
        /// `status`, or empty.
        subresource: &'static str,
        /// The object, with the resourceVersion it was read at.
        object: Value,
    },
    /// Patch an object, or a subresource.
    Patch {
        /// Its resource.
        resource: ResourceRef,
        /// Which object.
        key: Key,
        /// `status`, or empty.
        subresource: &'static str,
        /// The patch.
        patch: Patch,
    },
    /// Delete an object; one that is gone is fine.
    Delete {
        /// Its resource.
        resource: ResourceRef,
        /// Which object.
        key: Key,
        /// How.
        options: DeleteOptions,
        /// Events to tell about it.
        report: Option<Report>,
    },
    /// Record an event.
    Event(Note),
}

/// How the steps of a stage run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// One after the other; the first failure ends the plan.
    InOrder,
    /// In batches of 1, 2, 4, … at a time; no batch follows one with a failure (upstream's slow start).
    SlowStart,
    /// All at a time, at most 64 together; a failure does not stop the others.
    Together,
}

/// Steps that belong together.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// How they run.
    pub mode: Mode,
    /// The steps.
    pub steps: Vec<Step>,
}

/// How the steps went, for what follows from that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Objects created.
    pub created: usize,
    /// Objects deleted.
    pub deleted: usize,
    /// Failed steps.
    pub failed: usize,
    /// The first failure's text.
    pub error: Option<String>,
}

type Then = Box<dyn FnOnce(&Outcome) -> Vec<Step> + Send>;

/// Ordered writes, and when to look again.
#[derive(Default)]
pub struct Plan {
    /// The writes.
    pub stages: Vec<Stage>,
    /// Steps that depend on how the writes went; they run even after a failure.
    pub then: Option<Then>,
    /// Look again after this time even if nothing changes.
    pub requeue_after: Option<Duration>,
}

impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plan")
            .field("stages", &self.stages)
            .field("then", &self.then.is_some())
            .field("requeue_after", &self.requeue_after)
            .finish()
    }
}

impl Plan {
    /// Nothing to do.
    pub fn none() -> Self {
        Plan::default()
    }

    /// True when nothing is to be written.
    pub fn is_empty(&self) -> bool {
        self.stages.iter().all(|stage| stage.steps.is_empty()) && self.then.is_none()
    }

    /// Adds a step after all others.
    pub fn step(&mut self, step: Step) -> &mut Self {
        match self.stages.last_mut() {
            Some(stage) if stage.mode == Mode::InOrder => stage.steps.push(step),
            _ => self.stages.push(Stage { mode: Mode::InOrder, steps: vec![step] }),
        }
        self
    }

    /// Adds a stage after all others.
    pub fn stage(&mut self, mode: Mode, steps: Vec<Step>) -> &mut Self {
        if !steps.is_empty() {
            self.stages.push(Stage { mode, steps });
        }
        self
    }

    /// Adds steps that depend on how all writes went.
    pub fn then(&mut self, then: impl FnOnce(&Outcome) -> Vec<Step> + Send + 'static) -> &mut Self {
        self.then = Some(Box::new(then));
        self
    }

    /// Creates an object.
    pub fn create<K: Kind>(&mut self, object: &K) -> &mut Self {
        self.step(Step::create(object))
    }

    /// Replaces an object.
    pub fn update<K: Kind>(&mut self, object: &K) -> &mut Self {
        self.step(Step::update(object, ""))
    }

    /// Replaces an object's status.
    pub fn update_status<K: Kind>(&mut self, object: &K) -> &mut Self {
        self.step(Step::update(object, "status"))
    }

    /// Merges fields into an object.
    pub fn merge<K: Kind>(&mut self, object: &K, patch: Value) -> &mut Self {
        self.step(Step::patch::<K>(&Key::of(object), "", Patch::Merge(patch)))
    }

    /// Deletes exactly this object.
    pub fn delete<K: Kind>(&mut self, object: &K) -> &mut Self {
        self.step(Step::delete(object, DeleteOptions::uid(object.uid())))
    }

    /// Records an event.
    pub fn event<K: Kind>(
        &mut self,
        about: &K,
        kind: EventKind,
        reason: &str,
        message: impl Into<String>,
    ) -> &mut Self {
        self.step(Step::event(About::of(about), kind, reason, message))
    }

    /// Looks again after `delay`, or sooner if that was asked for already.
    pub fn requeue(&mut self, delay: Duration) -> &mut Self {
        self.requeue_after = Some(self.requeue_after.map_or(delay, |known| known.min(delay)));
        self
    }

    /// All steps, for tests.
    pub fn steps(&self) -> Vec<&Step> {
        self.stages.iter().flat_map(|stage| &stage.steps).collect()
    }
}

/// An object as JSON. Objects of k8s-openapi always can be written.
pub fn to_value(object: &impl Wire) -> Value {
    object.to_tree().unwrap_or_else(|error| {
        tracing::error!(%error, "an object cannot be written as JSON");
        Value::Null
    })
}

impl Step {
    /// Creates an object.
    pub fn create<K: Kind>(object: &K) -> Self {
        let (resource, object) = (ResourceRef::of::<K>(), to_value(object));
        Step::Create { resource, object, exists_is_fine: false, report: None }
    }

    /// Replaces an object or its `subresource`.
    pub fn update<K: Kind>(object: &K, subresource: &'static str) -> Self {
        Step::Update { resource: ResourceRef::of::<K>(), subresource, object: to_value(object) }
    }

    /// Patches an object or its `subresource`.
    pub fn patch<K: Kind>(key: &Key, subresource: &'static str, patch: Patch) -> Self {
        Step::Patch { resource: ResourceRef::of::<K>(), key: key.clone(), subresource, patch }
    }

    /// Deletes an object.
    pub fn delete<K: Kind>(object: &K, options: DeleteOptions) -> Self {
        Step::Delete { resource: ResourceRef::of::<K>(), key: Key::of(object), options, report: None }
    }

    /// Records an event.
    pub fn event(about: About, kind: EventKind, reason: &str, message: impl Into<String>) -> Self {
        Step::Event(Note { about, kind, reason: reason.to_owned(), message: message.into() })
    }

    /// Told by events.
    pub fn reported(mut self, told: Report) -> Self {
        if let Step::Create { report, .. } | Step::Delete { report, .. } = &mut self {
            *report = Some(told);
        }
        self
    }

    /// An existing object of that name is as good.
    pub fn or_exists(mut self) -> Self {
        if let Step::Create { exists_is_fine, .. } = &mut self {
            *exists_is_fine = true;
        }
        self
    }

    /// The step in one line, for tests: verb, resource, key, and what matters of the content.
    pub fn summary(&self) -> String {
        let name = |object: &Value| {
            let meta = &object["metadata"];
            let name = meta["name"].as_str().or(meta["generateName"].as_str()).unwrap_or("");
            match meta["namespace"].as_str() {
                Some(namespace) => format!("{namespace}/{name}"),
                None => name.to_owned(),
            }
        };
        match self {
            Step::Create { resource, object, .. } => {
                format!("create {} {}", path(&resource.gvr), name(object))
            }
            Step::Update { resource, subresource, object } => {
                format!("update {} {}", part(&resource.gvr, subresource), name(object))
            }
            Step::Patch { resource, key, subresource, patch } => {
                format!("patch {} {key} {}", part(&resource.gvr, subresource), patch.body())
            }
            Step::Delete { resource, key, .. } => format!("delete {} {key}", path(&resource.gvr)),
            Step::Event(note) => format!("event {} {}: {}", note.kind, note.reason, note.message),
        }
    }
}

fn path(gvr: &Gvr) -> String {
    gvr.group_resource()
}

fn part(gvr: &Gvr, subresource: &str) -> String {
    if subresource.is_empty() { path(gvr) } else { format!("{}/{subresource}", path(gvr)) }
}

/// The patch that adds or changes an owner reference by uid, failing when the object was replaced.
pub fn owner_patch(object_uid: &str, owner: &Value) -> Patch {
    Patch::Strategic(json!({"metadata": {"uid": object_uid, "ownerReferences": [owner]}}))
}

/// The patch that removes an owner reference by uid, failing when the object was replaced.
pub fn disown_patch(object_uid: &str, owner_uid: &str) -> Patch {
    let gone = json!({"$patch": "delete", "uid": owner_uid});
    Patch::Strategic(json!({"metadata": {"uid": object_uid, "ownerReferences": [gone]}}))
}
