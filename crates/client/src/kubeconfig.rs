//! The kubeconfig file: clusters, users, contexts; and the connection settings that follow from it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base::pki::Identity;
use base64::Engine as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::ClientError;

/// A kubeconfig. Fields that are not named here are kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Kubeconfig {
    /// `v1`.
    #[serde(rename = "apiVersion")]
    pub api_version: String,
    /// `Config`.
    pub kind: String,
    /// Ways to reach servers.
    pub clusters: Vec<NamedCluster>,
    /// Credentials.
    pub users: Vec<NamedUser>,
    /// Pairs of cluster and user.
    pub contexts: Vec<NamedContext>,
    /// The context in use.
    pub current_context: String,
    /// Unused by anything known.
    pub preferences: Value,
    /// Anything else.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

macro_rules! named {
    ($name:ident, $field:ident, $inner:ident, $text:literal, $doc:literal) => {
        #[doc = $doc]
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct $name {
            /// The entry's name.
            pub name: String,
            /// The entry.
            #[serde(rename = $text, deserialize_with = "null_as_default")]
            pub $field: $inner,
        }
    };
}

named!(NamedCluster, cluster, Cluster, "cluster", "A cluster with its name.");
named!(NamedUser, user, User, "user", "A user with its name.");
named!(NamedContext, context, Context, "context", "A context with its name.");

fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// How to reach a server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Cluster {
    /// The URL.
    pub server: String,
    /// A CA bundle file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_authority: Option<String>,
    /// A CA bundle, base64 of PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_authority_data: Option<String>,
    /// Do not verify the server.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub insecure_skip_tls_verify: bool,
    /// The name in the server's certificate, when not the URL's host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_server_name: Option<String>,
    /// Anything else.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// Credentials.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct User {
    /// A certificate file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<String>,
    /// A certificate, base64 of PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_certificate_data: Option<String>,
    /// A key file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_key: Option<String>,
    /// A key, base64 of PEM.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_key_data: Option<String>,
    /// A bearer token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// A file with a bearer token, read again from time to time.
    #[serde(rename = "tokenFile", skip_serializing_if = "Option::is_none")]
    pub token_file: Option<String>,
    /// Basic authentication.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// Basic authentication.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// Anything else.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Credentials never reach a log.
        f.debug_struct("User").finish_non_exhaustive()
    }
}

/// A cluster and a user.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Context {
    /// The cluster's name.
    pub cluster: String,
    /// The user's name.
    pub user: String,
    /// The namespace commands work in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Anything else.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// What a transport needs to know, files read.
#[derive(Clone, Default)]
pub struct Settings {
    /// The URL of the server; a path is put before every request's path.
    pub server: String,
    /// Trusted CAs, PEM. `None` = the system's.
    pub ca: Option<String>,
    /// Do not verify the server.
    pub insecure: bool,
    /// The name expected in the server's certificate.
    pub server_name: Option<String>,
    /// The client's certificate.
    pub identity: Option<Identity>,
    /// A bearer token.
    pub token: Option<String>,
    /// A file with a bearer token; wins over `token`.
    pub token_file: Option<PathBuf>,
    /// Basic authentication.
    pub basic: Option<(String, String)>,
    /// The namespace of the context; `default` when it names none.
    pub namespace: String,
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Kubeconfig {
    /// Reads the text of a kubeconfig.
    pub fn parse(text: &str) -> Result<Self, ClientError> {
        serde_saphyr::from_str(text).map_err(|error| ClientError::config("kubeconfig", error))
    }

    /// Reads a file; relative paths in it count from its directory.
    pub fn load(path: &Path) -> Result<Self, ClientError> {
        let text = read_text(path)?;
        let mut config = Kubeconfig::parse(&text)?;
        let base = path.parent().unwrap_or(Path::new("."));
        let fix = |path: &mut Option<String>| {
            if let Some(path) = path
                && !path.is_empty()
                && Path::new(path).is_relative()
            {
                *path = base.join(&*path).to_string_lossy().into_owned();
            }
        };
        for entry in &mut config.clusters {
            fix(&mut entry.cluster.certificate_authority);
        }
        for entry in &mut config.users {
            fix(&mut entry.user.client_certificate);
            fix(&mut entry.user.client_key);
            fix(&mut entry.user.token_file);
        }
        Ok(config)
    }

    /// A kubeconfig of one cluster, user and context, all named `name`.
    pub fn single(
        name: &str,
        server: &str,
        ca: &str,
        identity: Option<&Identity>,
        token: Option<&str>,
    ) -> Self {
        let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        let cluster = Cluster {
            server: server.to_owned(),
            certificate_authority_data: (!ca.is_empty()).then(|| encode(ca)),
            ..Cluster::default()
        };
        let user = User {
            client_certificate_data: identity.map(|identity| encode(&identity.cert)),
            client_key_data: identity.map(|identity| encode(&identity.key)),
            token: token.map(str::to_owned),
            ..User::default()
        };
        let context = Context { cluster: name.to_owned(), user: name.to_owned(), ..Context::default() };
        Kubeconfig {
            api_version: "v1".to_owned(),
            kind: "Config".to_owned(),
            clusters: vec![NamedCluster { name: name.to_owned(), cluster }],
            users: vec![NamedUser { name: name.to_owned(), user }],
            contexts: vec![NamedContext { name: name.to_owned(), context }],
            current_context: name.to_owned(),
            preferences: Value::Object(serde_json::Map::new()),
            other: BTreeMap::new(),
        }
    }

    /// The text of the file.
    pub fn to_yaml(&self) -> Result<String, ClientError> {
        serde_saphyr::to_string(self).map_err(|error| ClientError::config("kubeconfig", error))
    }

    /// The settings of a context (`None` = the current one).
    pub fn settings(&self, context: Option<&str>) -> Result<Settings, ClientError> {
        let name = context.unwrap_or(&self.current_context);
        let context = self.contexts.iter().find(|entry| entry.name == name).map(|entry| &entry.context);
        let fallback = Context::default();
        let context = match context {
            Some(context) => context,
            None if name.is_empty() => &fallback,
            None => {
                return Err(ClientError::config("kubeconfig", format!("context {name:?} does not exist")));
            }
        };
        let cluster = self.clusters.iter().find(|entry| entry.name == context.cluster);
        let cluster = cluster.map(|entry| entry.cluster.clone()).unwrap_or_default();
        let user = self.users.iter().find(|entry| entry.name == context.user);
        let user = user.map(|entry| entry.user.clone()).unwrap_or_default();
        let namespace = context.namespace.clone().unwrap_or_default();
        let namespace = if namespace.is_empty() { "default".to_owned() } else { namespace };
        settings(cluster, user, namespace)
    }
}

fn settings(cluster: Cluster, user: User, namespace: String) -> Result<Settings, ClientError> {
    let ca = data_or_file(
        "certificate-authority",
        cluster.certificate_authority_data.as_deref(),
        cluster.certificate_authority.as_deref(),
    )?;
    let cert = data_or_file(
        "client-certificate",
        user.client_certificate_data.as_deref(),
        user.client_certificate.as_deref(),
    )?;
    let key = data_or_file("client-key", user.client_key_data.as_deref(), user.client_key.as_deref())?;
    let identity = cert.zip(key).map(|(cert, key)| Identity { cert, key });
    Ok(Settings {
        server: if cluster.server.is_empty() { "http://localhost:8080".to_owned() } else { cluster.server },
        ca,
        insecure: cluster.insecure_skip_tls_verify,
        server_name: cluster.tls_server_name.filter(|name| !name.is_empty()),
        identity,
        token: user.token.filter(|token| !token.is_empty()),
        token_file: user.token_file.filter(|path| !path.is_empty()).map(PathBuf::from),
        basic: user.username.filter(|name| !name.is_empty()).zip(user.password),
        namespace,
    })
}

impl Settings {
    /// The settings of a pod with a service account.
    pub fn in_cluster(host: &str, port: &str) -> Result<Self, ClientError> {
        let dir = Path::new("/var/run/secrets/kubernetes.io/serviceaccount");
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        Ok(Settings {
            server: format!("https://{host}:{port}"),
            ca: Some(read_text(&dir.join("ca.crt"))?),
            token_file: Some(dir.join("token")),
            namespace: read_text(&dir.join("namespace"))?,
            ..Settings::default()
        })
    }
}

fn data_or_file(what: &str, data: Option<&str>, file: Option<&str>) -> Result<Option<String>, ClientError> {
    if let Some(data) = data.filter(|data| !data.is_empty()) {
        let bytes = base64::engine::general_purpose::STANDARD.decode(data.trim());
        let bytes = bytes.map_err(|error| ClientError::config(format!("{what}-data"), error))?;
        let text =
            String::from_utf8(bytes).map_err(|error| ClientError::config(format!("{what}-data"), error))?;
        return Ok(Some(text));
    }
    file.filter(|file| !file.is_empty()).map(|file| read_text(Path::new(file))).transpose()
}

fn read_text(path: &Path) -> Result<String, ClientError> {
    std::fs::read_to_string(path).map_err(|error| ClientError::config(path.display().to_string(), error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_and_resolves() {
        let identity = Identity { cert: "C".into(), key: "K".into() };
        let config = Kubeconfig::single("x", "https://h:1", "CA", Some(&identity), Some("t"));
        let text = config.to_yaml().expect("written");
        let back = Kubeconfig::parse(&text).expect("read");
        assert_eq!(back.contexts, config.contexts);
        let settings = back.settings(None).expect("settings");
        assert_eq!((settings.server.as_str(), settings.ca.as_deref()), ("https://h:1", Some("CA")));
        assert_eq!((settings.token.as_deref(), settings.namespace.as_str()), (Some("t"), "default"));
        assert_eq!(settings.identity.expect("an identity").key, "K");
        assert!(back.settings(Some("gone")).is_err());
    }
}
