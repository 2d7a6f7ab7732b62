//! The facts table of the built-in types and its loader.
//!
//! Facts only, no prose: descriptions belong to `openapi`. It must not know custom resources.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{LazyLock, OnceLock};

/// The kinds of leaf value, including objects that have a JSON form of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scalar {
    /// `true` or `false`.
    Bool,
    /// A signed 32-bit integer.
    I32,
    /// A signed 64-bit integer (Go's `int` as well).
    I64,
    /// An unsigned byte held as a number.
    U8,
    /// A double.
    F64,
    /// A string.
    Str,
    /// Bytes, base64 in JSON.
    Bytes,
    /// A resource quantity.
    Quantity,
    /// A timestamp in whole seconds.
    Time,
    /// A timestamp in microseconds.
    MicroTime,
    /// A duration in Go's text form, nanoseconds in protobuf.
    Duration,
    /// An int32 or a string.
    IntOrString,
    /// Any object (`runtime.RawExtension`).
    Raw,
    /// `runtime.Unknown`.
    Unknown,
    /// Any JSON value with no protobuf form.
    Any,
    /// `metav1.FieldsV1`.
    Fields,
    /// apiextensions `JSON`: any JSON value.
    Json,
    /// A schema or a list of schemas.
    SchemaOrArray,
    /// A schema or a boolean.
    SchemaOrBool,
    /// A schema or a list of strings.
    SchemaOrStrings,
    /// A list of strings that is a message with `items` in protobuf (`ExtraValue`, `Verbs`).
    Strs,
}

/// How many of the base type a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One value.
    One,
    /// A list.
    List,
    /// A map with string keys.
    Map,
}

/// The element type of a field.
#[derive(Clone, Copy, Debug)]
pub enum Base {
    /// A leaf.
    Scalar(Scalar),
    /// Another type, by its place in the table; see [`FieldFacts::message`].
    Message(u16),
}

/// How a list is merged by server-side apply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListKind {
    /// Replaced as a whole.
    Atomic,
    /// Scalars, each its own key.
    Set,
    /// Objects identified by these fields.
    Map(Vec<Cow<'static, str>>),
}

/// The strategic-merge markers of a field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PatchMarks<'a> {
    /// The list (or map) is merged rather than replaced.
    pub merge: bool,
    /// Keys absent from `$retainKeys` are cleared.
    pub retain_keys: bool,
    /// The map or object is replaced as a whole.
    pub replace: bool,
    /// The field that identifies list elements.
    pub key: Option<&'a str>,
}

/// One field of a built-in type.
#[derive(Debug)]
pub struct FieldFacts {
    /// Name in JSON; empty when the field's own fields are inlined into the parent.
    pub json: &'static str,
    /// Protobuf field number; 0 when the field has no protobuf form.
    pub number: u32,
    /// One, list or map.
    pub shape: Shape,
    /// Element type.
    pub base: Base,
    /// Whether Go holds it behind a pointer, so that a zero value differs from an absent one.
    pub pointer: bool,
    /// Whether an empty value is left out of JSON.
    pub omit_empty: bool,
    /// Whether a zero object (`creationTimestamp`) is left out of JSON.
    pub omit_zero: bool,
    /// Whether OpenAPI lists it as required.
    pub required: bool,
    /// How server-side apply merges a list.
    pub list: Option<ListKind>,
    /// Whether server-side apply replaces the map or object as a whole.
    pub map_atomic: bool,
    /// Whether OpenAPI says in so many words that server-side apply merges the map or object.
    pub map_granular: bool,
    /// Strategic-merge markers.
    pub patch: PatchMarks<'static>,
    /// The default as JSON text.
    pub default: Option<&'static str>,
    /// The values of an enumeration, separated by commas, `_` standing for a space.
    pub enumeration: Option<&'static str>,
    /// Go's name of a named scalar (`v1.PullPolicy`), for error messages.
    pub go_type: Option<&'static str>,
}

impl FieldFacts {
    /// Whether the field's own fields stand in the parent's JSON object.
    pub fn inline(&self) -> bool {
        self.json.is_empty()
    }

    /// The values of an enumeration; empty when the field is none.
    pub fn enumeration(&self) -> Vec<String> {
        self.enumeration
            .into_iter()
            .flat_map(|all| all.split(','))
            .map(|value| value.replace('_', " "))
            .collect()
    }

    /// The type of the element when it is a message.
    pub fn message(&self) -> Option<&'static TypeFacts> {
        match self.base {
            Base::Message(id) => Some(&facts().types[usize::from(id)]),
            Base::Scalar(_) => None,
        }
    }
}

/// A field of the JSON object, inlined ones included.
#[derive(Debug)]
pub struct Flat {
    /// The field.
    pub field: &'static FieldFacts,
    /// Go names of the embedded structs it was reached through, outermost first.
    pub embeds: Vec<&'static str>,
}

/// One built-in type.
#[derive(Debug)]
pub struct TypeFacts {
    /// The OpenAPI definition name, such as `io.k8s.api.core.v1.Pod`.
    pub name: String,
    /// Go's short name, such as `Pod`.
    pub go_name: &'static str,
    /// Go's package name, such as `v1`.
    pub go_package: &'static str,
    /// (group, version, kind) triples under which it is served.
    pub gvks: Vec<(&'static str, &'static str, &'static str)>,
    /// Whether server-side apply replaces objects of this type as a whole.
    pub atomic: bool,
    /// Fields in declaration order; inlined ones appear as one nameless field.
    pub fields: Vec<FieldFacts>,
    flat: OnceLock<Vec<Flat>>,
    numbers: OnceLock<Vec<u16>>,
    printed: OnceLock<Vec<usize>>,
}

impl TypeFacts {
    /// The fields of the JSON object, sorted by name.
    pub fn flat(&'static self) -> &'static [Flat] {
        self.flat.get_or_init(|| {
            let mut out = Vec::new();
            self.collect(&mut Vec::new(), &mut out);
            out.sort_by_key(|flat| flat.field.json);
            out
        })
    }

    fn collect(&'static self, embeds: &mut Vec<&'static str>, out: &mut Vec<Flat>) {
        for field in &self.fields {
            match (field.inline(), field.message()) {
                (true, Some(inner)) => {
                    embeds.push(inner.go_name);
                    inner.collect(embeds, out);
                    embeds.pop();
                }
                _ => out.push(Flat { field, embeds: embeds.clone() }),
            }
        }
    }

    /// The index into [`TypeFacts::flat`] of a JSON name.
    pub fn position(&'static self, json: &str) -> Option<usize> {
        self.flat().binary_search_by(|flat| flat.field.json.cmp(json)).ok()
    }

    /// The places in [`TypeFacts::flat`] of the fields that Go prints even when they are zero.
    pub(crate) fn printed(&'static self) -> &'static [usize] {
        self.printed.get_or_init(|| {
            let all = self.flat().iter().enumerate();
            all.filter(|(_, flat)| crate::codec::canonical::always_printed(flat.field).is_some())
                .map(|(at, _)| at)
                .collect()
        })
    }

    /// The field with a JSON name, inlined ones included.
    pub fn field(&'static self, json: &str) -> Option<&'static FieldFacts> {
        self.position(json).map(|at| self.flat()[at].field)
    }

    /// The field with a protobuf number (not looking into inlined ones).
    pub fn numbered(&'static self, number: u32) -> Option<&'static FieldFacts> {
        let order = self.by_number();
        let at = order.binary_search_by_key(&number, |&i| self.fields[usize::from(i)].number).ok()?;
        Some(&self.fields[usize::from(order[at])])
    }

    /// The fields that have a protobuf number, in number order, as gogo-proto writes them.
    pub fn wire_order(&'static self) -> impl Iterator<Item = &'static FieldFacts> {
        self.by_number().iter().map(|&i| &self.fields[usize::from(i)])
    }

    fn by_number(&'static self) -> &'static [u16] {
        self.numbers.get_or_init(|| {
            let mut order: Vec<u16> = (0u16..).take(self.fields.len()).collect();
            order.retain(|&i| self.fields[usize::from(i)].number > 0);
            order.sort_by_key(|&i| self.fields[usize::from(i)].number);
            order
        })
    }

    /// Whether objects of this type carry `kind` and `apiVersion`.
    pub fn is_object(&'static self) -> bool {
        self.field("kind").is_some_and(|field| field.number == 0)
    }
}

/// The whole table.
pub struct Facts {
    types: Vec<TypeFacts>,
    by_name: HashMap<&'static str, u16>,
    by_kind: HashMap<&'static str, Vec<(&'static str, &'static str, u16)>>,
}

/// Kinds that belong to `meta/v1` and are understood under every group and version.
const EVERYWHERE: [&str; 8] = [
    "CreateOptions",
    "DeleteOptions",
    "GetOptions",
    "ListOptions",
    "PatchOptions",
    "Status",
    "UpdateOptions",
    "WatchEvent",
];

impl Facts {
    /// The type with an OpenAPI definition name.
    pub fn by_name(&self, name: &str) -> Option<&TypeFacts> {
        self.by_name.get(name).map(|&id| &self.types[usize::from(id)])
    }

    /// The type of a kind. `DeleteOptions` and its like are found under every group and version.
    pub fn by_gvk(&self, group: &str, version: &str, kind: &str) -> Option<&TypeFacts> {
        let found =
            self.by_kind.get(kind).and_then(|all| all.iter().find(|(g, v, _)| *g == group && *v == version));
        if let Some((_, _, id)) = found {
            return Some(&self.types[usize::from(*id)]);
        }
        let meta = EVERYWHERE.contains(&kind) || (kind == "List" && group.is_empty() && version == "v1");
        meta.then(|| self.meta(kind)).flatten()
    }

    /// A type of `meta/v1` by its Go name, such as `ObjectMeta`.
    pub fn meta(&self, name: &str) -> Option<&TypeFacts> {
        self.by_name(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{name}"))
    }

    /// Every type, in table order.
    pub fn types(&self) -> &[TypeFacts] {
        &self.types
    }
}

/// The table, parsed on first use (under 3 ms).
pub fn facts() -> &'static Facts {
    static FACTS: LazyLock<Facts> = LazyLock::new(|| load(include_str!("facts.txt")));
    &FACTS
}

fn load(text: &'static str) -> Facts {
    let ids = type_ids(text);
    let mut types: Vec<TypeFacts> = Vec::with_capacity(ids.len());
    let (mut alias, mut prefix) = ("", "");
    for line in text.lines() {
        match line.split_once(' ') {
            Some(("p", rest)) => {
                (alias, prefix) = rest.split_once(' ').expect("a package line has two names")
            }
            Some(("t", rest)) => types.push(parse_type(alias, prefix, rest)),
            Some((name, rest)) => {
                let owner = types.last_mut().expect("a field follows its type");
                owner.fields.push(parse_field(name, rest, &ids));
            }
            None => {}
        }
    }
    index(types)
}

fn index(types: Vec<TypeFacts>) -> Facts {
    let mut by_name = HashMap::with_capacity(types.len());
    let mut by_kind: HashMap<_, Vec<_>> = HashMap::new();
    for (id, facts) in (0u16..).zip(&types) {
        let name: &'static str = Box::leak(facts.name.clone().into_boxed_str());
        by_name.insert(name, id);
        for &(group, version, kind) in &facts.gvks {
            by_kind.entry(kind).or_default().push((group, version, id));
        }
    }
    Facts { types, by_name, by_kind }
}

/// First pass: `core.v1` + `Pod` to the type's place, so that fields can refer ahead.
fn type_ids(text: &'static str) -> HashMap<(&'static str, &'static str), u16> {
    let mut ids = HashMap::with_capacity(1024);
    let (mut alias, mut next) = ("", 0u16);
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("p ") {
            alias = rest.split(' ').next().unwrap_or_default();
        } else if let Some(rest) = line.strip_prefix("t ") {
            ids.insert((alias, rest.split(' ').next().unwrap_or_default()), next);
            next += 1;
        }
    }
    ids
}

fn parse_type(alias: &'static str, prefix: &str, rest: &'static str) -> TypeFacts {
    let mut words = rest.split(' ');
    let go_name = words.next().unwrap_or_default();
    let mut facts = TypeFacts {
        name: format!("{prefix}.{go_name}"),
        go_name,
        go_package: alias.rsplit('.').next().unwrap_or(alias),
        gvks: Vec::new(),
        atomic: false,
        fields: Vec::new(),
        flat: OnceLock::new(),
        numbers: OnceLock::new(),
        printed: OnceLock::new(),
    };
    for word in words {
        match word.split_once('/').and_then(|(group, rest)| Some((group, rest.split_once(':')?))) {
            Some((group, (version, kind))) => facts.gvks.push((group, version, kind)),
            None => facts.atomic |= word == "a",
        }
    }
    facts
}

fn parse_field(
    name: &'static str,
    rest: &'static str,
    ids: &HashMap<(&'static str, &'static str), u16>,
) -> FieldFacts {
    let mut words = rest.split(' ');
    let number = words.next().and_then(|n| n.parse().ok()).expect("a field line has a number");
    let (ty, pointer) = strip(words.next().expect("a field line has a type"), "*");
    let (ty, list) = strip(ty, "[]");
    let (ty, map) = strip(ty, "{}");
    let (base, go_type) = parse_base(ty, ids);
    let mut field = FieldFacts {
        json: if name == "+" { "" } else { name },
        number,
        shape: if list {
            Shape::List
        } else if map {
            Shape::Map
        } else {
            Shape::One
        },
        base,
        pointer,
        omit_empty: true,
        omit_zero: false,
        required: false,
        list: None,
        map_atomic: false,
        map_granular: false,
        patch: PatchMarks::default(),
        default: None,
        enumeration: None,
        go_type,
    };
    for word in words {
        parse_flag(word, &mut field);
    }
    field
}

fn parse_flag(word: &'static str, field: &mut FieldFacts) {
    match word.split_once(':') {
        Some(("k", keys)) => field.list = Some(ListKind::Map(keys.split(',').map(Cow::Borrowed).collect())),
        Some(("p", strategies)) => {
            for strategy in strategies.split(',') {
                match strategy {
                    "merge" => field.patch.merge = true,
                    "retainKeys" => field.patch.retain_keys = true,
                    _ => field.patch.replace = true,
                }
            }
        }
        Some(("m", key)) => field.patch.key = Some(key),
        Some(("e", values)) => field.enumeration = Some(values),
        Some(("d", json)) => field.default = Some(json),
        _ => match word {
            "=" => field.omit_empty = false,
            "z" => field.omit_zero = true,
            "!" => field.required = true,
            "s" => field.list = Some(ListKind::Set),
            "a" if field.shape == Shape::List => field.list = Some(ListKind::Atomic),
            "a" => field.map_atomic = true,
            "g" => field.map_granular = true,
            other => unreachable!("unknown flag {other} in facts.txt"),
        },
    }
}

fn strip(text: &'static str, prefix: &str) -> (&'static str, bool) {
    match text.strip_prefix(prefix) {
        Some(rest) => (rest, true),
        None => (text, false),
    }
}

fn parse_base(
    text: &'static str,
    ids: &HashMap<(&'static str, &'static str), u16>,
) -> (Base, Option<&'static str>) {
    let (word, go_type) = match text.split_once(':') {
        Some((word, go)) => (word, Some(go)),
        None => (text, None),
    };
    let scalar = match word {
        "bool" => Scalar::Bool,
        "i32" => Scalar::I32,
        "i64" | "int" => Scalar::I64,
        "u8" => Scalar::U8,
        "f64" => Scalar::F64,
        "str" => Scalar::Str,
        "bytes" => Scalar::Bytes,
        "qty" => Scalar::Quantity,
        "time" => Scalar::Time,
        "mtime" => Scalar::MicroTime,
        "dur" => Scalar::Duration,
        "ios" => Scalar::IntOrString,
        "raw" => Scalar::Raw,
        "unknown" => Scalar::Unknown,
        "any" => Scalar::Any,
        "fields" => Scalar::Fields,
        "json" => Scalar::Json,
        "schemaOrArray" => Scalar::SchemaOrArray,
        "schemaOrBool" => Scalar::SchemaOrBool,
        "schemaOrStrings" => Scalar::SchemaOrStrings,
        "strs" => Scalar::Strs,
        _ => {
            let (alias, name) = word.rsplit_once('.').expect("a message type has a package");
            let id =
                ids.get(&(alias, name)).unwrap_or_else(|| panic!("facts.txt names an unknown type {word}"));
            return (Base::Message(*id), None);
        }
    };
    (Base::Scalar(scalar), go_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_found_by_group_version_kind() {
        for (group, version, kind, name) in [
            ("", "v1", "Pod", "io.k8s.api.core.v1.Pod"),
            ("apps", "v1", "DeploymentList", "io.k8s.api.apps.v1.DeploymentList"),
            ("apps", "v1", "DeleteOptions", "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions"),
            ("", "v1", "List", "io.k8s.apimachinery.pkg.apis.meta.v1.List"),
            ("meta.k8s.io", "v1", "Table", "io.k8s.apimachinery.pkg.apis.meta.v1.Table"),
            ("policy", "v1", "Eviction", "io.k8s.api.policy.v1.Eviction"),
            ("autoscaling", "v1", "Scale", "io.k8s.api.autoscaling.v1.Scale"),
            ("authentication.k8s.io", "v1", "TokenRequest", "io.k8s.api.authentication.v1.TokenRequest"),
            (
                "apiregistration.k8s.io",
                "v1",
                "APIService",
                "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1.APIService",
            ),
            (
                "apiextensions.k8s.io",
                "v1",
                "CustomResourceDefinition",
                "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition",
            ),
        ] {
            let found = facts().by_gvk(group, version, kind).map(|facts| facts.name.as_str());
            assert_eq!(found, Some(name), "{group}/{version} {kind}");
        }
    }

    #[test]
    fn inlined_fields_are_reachable_by_json_name_and_by_number() {
        let volume = facts().by_name("io.k8s.api.core.v1.Volume").expect("Volume is in the table");
        assert!(volume.field("emptyDir").is_some());
        assert!(volume.numbered(2).is_some_and(FieldFacts::inline));
        let position = volume.position("emptyDir").expect("known");
        assert_eq!(volume.flat()[position].embeds, ["VolumeSource"]);
    }

    #[test]
    fn markers_are_read() {
        let spec = facts().by_name("io.k8s.api.core.v1.PodSpec").expect("PodSpec is in the table");
        let containers = spec.field("containers").expect("known");
        assert_eq!(containers.list, Some(ListKind::Map(vec!["name".into()])));
        assert_eq!(containers.patch, PatchMarks { merge: true, key: Some("name"), ..PatchMarks::default() });
        assert!(containers.required && !containers.omit_empty);
    }
}
