//! `config`: looking at and changing kubeconfig files.

use std::path::PathBuf;

use base64::Engine as _;
use client::Kubeconfig;
use client::kubeconfig::{NamedCluster, NamedContext, NamedUser};
use machinery::codec::yaml;
use serde_json::{Value, json};

use crate::Error;
use crate::app::App;
use crate::commands::{Command, Group};
use crate::connect;
use crate::flags::{Args, Flag, Takes, flag, short};
use crate::print::Format;
use crate::print::table::Widths;
use crate::verbs::run;

const VIEW: &[Flag] = &[
    flag("flatten", Takes::Switch, "false", "Put files into the text"),
    flag("merge", Takes::Switch, "true", "Accepted for compatibility"),
    flag("minify", Takes::Switch, "false", "Only what the current context needs"),
    short("output", 'o', Takes::Text, "yaml", "json, yaml, jsonpath=…, …"),
    flag("raw", Takes::Switch, "false", "With secrets"),
    flag("template", Takes::Text, "", "Template of -o go-template or jsonpath"),
];
const CONTEXTS: &[Flag] =
    &[flag("no-headers", Takes::Switch, "false", "No header"), short("output", 'o', Takes::Text, "", "name")];
const SET_CONTEXT: &[Flag] = &[flag("current", Takes::Switch, "false", "Change the current context")];
const EMBED: &[Flag] = &[flag("embed-certs", Takes::Switch, "false", "Put files into the kubeconfig")];
const SET_USER: &[Flag] = &[
    flag("embed-certs", Takes::Switch, "false", "Put files into the kubeconfig"),
    flag("auth-provider", Takes::Text, "", "Not supported"),
    flag("exec-api-version", Takes::Text, "", "Version of the credential plugin's API"),
    flag("exec-arg", Takes::List, "", "Arguments of the credential plugin"),
    flag("exec-command", Takes::Text, "", "The credential plugin"),
    flag("exec-env", Takes::Each, "", "key=value for the credential plugin"),
];
const SET: &[Flag] =
    &[flag("set-raw-bytes", Takes::Switch, "false", "The value is bytes: store it as base64")];
const NONE: &[Flag] = &[];

/// A row of the table.
macro_rules! config {
    ($name:literal, $usage:literal, $about:literal, $flags:expr, $run:path) => {
        Command {
            name: concat!("config ", $name),
            aliases: &[],
            group: Group::Other,
            usage: $usage,
            about: $about,
            examples: "",
            flags: &[$flags],
            run: run!($run),
        }
    };
}

/// Rows of the table.
pub const COMMANDS: &[Command] = &[
    config!(
        "view",
        "[flags]",
        "Display merged kubeconfig settings or a specified kubeconfig file",
        VIEW,
        view
    ),
    config!("current-context", "", "Display the current-context", NONE, current_context),
    config!("get-contexts", "[NAME]", "Describe one or many contexts", CONTEXTS, get_contexts),
    config!("get-clusters", "", "Display clusters defined in the kubeconfig", NONE, get_clusters),
    config!("get-users", "", "Display users defined in the kubeconfig", NONE, get_users),
    config!("use-context", "CONTEXT_NAME", "Set the current-context in a kubeconfig file", NONE, use_context),
    config!(
        "set-context",
        "[NAME | --current] [--cluster=c] [--user=u] [--namespace=n]",
        "Set a context entry in kubeconfig",
        SET_CONTEXT,
        set_context
    ),
    config!("set-cluster", "NAME [--server=server]", "Set a cluster entry in kubeconfig", EMBED, set_cluster),
    config!(
        "set-credentials",
        "NAME [--token=token]",
        "Set a user entry in kubeconfig",
        SET_USER,
        set_credentials
    ),
    config!("set", "PROPERTY_NAME PROPERTY_VALUE", "Set an individual value in a kubeconfig file", SET, set),
    config!("unset", "PROPERTY_NAME", "Unset an individual value in a kubeconfig file", NONE, unset),
    config!(
        "delete-context",
        "NAME",
        "Delete the specified context from the kubeconfig",
        NONE,
        delete_context
    ),
    config!(
        "delete-cluster",
        "NAME",
        "Delete the specified cluster from the kubeconfig",
        NONE,
        delete_cluster
    ),
    config!("delete-user", "NAME", "Delete the specified user from the kubeconfig", NONE, delete_user),
    config!(
        "rename-context",
        "CONTEXT_NAME NEW_NAME",
        "Rename a context from the kubeconfig file",
        NONE,
        rename_context
    ),
];

/// The file that is changed, as it is written.
fn open(args: &Args) -> Result<(PathBuf, Kubeconfig), Error> {
    let (paths, _) = connect::files(args);
    // With several files, the first that exists is changed.
    let path = paths.iter().find(|path| path.exists()).or(paths.last());
    let path = path.cloned().ok_or_else(|| Error::usage("no kubeconfig file"))?;
    if !path.exists() {
        return Ok((path, Kubeconfig { preferences: json!({}), ..Kubeconfig::default() }));
    }
    let text =
        std::fs::read_to_string(&path).map_err(|error| Error::local(path.display().to_string(), error))?;
    Ok((path, Kubeconfig::parse(&text)?))
}

fn to_value(config: &Kubeconfig) -> Value {
    let mut value = serde_json::to_value(config).unwrap_or_default();
    value["apiVersion"] = json!("v1");
    value["kind"] = json!("Config");
    let empty = |value: &Value| value.is_null() || value.as_object().is_some_and(serde_json::Map::is_empty);
    if let Some(fields) = value.as_object_mut()
        && fields.get("preferences").is_some_and(empty)
    {
        fields.remove("preferences");
    }
    for list in ["clusters", "users", "contexts"] {
        if value[list].as_array().is_some_and(Vec::is_empty) {
            value[list] = Value::Null;
        }
    }
    value
}

fn save(path: &PathBuf, config: &Kubeconfig) -> Result<(), Error> {
    save_value(path, &to_value(config))
}

/// Written beside and renamed: a reader sees the old file or the new one.
fn save_value(path: &PathBuf, value: &Value) -> Result<(), Error> {
    use std::os::unix::fs::PermissionsExt as _;
    let fail = |error| Error::local(format!("writing {}", path.display()), error);
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(fail)?;
    }
    let beside = path.with_extension(format!("new{}", std::process::id()));
    std::fs::write(&beside, yaml::encode(value)).map_err(fail)?;
    std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o600)).map_err(fail)?;
    std::fs::rename(&beside, path).map_err(fail)
}

async fn view(app: &App, args: &Args) -> Result<(), Error> {
    let mut config = connect::load(args)?;
    if let Some(context) = args.text_if("context") {
        config.current_context = context.to_owned();
    }
    if args.on("minify") {
        let name = config.current_context.clone();
        let context = config.contexts.iter().find(|entry| entry.name == name).cloned();
        let context = context.ok_or_else(|| Error::usage(format!("cannot locate context {name}")))?;
        config.clusters.retain(|entry| entry.name == context.context.cluster);
        config.users.retain(|entry| entry.name == context.context.user);
        config.contexts = vec![context];
    }
    let mut value = to_value(&config);
    if args.on("flatten") {
        flatten(&mut value)?;
    }
    if !args.on("raw") && !args.on("flatten") {
        redact(&mut value);
    } else if !args.on("raw") {
        redact_words(&mut value);
    }
    let format = Format::of(args)?.unwrap_or(Format::Yaml);
    app.out.text(&format.show(&value, true)?);
    Ok(())
}

/// Certificates and keys as data instead of files.
fn flatten(value: &mut Value) -> Result<(), Error> {
    for (list, entry, fields) in [
        ("clusters", "cluster", vec!["certificate-authority"]),
        ("users", "user", vec!["client-certificate", "client-key"]),
    ] {
        for item in value[list].as_array_mut().into_iter().flatten() {
            for field in &fields {
                let Some(path) = item[entry][*field].as_str().map(str::to_owned) else { continue };
                let bytes = std::fs::read(&path).map_err(|error| Error::local(path.clone(), error))?;
                item[entry][format!("{field}-data")] =
                    json!(base64::engine::general_purpose::STANDARD.encode(bytes));
                if let Some(entry) = item[entry].as_object_mut() {
                    entry.remove(*field);
                }
            }
        }
    }
    Ok(())
}

fn redact_words(value: &mut Value) {
    for item in value["users"].as_array_mut().into_iter().flatten() {
        for field in ["token", "password"] {
            if item["user"].get(field).is_some() {
                item["user"][field] = json!("REDACTED");
            }
        }
    }
}

fn redact(value: &mut Value) {
    redact_words(value);
    for (list, entry, fields) in [
        ("clusters", "cluster", vec!["certificate-authority-data"]),
        ("users", "user", vec!["client-certificate-data", "client-key-data"]),
    ] {
        for item in value[list].as_array_mut().into_iter().flatten() {
            for field in &fields {
                if item[entry].get(*field).is_some() {
                    item[entry][*field] = json!("DATA+OMITTED");
                }
            }
        }
    }
}

async fn current_context(app: &App, args: &Args) -> Result<(), Error> {
    let config = connect::load(args)?;
    if config.current_context.is_empty() {
        return Err(Error::usage("current-context is not set"));
    }
    app.out.line(&config.current_context);
    Ok(())
}

async fn get_contexts(app: &App, args: &Args) -> Result<(), Error> {
    let config = connect::load(args)?;
    let mut errors = Vec::new();
    for name in &args.words {
        if !config.contexts.iter().any(|entry| entry.name == *name) {
            errors.push(Error::usage(format!("context {name} not found")));
        }
    }
    let mut found: Vec<&NamedContext> = config
        .contexts
        .iter()
        .filter(|entry| args.words.is_empty() || args.words.contains(&entry.name))
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    if args.text("output") == "name" {
        found.iter().for_each(|entry| app.out.line(&entry.name));
        return Error::all(errors);
    }
    let mut rows: Vec<Vec<String>> = Vec::new();
    if !args.on("no-headers") {
        rows.push(["CURRENT", "NAME", "CLUSTER", "AUTHINFO", "NAMESPACE"].map(str::to_owned).to_vec());
    }
    for entry in found {
        let context = &entry.context;
        rows.push(vec![
            if entry.name == config.current_context { "*".to_owned() } else { String::new() },
            entry.name.clone(),
            context.cluster.clone(),
            context.user.clone(),
            context.namespace.clone().unwrap_or_default(),
        ]);
    }
    app.out.text(&Widths::default().format(&rows));
    Error::all(errors)
}

async fn get_clusters(app: &App, args: &Args) -> Result<(), Error> {
    let config = connect::load(args)?;
    let mut names: Vec<&String> = config.clusters.iter().map(|entry| &entry.name).collect();
    names.sort();
    app.out.line("NAME");
    names.iter().for_each(|name| app.out.line(name));
    Ok(())
}

async fn get_users(app: &App, args: &Args) -> Result<(), Error> {
    let config = connect::load(args)?;
    let mut names: Vec<&String> = config.users.iter().map(|entry| &entry.name).collect();
    names.sort();
    app.out.line("NAME");
    names.iter().for_each(|name| app.out.line(name));
    Ok(())
}

async fn use_context(app: &App, args: &Args) -> Result<(), Error> {
    let name = args.word(0, "Unexpected args: []")?;
    let known = connect::load(args)?.contexts.iter().any(|entry| entry.name == name);
    if !known {
        return Err(Error::usage(format!("no context exists with the name: {name:?}")));
    }
    let (path, mut config) = open(args)?;
    config.current_context = name.to_owned();
    save(&path, &config)?;
    app.out.line(&format!("Switched to context {name:?}."));
    Ok(())
}

async fn set_context(app: &App, args: &Args) -> Result<(), Error> {
    let (path, mut config) = open(args)?;
    let name = match (args.on("current"), args.words.first()) {
        (true, None) if config.current_context.is_empty() => {
            return Err(Error::usage("no current context is set"));
        }
        (true, None) => config.current_context.clone(),
        (true, Some(_)) => return Err(Error::usage("you cannot specify both a context name and --current")),
        (false, Some(name)) => name.clone(),
        (false, None) => return Err(Error::usage("you must specify a non-empty context name or --current")),
    };
    let known = config.contexts.iter().position(|entry| entry.name == name);
    let at = known.unwrap_or_else(|| {
        config.contexts.push(NamedContext { name: name.clone(), ..NamedContext::default() });
        config.contexts.len() - 1
    });
    let context = &mut config.contexts[at].context;
    if args.given("cluster") {
        context.cluster = args.text("cluster").to_owned();
    }
    if args.given("user") {
        context.user = args.text("user").to_owned();
    }
    if args.given("namespace") {
        context.namespace = args.text_if("namespace").map(str::to_owned);
    }
    save(&path, &config)?;
    app.out.line(&format!("Context {name:?} {}.", if known.is_some() { "modified" } else { "created" }));
    Ok(())
}

/// The file as it is, or its content as base64.
fn embedded(args: &Args, flag: &str) -> Result<Option<(bool, String)>, Error> {
    let Some(path) = args.text_if(flag) else { return Ok(None) };
    if !args.on("embed-certs") {
        let full = std::path::absolute(path).map_err(|error| Error::local(path, error))?;
        return Ok(Some((false, full.display().to_string())));
    }
    let bytes = std::fs::read(path).map_err(|error| Error::local(path, error))?;
    Ok(Some((true, base64::engine::general_purpose::STANDARD.encode(bytes))))
}

async fn set_cluster(app: &App, args: &Args) -> Result<(), Error> {
    let name = args.word(0, "Unexpected args: []")?;
    let (path, mut config) = open(args)?;
    let at = config.clusters.iter().position(|entry| entry.name == name).unwrap_or_else(|| {
        config.clusters.push(NamedCluster { name: name.to_owned(), ..NamedCluster::default() });
        config.clusters.len() - 1
    });
    let cluster = &mut config.clusters[at].cluster;
    if let Some(server) = args.text_if("server") {
        cluster.server = server.to_owned();
    }
    if args.given("insecure-skip-tls-verify") {
        cluster.insecure_skip_tls_verify = args.on("insecure-skip-tls-verify");
    }
    if args.given("tls-server-name") {
        cluster.tls_server_name = args.text_if("tls-server-name").map(str::to_owned);
    }
    if let Some((data, text)) = embedded(args, "certificate-authority")? {
        (cluster.certificate_authority_data, cluster.certificate_authority) =
            if data { (Some(text), None) } else { (None, Some(text)) };
    }
    save(&path, &config)?;
    app.out.line(&format!("Cluster {name:?} set."));
    Ok(())
}

async fn set_credentials(app: &App, args: &Args) -> Result<(), Error> {
    let name = args.word(0, "Unexpected args: []")?;
    if args.given("token") && (args.given("username") || args.given("password")) {
        return Err(Error::usage(
            "you cannot specify more than one authentication method at the same time: token, basicAuth",
        ));
    }
    let (path, mut config) = open(args)?;
    let at = config.users.iter().position(|entry| entry.name == name).unwrap_or_else(|| {
        config.users.push(NamedUser { name: name.to_owned(), ..NamedUser::default() });
        config.users.len() - 1
    });
    let user = &mut config.users[at].user;
    let given = |flag: &str| args.text_if(flag).map(str::to_owned);
    user.token = given("token").or(user.token.take());
    user.username = given("username").or(user.username.take());
    user.password = given("password").or(user.password.take());
    if let Some((data, text)) = embedded(args, "client-certificate")? {
        (user.client_certificate_data, user.client_certificate) =
            if data { (Some(text), None) } else { (None, Some(text)) };
    }
    if let Some((data, text)) = embedded(args, "client-key")? {
        (user.client_key_data, user.client_key) = if data { (Some(text), None) } else { (None, Some(text)) };
    }
    if let Some(command) = args.text_if("exec-command") {
        let variables = super::create::pairs(&args.list("exec-env"), |text| format!("bad env: {text}"))?;
        let variables: Vec<Value> =
            variables.into_iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
        let version =
            given("exec-api-version").unwrap_or_else(|| "client.authentication.k8s.io/v1".to_owned());
        let exec = json!({"apiVersion": version, "command": command, "args": args.list("exec-arg"), "env": variables});
        user.other.insert("exec".to_owned(), exec);
    }
    save(&path, &config)?;
    app.out.line(&format!("User {name:?} set."));
    Ok(())
}

/// `users.NAME.token`: a place in a kubeconfig, made if `make`.
fn place<'a>(config: &'a mut Value, property: &str, make: bool) -> Option<(&'a mut Value, String)> {
    let mut parts: Vec<&str> = property.split('.').collect();
    let last = parts.pop()?.to_owned();
    let Some((list, rest)) = parts.split_first() else { return Some((config, last)) };
    let entry = match *list {
        "clusters" => "cluster",
        "users" => "user",
        "contexts" => "context",
        _ => {
            let mut at = config;
            for part in parts {
                at = &mut at[part];
            }
            return Some((at, last));
        }
    };
    // Names may have dots; the rest is one field.
    let name = rest.join(".");
    if config[*list].is_null() && make {
        config[*list] = json!([]);
    }
    let items = config[*list].as_array_mut()?;
    let at = match items.iter().position(|item| item["name"] == name.as_str()) {
        Some(at) => at,
        None if make => {
            items.push(json!({"name": name, entry: {}}));
            items.len() - 1
        }
        None => return None,
    };
    Some((&mut items[at][entry], last))
}

async fn set(app: &App, args: &Args) -> Result<(), Error> {
    let [property, value] = args.words.as_slice() else {
        return Err(Error::misuse("config set", &format!("Unexpected args: [{}]", args.words.join(" "))));
    };
    let (path, config) = open(args)?;
    let mut config = to_value(&config);
    let wrong = || Error::usage(format!("unable to parse path {property:?}"));
    let (at, field) = place(&mut config, property, true).ok_or_else(wrong)?;
    at[field] = if args.on("set-raw-bytes") {
        json!(base64::engine::general_purpose::STANDARD.encode(value))
    } else {
        match value.as_str() {
            "true" => json!(true),
            "false" => json!(false),
            text => json!(text),
        }
    };
    save_value(&path, &config)?;
    app.out.line(&format!("Property {property:?} set."));
    Ok(())
}

async fn unset(app: &App, args: &Args) -> Result<(), Error> {
    let property = args.word(0, "Unexpected args: []")?;
    let (path, config) = open(args)?;
    let mut config = to_value(&config);
    let parts: Vec<&str> = property.split('.').collect();
    match parts.as_slice() {
        [list @ ("clusters" | "users" | "contexts"), name @ ..] if name.len() == 1 => {
            let found = config[*list].as_array_mut();
            let before = found.as_ref().map_or(0, |items| items.len());
            if let Some(items) = found {
                items.retain(|item| item["name"] != name[0]);
            }
            if config[*list].as_array().map_or(0, Vec::len) == before {
                return Err(Error::usage(format!("current map key `{}` is invalid", name[0])));
            }
        }
        _ => {
            let wrong = || Error::usage(format!("unable to parse path {property:?}"));
            let (at, field) = place(&mut config, property, false).ok_or_else(wrong)?;
            if let Some(fields) = at.as_object_mut() {
                fields.remove(&field);
            }
        }
    }
    save_value(&path, &config)?;
    app.out.line(&format!("Property {property:?} unset."));
    Ok(())
}

fn removed(path: &std::path::Path) -> String {
    format!("from {}", path.display())
}

async fn delete_context(app: &App, args: &Args) -> Result<(), Error> {
    let name = args.word(0, "Unexpected args: []")?;
    let (path, mut config) = open(args)?;
    let before = config.contexts.len();
    config.contexts.retain(|entry| entry.name != name);
    if config.contexts.len() == before {
        return Err(Error::usage(format!("cannot delete context {name}, not in {}", path.display())));
    }
    if config.current_context == name {
        let hint = "use \"kubectl config use-context\" to select a different one";
        app.err.line(&format!("warning: this removed your active context, {hint}"));
    }
    save(&path, &config)?;
    app.out.line(&format!("deleted context {name} {}", removed(&path)));
    Ok(())
}

async fn delete_cluster(app: &App, args: &Args) -> Result<(), Error> {
    let name = args.word(0, "Unexpected args: []")?;
    let (path, mut config) = open(args)?;
    let before = config.clusters.len();
    config.clusters.retain(|entry| entry.name != name);
    if config.clusters.len() == before {
        return Err(Error::usage(format!("cannot delete cluster {name}, not in {}", path.display())));
    }
    save(&path, &config)?;
    app.out.line(&format!("deleted cluster {name} {}", removed(&path)));
    Ok(())
}

async fn delete_user(app: &App, args: &Args) -> Result<(), Error> {
    let name = args.word(0, "Unexpected args: []")?;
    let (path, mut config) = open(args)?;
    let before = config.users.len();
    config.users.retain(|entry| entry.name != name);
    if config.users.len() == before {
        return Err(Error::usage(format!("cannot delete user {name}, not in {}", path.display())));
    }
    save(&path, &config)?;
    app.out.line(&format!("deleted user {name} {}", removed(&path)));
    Ok(())
}

async fn rename_context(app: &App, args: &Args) -> Result<(), Error> {
    let [old, new] = args.words.as_slice() else {
        return Err(Error::misuse(
            "config rename-context",
            &format!("Unexpected args: [{}]", args.words.join(" ")),
        ));
    };
    let (path, mut config) = open(args)?;
    if config.contexts.iter().any(|entry| entry.name == *new) {
        return Err(Error::usage(format!(
            "cannot rename the context {old:?}, the context {new:?} already exists in {}",
            path.display()
        )));
    }
    let found = config.contexts.iter_mut().find(|entry| entry.name == *old);
    let missing =
        || Error::usage(format!("cannot rename the context {old:?}, it's not in {}", path.display()));
    found.ok_or_else(missing)?.name.clone_from(new);
    if config.current_context == *old {
        config.current_context.clone_from(new);
    }
    save(&path, &config)?;
    app.out.line(&format!("Context {old:?} renamed to {new:?}."));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let mut config = json!({"users": [{"name": "a.b", "user": {"token": "t"}}]});
        let (at, field) = place(&mut config, "users.a.b.token", false).expect("a place");
        assert_eq!((at["token"].as_str(), field.as_str()), (Some("t"), "token"));
        assert!(place(&mut config, "users.zz.token", false).is_none());
        let (at, field) = place(&mut config, "clusters.c.server", true).expect("a place");
        at[field] = json!("s");
        assert_eq!(config["clusters"][0], json!({"name": "c", "cluster": {"server": "s"}}));
    }

    #[test]
    fn secrets_are_left_out() {
        let mut config = json!({"users": [{"name": "a", "user": {"token": "t", "client-key-data": "k"}}]});
        redact(&mut config);
        assert_eq!(
            config["users"][0]["user"],
            json!({"token": "REDACTED", "client-key-data": "DATA+OMITTED"})
        );
    }
}
