//! What config-map, secret, downward-API and projected volumes hold: a pure function of the pod and the objects.
//!
//! Must not know files; tokens are fetched before.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use api::k8s::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, ProjectedVolumeSource, Secret, Volume,
};

use super::VolumeError;
use super::atomic::{Content, Payload};
use crate::container::Referenced;
use crate::container::fields::{self, Place};
use crate::pods::pod::PodExt;

/// Mode of files unless said otherwise.
const DEFAULT_MODE: i32 = 0o644;

/// Tokens of a pod by (audience, seconds).
pub type Tokens = BTreeMap<(String, i64), String>;

/// Everything content is made from.
#[derive(Clone, Debug)]
pub struct Sources<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Config maps and secrets.
    pub referenced: &'a Referenced,
    /// Service-account tokens.
    pub tokens: &'a Tokens,
    /// Node facts.
    pub place: &'a Place<'a>,
}

/// A config map or a secret, as volumes see it.
trait Keyed {
    /// What it is called when it is missing.
    const WHAT: &'static str;

    /// Its keys and what they hold.
    fn keyed(&self) -> BTreeMap<String, Vec<u8>>;
}

impl Keyed for ConfigMap {
    const WHAT: &'static str = "configmap";

    fn keyed(&self) -> BTreeMap<String, Vec<u8>> {
        let text = self.data.iter().flatten().map(|(key, value)| (key.clone(), value.clone().into_bytes()));
        let bytes = self.binary_data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone()));
        text.chain(bytes).collect()
    }
}

impl Keyed for Secret {
    const WHAT: &'static str = "secret";

    fn keyed(&self) -> BTreeMap<String, Vec<u8>> {
        self.data.iter().flatten().map(|(key, value)| (key.clone(), value.0.clone())).collect()
    }
}

/// What a volume shows of a config map or a secret.
struct Shown<'a> {
    name: &'a str,
    items: Option<&'a Vec<KeyToPath>>,
    default: Option<i32>,
    optional: Option<bool>,
}

fn mode(mode: Option<i32>, default: Option<i32>) -> u32 {
    u32::try_from(mode.or(default).unwrap_or(DEFAULT_MODE)).unwrap_or(0o644) & 0o7777
}

/// All keys, or those that `items` names at the paths it gives.
fn select(
    data: &BTreeMap<String, Vec<u8>>,
    items: Option<&Vec<KeyToPath>>,
    default: Option<i32>,
    optional: bool,
    out: &mut Payload,
) -> Result<(), VolumeError> {
    let content = |bytes: &Vec<u8>, own: Option<i32>| Content {
        bytes: bytes.clone(),
        mode: mode(own, default),
        owner: None,
    };
    match items.filter(|items| !items.is_empty()) {
        None => out.extend(data.iter().map(|(key, bytes)| (PathBuf::from(key), content(bytes, None)))),
        Some(items) => {
            for item in items {
                match data.get(&item.key) {
                    Some(bytes) => {
                        out.insert(PathBuf::from(&item.path), content(bytes, item.mode));
                    }
                    None if optional => {}
                    None => return Err(VolumeError::Key { key: item.key.clone() }),
                }
            }
        }
    }
    Ok(())
}

fn add_keyed<K: Keyed>(
    objects: &BTreeMap<String, Option<Arc<K>>>,
    shown: &Shown<'_>,
    out: &mut Payload,
) -> Result<(), VolumeError> {
    let optional = shown.optional.unwrap_or(false);
    match objects.get(shown.name).and_then(Option::as_deref) {
        Some(object) => select(&object.keyed(), shown.items, shown.default, optional, out),
        None if optional => Ok(()),
        None => Err(VolumeError::Missing { what: K::WHAT, name: shown.name.to_owned() }),
    }
}

fn add_downward(
    sources: &Sources<'_>,
    items: Option<&Vec<DownwardAPIVolumeFile>>,
    default: Option<i32>,
    out: &mut Payload,
) -> Result<(), VolumeError> {
    for item in items.into_iter().flatten() {
        let text = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => fields::field(sources.pod, &field.field_path, sources.place),
            (None, Some(selector)) => fields::resource(sources.pod, None, selector, sources.place),
            (None, None) => continue,
        };
        let text = text.map_err(|error| VolumeError::Content { detail: error.to_string() })?;
        out.insert(
            PathBuf::from(&item.path),
            Content { bytes: text.into_bytes(), mode: mode(item.mode, default), owner: None },
        );
    }
    Ok(())
}

/// The one user of all containers, if they agree on one: it owns the pod's tokens.
fn common_user(pod: &Pod) -> Option<u32> {
    let mut users = pod
        .slots()
        .into_iter()
        .filter_map(|slot| pod.container(slot))
        .map(|container| crate::container::security::run_as_user(pod, &container));
    let first = users.next()??;
    users.all(|user| user == Some(first)).then(|| u32::try_from(first).ok()).flatten()
}

fn add_projected(
    sources: &Sources<'_>,
    projected: &ProjectedVolumeSource,
    out: &mut Payload,
) -> Result<(), VolumeError> {
    let default = projected.default_mode;
    for source in projected.sources.iter().flatten() {
        if let Some(map) = &source.config_map {
            let (name, items, optional) = (map.name.as_str(), map.items.as_ref(), map.optional);
            add_keyed(&sources.referenced.config_maps, &Shown { name, items, default, optional }, out)?;
        } else if let Some(secret) = &source.secret {
            let (name, items, optional) = (secret.name.as_str(), secret.items.as_ref(), secret.optional);
            add_keyed(&sources.referenced.secrets, &Shown { name, items, default, optional }, out)?;
        } else if let Some(downward) = &source.downward_api {
            add_downward(sources, downward.items.as_ref(), default, out)?;
        } else if let Some(token) = &source.service_account_token {
            let key = token_key(token.audience.as_deref(), token.expiration_seconds);
            let value = sources.tokens.get(&key);
            let bytes = value
                .ok_or(VolumeError::Content { detail: "failed to fetch token".into() })?
                .clone()
                .into_bytes();
            let owner = common_user(sources.pod);
            let group = sources.pod.spec().security_context.as_ref().and_then(|security| security.fs_group);
            let restricted = owner.is_some() || group.is_some();
            let mode = if restricted { 0o600 } else { mode(None, default) };
            out.insert(PathBuf::from(&token.path), Content { bytes, mode, owner });
        } else {
            let detail = "unsupported projected volume source".to_owned();
            return Err(VolumeError::Content { detail });
        }
    }
    Ok(())
}

/// How a token is asked for: audience (empty = the API server) and lifetime, seconds.
pub fn token_key(audience: Option<&str>, seconds: Option<i64>) -> (String, i64) {
    (audience.unwrap_or("").to_owned(), seconds.unwrap_or(3600))
}

/// The tokens that a pod's volumes hold.
pub fn wanted_tokens(pod: &Pod) -> Vec<(String, i64)> {
    let sources = pod.spec().volumes.iter().flatten().filter_map(|volume| volume.projected.as_ref());
    let sources = sources.flat_map(|projected| projected.sources.iter().flatten());
    let tokens = sources.filter_map(|source| source.service_account_token.as_ref());
    let mut keys: Vec<_> =
        tokens.map(|token| token_key(token.audience.as_deref(), token.expiration_seconds)).collect();
    keys.sort();
    keys.dedup();
    keys
}

/// The content of a volume that is made of objects; `None` for other kinds.
pub fn payload(sources: &Sources<'_>, volume: &Volume) -> Result<Option<Payload>, VolumeError> {
    let mut out = Payload::new();
    if let Some(map) = &volume.config_map {
        let (items, default, optional) = (map.items.as_ref(), map.default_mode, map.optional);
        let shown = Shown { name: &map.name, items, default, optional };
        add_keyed(&sources.referenced.config_maps, &shown, &mut out)?;
    } else if let Some(secret) = &volume.secret {
        let name = secret.secret_name.as_deref().unwrap_or("");
        let (items, default, optional) = (secret.items.as_ref(), secret.default_mode, secret.optional);
        add_keyed(&sources.referenced.secrets, &Shown { name, items, default, optional }, &mut out)?;
    } else if let Some(downward) = &volume.downward_api {
        add_downward(sources, downward.items.as_ref(), downward.default_mode, &mut out)?;
    } else if let Some(projected) = &volume.projected {
        add_projected(sources, projected, &mut out)?;
    } else {
        return Ok(None);
    }
    Ok(Some(out))
}

/// True when the volume shows the pod's own labels or annotations, which change while it runs.
pub fn is_live(volume: &Volume) -> bool {
    volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.downward_api.is_some()
        || volume.projected.is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::path::Path;
    use std::sync::Arc;

    #[test]
    fn projected_sources() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "securityContext": {"runAsUser": 7}}], "volumes": [{"name": "v", "projected": {
                "defaultMode": 256, "sources": [
                    {"configMap": {"name": "m", "items": [{"key": "k", "path": "x/y", "mode": 420}]}},
                    {"secret": {"name": "gone", "optional": true}},
                    {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
                    {"serviceAccountToken": {"path": "token", "expirationSeconds": 600}}]}}]}}))
        .expect("a pod");
        let map = serde_json::from_value(json!({"data": {"k": "v"}})).expect("a map");
        let referenced = Referenced {
            config_maps: [("m".to_owned(), Some(Arc::new(map)))].into(),
            ..Referenced::default()
        };
        let tokens = [((String::new(), 600), "t0ken".to_owned())].into();
        let sources =
            Sources { pod: &pod, referenced: &referenced, tokens: &tokens, place: &Place::default() };
        let volume = &pod.spec().volumes.as_ref().expect("volumes")[0];
        let payload = payload(&sources, volume).expect("resolves").expect("of objects");
        assert_eq!(
            (payload[Path::new("x/y")].mode, &payload[Path::new("x/y")].bytes[..]),
            (0o644, &b"v"[..])
        );
        assert_eq!(
            (payload[Path::new("labels")].mode, &payload[Path::new("labels")].bytes[..]),
            (0o400, &b"a=\"b\""[..])
        );
        assert_eq!((payload[Path::new("token")].mode, payload[Path::new("token")].owner), (0o600, Some(7)));
        let none = Sources { referenced: &Referenced::default(), ..sources };
        let error = super::payload(&none, volume).expect_err("missing");
        assert_eq!(error.to_string(), "configmap \"m\" not found");
    }
}
