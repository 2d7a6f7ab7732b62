//! `wait`, and the one way all commands watch an object until something holds.

use std::time::Duration;

use client::client::{Call, Query};
use client::{WatchEvent, WatchStream};
use http::Method;
use machinery::jsonpath::Template;
use serde_json::Value;

use crate::app::App;
use crate::commands::{ALL, Command, EVERYWHERE, FIELDS, FILES, Group, LABELS, LOCAL, PRINT};
use crate::flags::{Args, Flag, Takes, flag};
use crate::print::Done;
use crate::select::{self, Info, Pick, Selector};
use crate::verbs::run;
use crate::{Error, request};

/// Waiting "for ever" ends after a week.
pub const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);
/// A watch that broke is begun again after this.
const PAUSE: Duration = Duration::from_millis(500);

const FLAGS: &[Flag] = &[
    flag("for", Takes::Each, "", "create, delete, condition=NAME[=VALUE] or jsonpath='{.path}'[=VALUE]"),
    flag("timeout", Takes::Time, "30s", "How long to wait; 0 = look once, negative = a week"),
];

/// Rows of the table.
pub const COMMANDS: &[Command] = &[Command {
    name: "wait",
    aliases: &[],
    group: Group::Advanced,
    usage: "([-f FILENAME] | resource.group/resource.name | resource.group [(-l label | --all)]) [--for=...]",
    about: "Wait for a specific condition on one or many resources",
    examples: "kubectl wait --for=condition=Ready pod/x --timeout=60s\nkubectl wait --for=delete pod/x\n\
        kubectl wait --for=jsonpath='{.status.phase}'=Running pod/x",
    flags: &[PRINT, FILES, LABELS, FIELDS, EVERYWHERE, ALL, LOCAL, FLAGS],
    run: run!(wait),
}];

/// Watches one object until `check` gives an answer; it sees `None` while the object does not exist. `None` is
/// returned when time is up.
pub async fn until<T>(
    app: &App,
    info: &Info,
    limit: Duration,
    mut check: impl FnMut(Option<&Value>) -> Result<Option<T>, Error>,
) -> Result<Option<T>, Error> {
    let limit = if limit.is_zero() { LONGEST } else { limit };
    let watching = async {
        loop {
            if let Some(found) = watch_once(app, info, &mut check).await? {
                return Ok(found);
            }
            app.clock.sleep(PAUSE).await;
        }
    };
    match app.clock.timeout(limit, watching).await {
        Some(found) => found.map(Some),
        None => Ok(None),
    }
}

async fn watch_once<T>(
    app: &App,
    info: &Info,
    check: &mut impl FnMut(Option<&Value>) -> Result<Option<T>, Error>,
) -> Result<Option<T>, Error> {
    let path = info.kind.resource.gvr.path(&info.namespace, "");
    let fields = format!("metadata.name={}", info.name);
    let select = request::Select { fields: fields.clone(), ..request::Select::default() };
    let list = request::list(app.client()?, &path, &select, "", &[]).await?;
    if let Some(found) = check(select::items(&list).first())? {
        return Ok(Some(found));
    }
    let mut call = Call::new(Method::GET, path);
    call.query = Query::default();
    call.query.text("watch", "true");
    call.query.text("fieldSelector", &fields);
    call.query.text("resourceVersion", list["metadata"]["resourceVersion"].as_str().unwrap_or_default());
    let response = app.client()?.send(&call).await?;
    let mut events = WatchStream::<Value>::new(response.into_body(), format!("watch {}", call.path));
    while let Some(event) = events.next().await {
        let found = match event {
            Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)) => check(Some(&object))?,
            Ok(WatchEvent::Deleted(_)) => check(None)?,
            Ok(WatchEvent::Bookmark { .. }) => None,
            // Begun again with a fresh list.
            Err(_) => return Ok(None),
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

fn timed_out(info: &Info) -> Error {
    let resource = &info.kind.resource.gvr.resource;
    Error::state(format!("timed out waiting for the condition on {resource}/{}", info.name))
}

/// Waits until an object is gone, or another one has its name. Not being allowed to look is no error.
pub async fn until_gone(app: &App, info: &Info, uid: &str, limit: Duration) -> Result<(), Error> {
    let gone = |object: Option<&Value>| {
        let same = object.is_some_and(|object| uid.is_empty() || object["metadata"]["uid"] == uid);
        Ok((!same).then_some(()))
    };
    match until(app, info, limit, gone).await {
        Ok(Some(())) => Ok(()),
        Ok(None) => Err(timed_out(info)),
        Err(error) if error.api().is_some_and(|error| matches!(error.code, 403 | 405)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// What `--for` asks.
enum Condition {
    Created,
    Deleted,
    Status(String, String),
    Path(Template, Option<String>),
}

impl Condition {
    fn parse(text: &str) -> Result<Condition, Error> {
        let lower = text.to_lowercase();
        if lower == "create" {
            return Ok(Condition::Created);
        }
        if lower == "delete" {
            return Ok(Condition::Deleted);
        }
        if let Some(condition) = text.strip_prefix("condition=") {
            let (name, value) = condition.split_once('=').unwrap_or((condition, "true"));
            return Ok(Condition::Status(name.to_owned(), value.to_owned()));
        }
        if let Some(path) = text.strip_prefix("jsonpath=") {
            return Condition::path(path);
        }
        Err(Error::usage(format!("unrecognized condition: {text:?}")))
    }

    fn path(text: &str) -> Result<Condition, Error> {
        let text = text.trim_matches(|c| c == '\'' || c == '"');
        // The value follows the closing brace.
        let end = text.rfind('}').map(|at| at + 1).or_else(|| text.find('=')).unwrap_or(text.len());
        let (path, value) = text.split_at(end);
        let value = value.trim_start_matches(['\'', '"']);
        let value = match value.strip_prefix('=') {
            None if value.is_empty() => None,
            Some("") | None => {
                return Err(Error::usage(
                    "jsonpath wait has to have a value after equal sign, like --for=jsonpath='{.status.readyReplicas}'=3",
                ));
            }
            Some(value) => Some(value.trim_matches(|c| c == '\'' || c == '"').to_owned()),
        };
        if path.trim_matches(|c| "{}. '".contains(c)).is_empty() {
            return Err(Error::usage("jsonpath expression cannot be empty"));
        }
        let template = Template::parse_relaxed(path).map_err(|error| Error::usage(error.to_string()))?;
        Ok(Condition::Path(template, value))
    }

    fn holds(&self, object: Option<&Value>) -> Result<bool, Error> {
        let Some(object) = object else { return Ok(matches!(self, Condition::Deleted)) };
        match self {
            Condition::Created => Ok(true),
            Condition::Deleted => Ok(false),
            Condition::Status(name, value) => Ok(status_holds(object, name, value)),
            Condition::Path(template, value) => path_holds(template, value.as_deref(), object),
        }
    }
}

fn status_holds(object: &Value, name: &str, value: &str) -> bool {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    let named =
        |condition: &&Value| condition["type"].as_str().is_some_and(|kind| kind.eq_ignore_ascii_case(name));
    let Some(condition) = conditions.into_iter().flatten().find(named) else { return false };
    let generation = object.pointer("/metadata/generation").and_then(Value::as_i64);
    let observed = condition["observedGeneration"]
        .as_i64()
        .or(object.pointer("/status/observedGeneration").and_then(Value::as_i64));
    let stale = generation.zip(observed).is_some_and(|(generation, observed)| observed < generation);
    !stale && condition["status"].as_str().is_some_and(|status| status.eq_ignore_ascii_case(value))
}

fn path_holds(template: &Template, value: Option<&str>, object: &Value) -> Result<bool, Error> {
    let found = template.find(object, true).map_err(|error| Error::input(error.to_string()))?;
    if found.len() > 1 {
        return Err(Error::input("given jsonpath expression matches more than one list"));
    }
    let Some(values) = found.into_iter().next().filter(|values| !values.is_empty()) else { return Ok(false) };
    let [one] = values.as_slice() else {
        return Err(Error::input("given jsonpath expression matches more than one value"));
    };
    let Some(value) = value else { return Ok(!one.is_null()) };
    match one {
        Value::Object(_) | Value::Array(_) => {
            Err(Error::input("jsonpath leads to a nested object or list which is not supported"))
        }
        Value::String(text) => Ok(text == value),
        other => {
            let shown = other.to_string();
            Ok(shown == value)
        }
    }
}

async fn wait(app: &App, args: &Args) -> Result<(), Error> {
    let conditions: Vec<Condition> =
        args.list("for").iter().map(|text| Condition::parse(text)).collect::<Result<_, _>>()?;
    if conditions.is_empty() {
        return Err(Error::usage("unrecognized condition: []"));
    }
    let done = Done::of(args)?;
    let by_name =
        conditions.iter().any(|condition| matches!(condition, Condition::Created | Condition::Deleted));
    let how = Selector { words: &args.words, all: args.on("all"), ..Selector::default() };
    let infos = waited(app, args, &how, by_name).await?;
    if infos.is_empty() {
        return if conditions.iter().all(|condition| matches!(condition, Condition::Deleted)) {
            Ok(())
        } else {
            Err(Error::state("no matching resources found"))
        };
    }
    for mut info in infos {
        // What is already gone is no news.
        if conditions.iter().all(|condition| matches!(condition, Condition::Deleted)) {
            let got = request::get(app.client()?, &info.kind.resource, &info.namespace, &info.name, "").await;
            match client::client::absent(got)? {
                Some(object) => info.object = object,
                None => continue,
            }
        }
        for condition in &conditions {
            if let Some(object) = wait_for(app, &info, condition, args).await? {
                info.object = object;
            }
        }
        done.show_info(app, &info, "condition met")?;
    }
    Ok(())
}

/// What is waited for. With `by_name` a named object need not exist.
async fn waited(app: &App, args: &Args, how: &Selector<'_>, by_name: bool) -> Result<Vec<Info>, Error> {
    let picked = select::pick(app, args, how).await?;
    let mut infos = Vec::new();
    for pick in &picked.picks {
        match pick {
            Pick::One { kind, namespace, name } if by_name => infos.push(Info {
                kind: kind.clone(),
                namespace: namespace.clone(),
                name: name.clone(),
                object: Value::Null,
                source: String::new(),
            }),
            Pick::Given(info) => infos.push(info.clone()),
            other => {
                let one = select::Picked {
                    picks: vec![other.clone()],
                    single: false,
                    select: picked.select.clone(),
                };
                let (found, errors) = select::fetch(app, &one).await;
                Error::all(errors)?;
                infos.extend(found);
            }
        }
    }
    Ok(infos)
}

async fn wait_for(
    app: &App,
    info: &Info,
    condition: &Condition,
    args: &Args,
) -> Result<Option<Value>, Error> {
    let limit = args.time("timeout");
    if limit.is_zero() {
        let got = request::get(app.client()?, &info.kind.resource, &info.namespace, &info.name, "").await;
        let object = client::client::absent(got)?;
        if condition.holds(object.as_ref())? {
            return Ok(object);
        }
        return Err(Error::state(format!("condition not met for {}", info.title())));
    }
    let uid = info.object["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    let must_exist = matches!(condition, Condition::Status(..) | Condition::Path(..));
    let check = |object: Option<&Value>| {
        if object.is_none() && must_exist {
            let gvr = &info.kind.resource.gvr;
            return Err(client::ClientError::from(api::ApiError::not_found(
                &gvr.group,
                &gvr.resource,
                &info.name,
            ))
            .into());
        }
        // Another object of the same name means that this one is gone.
        let same = |object: &&Value| uid.is_empty() || object["metadata"]["uid"] == uid;
        let object = if matches!(condition, Condition::Deleted) { object.filter(same) } else { object };
        Ok(condition.holds(object)?.then(|| object.cloned()))
    };
    match until(app, info, limit, check).await? {
        Some(object) => Ok(object),
        None => Err(timed_out(info)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn conditions() {
        let object = json!({
            "metadata": {"generation": 2},
            "status": {"observedGeneration": 2, "phase": "Running", "n": 3,
                "conditions": [{"type": "Ready", "status": "True"}, {"type": "Old", "status": "True", "observedGeneration": 1}]},
        });
        for (text, expect) in [
            ("create", true),
            ("delete", false),
            ("condition=Ready", true),
            ("condition=ready=false", false),
            ("condition=Old", false),
            ("condition=Nope", false),
            ("jsonpath={.status.phase}=Running", true),
            ("jsonpath='{.status.n}'=3", true),
            ("jsonpath={.status.n}", true),
            ("jsonpath={.status.zz}", false),
        ] {
            let condition = Condition::parse(text).expect(text);
            assert_eq!(condition.holds(Some(&object)).expect(text), expect, "{text}");
        }
        assert!(Condition::parse("delete").expect("known").holds(None).expect("judged"));
        for (text, expect) in
            [("x", "unrecognized condition: \"x\""), ("jsonpath={.a}=", "jsonpath wait has to have")]
        {
            let error = Condition::parse(text).err().expect(text).to_string();
            assert!(error.starts_with(expect), "{error}");
        }
    }
}
