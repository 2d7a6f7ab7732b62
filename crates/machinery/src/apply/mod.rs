//! Server-side apply and the tracking of who set which field.
//!
//! Follows upstream's structured-merge-diff and managedfields packages. Pure functions: the time comes from the
//! caller. It must not know versions other than the one given: a manager's fields recorded under another
//! version are read as if the schema were the same.

mod conflict;
mod fields;
mod managed;
mod walk;

pub use conflict::{ApplyError, Conflict};
pub use fields::FieldSet;
pub use managed::manager_name;

use jiff::Timestamp;
use serde_json::Value;

use crate::codec::canonical;
use crate::schema::Schema;
use managed::{Entry, Id, Managed};
use walk::Comparison;

/// One write, as far as field tracking sees it.
#[derive(Clone, Copy, Debug)]
pub struct Write<'a> {
    /// The object's schema at the version of the request.
    pub schema: Schema<'a>,
    /// `apiVersion` of the request, such as `apps/v1`.
    pub api_version: &'a str,
    /// Name of the manager; see [`manager_name`].
    pub manager: &'a str,
    /// Subresource written through, or empty.
    pub subresource: &'a str,
    /// When.
    pub now: Timestamp,
    /// Fields that this endpoint resets, as dotted paths (`status`, `metadata.deletionTimestamp`): they are
    /// never owned through it.
    pub reset: &'a [&'a str],
}

/// Entries kept from updates; older ones are merged into `ancient-changes`.
const MAX_UPDATE_MANAGERS: usize = 10;

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Records a create, update or patch: sets `metadata.managedFields` of `new`. `live` is the object before, or
/// `None` on create.
pub fn update(write: Write<'_>, live: Option<&Value>, new: &mut Value) {
    if new.get("metadata").is_none_or(|meta| !meta.is_object()) {
        return;
    }
    let provided = managed::take(new);
    let before = || live.map(managed::read).unwrap_or_default();
    let unchanged = |list: &[Value]| live.and_then(managed::list).is_some_and(|before| before == list);
    let mut managed = match provided {
        Some(list) if unchanged(&list) => Managed::decode(list).unwrap_or_default(),
        _ if !write.subresource.is_empty() => before(),
        Some(list) if managed::is_reset(&list) => Managed::default(),
        Some(list) => match Managed::decode(list) {
            Some(own) if !own.entries.is_empty() => own,
            _ => before(),
        },
        None => before(),
    };
    if managed.entries.is_empty() && live.is_some() {
        // Nobody tracked this object until now; tracking starts with the first apply.
        return;
    }
    let empty = live.is_none().then(|| canonical::zero(write.schema));
    let old = live.or(empty.as_ref()).unwrap_or(&Value::Null);
    track_update(write, write.manager, old, new, &mut managed);
    cap(&mut managed);
    managed.write(new);
}

/// Applies a configuration to the live object (`None` when it does not exist yet). The result carries its
/// managed fields; it is not defaulted or validated. `Ok(None)` never happens for a new object and otherwise
/// means that nothing changed, managed fields and their order included.
pub fn apply(
    write: Write<'_>,
    live: Option<&Value>,
    config: &Value,
    force: bool,
) -> Result<Value, ApplyError> {
    check_config(write, config)?;
    let empty = canonical::zero(write.schema);
    let live_tree = live.unwrap_or(&empty);
    let mut managed = managed::read(live_tree);
    let mut bare = live_tree.clone();
    managed::take(&mut bare);
    if managed.entries.is_empty() && live.is_some() {
        track_update(write, "before-first-apply", &empty, &bare, &mut managed);
    }
    let (mut new, managed) = match apply_once(write, &bare, config, managed.clone(), force) {
        Err(ApplyError::Conflicts(conflicts)) if write.manager == "kubectl" => {
            migrate_from_kubectl(write, &bare, config, managed, conflicts)?
        }
        other => other?,
    };
    if write.manager == "kubectl" {
        renew_last_applied(&mut new, config);
    }
    managed.write(&mut new);
    Ok(new)
}

/// Lays a configuration over an object without tracking ownership, as mutating policies do. Atomic lists, maps
/// and objects in the configuration are refused: they would take unsaid fields away.
pub fn merge(schema: Schema<'_>, object: &Value, config: &Value) -> Result<Value, ApplyError> {
    walk::validate(schema, config).map_err(|why| {
        ApplyError::Internal(format!("failed to convert patch object to typed object: {why}"))
    })?;
    let atomic = walk::atomics(schema, config);
    if !atomic.is_empty() {
        return Err(ApplyError::Internal(format!(
            "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {}",
            atomic.join(", ")
        )));
    }
    let mut merged = walk::merge(schema, Some(object), Some(config)).unwrap_or(Value::Null);
    canonical_after_apply(schema, &mut merged);
    Ok(merged)
}

/// Whether two objects are the same but for the times in their managed fields; then a write can be skipped.
pub fn same_but_times(a: &Value, b: &Value) -> bool {
    let (Value::Object(x), Value::Object(y)) = (a, b) else { return a == b };
    let rest =
        x.len() == y.len() && x.iter().all(|(key, value)| key == "metadata" || y.get(key) == Some(value));
    rest && same_meta(a.get("metadata"), b.get("metadata"))
}

fn same_meta(a: Option<&Value>, b: Option<&Value>) -> bool {
    let (Some(Value::Object(x)), Some(Value::Object(y))) = (a, b) else { return a == b };
    let rest = x.len() == y.len()
        && x.iter().all(|(key, value)| key == "managedFields" || y.get(key) == Some(value));
    let list =
        |meta: &serde_json::Map<String, Value>| meta.get("managedFields").and_then(Value::as_array).cloned();
    if !rest || x.get("managedFields") == y.get("managedFields") {
        return rest;
    }
    let timeless = |mut list: Vec<Value>| {
        for entry in list.iter_mut().filter_map(Value::as_object_mut) {
            entry.remove("time");
        }
        list
    };
    list(x).map(timeless) == list(y).map(timeless)
}

fn check_config(write: Write<'_>, config: &Value) -> Result<(), ApplyError> {
    let version = config.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    if version != write.api_version {
        return Err(ApplyError::BadRequest(format!(
            "Incorrect version specified in apply patch. Specified patch version: {version}, expected: {}",
            write.api_version
        )));
    }
    if config.pointer("/metadata/managedFields").is_some_and(|list| !list.is_null()) {
        return Err(ApplyError::BadRequest("metadata.managedFields must be nil".to_string()));
    }
    walk::validate(write.schema, config).map_err(|why| {
        let text = |at: &str| config.pointer(at).and_then(Value::as_str).unwrap_or_default().to_string();
        ApplyError::Internal(format!(
            "failed to create typed patch object ({}/{}; {version}, Kind={}): {why}",
            text("/metadata/namespace"),
            text("/metadata/name"),
            text("/kind"),
        ))
    })
}

fn apply_once(
    write: Write<'_>,
    live: &Value,
    config: &Value,
    mut managed: Managed,
    force: bool,
) -> Result<(Value, Managed), ApplyError> {
    let merged = walk::merge(write.schema, Some(live), Some(config)).unwrap_or(Value::Null);
    let id = Id::new(write.manager, true, write.api_version, write.subresource);
    let mut set = walk::field_set(write.schema, config);
    managed::filter(&mut set, write.reset);
    let before = managed.entries.remove(&id);
    let last = before.as_ref().map(|entry| entry.set().into_owned());
    let time = before.and_then(|entry| entry.time);
    managed.entries.insert(id.clone(), Entry::new(set, write.api_version, time));
    let mut new = match last {
        Some(last) if !last.is_empty() => prune(write.schema, merged, &managed, &last),
        _ => merged,
    };
    settle(write, live, &new, &mut managed, Some(&id), force)?;
    managed::strip(&mut managed, &id);
    canonical_after_apply(write.schema, &mut new);
    if new != *live || !managed.entries.contains_key(&id) {
        if let Some(entry) = managed.entries.get_mut(&id) {
            entry.time = Some(api::time::format(write.now));
        }
    }
    Ok((new, managed))
}

fn canonical_after_apply(schema: Schema<'_>, value: &mut Value) {
    match schema {
        Schema::Type(_) => canonical::canonicalize(schema, value),
        _ => walk::drop_nulls(schema, value),
    }
}

/// Takes out what the manager applied last time and no longer does, unless somebody else owns it too.
fn prune(schema: Schema<'_>, merged: Value, managed: &Managed, last: &FieldSet) -> Value {
    let last = last.named_fields_as_members(schema);
    let pruned = walk::remove(schema, &merged, &last);
    let mut owned = FieldSet::default();
    managed.entries.values().for_each(|entry| owned.absorb(entry.set().into_owned()));
    let owned = owned.named_fields_as_members(schema);
    let all = walk::field_set(schema, &merged).named_fields_as_members(schema);
    let left = walk::field_set(schema, &pruned).named_fields_as_members(schema);
    let pruned = walk::remove(schema, &merged, &all.difference(&left.union(&owned)));
    let left = walk::field_set(schema, &pruned).named_fields_as_members(schema);
    walk::remove(schema, &merged, &all.difference(&left).intersection(&last))
}

/// Takes changed fields from other managers, or reports the conflicts. Gives the comparison.
fn settle(
    write: Write<'_>,
    old: &Value,
    new: &Value,
    managed: &mut Managed,
    workflow: Option<&Id>,
    force: bool,
) -> Result<Comparison, ApplyError> {
    let mut changes = walk::compare(write.schema, old, new);
    for set in [&mut changes.added, &mut changes.modified, &mut changes.removed] {
        managed::filter(set, write.reset);
    }
    let mut touched = changes.modified.union(&changes.added);
    let mut conflicts = Vec::new();
    for (id, entry) in managed.entries.iter().filter(|_| !force) {
        if Some(id) != workflow && entry.touched_by(&touched) {
            let overlap = entry.set().intersection(&touched);
            overlap.each(&mut |path| conflicts.push(Conflict::new(id, entry, path)));
        }
    }
    if !conflicts.is_empty() {
        return Err(ApplyError::Conflicts(conflicts));
    }
    touched.absorb(changes.removed.clone());
    for (id, entry) in &mut managed.entries {
        if Some(id) != workflow && entry.touched_by(&touched) {
            entry.change().subtract(&touched);
        }
    }
    managed.entries.retain(|_, entry| !entry.is_empty());
    Ok(changes)
}

fn track_update(write: Write<'_>, manager: &str, old: &Value, new: &Value, managed: &mut Managed) {
    let Ok(changes) = settle(write, old, new, managed, None, true) else { return };
    let mut set = changes.modified;
    set.absorb(changes.added);
    set.subtract(managed::system_fields());
    if set.is_empty() {
        return;
    }
    let id = Id::new(manager, false, write.api_version, write.subresource);
    let entry = managed.entries.entry(id).or_default();
    entry.change().absorb(set);
    entry.api_version = write.api_version.to_string();
    entry.time = Some(api::time::format(write.now));
}

/// Merges the oldest update entries of a version into one when there are too many.
fn cap(managed: &mut Managed) {
    let mut updates: Vec<(Option<String>, Id)> = managed
        .entries
        .iter()
        .filter(|(id, _)| !id.applied)
        .map(|(id, entry)| (entry.time.clone(), id.clone()))
        .collect();
    updates.sort();
    let mut count = updates.len();
    let mut first: std::collections::BTreeMap<String, Id> = std::collections::BTreeMap::new();
    for (time, id) in updates {
        if count <= MAX_UPDATE_MANAGERS {
            return;
        }
        let Some(entry) = managed.entries.get(&id) else { continue };
        let version = entry.api_version.clone();
        let Some(oldest) = first.get(&version) else {
            first.insert(version, id);
            continue;
        };
        let bucket = Id::new("ancient-changes", false, &version, "");
        if let Some(earlier) = managed.entries.remove(oldest) {
            let joined = managed.entries.entry(bucket.clone()).or_default();
            joined.change().absorb(earlier.set().into_owned());
        }
        if id == bucket {
            continue;
        }
        if let Some(entry) = managed.entries.remove(&id) {
            let joined = managed.entries.entry(bucket).or_default();
            joined.change().absorb(entry.set().into_owned());
            joined.api_version = version;
            joined.time = time;
            count -= 1;
        }
    }
}

/// `kubectl apply --server-side` on an object that client-side apply kept: fields that the last client-side
/// configuration set and nobody changed since are no conflict.
fn migrate_from_kubectl(
    write: Write<'_>,
    live: &Value,
    config: &Value,
    managed: Managed,
    conflicts: Vec<Conflict>,
) -> Result<(Value, Managed), ApplyError> {
    let allowed = last_applied_unchanged(write, live).unwrap_or_default();
    let left: Vec<Conflict> = conflicts.into_iter().filter(|conflict| !allowed.has(&conflict.path)).collect();
    match left.is_empty() {
        true => apply_once(write, live, config, managed, true),
        false => Err(ApplyError::Conflicts(left)),
    }
}

fn last_applied_unchanged(write: Write<'_>, live: &Value) -> Option<FieldSet> {
    let text = live.pointer("/metadata/annotations")?.get(LAST_APPLIED)?.as_str()?;
    let applied: Value = serde_json::from_str(text).ok()?;
    if applied.get("apiVersion").and_then(Value::as_str) != Some(write.api_version) {
        return None;
    }
    let changes = walk::compare(write.schema, &applied, live);
    let set = walk::field_set(write.schema, &applied);
    Some(set.difference(&changes.modified).difference(&changes.added).difference(&changes.removed))
}

fn renew_last_applied(new: &mut Value, config: &Value) {
    let Some(annotations) = new.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) else {
        return;
    };
    if !annotations.contains_key(LAST_APPLIED) {
        return;
    }
    let mut config = config.clone();
    if let Some(own) = config.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        own.remove(LAST_APPLIED);
    }
    annotations.insert(LAST_APPLIED.to_string(), Value::String(format!("{config}\n")));
}

#[cfg(test)]
mod tests;
