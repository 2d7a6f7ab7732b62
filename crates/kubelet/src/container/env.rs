//! A container's environment and the `$(NAME)` references in its command.
//!
//! Must not know how the referenced objects were fetched.

use std::collections::BTreeMap;

use api::k8s::api::core::v1::{Container, EnvVarSource, Pod, Service};

use super::fields::{self, Place};
use super::{Referenced, SpecError};
use crate::pods::pod::PodExt;

/// Variables in order, each name once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    order: Vec<String>,
    values: BTreeMap<String, String>,
}

impl Environment {
    fn set(&mut self, name: &str, value: String) {
        if self.values.insert(name.to_owned(), value).is_none() {
            self.order.push(name.to_owned());
        }
    }

    /// The value of a variable.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// All variables in order.
    pub fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.order.iter().map(|name| (name.as_str(), self.values[name].as_str()))
    }
}

/// Replaces `$(NAME)` by `lookup(NAME)`; what is unknown stays, and `$$` stands for `$`.
pub fn expand<'a>(text: &str, lookup: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let tail = &rest[at + 1..];
        if let Some(after) = tail.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = tail.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match lookup(name) {
                Some(value) => out.push_str(value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = after;
        } else {
            out.push('$');
            rest = tail;
        }
    }
    out.push_str(rest);
    out
}

/// The environment of a container.
pub fn environment(
    pod: &Pod,
    container: &Container,
    referenced: &Referenced,
    place: &Place<'_>,
) -> Result<Environment, SpecError> {
    let services = service_variables(&referenced.services);
    let mut env = Environment::default();
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or("");
        if let Some(from) = &source.config_map_ref {
            let found = config_map(referenced, &from.name, from.optional)?;
            for (key, value) in found.iter().filter_map(|map| map.data.as_ref()).flatten() {
                set_checked(&mut env, &format!("{prefix}{key}"), value.clone());
            }
        }
        if let Some(from) = &source.secret_ref {
            let found = secret(referenced, &from.name, from.optional)?;
            for (key, value) in found.iter().filter_map(|secret| secret.data.as_ref()).flatten() {
                set_checked(
                    &mut env,
                    &format!("{prefix}{key}"),
                    String::from_utf8_lossy(&value.0).into_owned(),
                );
            }
        }
    }
    for var in container.env.iter().flatten() {
        let value = match (&var.value, &var.value_from) {
            (Some(text), _) if !text.is_empty() => {
                Some(expand(text, |name| env.get(name).or_else(|| services.get(name).map(String::as_str))))
            }
            (_, Some(from)) => value_from(pod, container, from, referenced, place)?,
            _ => Some(String::new()),
        };
        if let Some(value) = value {
            env.set(&var.name, value);
        }
    }
    for (name, value) in services {
        if env.get(&name).is_none() {
            env.set(&name, value);
        }
    }
    Ok(env)
}

/// Names that no process could have are left out.
fn set_checked(env: &mut Environment, name: &str, value: String) {
    if !name.is_empty() && name.bytes().all(|byte| (0x20..0x7f).contains(&byte) && byte != b'=') {
        env.set(name, value);
    }
}

fn config_map<'a>(
    referenced: &'a Referenced,
    name: &str,
    optional: Option<bool>,
) -> Result<Option<&'a api::k8s::api::core::v1::ConfigMap>, SpecError> {
    match referenced.config_maps.get(name).and_then(Option::as_deref) {
        None if optional != Some(true) => Err(SpecError::NoConfigMap { name: name.to_owned() }),
        found => Ok(found),
    }
}

fn secret<'a>(
    referenced: &'a Referenced,
    name: &str,
    optional: Option<bool>,
) -> Result<Option<&'a api::k8s::api::core::v1::Secret>, SpecError> {
    match referenced.secrets.get(name).and_then(Option::as_deref) {
        None if optional != Some(true) => Err(SpecError::NoSecret { name: name.to_owned() }),
        found => Ok(found),
    }
}

/// The value of a `valueFrom`; `None` when an optional source is absent.
fn value_from(
    pod: &Pod,
    container: &Container,
    from: &EnvVarSource,
    referenced: &Referenced,
    place: &Place<'_>,
) -> Result<Option<String>, SpecError> {
    let no_key = |key: &str, kind, name: &str| SpecError::NoKey {
        key: key.to_owned(),
        kind,
        namespace: pod.namespace().to_owned(),
        name: name.to_owned(),
    };
    if let Some(field) = &from.field_ref {
        return fields::field(pod, &field.field_path, place).map(Some);
    }
    if let Some(selector) = &from.resource_field_ref {
        return fields::resource(pod, Some(container), selector, place).map(Some);
    }
    if let Some(source) = &from.config_map_key_ref {
        let Some(map) = config_map(referenced, &source.name, source.optional)? else { return Ok(None) };
        let value = map.data.as_ref().and_then(|data| data.get(&source.key)).cloned();
        if value.is_none() && source.optional != Some(true) {
            return Err(no_key(&source.key, "ConfigMap", &source.name));
        }
        return Ok(value);
    }
    if let Some(source) = &from.secret_key_ref {
        let Some(map) = secret(referenced, &source.name, source.optional)? else { return Ok(None) };
        let value = map.data.as_ref().and_then(|data| data.get(&source.key));
        if value.is_none() && source.optional != Some(true) {
            return Err(no_key(&source.key, "Secret", &source.name));
        }
        return Ok(value.map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned()));
    }
    Ok(None)
}

/// The services whose variables a pod gets: those of its namespace when it wants links, and always
/// `default/kubernetes`.
pub fn visible_services<'a>(
    pod: &Pod,
    services: impl Iterator<Item = &'a std::sync::Arc<Service>>,
) -> Vec<std::sync::Arc<Service>> {
    let links = pod.spec().enable_service_links.unwrap_or(true);
    let meta = |service: &Service| {
        (
            service.metadata.namespace.clone().unwrap_or_default(),
            service.metadata.name.clone().unwrap_or_default(),
        )
    };
    let mut chosen: BTreeMap<String, std::sync::Arc<Service>> = BTreeMap::new();
    for service in services {
        let (namespace, name) = meta(service);
        let has_ip = service
            .spec
            .as_ref()
            .and_then(|spec| spec.cluster_ip.as_deref())
            .is_some_and(|ip| !ip.is_empty() && ip != "None");
        if !has_ip {
            continue;
        }
        if namespace == pod.namespace() && links {
            chosen.insert(name, service.clone());
        } else if namespace == "default" && name == "kubernetes" {
            chosen.entry(name).or_insert_with(|| service.clone());
        }
    }
    chosen.into_values().collect()
}

fn variable(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

/// The variables that describe services, as Docker links named them.
fn service_variables(services: &[std::sync::Arc<Service>]) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    for service in services {
        let Some(spec) = &service.spec else { continue };
        let prefix = variable(service.metadata.name.as_deref().unwrap_or(""));
        let ip = spec.cluster_ip.clone().unwrap_or_default();
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.clone() };
        out.insert(format!("{prefix}_SERVICE_HOST"), ip.clone());
        for (index, port) in spec.ports.iter().flatten().enumerate() {
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let url = format!("{}://{host}:{}", protocol.to_lowercase(), port.port);
            if index == 0 {
                out.insert(format!("{prefix}_SERVICE_PORT"), port.port.to_string());
                out.insert(format!("{prefix}_PORT"), url.clone());
            }
            if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
                out.insert(format!("{prefix}_SERVICE_PORT_{}", variable(name)), port.port.to_string());
            }
            let base = format!("{prefix}_PORT_{}_{}", port.port, protocol.to_uppercase());
            out.insert(base.clone(), url);
            out.insert(format!("{base}_PROTO"), protocol.to_lowercase());
            out.insert(format!("{base}_PORT"), port.port.to_string());
            out.insert(format!("{base}_ADDR"), ip.clone());
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::Arc;

    #[test]
    fn references_in_text() {
        let lookup = |name: &str| (name == "A").then_some("x");
        for (text, expect) in [
            ("$(A)", "x"),
            ("$(B)", "$(B)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$x"),
            ("a$", "a$"),
            ("$(A", "$(A"),
            ("$A $(A)$(A)", "$A xx"),
        ] {
            assert_eq!(expand(text, lookup), expect, "{text}");
        }
    }

    #[test]
    fn sources_and_order() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n"},
            "spec": {"containers": [{"name": "c",
                "envFrom": [{"prefix": "P_", "configMapRef": {"name": "m"}}],
                "env": [
                    {"name": "A", "value": "1"},
                    {"name": "B", "value": "$(A)$(P_k)$(SVC_SERVICE_PORT)"},
                    {"name": "C", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
                    {"name": "D", "valueFrom": {"configMapKeyRef": {"name": "gone", "key": "k", "optional": true}}},
                    {"name": "A", "value": "2"}]}]}}))
        .expect("a pod");
        let map = serde_json::from_value(json!({"data": {"k": "v", "a=b": "bad"}})).expect("a map");
        let secret = serde_json::from_value(json!({"data": {"k": "czNjcjN0"}})).expect("a secret");
        let service = serde_json::from_value(json!({"metadata": {"name": "svc", "namespace": "n"},
            "spec": {"clusterIP": "10.0.0.9", "ports": [{"name": "web", "port": 80}]}}))
        .expect("a service");
        let referenced = Referenced {
            config_maps: [("m".to_owned(), Some(Arc::new(map)))].into(),
            secrets: [("s".to_owned(), Some(Arc::new(secret)))].into(),
            services: vec![Arc::new(service)],
        };
        let env = environment(&pod, &pod.apps()[0], &referenced, &Place::default()).expect("resolves");
        let names: Vec<&str> = env.pairs().map(|(name, _)| name).collect();
        assert_eq!(names[..4], ["P_k", "A", "B", "C"]);
        assert_eq!(
            (env.get("A"), env.get("B"), env.get("C"), env.get("D")),
            (Some("2"), Some("1v80"), Some("s3cr3t"), None)
        );
        assert_eq!(env.get("SVC_PORT_80_TCP"), Some("tcp://10.0.0.9:80"));
        assert_eq!(env.get("SVC_SERVICE_PORT_WEB"), Some("80"));
        let error = environment(&pod, &pod.apps()[0], &Referenced::default(), &Place::default())
            .expect_err("missing");
        assert_eq!(error.to_string(), "configmap \"m\" not found");
    }
}
