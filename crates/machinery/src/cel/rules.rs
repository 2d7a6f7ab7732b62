//! The rules of custom resources (`x-kubernetes-validations`): compiled with the schema, evaluated on writes.

use std::collections::BTreeMap;

use api::validation::{ErrorKind, FieldError, Path};
use serde_json::Value;

use super::{Activation, Budget, Env, Program, Type, Val};
use crate::schema::structural::{Node, NodeKind, Rule};
use crate::schema::{ListKind, Schema};

/// The compiled rules of a schema.
#[derive(Debug, Clone, Default)]
pub struct RuleSet {
    rules: Vec<Compiled>,
    properties: BTreeMap<String, RuleSet>,
    additional: Option<Box<RuleSet>>,
    items: Option<Box<RuleSet>>,
}

#[derive(Debug, Clone)]
struct Compiled {
    rule: Rule,
    program: Program,
    message: Option<Program>,
    /// Compares with the old value.
    transition: bool,
}

/// A rule that does not compile: the path of its node below the schema's root (`properties[spec]`), its place
/// in the node's list, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRule {
    /// Path of the node.
    pub path: String,
    /// Index of the rule.
    pub index: usize,
    /// `compilation failed: ERROR: …`
    pub message: String,
}

impl RuleSet {
    /// Compiles a schema's rules. Those that fail are left out and reported.
    pub fn compile(node: &Node) -> (RuleSet, Vec<BadRule>) {
        let mut bad = Vec::new();
        let set = compile(node, &Path::root(), &mut bad);
        (set, bad)
    }

    /// Whether there is nothing to evaluate.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
            && self.properties.values().all(RuleSet::is_empty)
            && self.additional.as_ref().is_none_or(|set| set.is_empty())
            && self.items.as_ref().is_none_or(|set| set.is_empty())
    }

    /// What the rules say against a new value. With an old one, transition rules run too, and rules about
    /// values that did not change are passed over.
    pub fn validate(
        &self,
        node: &Node,
        value: &Value,
        old: Option<&Value>,
        budget: &mut Budget,
    ) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if !self.is_empty() {
            self.run(node, value, old, &Path::root(), budget, &mut errors);
        }
        errors
    }

    fn run(
        &self,
        node: &Node,
        value: &Value,
        old: Option<&Value>,
        path: &Path,
        budget: &mut Budget,
        errors: &mut Vec<FieldError>,
    ) {
        if value.is_null() {
            return;
        }
        for compiled in &self.rules {
            let unchanged = old == Some(value) && !compiled.transition;
            let blind = compiled.transition && old.is_none() && !compiled.rule.optional_old_self;
            if unchanged || blind {
                continue;
            }
            if let Some(error) = judge(compiled, node, value, old, path, budget) {
                errors.push(error);
            }
            if budget.left == 0 {
                let detail = "validation failed due to running out of cost budget, no further validation rules will be run";
                errors.push(FieldError::invalid(path, type_name(node), detail));
                return;
            }
        }
        match value {
            Value::Object(map) => {
                for (name, inner) in map {
                    let before = old.and_then(|old| old.get(name));
                    let below = match self.properties.get(name) {
                        Some(set) => node.properties.get(name).map(|place| (set, place)),
                        None => self.additional.as_deref().zip(node.additional.as_deref()),
                    };
                    if let Some((set, place)) = below.filter(|(set, _)| !set.is_empty()) {
                        set.run(place, inner, before, &path.child(name), budget, errors);
                    }
                }
            }
            Value::Array(items) => {
                let Some((set, place)) = self.items.as_deref().zip(node.items.as_deref()) else { return };
                if set.is_empty() {
                    return;
                }
                for (index, inner) in items.iter().enumerate() {
                    set.run(place, inner, counterpart(node, inner, old), &path.index(index), budget, errors);
                }
            }
            _ => {}
        }
    }
}

/// The old element with the same keys, in lists that have keys.
fn counterpart<'v>(node: &Node, item: &Value, old: Option<&'v Value>) -> Option<&'v Value> {
    let Some(ListKind::Map(keys)) = &node.list else { return None };
    old?.as_array()?
        .iter()
        .find(|other| keys.iter().all(|key| other.get(key.as_ref()) == item.get(key.as_ref())))
}

fn compile(node: &Node, path: &Path, bad: &mut Vec<BadRule>) -> RuleSet {
    let mut rules = Vec::new();
    for (index, rule) in node.rules.iter().enumerate() {
        match compile_rule(node, rule) {
            Ok(compiled) => rules.push(compiled),
            Err(message) => {
                let path = if *path == Path::root() { String::new() } else { path.to_string() };
                bad.push(BadRule { path, index, message });
            }
        }
    }
    let below = |place: &Option<Box<Node>>, name: &str, bad: &mut Vec<BadRule>| {
        place.as_deref().map(|place| Box::new(compile(place, &path.child(name), bad)))
    };
    let items = below(&node.items, "items", bad);
    let additional = below(&node.additional, "additionalProperties", bad);
    let properties = node
        .properties
        .iter()
        .map(|(name, place)| (name.clone(), compile(place, &path.child("properties").key(name), bad)))
        .collect();
    RuleSet { rules, properties, additional, items }
}

fn compile_rule(node: &Node, rule: &Rule) -> Result<Compiled, String> {
    let schema = Schema::Node(node);
    let env = Env::new().schema("self", schema);
    let env = match rule.optional_old_self {
        true => env.plain("oldSelf", Type::Optional(Box::new(Type::Dyn))),
        false => env.schema("oldSelf", schema),
    };
    let failed = |error: super::CompileError| format!("compilation failed: {error}");
    let program = Program::compile(&rule.rule, &env).map_err(failed)?;
    if !matches!(program.result_type(), Type::Bool | Type::Dyn) {
        return Err("cel expression must evaluate to a bool".to_string());
    }
    let message = match &rule.message_expression {
        None => None,
        Some(source) => {
            let program = Program::compile(source, &env)
                .map_err(|error| format!("messageExpression compilation failed: {error}"))?;
            if !matches!(program.result_type(), Type::String | Type::Dyn) {
                return Err("messageExpression must evaluate to a string".to_string());
            }
            Some(program)
        }
    };
    let transition = program.uses("oldSelf");
    Ok(Compiled { rule: rule.clone(), program, message, transition })
}

fn type_name(node: &Node) -> &'static str {
    match node.kind {
        NodeKind::Any | NodeKind::IntOrString => "",
        NodeKind::Object => "object",
        NodeKind::Array => "array",
        NodeKind::String => "string",
        NodeKind::Integer => "integer",
        NodeKind::Number => "number",
        NodeKind::Boolean => "boolean",
    }
}

fn judge(
    compiled: &Compiled,
    node: &Node,
    value: &Value,
    old: Option<&Value>,
    path: &Path,
    budget: &mut Budget,
) -> Option<FieldError> {
    let schema = Schema::Node(node);
    let old = old.map(|old| Val::json(old, schema));
    let old = match compiled.rule.optional_old_self {
        true => Some(Val::Optional(old.map(Box::new))),
        false => old,
    };
    let mut variables = Activation::new().with("self", Val::json(value, schema));
    if let Some(old) = old {
        variables = variables.with("oldSelf", old);
    }
    let named = || match &compiled.rule.message {
        Some(message) => message.clone(),
        None => format!("failed rule: {}", compiled.rule.rule.trim()),
    };
    let mut broken = false;
    let detail = match compiled.program.eval_bool(&variables, budget) {
        Ok(true) => return None,
        Ok(false) => {
            broken = true;
            said(compiled, &variables, budget).unwrap_or_else(named)
        }
        Err(error) if error.out_of_budget => {
            format!("{error}: call cost exceeds limit for rule: {}", compiled.rule.rule.trim())
        }
        Err(error) => format!("{error} evaluating rule: {}", named()),
    };
    let path = match &compiled.rule.field_path {
        Some(below) => join(path, below),
        None => path.clone(),
    };
    if !broken {
        return Some(FieldError::invalid(&path, type_name(node), detail));
    }
    let shown = (!value.is_object() && !value.is_array()).then(|| api::validation::show(value));
    Some(match compiled.rule.reason.as_deref() {
        Some("FieldValueForbidden") => FieldError::forbidden(&path, detail),
        Some("FieldValueRequired") => FieldError::required(&path, detail),
        Some("FieldValueDuplicate") => FieldError { kind: ErrorKind::Duplicate, value: shown, path, detail },
        _ => FieldError { kind: ErrorKind::Invalid, value: shown, path, detail },
    })
}

/// The message that an expression gives; unusable ones fall back to the fixed message.
fn said(compiled: &Compiled, variables: &Activation<'_>, budget: &mut Budget) -> Option<String> {
    match compiled.message.as_ref()?.eval(variables, budget).ok()? {
        Val::Str(text) => {
            let text = text.trim();
            (!text.is_empty() && !text.contains('\n') && text.len() <= 5 * 1024).then(|| text.to_string())
        }
        _ => None,
    }
}

/// `.foo.bar` or `.map['key']` below a path.
fn join(path: &Path, below: &str) -> Path {
    let mut out = path.clone();
    let mut rest = below;
    while !rest.is_empty() {
        if let Some(inner) = rest.strip_prefix("['")
            && let Some(end) = inner.find("']")
        {
            out = out.child(&inner[..end]);
            rest = &inner[end + 2..];
            continue;
        }
        let inner = rest.strip_prefix('.').unwrap_or(rest);
        let end = inner.find(['.', '[']).unwrap_or(inner.len());
        if end == 0 {
            return out;
        }
        out = out.child(&inner[..end]);
        rest = &inner[end..];
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rules_are_judged_with_old_values_and_ratcheting() {
        let node = Node::resource(&json!({"type": "object", "properties": {"spec": {
            "type": "object",
            "x-kubernetes-validations": [
                {"rule": "self.min <= self.max", "message": "min must not exceed max"},
                {"rule": "self.name == oldSelf.name", "messageExpression": "'name was ' + oldSelf.name", "fieldPath": ".name"},
                {"rule": "self.max < 100", "reason": "FieldValueForbidden"},
            ],
            "properties": {
                "min": {"type": "integer"}, "max": {"type": "integer"}, "name": {"type": "string"},
                "tags": {"type": "array", "items": {"type": "string", "x-kubernetes-validations": [{"rule": "self.startsWith('t')"}]}},
            },
        }}}));
        let (rules, bad) = RuleSet::compile(&node);
        assert_eq!(bad, []);
        let object = |spec: Value| json!({"spec": spec});
        let fine = object(json!({"min": 1, "max": 2, "name": "a", "tags": ["t1"]}));
        for (value, old, expect) in [
            (fine.clone(), None, ""),
            (
                object(json!({"min": 3, "max": 2, "name": "a"})),
                None,
                "spec: Invalid value: min must not exceed max",
            ),
            (
                object(json!({"min": 1, "max": 2, "name": "b"})),
                Some(&fine),
                "spec.name: Invalid value: name was a",
            ),
            (
                object(json!({"min": 1, "max": 200, "name": "a"})),
                None,
                "spec: Forbidden: failed rule: self.max < 100",
            ),
            (
                object(json!({"min": 1, "max": 2, "name": "a", "tags": ["t", "x"]})),
                None,
                "spec.tags[1]: Invalid value: \"x\": failed rule: self.startsWith('t')",
            ),
        ] {
            let errors = rules.validate(&node, &value, old, &mut Budget::default());
            let shown: Vec<String> = errors.iter().map(ToString::to_string).collect();
            assert_eq!(shown.join("; "), expect, "{value}");
        }
        let broken = object(json!({"min": 3, "max": 2, "name": "a"}));
        assert!(rules.validate(&node, &broken, Some(&broken), &mut Budget::default()).is_empty());
    }

    #[test]
    fn rules_that_do_not_compile_are_named() {
        let node = Node::resource(&json!({"type": "object", "properties": {"spec": {
            "type": "object", "x-kubernetes-validations": [{"rule": "self.nope == 1"}], "properties": {"a": {"type": "string"}},
        }}}));
        let (_, bad) = RuleSet::compile(&node);
        assert_eq!(
            bad,
            [BadRule {
                path: "properties[spec]".to_string(),
                index: 0,
                message: "compilation failed: ERROR: <input>:1:5: undefined field 'nope'\n | self.nope == 1\n | ....^".to_string(),
            }]
        );
    }
}
