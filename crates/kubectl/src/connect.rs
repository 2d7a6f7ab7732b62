//! From flags, kubeconfig files and environment to a connection with an identity.
//!
//! Must not know any command beyond the flags that all of them share.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use base::http::Body;
use client::kubeconfig::{Cluster, Context, NamedCluster, NamedContext, NamedUser, Settings, User};
use client::{ClientError, Kubeconfig, Transport};
use futures::future::BoxFuture;
use http::{HeaderName, HeaderValue, Request, Response};
use serde_json::{Value, json};

use crate::Error;
use crate::app::Sink;
use crate::flags::Args;

/// The kubeconfig files in the order of their weight, and whether the user named one.
pub fn files(args: &Args) -> (Vec<PathBuf>, bool) {
    if let Some(path) = args.text_if("kubeconfig") {
        return (vec![path.into()], true);
    }
    let listed = std::env::var("KUBECONFIG").unwrap_or_default();
    let listed: Vec<PathBuf> = listed.split(':').filter(|path| !path.is_empty()).map(PathBuf::from).collect();
    if !listed.is_empty() {
        return (listed, false);
    }
    let home = std::env::var("HOME").unwrap_or_default();
    (vec![PathBuf::from(home).join(".kube/config")], false)
}

/// All files as one: the first that names a thing wins.
pub fn load(args: &Args) -> Result<Kubeconfig, Error> {
    let (paths, named) = files(args);
    let mut merged = Kubeconfig { preferences: json!({}), ..Kubeconfig::default() };
    for path in paths {
        if !path.exists() {
            if named {
                return Err(Error::Usage(format!("stat {}: no such file or directory", path.display())));
            }
            continue;
        }
        let config = Kubeconfig::load(&path).map_err(|error| {
            Error::Usage(format!("error loading config file \"{}\": {error}", path.display()))
        })?;
        merge(&mut merged, config);
    }
    Ok(merged)
}

fn merge(into: &mut Kubeconfig, from: Kubeconfig) {
    for entry in from.clusters {
        if !into.clusters.iter().any(|known| known.name == entry.name) {
            into.clusters.push(entry);
        }
    }
    for entry in from.users {
        if !into.users.iter().any(|known| known.name == entry.name) {
            into.users.push(entry);
        }
    }
    for entry in from.contexts {
        if !into.contexts.iter().any(|known| known.name == entry.name) {
            into.contexts.push(entry);
        }
    }
    if into.current_context.is_empty() {
        into.current_context = from.current_context;
    }
    for (key, value) in from.other {
        into.other.entry(key).or_insert(value);
    }
}

/// The connection that flags and files ask for.
pub fn settings(args: &Args) -> Result<Settings, Error> {
    let config = load(args)?;
    let name = args.text_if("context").unwrap_or(&config.current_context).to_owned();
    let found = config.contexts.iter().find(|entry| entry.name == name);
    if found.is_none() && !name.is_empty() {
        let message = format!("Error in configuration: context was not found for specified context: {name}");
        return Err(Error::Config(message));
    }
    let bare = config.contexts.is_empty() && config.clusters.is_empty() && !args.given("server");
    if bare && let Some(inside) = in_cluster() {
        return Ok(inside);
    }
    let context = found.map(|entry| entry.context.clone()).unwrap_or_default();
    let cluster_name = args.text_if("cluster").unwrap_or(&context.cluster);
    let cluster = config.clusters.iter().find(|entry| entry.name == cluster_name);
    if cluster.is_none() && args.given("cluster") {
        return Err(Error::Usage(format!("no server found for cluster \"{cluster_name}\"")));
    }
    let user_name = args.alone("user").unwrap_or(&context.user);
    let user = config.users.iter().find(|entry| entry.name == user_name);
    if user.is_none() && args.alone("user").is_some() {
        return Err(Error::Usage(format!("auth info \"{user_name}\" does not exist")));
    }
    let mut cluster = cluster.map(|entry| entry.cluster.clone()).unwrap_or_default();
    let mut user = user.map(|entry| entry.user.clone()).unwrap_or_default();
    override_cluster(&mut cluster, args);
    override_user(&mut user, args);
    if cluster.server.is_empty() {
        cluster.server = "http://localhost:8080".to_owned();
    }
    if user.token.is_none() && user.client_certificate.is_none() && user.client_certificate_data.is_none() {
        credentials_of_plugin(&mut user)?;
    }
    Ok(resolve(cluster, user, context)?)
}

fn resolve(cluster: Cluster, user: User, context: Context) -> Result<Settings, ClientError> {
    let name = || "x".to_owned();
    let context = Context { cluster: name(), user: name(), ..context };
    let one = Kubeconfig {
        clusters: vec![NamedCluster { name: name(), cluster }],
        users: vec![NamedUser { name: name(), user }],
        contexts: vec![NamedContext { name: name(), context }],
        current_context: name(),
        ..Kubeconfig::default()
    };
    one.settings(None)
}

fn in_cluster() -> Option<Settings> {
    let host = std::env::var("KUBERNETES_SERVICE_HOST").ok()?;
    let port = std::env::var("KUBERNETES_SERVICE_PORT").ok()?;
    Settings::in_cluster(&host, &port).ok()
}

fn override_cluster(cluster: &mut Cluster, args: &Args) {
    if let Some(server) = args.text_if("server") {
        cluster.server = server.to_owned();
    }
    if let Some(path) = args.text_if("certificate-authority") {
        cluster.certificate_authority = Some(path.to_owned());
        cluster.certificate_authority_data = None;
        cluster.insecure_skip_tls_verify = false;
    }
    if args.given("insecure-skip-tls-verify") {
        cluster.insecure_skip_tls_verify = args.on("insecure-skip-tls-verify");
    }
    if let Some(name) = args.text_if("tls-server-name") {
        cluster.tls_server_name = Some(name.to_owned());
    }
}

fn override_user(user: &mut User, args: &Args) {
    let given = |name: &str| args.text_if(name).map(str::to_owned);
    if let Some(path) = given("client-certificate") {
        (user.client_certificate, user.client_certificate_data) = (Some(path), None);
    }
    if let Some(path) = given("client-key") {
        (user.client_key, user.client_key_data) = (Some(path), None);
    }
    if let Some(token) = given("token") {
        (user.token, user.token_file) = (Some(token), None);
    }
    user.username = given("username").or(user.username.take());
    user.password = given("password").or(user.password.take());
}

/// Runs the user's credential plugin (`exec` in the kubeconfig), if there is one.
fn credentials_of_plugin(user: &mut User) -> Result<(), Error> {
    let Some(exec) = user.other.get("exec").filter(|exec| exec["command"].is_string()) else { return Ok(()) };
    let program = exec["command"].as_str().unwrap_or_default().to_owned();
    let api_version = exec["apiVersion"].as_str().unwrap_or("client.authentication.k8s.io/v1").to_owned();
    let info = json!({"apiVersion": api_version, "kind": "ExecCredential", "spec": {"interactive": false}});
    let mut command = Command::new(&program);
    for arg in exec["args"].as_array().into_iter().flatten() {
        command.arg(arg.as_str().unwrap_or_default());
    }
    for variable in exec["env"].as_array().into_iter().flatten() {
        let text = |key: &str| variable[key].as_str().unwrap_or_default();
        command.env(text("name"), text("value"));
    }
    let output = command
        .env("KUBERNETES_EXEC_INFO", info.to_string())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| Error::local(format!("getting credentials: exec: {program}"), error))?;
    if !output.status.success() {
        let code = output.status.code().unwrap_or(-1);
        let why = format!("getting credentials: exec: executable {program} failed with exit code {code}");
        return Err(Error::Config(why));
    }
    let answer: Value = serde_json::from_slice(&output.stdout)
        .map_err(|error| Error::Config(format!("getting credentials: decoding stdout: {error}")))?;
    let text = |key: &str| answer["status"][key].as_str().map(str::to_owned);
    user.token = text("token");
    let encode = |text: String| {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(text)
    };
    user.client_certificate_data = text("clientCertificateData").map(encode);
    user.client_key_data = text("clientKeyData").map(encode);
    Ok(())
}

/// A transport that impersonates on request and tells the user about warnings of the server.
pub struct Wire {
    inner: Arc<dyn Transport>,
    headers: Vec<(HeaderName, HeaderValue)>,
    warnings: Sink,
    /// What has been said; nobody needs it twice.
    said: parking_lot::Mutex<std::collections::BTreeSet<String>>,
}

impl Wire {
    /// Over another transport, with the impersonation that the flags ask for.
    pub fn new(inner: Arc<dyn Transport>, args: &Args, warnings: Sink) -> Result<Self, Error> {
        let mut wanted: Vec<(String, String)> = Vec::new();
        if let Some(user) = args.text_if("as") {
            wanted.push(("impersonate-user".to_owned(), user.to_owned()));
        }
        if let Some(uid) = args.text_if("as-uid") {
            wanted.push(("impersonate-uid".to_owned(), uid.to_owned()));
        }
        for group in args.list("as-group") {
            wanted.push(("impersonate-group".to_owned(), group));
        }
        for extra in args.list("as-user-extra") {
            let (key, value) = extra.split_once('=').unwrap_or((&extra, ""));
            wanted.push((format!("impersonate-extra-{}", key.to_lowercase()), value.to_owned()));
        }
        if wanted.first().is_some_and(|(name, _)| name != "impersonate-user") {
            return Err(Error::usage("requesting uid, groups or user-extra without impersonating a user"));
        }
        let mut headers = Vec::new();
        for (name, value) in wanted {
            let bad = || Error::usage(format!("{value:?} cannot be sent in a header"));
            let pair = (name.parse().map_err(|_| bad())?, HeaderValue::from_str(&value).map_err(|_| bad())?);
            headers.push(pair);
        }
        Ok(Wire { inner, headers, warnings, said: Default::default() })
    }
}

impl Transport for Wire {
    fn call(&self, mut request: Request<Body>) -> BoxFuture<'_, Result<Response<Body>, ClientError>> {
        for (name, value) in &self.headers {
            request.headers_mut().append(name.clone(), value.clone());
        }
        Box::pin(async move {
            let response = self.inner.call(request).await?;
            for warning in response.headers().get_all(http::header::WARNING) {
                let text = String::from_utf8_lossy(warning.as_bytes()).into_owned();
                if let Some(text) = warning_text(&text)
                    && self.said.lock().insert(text.clone())
                {
                    self.warnings.line(&format!("Warning: {text}"));
                }
            }
            Ok(response)
        })
    }
}

/// The text in `299 - "text"`.
fn warning_text(header: &str) -> Option<String> {
    let quoted = header.strip_prefix("299 ")?.split_once('"')?.1;
    let mut text = String::new();
    let mut letters = quoted.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => text.extend(letters.next()),
            '"' => break,
            other => text.push(other),
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_unquoted() {
        assert_eq!(warning_text(r#"299 - "a \"b\" c" "date""#).as_deref(), Some("a \"b\" c"));
        assert_eq!(warning_text("199 - \"x\""), None);
    }

    #[test]
    fn flags_win_over_files() {
        let mut cluster = Cluster { insecure_skip_tls_verify: true, ..Cluster::default() };
        let line = ["--server=https://h", "--certificate-authority=/ca", "--token=t"].map(str::to_owned);
        let args = Args::parse(&line, &[crate::commands::GLOBAL]).expect("reads");
        override_cluster(&mut cluster, &args);
        assert_eq!((cluster.server.as_str(), cluster.insecure_skip_tls_verify), ("https://h", false));
        let mut user = User { token_file: Some("f".into()), ..User::default() };
        override_user(&mut user, &args);
        assert_eq!((user.token.as_deref(), user.token_file), (Some("t"), None));
    }
}
