//! `set image | env | resources | selector | serviceaccount | subject`.

use serde_json::{Map, Value, json};

use crate::app::App;
use crate::commands::{ALL, Command, FILES, Group, LABELS, LOCAL, PRINT, WRITE};
use crate::flags::{Args, Flag, Takes, flag, short};
use crate::select::Info;
use crate::verbs::{change, run};
use crate::{Error, request};

const NONE: &[Flag] = &[];
const ENV: &[Flag] = &[
    short("containers", 'c', Takes::Text, "*", "Names of containers; * fits anything"),
    short("env", 'e', Takes::Each, "", "NAME=value"),
    flag("from", Takes::Text, "", "configmap/NAME or secret/NAME whose keys become variables"),
    flag("keys", Takes::List, "", "Only these keys of --from"),
    flag("list", Takes::Switch, "false", "Show the variables"),
    flag("overwrite", Takes::Switch, "true", "Replace values that are there"),
    flag("prefix", Takes::Text, "", "Put before names from --from"),
    flag("resolve", Takes::Switch, "false", "Accepted for compatibility"),
];
const RESOURCES: &[Flag] = &[
    short("containers", 'c', Takes::Text, "*", "Names of containers; * fits anything"),
    flag("limits", Takes::Text, "", "cpu=1,memory=1Gi"),
    flag("requests", Takes::Text, "", "cpu=1,memory=1Gi"),
];
const SUBJECT: &[Flag] = &[
    flag("user", Takes::Each, "", "Users"),
    flag("group", Takes::Each, "", "Groups"),
    flag("serviceaccount", Takes::Each, "", "namespace:name"),
];
const SELECTOR: &[Flag] = &[flag("resource-version", Takes::Text, "", "Only if the object has this version")];

/// A row of the table.
macro_rules! set {
    ($name:literal, $aliases:expr, $usage:literal, $about:literal, $flags:expr, $run:path) => {
        Command {
            name: concat!("set ", $name),
            aliases: $aliases,
            group: Group::Beginner,
            usage: $usage,
            about: $about,
            examples: "",
            flags: &[PRINT, FILES, LABELS, ALL, LOCAL, WRITE, $flags],
            run: run!($run),
        }
    };
}

/// Rows of the table.
pub const COMMANDS: &[Command] = &[
    set!(
        "image",
        &[],
        "(-f FILENAME | TYPE NAME) CONTAINER_NAME_1=CONTAINER_IMAGE_1 ...",
        "Update the image of a pod template",
        NONE,
        image
    ),
    set!(
        "env",
        &[],
        "RESOURCE/NAME KEY_1=VAL_1 ... KEY_N=VAL_N",
        "Update environment variables on a pod template",
        ENV,
        env
    ),
    set!(
        "resources",
        &[],
        "(-f FILENAME | TYPE NAME) ([--limits=LIMITS & --requests=REQUESTS]",
        "Update resource requests/limits on objects with pod templates",
        RESOURCES,
        resources
    ),
    Command {
        name: "set selector",
        aliases: &[],
        group: Group::Beginner,
        usage: "(-f FILENAME | TYPE NAME) EXPRESSIONS [--resource-version=version]",
        about: "Set the selector on a resource",
        examples: "",
        flags: &[PRINT, FILES, ALL, LOCAL, WRITE, SELECTOR],
        run: run!(selector),
    },
    set!(
        "serviceaccount",
        &["sa"],
        "(-f FILENAME | TYPE NAME) SERVICE_ACCOUNT",
        "Update the service account of a resource",
        NONE,
        serviceaccount
    ),
    set!(
        "subject",
        &[],
        "(-f FILENAME | TYPE NAME) [--user=username] [--group=groupname] [--serviceaccount=namespace:serviceaccountname]",
        "Update the user, group, or service account in a role binding or cluster role binding",
        SUBJECT,
        subject
    ),
];

/// Splits words into those that name objects and pairs of `key=value`.
fn split(args: &Args) -> (Vec<String>, Vec<String>) {
    args.words.iter().cloned().partition(|word| !word.contains('=') && !word.ends_with('-'))
}

fn need_names(args: &Args, names: &[String]) -> Result<(), Error> {
    if names.is_empty() && !args.given("filename") {
        let why = "one or more resources must be specified as <resource> <name> or <resource>/<name>";
        return Err(Error::usage(why));
    }
    Ok(())
}

/// True when a name fits a pattern of `*`.
fn fits(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => {
            let Some(tail) = name.strip_prefix(start) else { return false };
            rest.is_empty() || (0..=tail.len()).any(|at| tail.is_char_boundary(at) && fits(rest, &tail[at..]))
        }
    }
}

/// Calls `edit` on the containers of a template that fit; tells whether any did.
fn containers(template: &mut Value, pattern: &str, mut edit: impl FnMut(&mut Value)) -> bool {
    let mut any = false;
    for field in ["initContainers", "containers"] {
        let list = template["spec"].get_mut(field).and_then(Value::as_array_mut);
        for container in list.into_iter().flatten() {
            if container["name"].as_str().is_some_and(|name| fits(pattern, name)) {
                edit(container);
                any = true;
            }
        }
    }
    any
}

async fn image(app: &App, args: &Args) -> Result<(), Error> {
    let (names, specs) = split(args);
    need_names(args, &names)?;
    if specs.is_empty() {
        return Err(Error::usage("at least one image update is required"));
    }
    let wanted = pairs(&specs)?;
    if wanted.len() > 1 && wanted.iter().any(|(name, _)| name == "*") {
        return Err(Error::usage(
            "all containers are already specified by *, but saw more than one container_name=container_image pairs",
        ));
    }
    let infos = change::objects(app, args, &names).await?;
    change::each(app, args, infos, ("kubectl-set", "image updated"), |info, object| {
        let template = change::pod_template(object, info)?;
        for (name, image) in &wanted {
            if !containers(template, name, |container| container["image"] = json!(image)) {
                return Err(Error::input(format!("unable to find container named {name:?}")));
            }
        }
        Ok(())
    })
    .await
}

fn pairs(specs: &[String]) -> Result<Vec<(String, String)>, Error> {
    let pair = |spec: &String| {
        let (key, value) =
            spec.split_once('=').filter(|(key, value)| !key.is_empty() && !value.is_empty())?;
        Some((key.to_owned(), value.to_owned()))
    };
    specs
        .iter()
        .map(|spec| pair(spec).ok_or_else(|| Error::usage(format!("invalid image: {spec}"))))
        .collect()
}

async fn env(app: &App, args: &Args) -> Result<(), Error> {
    let (names, mut specs) = split(args);
    specs.extend(args.list("env"));
    need_names(args, &names)?;
    if args.on("list") && args.given("output") {
        return Err(Error::usage("--list and --output may not be specified together"));
    }
    if specs.is_empty() && !args.on("list") && !args.given("from") {
        return Err(Error::usage("at least one environment variable must be provided"));
    }
    if args.given("keys") && !args.given("from") {
        return Err(Error::usage(
            "when specifying --keys, a configmap or secret must be provided with --from",
        ));
    }
    let mut set: Vec<Value> = Vec::new();
    let mut remove: Vec<String> = Vec::new();
    for spec in &specs {
        match (spec.split_once('='), spec.strip_suffix('-')) {
            (Some((name, "")), _) => set.push(json!({"name": name})),
            (Some((name, value)), _) => set.push(json!({"name": name, "value": value})),
            (None, Some(name)) => remove.push(name.to_owned()),
            _ => return Err(Error::usage(format!("unknown environment variable spec: {spec}"))),
        }
    }
    if let Some(from) = args.text_if("from") {
        set.extend(env_from(app, args, from).await?);
    }
    let infos = change::objects(app, args, &names).await?;
    let pattern = args.text("containers");
    if args.on("list") {
        return list_env(app, infos, pattern);
    }
    let overwrite = args.on("overwrite");
    change::each(app, args, infos, ("kubectl-set", "env updated"), |info, object| {
        let template = change::pod_template(object, info)?;
        let mut problem = Ok(());
        let found = containers(template, pattern, |container| {
            if let Err(error) = set_env(container, &set, &remove, overwrite) {
                problem = Err(error);
            }
        });
        if !found {
            app.err.line(&format!(
                "Warning: {} does not have any containers matching {pattern:?}",
                info.title()
            ));
        }
        problem
    })
    .await
}

fn set_env(container: &mut Value, set: &[Value], remove: &[String], overwrite: bool) -> Result<(), Error> {
    let mut held = container["env"].as_array().cloned().unwrap_or_default();
    held.retain(|entry| !remove.iter().any(|name| entry["name"] == name.as_str()));
    for wanted in set {
        match held.iter_mut().find(|entry| entry["name"] == wanted["name"]) {
            Some(entry) if !overwrite => {
                let text = |key: &str| entry[key].as_str().unwrap_or_default();
                return Err(Error::usage(format!(
                    "'{}' already has a value ({}), and --overwrite is false",
                    text("name"),
                    text("value")
                )));
            }
            Some(entry) => *entry = wanted.clone(),
            None => held.push(wanted.clone()),
        }
    }
    match (held.is_empty(), container.as_object_mut()) {
        (true, Some(fields)) => {
            fields.remove("env");
        }
        _ => container["env"] = json!(held),
    }
    Ok(())
}

async fn env_from(app: &App, args: &Args, from: &str) -> Result<Vec<Value>, Error> {
    let (kind, name) = crate::select::split_title(from)?;
    let kind = app.kinds().await?.resource(kind)?;
    let reference = match kind.resource.kind.as_str() {
        "ConfigMap" => "configMapKeyRef",
        "Secret" => "secretKeyRef",
        _ => return Err(Error::usage("unsupported resource specified in --from")),
    };
    let source = request::get(app.client()?, &kind.resource, &app.namespace()?, name, "").await?;
    let keys = args.list("keys");
    let mut found = Vec::new();
    for key in source["data"].as_object().into_iter().flat_map(Map::keys) {
        if !keys.is_empty() && !keys.contains(key) {
            continue;
        }
        let variable: String = format!("{}{key}", args.text("prefix"))
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' })
            .collect();
        if variable != format!("{}{key}", args.text("prefix")) {
            app.err.line(&format!("Warning: key {key} transferred to {variable}"));
        }
        found.push(json!({"name": variable, "valueFrom": {reference: {"name": name, "key": key}}}));
    }
    Ok(found)
}

fn list_env(app: &App, infos: Vec<Info>, pattern: &str) -> Result<(), Error> {
    for info in infos {
        let mut object = info.object.clone();
        let template = change::pod_template(&mut object, &info)?;
        containers(template, pattern, |container| {
            let name = container["name"].as_str().unwrap_or_default();
            let kind = &info.kind.resource.kind;
            app.out.line(&format!("# {kind} {}, container {name}", info.name));
            for entry in container["env"].as_array().into_iter().flatten() {
                app.out.line(&env_line(entry));
            }
        });
    }
    Ok(())
}

fn env_line(entry: &Value) -> String {
    let name = entry["name"].as_str().unwrap_or_default();
    let from = &entry["valueFrom"];
    for (field, what) in [("configMapKeyRef", "configmap"), ("secretKeyRef", "secret")] {
        let source = &from[field];
        if source.is_object() {
            let text = |key: &str| source[key].as_str().unwrap_or_default();
            return format!("# {name} from {what} {}, key {}", text("name"), text("key"));
        }
    }
    if let Some(path) = from["fieldRef"]["fieldPath"].as_str() {
        return format!("# {name} from field path {path}");
    }
    if let Some(resource) = from["resourceFieldRef"]["resource"].as_str() {
        return format!("# {name} from resource field {resource}");
    }
    format!("{name}={}", entry["value"].as_str().unwrap_or_default())
}

fn amounts(text: &str) -> Result<Map<String, Value>, Error> {
    let mut found = Map::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (key, value) = part.split_once('=').ok_or_else(|| {
            Error::usage(format!("Invalid argument syntax {part}, expected <resource>=<value>"))
        })?;
        value.parse::<api::quantity::Quantity>().map_err(|error| Error::usage(error.to_string()))?;
        found.insert(key.to_owned(), json!(value));
    }
    Ok(found)
}

async fn resources(app: &App, args: &Args) -> Result<(), Error> {
    let (limits, requests) = (amounts(args.text("limits"))?, amounts(args.text("requests"))?);
    if limits.is_empty() && requests.is_empty() {
        return Err(Error::usage(
            "you must specify an update to requests or limits (in the form of --requests/--limits)",
        ));
    }
    let infos = change::objects(app, args, &args.words).await?;
    let pattern = args.text("containers");
    change::each(app, args, infos, ("kubectl-set", "resource requirements updated"), |info, object| {
        let template = change::pod_template(object, info)?;
        let found = containers(template, pattern, |container| {
            for (field, amounts) in [("limits", &limits), ("requests", &requests)] {
                for (key, value) in amounts {
                    if !container["resources"].is_object() {
                        container["resources"] = json!({});
                    }
                    container["resources"][field][key] = value.clone();
                }
            }
        });
        if found { Ok(()) } else { Err(Error::input(format!("unable to find container named {pattern}"))) }
    })
    .await
}

async fn selector(app: &App, args: &Args) -> Result<(), Error> {
    let (mut names, mut specs) = split(args);
    if specs.is_empty() && names.len() > 1 {
        specs.extend(names.pop());
    }
    let text = specs.join(",");
    if text.is_empty() {
        return Err(Error::usage("one selector is required"));
    }
    let wanted: Result<Map<String, Value>, Error> = text
        .split(',')
        .map(|part| {
            let (key, value) = part.split_once('=').ok_or_else(|| {
                Error::usage(format!("match expression {part} not supported on this object"))
            })?;
            Ok((key.to_owned(), json!(value.trim_start_matches('='))))
        })
        .collect();
    let wanted = wanted?;
    let infos = change::objects(app, args, &names).await?;
    change::each(app, args, infos, ("kubectl-set", "selector updated"), |info, object| {
        if info.kind.resource.kind != "Service" {
            return Err(Error::input("setting a selector is only supported for Services"));
        }
        object["spec"]["selector"] = Value::Object(wanted.clone());
        Ok(())
    })
    .await
}

async fn serviceaccount(app: &App, args: &Args) -> Result<(), Error> {
    let Some((account, names)) =
        args.words.split_last().filter(|(_, names)| !names.is_empty() || args.given("filename"))
    else {
        return Err(Error::usage("serviceaccount is required"));
    };
    let infos = change::objects(app, args, names).await?;
    change::each(app, args, infos, ("kubectl-set", "serviceaccount updated"), |info, object| {
        change::pod_template(object, info)?["spec"]["serviceAccountName"] = json!(account);
        Ok(())
    })
    .await
}

async fn subject(app: &App, args: &Args) -> Result<(), Error> {
    let (users, groups, accounts) = (args.list("user"), args.list("group"), args.list("serviceaccount"));
    if users.is_empty() && groups.is_empty() && accounts.is_empty() {
        return Err(Error::usage("you must specify at least one value of user, group or serviceaccount"));
    }
    let mut subjects = Vec::new();
    for user in users {
        subjects.push(json!({"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": user}));
    }
    for group in groups {
        subjects.push(json!({"kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": group}));
    }
    for account in accounts {
        let wrong = || Error::usage("serviceaccount must be <namespace>:<name>");
        let (namespace, name) = account.split_once(':').ok_or_else(wrong)?;
        subjects.push(json!({"kind": "ServiceAccount", "namespace": namespace, "name": name}));
    }
    let infos = change::objects(app, args, &args.words).await?;
    change::each(app, args, infos, ("kubectl-set", "subjects updated"), |info, object| {
        if !info.kind.resource.kind.ends_with("RoleBinding") {
            return Err(Error::input(
                "setting subjects is only supported for RoleBinding/ClusterRoleBinding",
            ));
        }
        let mut held = object["subjects"].as_array().cloned().unwrap_or_default();
        for subject in &subjects {
            if !held.contains(subject) {
                held.push(subject.clone());
            }
        }
        object["subjects"] = json!(held);
        Ok(())
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, name, expect) in
            [("*", "a", true), ("a*", "abc", true), ("a*c", "abc", true), ("a", "b", false)]
        {
            assert_eq!(fits(pattern, name), expect, "{pattern} {name}");
        }
    }

    #[test]
    fn variables_are_set_and_removed() {
        let mut container =
            json!({"name": "c", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]});
        set_env(
            &mut container,
            &[json!({"name": "A", "value": "9"}), json!({"name": "C", "value": "3"})],
            &["B".into()],
            true,
        )
        .expect("set");
        assert_eq!(container["env"], json!([{"name": "A", "value": "9"}, {"name": "C", "value": "3"}]));
        let error =
            set_env(&mut container, &[json!({"name": "A", "value": "1"})], &[], false).expect_err("taken");
        assert_eq!(error.to_string(), "'A' already has a value (9), and --overwrite is false");
        set_env(&mut container, &[], &["A".into(), "C".into()], true).expect("set");
        assert_eq!(container, json!({"name": "c"}));
    }
}
