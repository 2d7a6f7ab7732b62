//! Type checking of ValidatingAdmissionPolicies: their expressions are held against the schemas of the kinds
//! they name, and what does not fit goes to their status. It never changes what a policy does.

use std::collections::BTreeSet;

use machinery::cel::{Program, Type};
use machinery::schema::{Schema, facts};
use registry::tree::Tree;
use registry::validation::admission::Names;
use serde_json::{Value, json};
use store::{HistoryError, Interest, WatchFrom};

use super::VALIDATING;
use crate::object::{self, Serving};
use crate::server::Server;

/// Kinds that one rule is checked for at most, as upstream.
const KINDS: usize = 10;

/// Checks the policies there are, and those that change from now on.
pub fn follow(server: &Server) {
    server.follow("admission policy types", |server| async move { follow_once(&server).await });
}

/// Follows until the watch ends.
async fn follow_once(server: &Server) -> HistoryError {
    let mut watch = match server.store.watch(VALIDATING, Interest::All, WatchFrom::Now) {
        Ok(watch) => watch,
        Err(error) => return error,
    };
    let mut batch = Vec::new();
    loop {
        check_all(server).await;
        batch.clear();
        if let Err(error) = watch.next_batch(&mut batch).await {
            return error;
        }
    }
}

async fn check_all(server: &Server) {
    let snapshot = server.store.snapshot(VALIDATING);
    let policies: Vec<Value> = snapshot.range(None, None).map(|stored| object::tree(stored)).collect();
    for policy in policies {
        let generation = policy.int("metadata.generation");
        if policy.int("status.observedGeneration") == generation {
            continue;
        }
        let warnings = check(&server.rows.serving(), &policy);
        let checked = if warnings.is_empty() { json!({}) } else { json!({"expressionWarnings": warnings}) };
        let status = json!({"status": {"observedGeneration": generation, "typeChecking": checked}});
        let path = format!(
            "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/{}/status?fieldManager=validatingadmissionpolicy-status",
            policy.text("metadata.name")
        );
        let (code, _) = server.internal_patch(&path, status).await;
        if code >= 300 {
            tracing::debug!(
                code,
                policy = policy.text("metadata.name"),
                "status of a policy was not written"
            );
        }
    }
}

/// A kind by group, version and name.
type Gvk = (String, String, String);

fn schema_of<'a>(serving: &'a Serving, (group, version, kind): &Gvk) -> Option<Schema<'a>> {
    let row = serving.catalog.by_kind(group, version, kind)?;
    match serving.custom(row) {
        Some(custom) => custom.schema.as_ref().map(|_| Schema::Node(&custom.node)),
        None => facts().by_gvk(group, version, kind).map(Schema::Type),
    }
}

/// The kinds that a policy's rules name outright.
fn kinds(serving: &Serving, policy: &Value) -> BTreeSet<Gvk> {
    let mut found = BTreeSet::new();
    for rule in policy.list("spec.matchConstraints.resourceRules") {
        let texts =
            |field: &str| -> BTreeSet<&str> { rule.list(field).iter().filter_map(Value::as_str).collect() };
        let (groups, versions) = (texts("apiGroups"), texts("apiVersions"));
        if groups.iter().chain(&versions).any(|text| text.contains('*')) {
            continue;
        }
        let mut count = 0;
        for (group, version) in groups.iter().flat_map(|g| versions.iter().map(move |v| (*g, *v))) {
            for plural in texts("resources").into_iter().filter(|text| !text.contains(['*', '/'])) {
                if let Some(row) = serving.catalog.get(group, version, plural) {
                    found.insert((group.to_owned(), version.to_owned(), row.kind.clone()));
                    count += 1;
                }
                if count == KINDS {
                    return found;
                }
            }
        }
    }
    found
}

/// The warnings for a policy's status.
fn check(serving: &Serving, policy: &Value) -> Vec<Value> {
    let kinds: Vec<Gvk> =
        kinds(serving, policy).into_iter().filter(|kind| schema_of(serving, kind).is_some()).collect();
    let mut warnings = Vec::new();
    for (at, validation) in policy.list("spec.validations").iter().enumerate() {
        for field in ["expression", "messageExpression"] {
            let text = validation.text(field);
            if text.is_empty() {
                continue;
            }
            let issues: Vec<String> =
                kinds.iter().filter_map(|kind| issue(serving, policy, kind, text)).collect();
            if !issues.is_empty() {
                let place = format!("spec.validations[{at}].{field}");
                warnings.push(json!({"fieldRef": place, "warning": issues.join("\n")}));
            }
        }
    }
    warnings
}

/// What is wrong with an expression when it is about a kind.
fn issue(serving: &Serving, policy: &Value, kind: &Gvk, text: &str) -> Option<String> {
    let object = schema_of(serving, kind)?;
    let params = policy.at("spec.paramKind");
    let (group, version) =
        params.text("apiVersion").split_once('/').unwrap_or(("", params.text("apiVersion")));
    let params_kind = (group.to_owned(), version.to_owned(), params.text("kind").to_owned());
    let params_schema = schema_of(serving, &params_kind);
    let mut known: Vec<(String, Type)> = Vec::new();
    let compile = |text: &str, known: &[(String, Type)]| {
        let names = Names { params: params.is_object(), authorizer: true, variables: known, builds: false };
        let mut env = names.env().schema("object", object).schema("oldObject", object);
        if let Some(schema) = params_schema {
            env = env.schema("params", schema);
        }
        Program::compile(text, &env)
    };
    for variable in policy.list("spec.variables") {
        let kind = compile(variable.text("expression"), &known).map(|p| p.result_type().clone());
        known.push((variable.text("name").to_owned(), kind.unwrap_or(Type::Dyn)));
    }
    let error = compile(text, &known).err()?;
    let (group, version, kind) = kind;
    Some(format!("{group}/{version}, Kind={kind}: {error}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Rows;

    #[test]
    fn expressions_are_held_against_the_kinds_that_rules_name() {
        let rows = Rows::builtin();
        let policy = |expression: &str| {
            json!({"spec": {
                "matchConstraints": {"resourceRules": [{"apiGroups": ["apps"], "apiVersions": ["v1"],
                    "operations": ["*"], "resources": ["deployments", "*/scale"]}]},
                "variables": [{"name": "n", "expression": "object.spec.replicas"}],
                "validations": [{"expression": expression}]}})
        };
        assert_eq!(
            check(&rows.serving(), &policy("variables.n > 1 && object.metadata.name != ''")),
            Vec::<Value>::new()
        );
        let warnings = check(&rows.serving(), &policy("object.spec.replicas > '1'"));
        assert_eq!(warnings[0]["fieldRef"], "spec.validations[0].expression");
        assert_eq!(
            warnings[0]["warning"],
            "apps/v1, Kind=Deployment: ERROR: <input>:1:22: found no matching overload for '_>_' applied to '(int, string)'\n | object.spec.replicas > '1'\n | .....................^\n"
        );
    }
}
