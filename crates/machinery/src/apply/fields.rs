//! Sets of field paths, in the form that `fieldsV1` has on the wire.
//!
//! A path element is kept as its wire text: `f:name`, `k:{"name":"a"}`, `v:"x"`, `i:0`.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::codec::scalar::go_quote;
use crate::schema::Schema;

/// A set of paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet {
    nodes: BTreeMap<String, Node>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Node {
    member: bool,
    below: FieldSet,
}

impl FieldSet {
    /// Whether no path is in it.
    pub fn is_empty(&self) -> bool {
        self.nodes.values().all(|node| !node.member && node.below.is_empty())
    }

    /// Adds a path of wire elements.
    pub fn insert(&mut self, path: &[String]) {
        let Some((first, rest)) = path.split_first() else { return };
        if !self.nodes.contains_key(first) {
            self.nodes.insert(first.clone(), Node::default());
        }
        let Some(node) = self.nodes.get_mut(first) else { return };
        match rest.is_empty() {
            true => node.member = true,
            false => node.below.insert(rest),
        }
    }

    /// Puts an element with what is below it, when there is anything to put.
    pub(super) fn attach(&mut self, element: impl FnOnce() -> String, member: bool, below: FieldSet) {
        if member || !below.nodes.is_empty() {
            self.nodes.insert(element(), Node { member, below });
        }
    }

    /// Whether a path is in it.
    pub fn has(&self, path: &[String]) -> bool {
        let Some((first, rest)) = path.split_first() else { return false };
        match self.nodes.get(first) {
            Some(node) if rest.is_empty() => node.member,
            Some(node) => node.below.has(rest),
            None => false,
        }
    }

    /// Whether the one-element path is in it.
    pub(super) fn has_element(&self, element: &str) -> bool {
        self.nodes.get(element).is_some_and(|node| node.member)
    }

    /// The paths below an element.
    pub(super) fn below(&self, element: &str) -> Option<&FieldSet> {
        self.nodes.get(element).map(|node| &node.below).filter(|below| !below.is_empty())
    }

    /// Paths in either.
    pub fn union(&self, other: &FieldSet) -> FieldSet {
        let mut out = self.clone();
        out.absorb(other.clone());
        out
    }

    /// Takes in the paths of another set.
    pub(super) fn absorb(&mut self, other: FieldSet) {
        if self.nodes.is_empty() {
            self.nodes = other.nodes;
            return;
        }
        for (element, theirs) in other.nodes {
            match self.nodes.get_mut(&element) {
                Some(node) => {
                    node.member |= theirs.member;
                    node.below.absorb(theirs.below);
                }
                None => {
                    self.nodes.insert(element, theirs);
                }
            }
        }
    }

    /// Drops the paths of another set.
    pub(super) fn subtract(&mut self, other: &FieldSet) {
        for (element, theirs) in &other.nodes {
            let Some(node) = self.nodes.get_mut(element) else { continue };
            node.member &= !theirs.member;
            node.below.subtract(&theirs.below);
            if !node.kept() {
                self.nodes.remove(element);
            }
        }
    }

    /// Whether a set in its wire form has any of these paths.
    pub(super) fn touches(&self, wire: &Value) -> bool {
        self.nodes.iter().any(|(element, node)| match wire.get(element) {
            None => false,
            Some(Value::Object(inner)) => {
                let member = inner.is_empty() || inner.contains_key(".");
                (node.member && member) || node.below.touches(&wire[element])
            }
            Some(_) => true,
        })
    }

    /// Paths in this one and not in the other.
    pub fn difference(&self, other: &FieldSet) -> FieldSet {
        let kept = self.nodes.iter().filter_map(|(element, node)| {
            let left = match other.nodes.get(element) {
                None => node.clone(),
                Some(theirs) => Node {
                    member: node.member && !theirs.member,
                    below: node.below.difference(&theirs.below),
                },
            };
            left.kept().then(|| (element.clone(), left))
        });
        FieldSet { nodes: kept.collect() }
    }

    /// Paths in both.
    pub fn intersection(&self, other: &FieldSet) -> FieldSet {
        let kept = self.nodes.iter().filter_map(|(element, node)| {
            let theirs = other.nodes.get(element)?;
            let both =
                Node { member: node.member && theirs.member, below: node.below.intersection(&theirs.below) };
            both.kept().then(|| (element.clone(), both))
        });
        FieldSet { nodes: kept.collect() }
    }

    /// Removes a field and all below it.
    pub(super) fn cut(&mut self, path: &[&str]) {
        let Some((first, rest)) = path.split_first() else { return };
        let element = format!("f:{first}");
        match rest.is_empty() {
            true => {
                self.nodes.remove(&element);
            }
            false => {
                if let Some(node) = self.nodes.get_mut(&element) {
                    node.below.cut(rest);
                    if !node.kept() {
                        self.nodes.remove(&element);
                    }
                }
            }
        }
    }

    /// Calls `visit` with every path, in order.
    pub(super) fn each(&self, visit: &mut impl FnMut(Vec<String>)) {
        self.each_under(&mut Vec::new(), visit);
    }

    fn each_under(&self, path: &mut Vec<String>, visit: &mut impl FnMut(Vec<String>)) {
        for (element, node) in &self.nodes {
            path.push(element.clone());
            if node.member {
                visit(path.clone());
            }
            node.below.each_under(path, visit);
            path.pop();
        }
    }

    /// The set with every named field that lies on a path made a member.
    pub(super) fn named_fields_as_members(&self, schema: Schema<'_>) -> FieldSet {
        let nodes = self.nodes.iter().map(|(element, node)| {
            let (inner, named) = match element.strip_prefix("f:") {
                Some(name) => {
                    (schema.field(name).unwrap_or(Schema::Any), super::walk::is_struct_field(schema, name))
                }
                None => (schema.item(), false),
            };
            let member = node.member || (named && !node.below.is_empty());
            (element.clone(), Node { member, below: node.below.named_fields_as_members(inner) })
        });
        FieldSet { nodes: nodes.collect() }
    }

    /// The wire form.
    pub fn into_value(self) -> Value {
        Value::Object(self.nodes.into_iter().map(|(element, node)| (element, node.into_value())).collect())
    }

    /// Reads the wire form; `None` when it is not one.
    pub fn from_value(value: Value) -> Option<FieldSet> {
        let mut nodes = BTreeMap::new();
        let Value::Object(map) = value else { return None };
        for (element, inner) in map {
            if element == "." {
                continue;
            }
            if !matches!(element.get(..2), Some("f:" | "k:" | "v:" | "i:")) {
                return None;
            }
            let listed = inner.get(".").is_some();
            let below = FieldSet::from_value(inner)?;
            let member = listed || below.nodes.is_empty();
            nodes.insert(element, Node { member, below });
        }
        Some(FieldSet { nodes })
    }
}

impl Node {
    fn kept(&self) -> bool {
        self.member || !self.below.nodes.is_empty()
    }

    fn into_value(self) -> Value {
        let own = self.member && !self.below.nodes.is_empty();
        let own = own.then(|| (".".to_string(), Value::Object(Map::new())));
        let below = self.below.nodes.into_iter().map(|(element, node)| (element, node.into_value()));
        Value::Object(own.into_iter().chain(below).collect())
    }
}

/// A path as upstream prints it: `.spec.containers[name="a"].image`.
pub(super) fn show(path: &[String]) -> String {
    path.iter().map(|element| show_element(element)).collect()
}

fn show_element(element: &str) -> String {
    let (kind, rest) = element.split_at_checked(2).unwrap_or(("f:", element));
    let value = serde_json::from_str::<Value>(rest).unwrap_or(Value::Null);
    match (kind, value) {
        ("k:", Value::Object(keys)) => {
            let keys: Vec<String> =
                keys.iter().map(|(key, value)| format!("{key}={}", show_scalar(value))).collect();
            format!("[{}]", keys.join(","))
        }
        ("v:", value) => format!("[={}]", show_scalar(&value)),
        ("i:", _) => format!("[{rest}]"),
        _ => format!(".{rest}"),
    }
}

fn show_scalar(value: &Value) -> String {
    match value {
        Value::String(text) => go_quote(text),
        other => other.to_string(),
    }
}
