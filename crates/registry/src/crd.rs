//! Rows for custom resources, built at run time from CustomResourceDefinitions.

use std::sync::Arc;

use serde_json::Value;

use crate::columns::{Columns, CustomColumn};
use crate::resource::{FieldSource, Resource, Role, ScalePaths, SelectableField, Subresource, Verbs};
use crate::strategy::{Context, Part, Strategy, generation, set_generation, take_over, take_over_all_but};
use crate::tree::Tree;

/// How custom resources behave: spec/status split only where the version has a status subresource.
struct CustomStrategy {
    status: bool,
}

impl Strategy for CustomStrategy {
    fn prepare_create(&self, _cx: &Context<'_>, object: &mut Value) {
        if self.status {
            object.unset("status");
        }
        set_generation(object, 1);
    }

    fn prepare_update(&self, _cx: &Context<'_>, part: Part, new: &mut Value, old: &Value) {
        match part {
            Part::Status => {
                take_over_all_but(new, old, &["metadata", "status"]);
                let (Some(meta), Some(before)) = (new.get_mut("metadata"), old.get("metadata")) else {
                    return;
                };
                take_over(
                    meta,
                    before,
                    &["labels", "annotations", "finalizers", "ownerReferences", "deletionTimestamp"],
                );
                set_generation(new, generation(old));
            }
            _ => {
                if self.status {
                    take_over(new, old, &["status"]);
                }
                let counts =
                    |key: &str| key != "metadata" && key != "apiVersion" && (key != "status" || !self.status);
                let keys = [&*new, old].into_iter().filter_map(Value::as_object).flat_map(|m| m.keys());
                let changed = keys.filter(|k| counts(k)).any(|k| differs_exactly(new.get(k), old.get(k)));
                set_generation(new, generation(old) + i64::from(changed));
            }
        }
    }

    fn name_rule(&self) -> crate::validation::meta::NameRule {
        crate::validation::meta::NameRule::DnsSubdomain
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn resets(&self, part: Part) -> Option<&'static [&'static str]> {
        (part == Part::Status).then_some(&["metadata", "spec"])
    }
}

/// Custom resources are compared as they are: an empty list is not an absent one.
fn differs_exactly(a: Option<&Value>, b: Option<&Value>) -> bool {
    a != b
}

impl Resource {
    /// One row per served version of a CustomResourceDefinition. Names come from
    /// status.acceptedNames when they are there, else from the spec.
    pub fn from_crd(crd: &Value) -> Vec<Resource> {
        let versions = crd.list("spec.versions").iter().filter(|v| v.flag("served"));
        versions.map(|version| row(crd, version)).collect()
    }
}

fn row(crd: &Value, version: &Value) -> Resource {
    let accepted = crd.at("status.acceptedNames");
    let names = if accepted.text("plural").is_empty() { crd.at("spec.names") } else { accepted };
    let group = crd.text("spec.group").to_string();
    let (plural, kind) = (names.text("plural").to_string(), names.text("kind").to_string());
    let status = version.has("subresources.status");
    let texts = |path: &str| -> Vec<String> {
        names.list(path).iter().filter_map(|n| n.as_str().map(str::to_string)).collect()
    };
    let or = |text: &str, other: String| if text.is_empty() { other } else { text.to_string() };
    let mut row = Resource {
        version: version.text("name").into(),
        list_kind: or(names.text("listKind"), format!("{kind}List")),
        singular: or(names.text("singular"), kind.to_lowercase()),
        namespaced: crd.text("spec.scope") == "Namespaced",
        short_names: texts("shortNames"),
        categories: texts("categories"),
        verbs: Verbs::STANDARD,
        subresources: Vec::new(),
        storage: Some(format!("{group}/{plural}").into()),
        conversion: None,
        strategy: Arc::new(CustomStrategy { status }),
        columns: Columns::Custom(columns(version)),
        selectable: selectable(version),
        custom: true,
        group,
        kind,
        plural,
    };
    if status {
        let kind = row.kind.clone();
        push(&mut row, "status", kind, None, Role::Status);
    }
    if version.has("subresources.scale") {
        let scale = version.at("subresources.scale");
        let path = |key: &str| scale.text(key).trim_start_matches('.').to_string();
        let role = Role::Scale(ScalePaths {
            spec_replicas: path("specReplicasPath"),
            status_replicas: path("statusReplicasPath"),
            selector: Some(path("labelSelectorPath")).filter(|p| !p.is_empty()),
        });
        push(&mut row, "scale", "Scale".into(), Some(("autoscaling", "v1")), role);
    }
    row
}

fn push(row: &mut Resource, name: &str, kind: String, of: Option<(&str, &str)>, role: Role) {
    let (group, version) = of.unwrap_or((&row.group, &row.version));
    let sub = Subresource {
        name: name.into(),
        group: group.into(),
        version: version.into(),
        kind,
        verbs: Verbs::VIEW,
        role,
    };
    row.subresources.push(sub);
}

fn columns(version: &Value) -> Vec<CustomColumn> {
    let all = version.list("additionalPrinterColumns").iter();
    all.map(|c| CustomColumn {
        name: c.text("name").into(),
        ty: c.text("type").into(),
        format: c.text("format").into(),
        description: c.text("description").into(),
        priority: i32::try_from(c.int("priority")).unwrap_or(0),
        path: c.text("jsonPath").into(),
    })
    .collect()
}

fn selectable(version: &Value) -> Vec<SelectableField> {
    let all = version.list("selectableFields").iter();
    all.map(|f| f.text("jsonPath").trim_start_matches('.').to_string())
        .map(|path| SelectableField { label: path.clone(), source: FieldSource::Path(path) })
        .collect()
}
