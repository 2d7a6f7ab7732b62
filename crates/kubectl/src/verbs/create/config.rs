//! `create configmap | secret`: keys and values from literals and files.

use std::path::Path;

use base64::Engine as _;
use serde_json::{Map, Value, json};

use super::{finish, generator, name, start};
use crate::Error;
use crate::app::App;
use crate::commands::Command;
use crate::flags::{Args, Flag, Takes, flag};

const SOURCES: &[Flag] = &[
    flag("from-literal", Takes::Each, "", "key=value"),
    flag("from-file", Takes::List, "", "[key=]file, or a directory"),
    flag("from-env-file", Takes::List, "", "A file of lines key=value"),
];
const SECRET: &[Flag] = &[
    flag("from-literal", Takes::Each, "", "key=value"),
    flag("from-file", Takes::List, "", "[key=]file, or a directory"),
    flag("from-env-file", Takes::List, "", "A file of lines key=value"),
    flag("type", Takes::Text, "", "The type of the secret"),
    flag("docker-server", Takes::Text, "https://index.docker.io/v1/", "The registry"),
    flag("docker-username", Takes::Text, "", "User name at the registry"),
    flag("docker-password", Takes::Text, "", "Password at the registry"),
    flag("docker-email", Takes::Text, "", "E-mail address at the registry"),
    flag("cert", Takes::Text, "", "Certificate file (tls)"),
    flag("key", Takes::Text, "", "Private key file (tls)"),
];

/// Rows of the table.
pub const COMMANDS: &[Command] = &[
    generator!(
        "configmap",
        &["cm"],
        "NAME [--from-file=[key=]source] [--from-literal=key1=value1]",
        "Create a config map from a local file, directory or literal value",
        SOURCES,
        |app, args| Box::pin(async move {
            finish(app, args, configmap(app, args), "failed to create configmap: ").await
        })
    ),
    generator!(
        "secret",
        &[],
        "(docker-registry | generic | tls) NAME",
        "Create a secret using a specified subcommand",
        SECRET,
        |app, args| Box::pin(secret(app, args))
    ),
];

/// Keys and their bytes, in order of keys.
fn sources(args: &Args, what: &str) -> Result<Vec<(String, Vec<u8>)>, Error> {
    let (literals, files, env) =
        (args.list("from-literal"), args.list("from-file"), args.list("from-env-file"));
    let others = !literals.is_empty() || !files.is_empty();
    if !env.is_empty() && others {
        return Err(Error::usage("from-env-file cannot be combined with from-file or from-literal"));
    }
    let mut found: Vec<(String, Vec<u8>)> = Vec::new();
    for file in &files {
        from_file(file, &mut found)?;
    }
    for literal in &literals {
        let wrong = || Error::usage(format!("invalid literal source {literal}, expected key=value"));
        let (key, value) = literal.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or_else(wrong)?;
        found.push((key.to_owned(), value.as_bytes().to_vec()));
    }
    for file in &env {
        from_env(file, &mut found)?;
    }
    for (at, (key, _)) in found.iter().enumerate() {
        let errors = api::names::config_map_key(key);
        if !errors.is_empty() {
            return Err(Error::usage(format!(
                "{key:?} is not a valid key name for a {what}: {}",
                errors.join(",")
            )));
        }
        if found[..at].iter().any(|(other, _)| other == key) {
            let name = args.words.last().map(String::as_str).unwrap_or_default();
            return Err(Error::usage(match what {
                "Secret" => format!("cannot add key {key}, another key by that name already exists"),
                _ => format!(
                    "cannot add key {key:?}, another key by that name already exists in Data for {what} {name:?}"
                ),
            }));
        }
    }
    Ok(found)
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|error| {
        let why = if error.kind() == std::io::ErrorKind::NotFound {
            "no such file or directory".to_owned()
        } else {
            error.to_string()
        };
        Error::input(format!("error reading {}: {why}", path.display()))
    })
}

fn from_file(text: &str, found: &mut Vec<(String, Vec<u8>)>) -> Result<(), Error> {
    let (key, path) = match text.split_once('=') {
        Some((key, path)) => (Some(key), Path::new(path)),
        None => (None, Path::new(text)),
    };
    if !path.is_dir() {
        let own = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        found.push((key.unwrap_or(own).to_owned(), read(path)?));
        return Ok(());
    }
    if key.is_some() {
        return Err(Error::usage("cannot give a key name for a directory path"));
    }
    let fail = |error| Error::local(format!("error listing files in {}", path.display()), error);
    let mut entries: Vec<_> =
        std::fs::read_dir(path).map_err(fail)?.flatten().map(|entry| entry.path()).collect();
    entries.sort();
    for entry in entries.into_iter().filter(|entry| entry.is_file()) {
        let own = entry.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        if api::names::config_map_key(&own).is_empty() {
            found.push((own, read(&entry)?));
        }
    }
    Ok(())
}

fn from_env(path: &str, found: &mut Vec<(String, Vec<u8>)>) -> Result<(), Error> {
    let bytes = read(Path::new(path))?;
    let text = String::from_utf8_lossy(&bytes);
    for line in text.trim_start_matches('\u{feff}').lines() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (key, value) = match line.split_once('=') {
            Some((key, value)) => (key, value.to_owned()),
            // A name alone takes its value from our own environment.
            None => (line, std::env::var(line).unwrap_or_default()),
        };
        let errors = api::names::env_var_name(key);
        if !errors.is_empty() {
            return Err(Error::usage(format!("{key:?} is not a valid key name: {}", errors.join(","))));
        }
        found.push((key.to_owned(), value.into_bytes()));
    }
    Ok(())
}

fn encode(bytes: &[u8]) -> Value {
    json!(base64::engine::general_purpose::STANDARD.encode(bytes))
}

fn configmap(app: &App, args: &Args) -> Result<Value, Error> {
    let name = name(args)?;
    let (mut data, mut binary) = (Map::new(), Map::new());
    for (key, bytes) in sources(args, "ConfigMap")? {
        match String::from_utf8(bytes) {
            Ok(text) => data.insert(key, json!(text)),
            Err(error) => binary.insert(key, encode(error.as_bytes())),
        };
    }
    let mut object = start(app, "v1", "ConfigMap", name, true);
    for (field, content) in [("data", data), ("binaryData", binary)] {
        if !content.is_empty() {
            object[field] = Value::Object(content);
        }
    }
    Ok(object)
}

async fn secret(app: &App, args: &Args) -> Result<(), Error> {
    let rest = args.with_words(args.words.get(1..).unwrap_or_default());
    let object = match args.words.first().map(String::as_str) {
        Some("generic") => generic(app, &rest),
        Some("tls") => tls(app, &rest),
        Some("docker-registry") => registry(app, &rest),
        _ => Err(Error::usage("exactly one of docker-registry, generic, tls is required")),
    };
    finish(app, args, object, "failed to create secret ").await
}

fn generic(app: &App, args: &Args) -> Result<Value, Error> {
    let name = name(args)?;
    let mut object = start(app, "v1", "Secret", name, true);
    let data: Map<String, Value> =
        sources(args, "Secret")?.into_iter().map(|(key, bytes)| (key, encode(&bytes))).collect();
    if !data.is_empty() {
        object["data"] = Value::Object(data);
    }
    if let Some(kind) = args.text_if("type") {
        object["type"] = json!(kind);
    }
    Ok(object)
}

fn tls(app: &App, args: &Args) -> Result<Value, Error> {
    let name = name(args)?;
    let (cert, key) = (args.text("cert"), args.text("key"));
    if cert.is_empty() || key.is_empty() {
        return Err(Error::usage("key and cert must be specified"));
    }
    let (cert, key) = (read(Path::new(cert))?, read(Path::new(key))?);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    base::pki::certificates(&text(&cert)).map_err(|error| Error::input(format!("tls: {error}")))?;
    base::pki::private_key(&text(&key)).map_err(|error| Error::input(format!("tls: {error}")))?;
    let mut object = start(app, "v1", "Secret", name, true);
    object["type"] = json!("kubernetes.io/tls");
    object["data"] = json!({"tls.crt": encode(&cert), "tls.key": encode(&key)});
    Ok(object)
}

fn registry(app: &App, args: &Args) -> Result<Value, Error> {
    let name = name(args)?;
    let text = |flag: &str| args.text(flag);
    let mut object = start(app, "v1", "Secret", name, true);
    object["type"] = json!("kubernetes.io/dockerconfigjson");
    if args.given("from-file") {
        let data: Map<String, Value> =
            sources(args, "Secret")?.into_iter().map(|(key, bytes)| (key, encode(&bytes))).collect();
        object["data"] = Value::Object(data);
        return Ok(object);
    }
    let (user, password) = (text("docker-username"), text("docker-password"));
    if user.is_empty() || password.is_empty() {
        return Err(Error::usage(
            "either --from-file or the combination of --docker-username, --docker-password and --docker-server is required",
        ));
    }
    let auth = encode(format!("{user}:{password}").as_bytes());
    let quoted = |value: &str| crate::print::json::text(value);
    let email = match text("docker-email") {
        "" => String::new(),
        email => format!("\"email\":{},", quoted(email)),
    };
    // The order of the fields is upstream's: the secret's bytes are compared.
    let config = format!(
        "{{\"auths\":{{{}:{{\"username\":{},\"password\":{},{email}\"auth\":{auth}}}}}}}",
        quoted(text("docker-server")),
        quoted(user),
        quoted(password)
    );
    object["data"] = json!({".dockerconfigjson": encode(config.as_bytes())});
    Ok(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_become_keys() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("f.txt");
        std::fs::write(&file, "text").expect("written");
        let env = dir.path().join("env");
        std::fs::write(&env, "# note\nA=1\n\nB=x=y\n").expect("written");
        let args = |line: Vec<String>| Args::parse(&line, &[SOURCES]).expect("reads");
        let given = args(vec![
            format!("--from-file={}", file.display()),
            format!("--from-file=k={}", file.display()),
            "--from-literal=a=b,c=d".to_owned(),
        ]);
        let keys: Vec<String> =
            sources(&given, "ConfigMap").expect("sources").into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["f.txt", "k", "a"]);
        let given = args(vec![format!("--from-env-file={}", env.display())]);
        let found = sources(&given, "ConfigMap").expect("sources");
        assert_eq!(found, [("A".to_owned(), b"1".to_vec()), ("B".to_owned(), b"x=y".to_vec())]);
        for (line, expect) in [
            ("--from-literal=x", "invalid literal source x, expected key=value"),
            ("--from-literal=a b=x", "\"a b\" is not a valid key name"),
            ("--from-file=/nope", "error reading /nope: no such file or directory"),
        ] {
            let error = sources(&args(vec![line.to_owned()]), "ConfigMap").expect_err(line).to_string();
            assert!(error.starts_with(expect), "{error}");
        }
    }
}
