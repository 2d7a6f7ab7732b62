//! Expressions of admission policies: what they may name, and how they are held against the schemas of the kinds that
//! a policy is about. It never evaluates one, and must not know who serves the kinds.

use std::collections::BTreeSet;

use api::k8s::api::admissionregistration::v1::{
    ExpressionWarning, NamedRuleWithOperations, ParamKind, ValidatingAdmissionPolicy,
    ValidatingAdmissionPolicySpec,
};

use crate::cel::{Env, Program, Type};
use crate::schema::Schema;

/// Kinds that one rule is checked for at most, as upstream.
const KINDS: usize = 10;

/// What an expression of a webhook or policy may name besides the objects.
#[derive(Clone, Copy)]
pub struct Names<'a> {
    /// `params`
    pub params: bool,
    /// `authorizer`
    pub authorizer: bool,
    /// The fields of `variables`.
    pub variables: &'a [(String, Type)],
    /// `Object{…}` and `JSONPatch{…}` may be built.
    pub builds: bool,
}

impl Names<'_> {
    /// The variables with their types.
    pub fn env(&self) -> Env<'static> {
        let text = ["subResource", "requestSubResource", "name", "namespace", "operation"];
        let mut request: Vec<(String, Type)> =
            text.into_iter().map(|field| (field.to_string(), Type::String)).collect();
        for field in ["kind", "resource", "requestKind", "requestResource", "userInfo", "options"] {
            request.push((field.to_string(), Type::Dyn));
        }
        request.push(("dryRun".to_string(), Type::Bool));
        let mut env = Env::new()
            .plain("object", Type::Dyn)
            .plain("oldObject", Type::Dyn)
            .plain("namespaceObject", Type::Dyn)
            .fields("request", request);
        if self.params {
            env = env.plain("params", Type::Dyn);
        }
        if self.authorizer {
            env = env.plain("authorizer", Type::Named("kubernetes.authorization.Authorizer".to_string()));
        }
        if !self.variables.is_empty() {
            env = env.fields("variables", self.variables.to_vec());
        }
        if self.builds {
            env = env.building(Schema::Any);
        }
        env
    }
}

/// A kind by group, version and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gvk {
    /// The group; empty for the core group.
    pub group: String,
    /// The version.
    pub version: String,
    /// The kind.
    pub kind: String,
}

impl Gvk {
    /// The kind of a policy's parameters.
    pub fn of_params(params: &ParamKind) -> Gvk {
        let version = params.api_version.as_deref().unwrap_or("");
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let kind = params.kind.clone().unwrap_or_default();
        Gvk { group: group.to_owned(), version: version.to_owned(), kind }
    }
}

/// The schemas of kinds, as far as they are known.
pub trait Schemas {
    /// The schema of a kind.
    fn schema(&self, kind: &Gvk) -> Option<Schema<'_>>;
}

fn named(list: &Option<Vec<String>>) -> BTreeSet<&str> {
    list.iter().flatten().map(String::as_str).collect()
}

/// The kinds that a policy's rules name outright. `kind_of` tells the kind of a group, version and resource.
pub fn kinds(
    policy: &ValidatingAdmissionPolicy,
    kind_of: &dyn Fn(&str, &str, &str) -> Option<String>,
) -> BTreeSet<Gvk> {
    let rules = policy.spec.as_ref().and_then(|spec| spec.match_constraints.as_ref());
    let mut found = BTreeSet::new();
    for rule in rules.and_then(|rules| rules.resource_rules.as_ref()).into_iter().flatten() {
        if add_kinds(rule, kind_of, &mut found) {
            break;
        }
    }
    found
}

/// Adds the kinds of one rule; true when it has as many as are looked at.
fn add_kinds(
    rule: &NamedRuleWithOperations,
    kind_of: &dyn Fn(&str, &str, &str) -> Option<String>,
    found: &mut BTreeSet<Gvk>,
) -> bool {
    let (groups, versions) = (named(&rule.api_groups), named(&rule.api_versions));
    if groups.iter().chain(&versions).any(|text| text.contains('*')) {
        return false;
    }
    let mut count = 0;
    for (group, version) in groups.iter().flat_map(|group| versions.iter().map(move |one| (*group, *one))) {
        for plural in named(&rule.resources).into_iter().filter(|text| !text.contains(['*', '/'])) {
            if let Some(kind) = kind_of(group, version, plural) {
                found.insert(Gvk { group: group.to_owned(), version: version.to_owned(), kind });
                count += 1;
            }
            if count == KINDS {
                return true;
            }
        }
    }
    false
}

/// What is wrong with the expressions of a policy when it is about these kinds; those without a schema are left out.
pub fn check(
    policy: &ValidatingAdmissionPolicy,
    kinds: &BTreeSet<Gvk>,
    schemas: &dyn Schemas,
) -> Vec<ExpressionWarning> {
    let Some(spec) = &policy.spec else { return Vec::new() };
    let mut warnings = Vec::new();
    for (at, validation) in spec.validations.iter().flatten().enumerate() {
        let message = validation.message_expression.as_deref().unwrap_or("");
        for (field, text) in [("expression", &*validation.expression), ("messageExpression", message)] {
            let issues: Vec<String> = kinds
                .iter()
                .filter(|_| !text.is_empty())
                .filter_map(|kind| issue(schemas, spec, kind, text))
                .collect();
            if !issues.is_empty() {
                let field_ref = format!("spec.validations[{at}].{field}");
                warnings.push(ExpressionWarning { field_ref, warning: issues.join("\n") });
            }
        }
    }
    warnings
}

/// What is wrong with an expression when it is about a kind.
fn issue(
    schemas: &dyn Schemas,
    spec: &ValidatingAdmissionPolicySpec,
    kind: &Gvk,
    text: &str,
) -> Option<String> {
    let object = schemas.schema(kind)?;
    let params = spec.param_kind.as_ref();
    let params_schema = params.and_then(|params| schemas.schema(&Gvk::of_params(params)));
    let mut known: Vec<(String, Type)> = Vec::new();
    let compile = |text: &str, known: &[(String, Type)]| {
        let names = Names { params: params.is_some(), authorizer: true, variables: known, builds: false };
        let mut env = names.env().schema("object", object).schema("oldObject", object);
        if let Some(schema) = params_schema {
            env = env.schema("params", schema);
        }
        Program::compile(text, &env)
    };
    for variable in spec.variables.iter().flatten() {
        let kind = compile(&variable.expression, &known).map(|program| program.result_type().clone());
        known.push((variable.name.clone(), kind.unwrap_or(Type::Dyn)));
    }
    let error = compile(text, &known).err()?;
    Some(format!("{}/{}, Kind={}: {error}\n", kind.group, kind.version, kind.kind))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::schema::facts;

    struct Builtin;

    impl Schemas for Builtin {
        fn schema(&self, kind: &Gvk) -> Option<Schema<'_>> {
            facts().by_gvk(&kind.group, &kind.version, &kind.kind).map(Schema::Type)
        }
    }

    fn policy(rules: Value, expression: &str) -> ValidatingAdmissionPolicy {
        serde_json::from_value(json!({"spec": {
            "matchConstraints": {"resourceRules": rules},
            "variables": [{"name": "n", "expression": "object.spec.replicas"}],
            "validations": [{"expression": expression}]}}))
        .expect("a policy")
    }

    fn kind_of(group: &str, version: &str, plural: &str) -> Option<String> {
        let known = [("apps", "v1", "deployments", "Deployment"), ("", "v1", "pods", "Pod")];
        known.iter().find(|one| (one.0, one.1, one.2) == (group, version, plural)).map(|one| one.3.to_owned())
    }

    #[test]
    fn expressions_are_held_against_the_kinds_that_rules_name() {
        let rules = json!([{"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["*"],
            "resources": ["deployments", "*/scale"]}]);
        let check = |expression: &str| {
            let policy = policy(rules.clone(), expression);
            check(&policy, &kinds(&policy, &kind_of), &Builtin)
        };
        assert_eq!(check("variables.n > 1 && object.metadata.name != ''"), Vec::new());
        let warnings = check("object.spec.replicas > '1'");
        assert_eq!(warnings[0].field_ref, "spec.validations[0].expression");
        assert_eq!(
            warnings[0].warning,
            "apps/v1, Kind=Deployment: ERROR: <input>:1:22: found no matching overload for '_>_' applied to '(int, string)'\n | object.spec.replicas > '1'\n | .....................^\n"
        );
    }

    #[test]
    fn only_kinds_named_outright_count() {
        let check = |groups: Value, resources: Value, expect: &[&str]| {
            let rules = json!([{"apiGroups": groups, "apiVersions": ["v1"], "operations": ["*"],
                "resources": resources}]);
            let found = kinds(&policy(rules, "true"), &kind_of);
            assert_eq!(found.iter().map(|kind| &*kind.kind).collect::<Vec<_>>(), expect);
        };
        check(json!(["apps", ""]), json!(["deployments", "pods", "unknown"]), &["Pod", "Deployment"]);
        check(json!(["*"]), json!(["pods"]), &[]);
        check(json!([""]), json!(["*", "pods/*"]), &[]);
    }
}
