//! One view over built-in facts and custom resources' structural schemas.
//!
//! Patches, apply and pruning walk values with this view and do not care where the schema came from.

use serde_json::Value;

use super::structural::{Node, NodeKind};
use super::{Base, FieldFacts, ListKind, PatchMarks, Scalar, Shape, TypeFacts};

/// A place in a schema. Cheap to copy.
#[derive(Clone, Copy, Debug)]
pub enum Schema<'a> {
    /// Nothing is known: anything may stand here.
    Any,
    /// An object of a built-in type.
    Type(&'static TypeFacts),
    /// The value of a built-in field, list or map included.
    Field(&'static FieldFacts),
    /// One element of a built-in list or map field.
    Item(&'static FieldFacts),
    /// A node of a structural schema.
    Node(&'a Node),
}

/// What a place holds.
#[derive(Clone, Copy, Debug)]
pub enum Sort {
    /// Anything.
    Any,
    /// An object with known fields.
    Object,
    /// A map from strings to one element type.
    Map,
    /// A list of one element type.
    List,
    /// A leaf of a built-in type.
    Scalar(Scalar),
    /// A leaf of a custom resource.
    Leaf,
}

impl<'a> Schema<'a> {
    /// What stands here.
    pub fn sort(self) -> Sort {
        match self {
            Schema::Any => Sort::Any,
            Schema::Type(_) => Sort::Object,
            Schema::Field(field) => match field.shape {
                Shape::List => Sort::List,
                Shape::Map => Sort::Map,
                Shape::One => base_sort(field),
            },
            Schema::Item(field) => base_sort(field),
            Schema::Node(node) => match node.kind {
                NodeKind::Object if node.additional.is_some() && node.properties.is_empty() => Sort::Map,
                NodeKind::Object if node.preserve_unknown && node.properties.is_empty() => Sort::Any,
                NodeKind::Object => Sort::Object,
                NodeKind::Array => Sort::List,
                NodeKind::Any => Sort::Any,
                _ => Sort::Leaf,
            },
        }
    }

    /// The built-in type of the object that stands here.
    pub fn object_type(self) -> Option<&'static TypeFacts> {
        match self {
            Schema::Type(facts) => Some(facts),
            Schema::Field(field) if field.shape == Shape::One => field.message(),
            Schema::Item(field) => field.message(),
            Schema::Node(node) => node.builtin,
            _ => None,
        }
    }

    /// The schema of a named field or map value; `None` when the name is unknown and would be pruned.
    pub fn field(self, name: &str) -> Option<Schema<'a>> {
        match self {
            Schema::Any => Some(Schema::Any),
            Schema::Field(field) if field.shape == Shape::Map => Some(Schema::Item(field)),
            Schema::Node(node) => node.field(name),
            _ => match self.object_type() {
                Some(facts) => facts.field(name).map(Schema::Field),
                None => matches!(
                    self.sort(),
                    Sort::Scalar(Scalar::Raw | Scalar::Any | Scalar::Json | Scalar::Fields)
                )
                .then_some(Schema::Any),
            },
        }
    }

    /// The schema of a list element.
    pub fn item(self) -> Schema<'a> {
        match self {
            Schema::Field(field) if field.shape == Shape::List => Schema::Item(field),
            Schema::Node(node) => node.items.as_deref().map_or(Schema::Any, Schema::Node),
            _ => Schema::Any,
        }
    }

    /// How server-side apply merges the list that stands here. Lists without a marker are atomic.
    pub fn list_kind(self) -> ListKind {
        match self {
            Schema::Field(field) => field.list.clone().unwrap_or(ListKind::Atomic),
            Schema::Node(node) => node.list.clone().unwrap_or(ListKind::Atomic),
            _ => ListKind::Atomic,
        }
    }

    /// Whether server-side apply replaces the object or map that stands here as a whole.
    pub fn is_atomic(self) -> bool {
        let by_type = self.object_type().is_some_and(|facts| facts.atomic);
        match self {
            Schema::Field(field) => by_type || field.map_atomic,
            Schema::Node(node) => by_type || node.map_atomic,
            _ => by_type,
        }
    }

    /// The strategic-merge markers of the field.
    pub fn patch(self) -> PatchMarks<'a> {
        match self {
            Schema::Field(field) => field.patch,
            _ => PatchMarks::default(),
        }
    }

    /// The default of the field, if it has one.
    pub fn default(self) -> Option<Value> {
        match self {
            Schema::Field(field) => field.default.and_then(|text| serde_json::from_str(text).ok()),
            Schema::Node(node) => node.default.clone(),
            _ => None,
        }
    }
}

fn base_sort(field: &FieldFacts) -> Sort {
    match field.base {
        Base::Message(_) => Sort::Object,
        Base::Scalar(Scalar::Strs) => Sort::List,
        Base::Scalar(Scalar::Raw | Scalar::Any | Scalar::Json) => Sort::Any,
        Base::Scalar(scalar) => Sort::Scalar(scalar),
    }
}
