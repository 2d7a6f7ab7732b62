//! Defaults of pods and of pod templates.

use std::collections::BTreeMap;

use api::Quantity;
use serde_json::{Map, Value, json};

use super::fill;
use crate::tree::Tree;

/// Defaults of a Pod: the spec's, and what only pods get (not templates).
pub fn pod(pod: &mut Value) {
    let Some(spec) = pod.get_mut("spec").filter(|s| s.is_object()) else { return };
    for list in ["containers", "initContainers"] {
        spec.list_mut(list).iter_mut().for_each(requests_from_limits);
    }
    pod_level_resources(spec);
    spec.set_default("enableServiceLinks", true);
    pod_spec(spec);
    if spec.int("terminationGracePeriodSeconds") < 0 {
        spec.set("terminationGracePeriodSeconds", 1);
    }
    if spec.flag("hostNetwork") {
        host_ports(spec);
    }
}

/// Defaults of a pod template's spec.
pub fn template(template: &mut Value) {
    if let Some(spec) = template.get_mut("spec").filter(|s| s.is_object()) {
        pod_spec(spec);
        if spec.flag("hostNetwork") {
            host_ports(spec);
        }
    }
}

fn pod_spec(spec: &mut Value) {
    fill(
        spec,
        &[
            ("dnsPolicy", json!("ClusterFirst")),
            ("restartPolicy", json!("Always")),
            ("securityContext", json!({})),
            ("terminationGracePeriodSeconds", json!(30)),
            ("schedulerName", json!("default-scheduler")),
        ],
    );
    // The deprecated alias and the field are one value upstream; both are always written.
    let account = match spec.text("serviceAccountName") {
        "" => spec.text("serviceAccount").to_string(),
        name => name.to_string(),
    };
    if !account.is_empty() {
        spec.set("serviceAccountName", account.clone());
        spec.set("serviceAccount", account);
    }
    spec.list_mut("volumes").iter_mut().for_each(volume);
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        spec.list_mut(list).iter_mut().for_each(container);
    }
    round_up(spec.get_mut("overhead"));
    for path in ["resources.limits", "resources.requests"] {
        round_up(spec.at_mut(path));
    }
}

/// Finer than milli is rounded up.
pub fn round_up(list: Option<&mut Value>) {
    let Some(Value::Object(map)) = list else { return };
    for value in map.values_mut() {
        let Some(q) = value.as_str().and_then(|s| s.parse::<Quantity>().ok()) else { continue };
        // Only small numbers can be finer than milli, and only those fit in an i64 of milli.
        let milli = Quantity::from_milli(q.milli_value());
        if q.as_f64().abs() < 1e9 && milli != q {
            *value = milli.to_string().into();
        }
    }
}

/// The tag part of an image reference; `latest` when there is neither tag nor digest.
pub fn image_tag(image: &str) -> &str {
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (image, None),
    };
    let last = name.rsplit('/').next().unwrap_or(name);
    match (last.split_once(':'), digest) {
        (Some((_, tag)), _) => tag,
        (None, Some(_)) => "",
        (None, None) => "latest",
    }
}

fn pull_policy(image: &str) -> &'static str {
    // What is no image's name has no tag either.
    let named = image.starts_with(|c: char| c.is_ascii_alphanumeric());
    if named && image_tag(image) == "latest" { "Always" } else { "IfNotPresent" }
}

fn container(c: &mut Value) {
    let policy = pull_policy(c.text("image"));
    fill(
        c,
        &[
            ("imagePullPolicy", json!(policy)),
            ("terminationMessagePath", json!("/dev/termination-log")),
            ("terminationMessagePolicy", json!("File")),
        ],
    );
    for port in c.list_mut("ports") {
        port.set_default("protocol", "TCP");
    }
    for env in c.list_mut("env") {
        if let Some(field) = env.at_mut("valueFrom.fieldRef") {
            field.set_default("apiVersion", "v1");
        }
        if let Some(file) = env.at_mut("valueFrom.fileKeyRef") {
            file.set_default("optional", false);
        }
    }
    for path in ["resources.limits", "resources.requests"] {
        round_up(c.at_mut(path));
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = c.get_mut(probe) {
            default_probe(probe);
        }
    }
    for hook in ["lifecycle.postStart.httpGet", "lifecycle.preStop.httpGet"] {
        if let Some(get) = c.at_mut(hook) {
            http_get(get);
        }
    }
}

fn default_probe(probe: &mut Value) {
    fill(
        probe,
        &[
            ("timeoutSeconds", json!(1)),
            ("periodSeconds", json!(10)),
            ("successThreshold", json!(1)),
            ("failureThreshold", json!(3)),
        ],
    );
    if let Some(get) = probe.get_mut("httpGet") {
        http_get(get);
    }
    if let Some(grpc) = probe.get_mut("grpc").filter(|g| g.is_object()) {
        grpc.set_default("service", "");
    }
}

fn http_get(get: &mut Value) {
    fill(get, &[("path", json!("/")), ("scheme", json!("HTTP"))]);
}

/// Volume sources whose only default is a constant: (source, field, value).
fn source_defaults() -> [(&'static str, &'static str, Value); 16] {
    const MODE: i64 = 0o644;
    [
        ("hostPath", "type", json!("")),
        ("secret", "defaultMode", json!(MODE)),
        ("configMap", "defaultMode", json!(MODE)),
        ("downwardAPI", "defaultMode", json!(MODE)),
        ("projected", "defaultMode", json!(MODE)),
        ("iscsi", "iscsiInterface", json!("default")),
        ("rbd", "pool", json!("rbd")),
        ("rbd", "user", json!("admin")),
        ("rbd", "keyring", json!("/etc/ceph/keyring")),
        ("azureDisk", "cachingMode", json!("ReadWrite")),
        ("azureDisk", "fsType", json!("ext4")),
        ("azureDisk", "readOnly", json!(false)),
        ("azureDisk", "kind", json!("Shared")),
        ("scaleIO", "storageMode", json!("ThinProvisioned")),
        ("scaleIO", "fsType", json!("xfs")),
        ("iscsi", "iscsiInterface", json!("default")),
    ]
}

/// Defaults of a volume source, in pods and in persistent volumes.
pub fn volume_source(volume: &mut Value) {
    for (source, field, value) in source_defaults() {
        if let Some(source) = volume.get_mut(source).filter(|s| s.is_object()) {
            source.set_default(field, value);
        }
    }
}

fn volume(v: &mut Value) {
    let Some(map) = v.as_object_mut() else { return };
    if !map.iter().any(|(key, value)| key != "name" && !value.is_null()) {
        map.insert("emptyDir".into(), json!({}));
    }
    volume_source(v);
    if let Some(image) = v.get_mut("image").filter(|i| i.is_object()) {
        let policy = pull_policy(image.text("reference"));
        image.set_default("pullPolicy", policy);
    }
    field_refs(v.list_mut("downwardAPI.items"));
    for source in v.list_mut("projected.sources") {
        field_refs(source.list_mut("downwardAPI.items"));
        if let Some(token) = source.get_mut("serviceAccountToken").filter(|t| t.is_object()) {
            token.set_default("expirationSeconds", 3600);
        }
    }
    if let Some(claim) = v.at_mut("ephemeral.volumeClaimTemplate.spec") {
        super::core::claim_spec(claim);
    }
}

fn field_refs(items: &mut [Value]) {
    for item in items {
        if let Some(field) = item.get_mut("fieldRef").filter(|f| f.is_object()) {
            field.set_default("apiVersion", "v1");
        }
    }
}

fn requests_from_limits(container: &mut Value) {
    let limits = container.map("resources.limits").clone();
    for (resource, limit) in limits {
        if !container.has("resources.requests") {
            container.set("resources.requests", json!({}));
        }
        if let Some(Value::Object(requests)) = container.at_mut("resources.requests") {
            requests.entry(resource).or_insert(limit);
        }
    }
}

fn host_ports(spec: &mut Value) {
    for list in ["containers", "initContainers"] {
        for container in spec.list_mut(list) {
            for port in container.list_mut("ports") {
                if port.int("hostPort") == 0 {
                    let number = port.at("containerPort").clone();
                    port.set("hostPort", number);
                }
            }
        }
    }
}

/// Resources that may be stated for a whole pod.
fn pod_level_resource(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || name.starts_with("hugepages-")
}

fn pod_level_resources(spec: &mut Value) {
    if !spec.has("resources") {
        return;
    }
    let requests = spec.map("resources.requests").clone();
    let mut limits = spec.map("resources.limits").clone();
    if !(limits.is_empty() && requests.is_empty()) {
        for (name, quantity) in aggregate(spec, "limits") {
            if name.starts_with("hugepages-") && !requests.contains_key(&name) {
                limits.entry(name).or_insert(quantity);
            }
        }
        if !limits.is_empty() {
            spec.set("resources.limits", Value::Object(limits.clone()));
        }
    }
    if limits.is_empty() {
        return;
    }
    let mut requests = requests;
    for (name, quantity) in aggregate(spec, "requests") {
        if matches!(name.as_str(), "cpu" | "memory") {
            requests.entry(name).or_insert(quantity);
        }
    }
    for (name, quantity) in limits {
        if pod_level_resource(&name) {
            requests.entry(name).or_insert(quantity);
        }
    }
    if !requests.is_empty() {
        spec.set("resources.requests", Value::Object(requests));
    }
}

/// What all containers together ask for: main containers and sidecars run side by side, an init
/// container runs beside the sidecars started before it.
pub fn aggregate(spec: &Value, what: &str) -> Map<String, Value> {
    type Amounts = BTreeMap<String, Quantity>;
    let amounts = |c: &Value| -> Amounts {
        let all = c.at("resources").map(what);
        all.iter().filter_map(|(k, v)| Some((k.clone(), v.as_str()?.parse().ok()?))).collect()
    };
    let add = |total: &mut Amounts, more: &Amounts| {
        for (name, quantity) in more {
            let sum = total.get(name).map_or(*quantity, |t| t.add(quantity));
            total.insert(name.clone(), sum);
        }
    };
    let mut total = Amounts::new();
    spec.list("containers").iter().for_each(|c| add(&mut total, &amounts(c)));
    let (mut sidecars, mut peak) = (Amounts::new(), Amounts::new());
    for init in spec.list("initContainers") {
        let mut now = amounts(init);
        if init.text("restartPolicy") == "Always" {
            add(&mut total, &now);
            add(&mut sidecars, &now);
            now = sidecars.clone();
        } else {
            add(&mut now, &sidecars);
        }
        for (name, quantity) in now {
            let most = peak.entry(name).or_insert(quantity);
            if *most < quantity {
                *most = quantity;
            }
        }
    }
    for (name, quantity) in peak {
        let most = total.entry(name).or_insert(quantity);
        if *most < quantity {
            *most = quantity;
        }
    }
    total.into_iter().map(|(k, v)| (k, v.to_string().into())).collect()
}

#[cfg(test)]
mod tests {
    use super::image_tag;

    #[test]
    fn tags() {
        for (image, tag) in [
            ("nginx", "latest"),
            ("nginx:latest", "latest"),
            ("nginx:1.25", "1.25"),
            ("localhost:5000/nginx", "latest"),
            ("localhost:5000/nginx:1", "1"),
            ("nginx@sha256:00", ""),
            ("nginx:1@sha256:00", "1"),
        ] {
            assert_eq!(image_tag(image), tag, "{image}");
        }
    }
}
