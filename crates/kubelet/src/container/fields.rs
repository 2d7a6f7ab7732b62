//! The downward API: a pod's own fields and its containers' resources as text.
//!
//! Must not know where the text goes (variables, files, sub-paths).

use api::k8s::api::core::v1::{Container, Pod, ResourceFieldSelector};

use super::SpecError;
use crate::amount::{self, Amounts};
use crate::pods::pod::PodExt;

/// What the node adds to a pod's own fields.
#[derive(Clone, Debug, Default)]
pub struct Place<'a> {
    /// The node's name.
    pub node: &'a str,
    /// The node's addresses.
    pub host_ips: &'a [String],
    /// The pod's addresses.
    pub pod_ips: &'a [String],
    /// What the node offers: the limit where a container has none.
    pub allocatable: Option<&'a Amounts>,
}

/// The text of a `fieldRef`.
pub fn field(pod: &Pod, path: &str, place: &Place<'_>) -> Result<String, SpecError> {
    let meta = &pod.metadata;
    if let Some((map, key)) = subscript(path) {
        let map = match map {
            "metadata.annotations" => meta.annotations.as_ref(),
            "metadata.labels" => meta.labels.as_ref(),
            _ => return Err(SpecError::Field { path: path.to_owned() }),
        };
        return Ok(map.and_then(|map| map.get(key)).cloned().unwrap_or_default());
    }
    Ok(match path {
        "metadata.name" => pod.name().to_owned(),
        "metadata.namespace" => pod.namespace().to_owned(),
        "metadata.uid" => pod.uid().to_owned(),
        "metadata.labels" => lines(meta.labels.as_ref()),
        "metadata.annotations" => lines(meta.annotations.as_ref()),
        "spec.nodeName" => place.node.to_owned(),
        "spec.serviceAccountName" => pod.spec().service_account_name.clone().unwrap_or_default(),
        "status.hostIP" => place.host_ips.first().cloned().unwrap_or_default(),
        "status.hostIPs" => place.host_ips.join(","),
        "status.podIP" => place.pod_ips.first().cloned().unwrap_or_default(),
        "status.podIPs" => place.pod_ips.join(","),
        _ => return Err(SpecError::Field { path: path.to_owned() }),
    })
}

/// `metadata.labels['key']` as its two parts.
fn subscript(path: &str) -> Option<(&str, &str)> {
    let (map, rest) = path.split_once("['")?;
    Some((map, rest.strip_suffix("']")?))
}

/// One `key="value"` a line, ordered, as Go's `%q` escapes.
fn lines(map: Option<&std::collections::BTreeMap<String, String>>) -> String {
    let lines: Vec<String> =
        map.into_iter().flatten().map(|(key, value)| format!("{key}={}", quoted(value))).collect();
    lines.join("\n")
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// The text of a `resourceFieldRef`; `own` is the container that refers when none is named.
pub fn resource(
    pod: &Pod,
    own: Option<&Container>,
    selector: &ResourceFieldSelector,
    place: &Place<'_>,
) -> Result<String, SpecError> {
    let named = selector.container_name.as_deref().filter(|name| !name.is_empty());
    let container = match named {
        Some(name) => {
            pod.container_named(name).ok_or_else(|| SpecError::NoContainer { name: name.to_owned() })?
        }
        None => own.cloned().ok_or_else(|| SpecError::NoContainer { name: String::new() })?,
    };
    let unknown = || SpecError::Resource { resource: selector.resource.clone() };
    let (list, name) = selector.resource.split_once('.').ok_or_else(unknown)?;
    let resources = container.resources.as_ref();
    let (amounts, fallback) = match list {
        "limits" => (resources.and_then(|r| r.limits.as_ref()), place.allocatable),
        "requests" => (resources.and_then(|r| r.requests.as_ref()), None),
        _ => return Err(unknown()),
    };
    if !(matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-")) {
        return Err(unknown());
    }
    let divisor = selector.divisor.as_ref().map(|quantity| quantity.0.as_str()).filter(|text| *text != "0");
    let positive = |amounts: Option<&Amounts>| amount::milli_of(amounts, name).filter(|milli| *milli > 0);
    let milli = positive(amounts).or_else(|| positive(fallback)).unwrap_or(0);
    let divisor = amount::milli(divisor.unwrap_or("1")).max(1);
    Ok((milli.saturating_add(divisor - 1) / divisor).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_and_resources() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"b": "x\"y", "a": "1"}},
            "spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "1250m", "memory": "64Mi"}}}]}}))
        .expect("a pod");
        let allocatable: Amounts =
            serde_json::from_value(json!({"ephemeral-storage": "1Gi"})).expect("amounts");
        let place = Place { node: "node", allocatable: Some(&allocatable), ..Place::default() };
        for (path, expect) in [
            ("metadata.name", "p"),
            ("metadata.labels", "a=\"1\"\nb=\"x\\\"y\""),
            ("metadata.labels['a']", "1"),
            ("spec.nodeName", "node"),
        ] {
            assert_eq!(field(&pod, path, &place).expect(path), expect);
        }
        assert!(field(&pod, "spec.x", &place).is_err());
        for (resource_name, divisor, expect) in [
            ("limits.cpu", "1", "2"),
            ("limits.cpu", "1m", "1250"),
            ("limits.memory", "1Mi", "64"),
            ("limits.ephemeral-storage", "0", "1073741824"),
            ("requests.cpu", "0", "0"),
        ] {
            let selector =
                serde_json::from_value(json!({"resource": resource_name, "divisor": divisor})).expect("one");
            let text = resource(&pod, pod.apps().first(), &selector, &place).expect(resource_name);
            assert_eq!(text, expect, "{resource_name}");
        }
    }
}
