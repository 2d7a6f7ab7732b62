//! Revisions of a pod template, kept as ControllerRevisions: which one is new, which is current, which are too
//! many. Shared by StatefulSets and DaemonSets.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::k8s::api::apps::v1::ControllerRevision;
use api::k8s::api::core::v1::PodTemplateSpec;
use api::k8s::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use api::k8s::apimachinery::pkg::runtime::RawExtension;
use api::wire::Wire;
use client::plan::to_value;
use client::{DeleteOptions, Meta, Step};
use serde_json::{Value, json};

use crate::template;

/// The label of a pod that names its revision.
pub const REVISION_LABEL: &str = "controller-revision-hash";
/// The label of a StatefulSet's revision that carries its hash.
pub const HASH_LABEL: &str = "controller.kubernetes.io/hash";

/// The template as a revision stores it: a strategic merge patch that replaces the template.
pub fn data_of(template: &PodTemplateSpec) -> Value {
    let mut value = to_value(template);
    value["$patch"] = json!("replace");
    json!({"spec": {"template": value}})
}

/// The template a revision stores.
pub fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut value = revision.data.as_ref()?.0.pointer("/spec/template")?.clone();
    value.as_object_mut()?.remove("$patch");
    PodTemplateSpec::from_tree(&value).ok()
}

/// Revisions of one owner, oldest first, and what is to be written about them.
pub struct History {
    /// All, the new one included.
    pub revisions: Vec<ControllerRevision>,
    /// The one of the present template.
    pub update: ControllerRevision,
    /// Creation or renumbering of the new one.
    pub steps: Vec<Step>,
    /// Set when the new revision's name is taken by another template.
    pub collision: bool,
}

/// Finds or makes the revision of `template`; its hash goes into the label `hash_label`.
pub fn sync(
    owner: &dyn Fn() -> OwnerReference,
    meta: &ObjectMeta,
    template: &PodTemplateSpec,
    hash_label: &str,
    collisions: Option<i32>,
    owned: Vec<Arc<ControllerRevision>>,
    taken: &dyn Fn(&str) -> bool,
) -> History {
    let mut revisions: Vec<ControllerRevision> = owned.iter().map(|revision| (**revision).clone()).collect();
    revisions.sort_by_key(|revision| {
        (revision.revision, revision.metadata.creation_timestamp.clone(), revision.metadata.name.clone())
    });
    let next = revisions.last().map_or(1, |last| last.revision + 1);
    let same = |revision: &ControllerRevision| {
        template_of(revision).is_some_and(|stored| template::same(&stored, template))
    };
    if let Some(at) = revisions.iter().rposition(same) {
        let mut steps = Vec::new();
        let mut update = revisions[at].clone();
        if at + 1 != revisions.len() {
            // Back to an old template: its revision becomes the newest.
            update.revision = next;
            steps.push(Step::update(&update, ""));
            revisions.remove(at);
            revisions.push(update.clone());
        }
        return History { revisions, update, steps, collision: false };
    }
    let hash = template::hash(template, collisions);
    let owner_name = meta.name.as_deref().unwrap_or("");
    let name = format!("{}-{hash}", &owner_name[..owner_name.len().min(223)]);
    let mut labels = template.metadata.as_ref().and_then(|meta| meta.labels.clone()).unwrap_or_default();
    labels.insert(hash_label.to_owned(), hash);
    let update = ControllerRevision {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: meta.namespace.clone(),
            labels: Some(labels),
            annotations: meta.annotations.clone(),
            owner_references: Some(vec![owner()]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(data_of(template))),
        revision: next,
    };
    let collision = taken(&name);
    let steps = if collision { Vec::new() } else { vec![Step::create(&update)] };
    revisions.push(update.clone());
    History { revisions, update, steps, collision }
}

/// Removes the oldest revisions beyond `limit` that no pod and no status names.
pub fn truncate(revisions: &[ControllerRevision], live: &[&str], limit: i32) -> Vec<Step> {
    let unused: Vec<&ControllerRevision> =
        revisions.iter().filter(|revision| !live.contains(&revision.name())).collect();
    let excess = unused.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
    let delete = |revision: &&ControllerRevision| Step::delete(*revision, DeleteOptions::uid(revision.uid()));
    unused[..excess].iter().map(delete).collect()
}

/// A pod's labels with the name of its revision.
pub fn label(labels: &mut Option<BTreeMap<String, String>>, revision: &str) {
    labels.get_or_insert_default().insert(REVISION_LABEL.to_owned(), revision.to_owned());
}
