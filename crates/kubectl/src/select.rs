//! Which objects a command acts on: TYPE, TYPE/NAME, TYPE NAME…, manifests, selectors; one way for all commands.
//!
//! Must not know what commands do with them.

use client::Discovered;
use serde_json::Value;

use crate::app::App;
use crate::flags::Args;
use crate::{Error, files, kinds, request};

/// One object, or all that a selector finds.
#[derive(Clone, Debug)]
pub enum Pick {
    /// One, by name.
    One {
        /// Its kind.
        kind: Discovered,
        /// Its namespace; empty for cluster-scoped kinds.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// All that fit.
    Many {
        /// Their kind.
        kind: Discovered,
        /// The namespace; empty = all, or cluster-scoped.
        namespace: String,
    },
    /// One from a manifest.
    Given(Info),
}

impl Pick {
    /// The kind.
    pub fn kind(&self) -> &Discovered {
        match self {
            Pick::One { kind, .. } | Pick::Many { kind, .. } => kind,
            Pick::Given(info) => &info.kind,
        }
    }
}

/// An object and where it is.
#[derive(Clone, Debug)]
pub struct Info {
    /// Its kind.
    pub kind: Discovered,
    /// Its namespace; empty for cluster-scoped kinds.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The object.
    pub object: Value,
    /// The manifest it comes from; empty when it comes from the server.
    pub source: String,
}

impl Info {
    /// `pod/x` or `deployment.apps/x`.
    pub fn title(&self) -> String {
        format!("{}/{}", kinds::singular_of(&self.kind), self.name)
    }
}

/// What a command line selects.
#[derive(Clone, Debug, Default)]
pub struct Picked {
    /// In order.
    pub picks: Vec<Pick>,
    /// True when exactly one object was asked for.
    pub single: bool,
    /// What selectors ask.
    pub select: request::Select,
}

/// How a command selects.
#[derive(Clone, Debug, Default)]
pub struct Selector<'a> {
    /// The words that name types and objects.
    pub words: &'a [String],
    /// A type alone means all objects of it.
    pub type_alone: bool,
    /// `--all`.
    pub all: bool,
    /// Words that are plain names are of this kind.
    pub default_kind: &'a str,
}

const NOTHING: &str = "You must provide one or more resources by argument or filename.\n\
    Example resource specifications include:\n   '-f rsrc.yaml'\n   '--filename=rsrc.json'\n   \
    '<resource> <name>'\n   '<resource>'";

const NEEDLESS_TYPE: &str = "there is no need to specify a resource type as a separate argument when passing \
    arguments in resource/name form (e.g. 'kubectl get resource/<resource_name>' instead of 'kubectl get \
    resource resource/<resource_name>'";

/// Reads a command line.
pub async fn pick(app: &App, args: &Args, how: &Selector<'_>) -> Result<Picked, Error> {
    let names = args.list("filename");
    let labels = args.text("selector").to_owned();
    let fields = args.text("field-selector").to_owned();
    let page = if args.text("chunk-size").is_empty() { 500 } else { args.number("chunk-size") };
    let select = request::Select { labels, fields, page };
    if args.given("kustomize") {
        return Err(Error::usage("kustomize is not part of this kubectl: render first and use -f -"));
    }
    if how.all && !(select.labels.is_empty() && select.fields.is_empty()) {
        return Err(Error::usage("setting 'all' parameter but found a non empty selector. "));
    }
    if !names.is_empty() {
        return from_files(app, args, how, &names).await;
    }
    let words = products(how.words);
    let slashes = words.iter().filter(|word| word.contains('/')).count();
    let selects = !select.labels.is_empty() || !select.fields.is_empty() || how.all;
    let everywhere = args.on("all-namespaces");
    if slashes > 0 {
        if slashes < words.len() {
            return Err(Error::usage(NEEDLESS_TYPE));
        }
        if selects {
            let why = "selectors and the all flag cannot be used when passing resource/name arguments";
            return Err(Error::usage(why));
        }
        let mut picks = Vec::new();
        for word in &words {
            let (kind, name) = split_title(word)?;
            picks.push(one(app, everywhere, app.kinds().await?.resource(kind)?, name)?);
        }
        return Ok(Picked { single: picks.len() == 1, picks, select });
    }
    let Some((first, rest)) = words.split_first() else {
        let why = if selects { "at least one resource must be specified to use a selector" } else { NOTHING };
        return Err(Error::usage(why));
    };
    let (first, rest) = match how.default_kind {
        "" => (first.as_str(), rest),
        default => (default, words.as_slice()),
    };
    if rest.is_empty() {
        return many(app, first, how.type_alone || selects, everywhere, select).await;
    }
    if selects {
        return Err(Error::usage("name cannot be provided when a selector is specified"));
    }
    let kind = app.kinds().await?.resource(first)?;
    let picks =
        rest.iter().map(|name| one(app, everywhere, kind.clone(), name)).collect::<Result<Vec<_>, _>>()?;
    Ok(Picked { single: picks.len() == 1, picks, select })
}

async fn many(
    app: &App,
    word: &str,
    allowed: bool,
    everywhere: bool,
    select: request::Select,
) -> Result<Picked, Error> {
    let mut picks = Vec::new();
    for part in word.split(',').filter(|part| !part.is_empty()) {
        for kind in app.kinds().await?.expand(part)? {
            let inside = kind.resource.namespaced && !everywhere;
            let namespace = if inside { app.namespace()? } else { String::new() };
            picks.push(Pick::Many { kind, namespace });
        }
    }
    if !allowed {
        return Err(Error::usage("resource(s) were provided, but no name was specified"));
    }
    Ok(Picked { picks, single: false, select })
}

fn one(app: &App, everywhere: bool, kind: Discovered, name: &str) -> Result<Pick, Error> {
    if !kind.resource.namespaced {
        return Ok(Pick::One { kind, namespace: String::new(), name: name.to_owned() });
    }
    if everywhere {
        return Err(Error::usage("a resource cannot be retrieved by name across all namespaces"));
    }
    Ok(Pick::One { kind, namespace: app.namespace()?, name: name.to_owned() })
}

async fn from_files(app: &App, args: &Args, how: &Selector<'_>, names: &[String]) -> Result<Picked, Error> {
    if !how.words.is_empty() {
        let why =
            "when paths, URLs, or stdin is provided as input, you may not specify resource arguments as well";
        return Err(Error::usage(why));
    }
    let mut picks = Vec::new();
    for manifest in files::read(app, names, args.on("recursive"))? {
        picks.push(Pick::Given(locate(app, manifest).await?));
    }
    if picks.is_empty() {
        return Err(Error::usage(format!("no objects passed to {}", how.default_kind_or("kubectl"))));
    }
    let labels = args.text("selector");
    if !labels.is_empty() {
        let selector = api::labels::Selector::parse(labels).map_err(|error| {
            Error::usage(format!("the provided selector {labels:?} is not valid: {error}"))
        })?;
        picks.retain(|pick| match pick {
            Pick::Given(info) => {
                let labels = &info.object["metadata"]["labels"];
                selector.matches_with(|key| labels.get(key).and_then(Value::as_str))
            }
            _ => true,
        });
    }
    Ok(Picked { single: picks.len() == 1, picks, select: request::Select::default() })
}

impl Selector<'_> {
    fn default_kind_or<'b>(&'b self, otherwise: &'b str) -> &'b str {
        if self.default_kind.is_empty() { otherwise } else { self.default_kind }
    }
}

/// Finds the kind and the namespace of a manifest.
pub async fn locate(app: &App, manifest: files::Manifest) -> Result<Info, Error> {
    let files::Manifest { mut object, source } = manifest;
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (api_version, kind) = (text("/apiVersion"), text("/kind"));
    let (name, own) = (text("/metadata/name"), text("/metadata/namespace"));
    let Some(kind) = app.kinds().await?.of_type(&api_version, &kind).cloned() else {
        return Err(Error::state(format!(
            "resource mapping not found for name: {name:?} namespace: {own:?} from {source:?}: no matches for kind \
             {kind:?} in version {api_version:?}\nensure CRDs are installed first"
        )));
    };
    let mut namespace = String::new();
    if kind.resource.namespaced {
        namespace = app.namespace()?;
        if !own.is_empty() && own != namespace {
            if app.namespace_given() {
                return Err(Error::usage(format!(
                    "the namespace from the provided object {own:?} does not match the namespace {namespace:?}. You \
                     must pass '--namespace={own}' to perform this operation."
                )));
            }
            namespace = own;
        }
        if !object["metadata"].is_object() {
            object["metadata"] = serde_json::json!({});
        }
        object["metadata"]["namespace"] = Value::String(namespace.clone());
    }
    Ok(Info { kind, namespace, name, object, source })
}

/// `a,b x y` means `a/x a/y b/x b/y`.
fn products(words: &[String]) -> Vec<String> {
    let Some((first, rest)) = words.split_first() else { return Vec::new() };
    if rest.is_empty() || !first.contains(',') {
        return words.to_vec();
    }
    let pairs = first.split(',').flat_map(|kind| rest.iter().map(move |name| format!("{kind}/{name}")));
    pairs.collect()
}

/// The two sides of `pod/x`.
pub fn split_title(word: &str) -> Result<(&str, &str), Error> {
    let (kind, name) = word.split_once('/').unwrap_or((word, ""));
    if name.contains('/') {
        return Err(Error::usage("arguments in resource/name form may not have more than one slash"));
    }
    if kind.is_empty() || name.is_empty() || kind.contains(',') {
        return Err(Error::usage("arguments in resource/name form must have a single resource and name"));
    }
    Ok((kind, name))
}

/// The objects themselves; what could not be read is told beside them.
pub async fn fetch(app: &App, picked: &Picked) -> (Vec<Info>, Vec<Error>) {
    let (mut infos, mut errors) = (Vec::new(), Vec::new());
    for pick in &picked.picks {
        match fetch_pick(app, pick, &picked.select).await {
            Ok(found) => infos.extend(found),
            Err(error) => errors.push(error),
        }
    }
    (infos, errors)
}

async fn fetch_pick(app: &App, pick: &Pick, select: &request::Select) -> Result<Vec<Info>, Error> {
    let client = app.client()?;
    match pick {
        Pick::One { kind, namespace, name } => {
            let object = request::get(client, &kind.resource, namespace, name, "").await?;
            let (kind, namespace, name) = (kind.clone(), namespace.clone(), name.clone());
            Ok(vec![Info { kind, namespace, name, object, source: String::new() }])
        }
        Pick::Given(info) => {
            let got = request::get(client, &info.kind.resource, &info.namespace, &info.name, "").await;
            Ok(vec![Info { object: got?, ..info.clone() }])
        }
        Pick::Many { kind, namespace } => {
            let path = kind.resource.gvr.path(namespace, "");
            let list = request::list(client, &path, select, "", &[]).await?;
            Ok(items(&list).into_iter().map(|object| info_of(kind, object)).collect())
        }
    }
}

/// An object of a list.
pub fn info_of(kind: &Discovered, object: Value) -> Info {
    let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default().to_owned();
    let (namespace, name) = (text("namespace"), text("name"));
    Info { kind: kind.clone(), namespace, name, object, source: String::new() }
}

/// The items of a list, each with the type that the list implies.
pub fn items(list: &Value) -> Vec<Value> {
    let kind = list["kind"].as_str().unwrap_or_default().trim_end_matches("List").to_owned();
    let mut items = list["items"].as_array().cloned().unwrap_or_default();
    for item in items.iter_mut().filter_map(Value::as_object_mut) {
        item.entry("apiVersion").or_insert_with(|| list["apiVersion"].clone());
        item.entry("kind").or_insert_with(|| Value::String(kind.clone()));
    }
    items
}

/// All objects that a command line selects; the first error ends it.
pub async fn objects(app: &App, args: &Args, how: &Selector<'_>) -> Result<Vec<Info>, Error> {
    let picked = pick(app, args, how).await?;
    let (infos, errors) = fetch(app, &picked).await;
    Error::all(errors)?;
    Ok(infos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_joined_and_split() {
        let words = ["a,b", "x", "y"].map(str::to_owned);
        assert_eq!(products(&words), ["a/x", "a/y", "b/x", "b/y"]);
        assert_eq!(split_title("pod/x").expect("a title"), ("pod", "x"));
        for (word, expect) in [("a/b/c", "more than one slash"), ("a/", "a single resource and name")] {
            assert!(split_title(word).expect_err(word).to_string().contains(expect));
        }
    }

    #[test]
    fn items_have_types() {
        let list = serde_json::json!({"apiVersion": "v1", "kind": "PodList", "items": [{"metadata": {"name": "a"}}]});
        assert_eq!(items(&list)[0]["kind"], "Pod");
    }
}
