//! The corpus: sections of cases in the order in which they are sent. Must not know who answers.

use machinery::codec::yaml;
use machinery::schema::TypeFacts;
use registry::{Catalog, Resource};
use serde_json::{Value, json};

use crate::{fields, kinds, lines};

/// One request.
pub struct Case {
    /// A name that stays the same from run to run.
    pub id: String,
    /// The method; `WAIT` for a pause of as many milliseconds as `path` says.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Headers beside the usual ones.
    pub headers: Vec<(String, String)>,
    /// What is sent.
    pub body: Body,
    /// Whether a server error is a right answer (nobody is there to proxy to).
    pub may_fail: bool,
}

/// What a request carries.
pub enum Body {
    /// Nothing.
    None,
    /// A text; `${rv}`, `${uid}` and `${continue}` are filled in.
    Text(String),
    /// An object as protobuf.
    Protobuf(&'static TypeFacts, Value),
    /// The last object the server returned, with this merge patch applied.
    Last(Value),
}

/// Cases that belong together.
pub struct Section {
    /// Runs whatever was selected: others need it.
    pub always: bool,
    /// The cases, in order.
    pub cases: Vec<Case>,
}

impl Case {
    /// A request with a JSON body, or none when it is null.
    pub fn new(id: impl Into<String>, method: &str, path: impl Into<String>, body: Value) -> Case {
        let body = if body.is_null() { Body::None } else { Body::Text(body.to_string()) };
        let headers = Vec::new();
        Case { id: id.into(), method: method.into(), path: path.into(), headers, body, may_fail: false }
    }

    /// A pause.
    pub fn wait(millis: u32) -> Case {
        Case::new("wait", "WAIT", millis.to_string(), Value::Null)
    }
}

/// The namespace that all kinds share.
pub const NAMESPACE: &str = "RUN-ns";

fn set_up() -> Section {
    let namespace = json!({"metadata": {"name": NAMESPACE}});
    let account = json!({"metadata": {"name": "default"}});
    let accounts = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts");
    let cases = vec![
        Case::new("setup/namespace", "POST", "/api/v1/namespaces", namespace),
        Case::new("setup/account", "POST", accounts, account),
    ];
    Section { always: true, cases }
}

/// An example object, and the row of its kind.
fn examples() -> Vec<(Resource, Value)> {
    let catalog = Catalog::builtin();
    let documents = yaml::decode_all(include_bytes!("objects.yaml")).expect("objects.yaml");
    let of = |mut object: Value| {
        let text = |name: &str| object[name].as_str().expect("apiVersion and kind").to_owned();
        let (version, kind) = (text("apiVersion"), text("kind"));
        let (group, version) = version.split_once('/').unwrap_or(("", &version));
        let row = catalog.by_kind(group, version, &kind).expect("a served kind");
        if object["metadata"]["name"].is_null() {
            object["metadata"]["name"] = "RUN-one".into();
        }
        (Resource::clone(row), object)
    };
    documents.into_iter().map(|document| of(document.value)).collect()
}

/// Puts the run's name for `RUN`. (By itself, the word may stand in encoded bytes.)
fn named(text: &str, run: &str) -> String {
    ["-", ".", "2."]
        .iter()
        .fold(text.to_owned(), |text, end| text.replace(&format!("RUN{end}"), &format!("{run}{end}")))
}

/// Every section, for a run of this name.
pub fn sections(run: &str) -> Vec<Section> {
    let mut sections = vec![set_up()];
    let mut seen = fields::Seen::default();
    for (row, object) in examples() {
        sections.push(Section { always: false, cases: kinds::cases(&row, &object, &mut seen) });
    }
    sections.extend(lines::sections());
    let clean =
        Case::new("cleanup/namespace", "DELETE", format!("/api/v1/namespaces/{NAMESPACE}"), Value::Null);
    sections.push(Section { always: true, cases: vec![clean] });
    for case in sections.iter_mut().flat_map(|section| &mut section.cases) {
        case.path = named(&case.path, run);
        case.headers.iter_mut().for_each(|(_, value)| *value = named(value, run));
        match &mut case.body {
            Body::Text(text) => *text = named(text, run),
            Body::Last(edit) | Body::Protobuf(_, edit) => {
                let text = named(&edit.to_string(), run);
                *edit = serde_json::from_str(&text).expect("still JSON");
            }
            Body::None => (),
        }
    }
    sections
}
