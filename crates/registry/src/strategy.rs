//! Strategy: everything in which one kind differs from another. Pure functions over JSON trees.
//! It must not know the store, HTTP, or the clock (the time comes with the context).

use api::user::UserInfo;
use api::validation::ErrorList;
use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::resource::Resource;
use crate::validation::meta::NameRule;

/// What a strategy may know of the request.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The time of the request.
    pub now: Timestamp,
    /// Who asks; `None` for internal writes.
    pub user: Option<&'a UserInfo>,
    /// The row served.
    pub resource: &'a Resource,
}

/// Which view of an object a write goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The object itself.
    Main,
    /// `/status`
    Status,
    /// `/ephemeralcontainers` of a pod.
    EphemeralContainers,
    /// `/resize` of a pod.
    Resize,
    /// `/approval` of a certificate signing request.
    Approval,
    /// `/finalize` of a namespace.
    Finalize,
}

/// How long an object may take to go away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grace {
    /// The kind knows no graceful deletion: remove at once (finalizers aside).
    None,
    /// Mark it deleted and give it this many seconds; 0 removes at once.
    Seconds(i64),
}

/// How a kind behaves. Every method has the behaviour of a plain kind as its default.
pub trait Strategy: Send + Sync {
    /// Fills in what the client left out. The tree is already canonical.
    fn default(&self, _object: &mut Value) {}

    /// Strips what a client may not set, sets what the server owns, before a create.
    fn prepare_create(&self, _cx: &Context<'_>, _object: &mut Value) {}

    /// As `prepare_create`, before an update through the given part: takes over from `old` what
    /// the part may not change, and moves the generation on.
    fn prepare_update(&self, _cx: &Context<'_>, _part: Part, _new: &mut Value, _old: &Value) {}

    /// What is wrong with a new object (metadata aside).
    fn validate(&self, _cx: &Context<'_>, _object: &Value) -> ErrorList {
        ErrorList::default()
    }

    /// What is wrong with an update through the given part (metadata aside).
    fn validate_update(&self, _cx: &Context<'_>, _part: Part, _new: &Value, _old: &Value) -> ErrorList {
        ErrorList::default()
    }

    /// Last touches after validation (upstream: Canonicalize).
    fn finish(&self, _object: &mut Value) {}

    /// Warnings for the client; `old` is given on update.
    fn warnings(&self, _cx: &Context<'_>, _new: &Value, _old: Option<&Value>) -> Vec<String> {
        Vec::new()
    }

    /// What names are valid.
    fn name_rule(&self) -> NameRule {
        NameRule::DnsSubdomain
    }

    /// Whether PUT to an absent name creates it.
    fn create_on_update(&self) -> bool {
        false
    }

    /// Whether an update may leave out metadata.resourceVersion.
    fn unconditional_update(&self) -> bool {
        true
    }

    /// Whether dependents are orphaned when a delete names no propagation policy.
    fn orphan_by_default(&self) -> bool {
        false
    }

    /// Seconds of grace for a delete that asked for `asked` seconds.
    fn grace(&self, _object: &Value, _asked: Option<i64>) -> Grace {
        Grace::None
    }

    /// Fields that a write through the part resets, when they are others than usual: see
    /// [`Resource::resets`].
    fn resets(&self, _part: Part) -> Option<&'static [&'static str]> {
        None
    }
}

type Prepare = fn(&Context<'_>, &mut Value);
type PrepareUpdate = fn(&Context<'_>, Part, &mut Value, &Value);
type Validate = fn(&Context<'_>, &Value) -> ErrorList;
type ValidateUpdate = fn(&Context<'_>, Part, &Value, &Value) -> ErrorList;
type Warnings = fn(&Context<'_>, &Value, Option<&Value>) -> Vec<String>;

/// What moves metadata.generation on.
#[derive(Clone, Copy)]
pub enum Generation {
    /// The kind has none.
    Unused,
    /// 1 at create, +1 when the named top-level fields change.
    Fields(&'static [&'static str]),
    /// As `Fields`, when the function (new, old) says so.
    Function(fn(&Value, &Value) -> bool),
}

/// A strategy as a table row: the built-in kinds are consts of this type.
pub struct Rules {
    /// See [`Strategy::default`].
    pub default: fn(&mut Value),
    /// Whether status is the status subresource's alone: stripped on create, kept on update.
    pub status: bool,
    /// Generation handling.
    pub generation: Generation,
    /// Runs after the status is stripped and the generation set.
    pub create: Prepare,
    /// Runs after status/spec are taken over and before the generation is compared.
    pub update: PrepareUpdate,
    /// See [`Strategy::validate`].
    pub validate: Validate,
    /// See [`Strategy::validate_update`].
    pub validate_update: ValidateUpdate,
    /// See [`Strategy::finish`].
    pub finish: fn(&mut Value),
    /// See [`Strategy::warnings`].
    pub warnings: Warnings,
    /// See [`Strategy::name_rule`].
    pub name: NameRule,
    /// See [`Strategy::create_on_update`].
    pub create_on_update: bool,
    /// See [`Strategy::unconditional_update`].
    pub unconditional_update: bool,
    /// See [`Strategy::orphan_by_default`].
    pub orphan_by_default: bool,
    /// See [`Strategy::grace`].
    pub grace: fn(&Value, Option<i64>) -> Grace,
    /// See [`Strategy::resets`].
    pub resets: &'static [(Part, &'static [&'static str])],
}

/// A kind with neither spec/status split nor rules of its own.
pub const PLAIN: Rules = Rules {
    default: |_| {},
    status: false,
    generation: Generation::Unused,
    create: |_, _| {},
    update: |_, _, _, _| {},
    validate: |_, _| ErrorList::default(),
    validate_update: |_, _, _, _| ErrorList::default(),
    finish: |_| {},
    warnings: |_, _, _| Vec::new(),
    name: NameRule::DnsSubdomain,
    create_on_update: false,
    unconditional_update: true,
    orphan_by_default: false,
    grace: |_, _| Grace::None,
    resets: &[],
};

/// A kind with spec, status and a generation that follows the spec.
pub const SPEC_STATUS: Rules = Rules { status: true, generation: Generation::Fields(&["spec"]), ..PLAIN };

impl Strategy for &'static Rules {
    fn default(&self, object: &mut Value) {
        (self.default)(object);
    }

    fn prepare_create(&self, cx: &Context<'_>, object: &mut Value) {
        if self.status
            && let Some(map) = object.as_object_mut()
        {
            map.remove("status");
        }
        if !matches!(self.generation, Generation::Unused) {
            set_generation(object, 1);
        }
        (self.create)(cx, object);
    }

    fn prepare_update(&self, cx: &Context<'_>, part: Part, new: &mut Value, old: &Value) {
        if self.status {
            match part {
                Part::Main => take_over(new, old, &["status"]),
                Part::Status => take_over_all_but(new, old, &["metadata", "status"]),
                _ => {}
            }
        }
        (self.update)(cx, part, new, old);
        let changed = match self.generation {
            Generation::Unused => return,
            Generation::Fields(fields) => fields.iter().any(|f| differs(new.get(f), old.get(f))),
            Generation::Function(changed) => changed(new, old),
        };
        let before = generation(old);
        set_generation(new, if changed { before + 1 } else { before });
    }

    fn validate(&self, cx: &Context<'_>, object: &Value) -> ErrorList {
        (self.validate)(cx, object)
    }

    fn validate_update(&self, cx: &Context<'_>, part: Part, new: &Value, old: &Value) -> ErrorList {
        (self.validate_update)(cx, part, new, old)
    }

    fn finish(&self, object: &mut Value) {
        (self.finish)(object);
    }

    fn warnings(&self, cx: &Context<'_>, new: &Value, old: Option<&Value>) -> Vec<String> {
        (self.warnings)(cx, new, old)
    }

    fn name_rule(&self) -> NameRule {
        self.name
    }

    fn create_on_update(&self) -> bool {
        self.create_on_update
    }

    fn unconditional_update(&self) -> bool {
        self.unconditional_update
    }

    fn orphan_by_default(&self) -> bool {
        self.orphan_by_default
    }

    fn grace(&self, object: &Value, asked: Option<i64>) -> Grace {
        (self.grace)(object, asked)
    }

    fn resets(&self, part: Part) -> Option<&'static [&'static str]> {
        self.resets.iter().find(|(of, _)| *of == part).map(|(_, fields)| *fields)
    }
}

/// metadata.generation, 0 when absent.
pub fn generation(object: &Value) -> i64 {
    object.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0)
}

/// Sets metadata.generation; 0 removes it.
pub fn set_generation(object: &mut Value, generation: i64) {
    let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    if generation == 0 {
        meta.remove("generation");
    } else {
        meta.insert("generation".into(), generation.into());
    }
}

/// Copies the named top-level fields from `old`, removing those it lacks.
pub fn take_over(new: &mut Value, old: &Value, fields: &[&str]) {
    let Some(map) = new.as_object_mut() else { return };
    for field in fields {
        match old.get(field) {
            Some(value) => put(map, field, value),
            None => drop(map.remove(*field)),
        }
    }
}

/// Nearly always the same stands there already: comparing costs less than copying.
fn put(map: &mut Map<String, Value>, field: &str, value: &Value) {
    match map.get_mut(field) {
        Some(own) if own == value => {}
        Some(own) => *own = value.clone(),
        None => drop(map.insert(field.to_string(), value.clone())),
    }
}

/// Copies every top-level field but the named ones (and the type) from `old`.
pub fn take_over_all_but(new: &mut Value, old: &Value, keep: &[&str]) {
    let stays = |key: &str| keep.contains(&key) || key == "apiVersion" || key == "kind";
    let (Some(map), Some(from)) = (new.as_object_mut(), old.as_object()) else { return };
    map.retain(|key, _| stays(key) || from.contains_key(key));
    for (key, value) in from {
        if !stays(key) {
            put(map, key, value);
        }
    }
}

/// Inequality in which absent, null, {} and [] are one.
pub fn differs(a: Option<&Value>, b: Option<&Value>) -> bool {
    fn none_if_empty(v: Option<&Value>) -> Option<&Value> {
        v.filter(|v| match v {
            Value::Null => false,
            Value::Object(m) => !m.is_empty(),
            Value::Array(a) => !a.is_empty(),
            _ => true,
        })
    }
    match (none_if_empty(a), none_if_empty(b)) {
        (None, None) => false,
        // Nearly always nothing differs at all.
        (Some(a), Some(b)) if a == b => false,
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            a.keys().chain(b.keys()).any(|k| differs(a.get(k), b.get(k)))
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) => {
            a.len() != b.len() || a.iter().zip(b).any(|(a, b)| differs(Some(a), Some(b)))
        }
        (a, b) => a != b,
    }
}
