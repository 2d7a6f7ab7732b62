//! What clients are warned of: fields and annotations that are deprecated, ignored, or hardly meant so. Nothing is
//! refused here.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use api::names;
use ipnet::IpNet;
use serde_json::Value;

use crate::resource::Resource;
use crate::tree::Tree;

/// Labels of nodes that selectors should no longer name.
const NODE_LABELS: &[(&str, &str)] = &[
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
    ),
    (
        "beta.kubernetes.io/instance-type",
        "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead",
    ),
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    (
        "scheduler.alpha.kubernetes.io/preferAvoidPods",
        "deprecated since v1.22; use Taints and Tolerations instead",
    ),
    ("node-role.kubernetes.io/master", "use \"node-role.kubernetes.io/control-plane\" instead"),
];

/// Annotations of pods without function.
const POD_ANNOTATIONS: &[(&str, &str)] = &[
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
    (
        "security.alpha.kubernetes.io/unsafe-sysctls",
        "non-functional in v1.11+; use the \"sysctls\" field instead",
    ),
];

/// Kinds of volumes that are gone, in pods and (the second flag) as persistent volumes.
const VOLUMES: &[(&str, &str, bool)] = &[
    ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+", true),
    ("gitRepo", "deprecated in v1.11, and disabled by default in v1.33+", false),
    ("scaleIO", "deprecated in v1.16, non-functional in v1.22+", true),
    ("flocker", "deprecated in v1.22, non-functional in v1.25+", false),
    ("storageOS", "deprecated in v1.22, non-functional in v1.25+", true),
    ("storageos", "deprecated in v1.22, non-functional in v1.25+", true),
    ("quobyte", "deprecated in v1.22, non-functional in v1.25+", false),
    ("glusterfs", "deprecated in v1.25, non-functional in v1.26+", true),
    ("cephfs", "deprecated in v1.28, non-functional in v1.31+", true),
    ("rbd", "deprecated in v1.28, non-functional in v1.31+", true),
];

/// Kinds with a template of pods: group, kind, where it is, and whether pods are named for the object.
const TEMPLATES: &[(&str, &str, &str, bool)] = &[
    ("apps", "Deployment", "spec.template", true),
    ("apps", "ReplicaSet", "spec.template", true),
    ("apps", "StatefulSet", "spec.template", false),
    ("apps", "DaemonSet", "spec.template", false),
    ("", "ReplicationController", "spec.template", true),
    ("", "PodTemplate", "template", false),
    ("batch", "Job", "spec.template", true),
    ("batch", "CronJob", "spec.jobTemplate.spec.template", true),
];

/// Where addresses stand in pods and their templates; `[]` stands for each of a list.
const POD_ADDRESSES: [&str; 2] = ["spec.dnsConfig.nameservers[]", "spec.hostAliases[].ip"];

/// Where addresses, and (the last flag) ranges of them, stand in other kinds: group, kind, path.
const ADDRESSES: &[(&str, &str, &str, bool)] = &[
    ("", "Service", "spec.clusterIPs[]", false),
    ("", "Service", "spec.externalIPs[]", false),
    ("", "Service", "spec.loadBalancerIP", false),
    ("", "Service", "spec.loadBalancerSourceRanges[]", true),
    ("", "Node", "spec.podCIDRs[]", true),
    ("", "Endpoints", "subsets[].addresses[].ip", false),
    ("", "Endpoints", "subsets[].notReadyAddresses[].ip", false),
    ("discovery.k8s.io", "EndpointSlice", "endpoints[].addresses[]", false),
    ("networking.k8s.io", "NetworkPolicy", "spec.ingress[].from[].ipBlock.cidr", true),
    ("networking.k8s.io", "NetworkPolicy", "spec.ingress[].from[].ipBlock.except[]", true),
    ("networking.k8s.io", "NetworkPolicy", "spec.egress[].to[].ipBlock.cidr", true),
    ("networking.k8s.io", "NetworkPolicy", "spec.egress[].to[].ipBlock.except[]", true),
];

/// The warnings of a write of the object itself.
pub fn of(resource: &Resource, new: &Value, old: Option<&Value>) -> Vec<String> {
    let mut out = Vec::new();
    if resource.custom {
        return out;
    }
    let (group, kind) = (resource.group.as_str(), resource.kind.as_str());
    if let Some((_, _, path, named)) = TEMPLATES.iter().find(|row| row.0 == group && row.1 == kind) {
        // Where only counts change nothing new is to be said.
        let same = old.is_some_and(|old| old.int("metadata.generation") == new.int("metadata.generation"));
        if !same {
            if *named && old.is_none() {
                name(&mut out, new, "this is used in Pod names and hostnames");
            }
            pod(&mut out, new.at(path), &format!("{path}."));
        }
        if kind == "StatefulSet" && new.int("spec.revisionHistoryLimit") < 0 {
            out.push("spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended".to_owned());
        }
        return out;
    }
    match (group, kind) {
        ("", "Pod") => {
            if old.is_none() {
                name(&mut out, new, "this is used in the Pod's hostname");
            }
            pod(&mut out, new, "");
        }
        ("", "Service") => service(&mut out, new),
        ("apiextensions.k8s.io", _) => out.extend(crate::validation::definition::warnings(new, old)),
        ("", "PersistentVolume") => volume(&mut out, new),
        ("", "Node") => {
            if new.has("spec.configSource") {
                out.push("spec.configSource: the feature is removed".to_owned());
            }
            if !new.text("spec.externalID").is_empty() {
                out.push("spec.externalID: this field is deprecated, and is unused by Kubernetes".to_owned());
            }
        }
        ("discovery.k8s.io", "EndpointSlice") if old.is_none() && new.text("addressType") == "FQDN" => {
            out.push("spec.addressType: FQDN endpoints are deprecated".to_owned());
        }
        ("networking.k8s.io", "Ingress") if old.is_none() => {
            let annotation = "kubernetes.io/ingress.class";
            if new.at("metadata.annotations").get(annotation).is_some() {
                out.push(format!(
                    "annotation {annotation:?} is deprecated, please use 'spec.ingressClassName' instead"
                ));
            }
        }
        ("node.k8s.io", "RuntimeClass") => {
            for (label, why) in deprecated_labels(new.map("scheduling.nodeSelector").keys()) {
                let _ = label;
                out.push(format!("scheduling.nodeSelector: {why}"));
            }
        }
        _ => {}
    }
    for (.., path, range) in ADDRESSES.iter().filter(|row| row.0 == group && row.1 == kind) {
        addresses(&mut out, new, (path, *range), "");
    }
    out
}

/// Addresses in forms that are not the usual ones, at one path; `at` is the object's path with a dot behind it.
fn addresses(out: &mut Vec<String>, object: &Value, (path, range): (&str, bool), at: &str) {
    each(object, path, at.to_owned(), &mut |at, text| match range {
        true => out.extend(unusual_range(at, text)),
        false => out.extend(unusual_address(at, text)),
    });
}

/// Hands out the texts at a path, with the place of each.
fn each(value: &Value, path: &str, at: String, to: &mut impl FnMut(&str, &str)) {
    if path.is_empty() {
        if let Some(text) = value.as_str() {
            to(at.trim_end_matches('.'), text);
        }
        return;
    }
    let (step, rest) = path.split_once('.').unwrap_or((path, ""));
    match step.strip_suffix("[]") {
        None => each(value.at(step), rest, format!("{at}{step}."), to),
        Some(list) => {
            for (i, item) in value.list(list).iter().enumerate() {
                each(item, rest, format!("{at}{list}[{i}]."), to);
            }
        }
    }
}

fn unusual_address(at: &str, text: &str) -> Option<String> {
    let usual = usual_address(text)?;
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) if address.to_ipv4_mapped().is_none() => (usual != text).then(|| {
            format!("{at}: IPv6 address {text:?} should be in RFC 5952 canonical format ({usual:?})")
        }),
        Ok(IpAddr::V4(_)) => None,
        _ => Some(format!("{at}: non-standard IP address {text:?} is invalid: use {usual:?}")),
    }
}

/// An address as it should be written: without zeros in front, IPv4 as such.
fn usual_address(text: &str) -> Option<String> {
    let without_zeros = || {
        let parts = text.split('.').map(|part| part.parse::<u8>().ok().map(|part| part.to_string()));
        parts.collect::<Option<Vec<_>>>().filter(|parts| parts.len() == 4).map(|parts| parts.join("."))
    };
    match text.parse::<IpAddr>() {
        Ok(address) => Some(address.to_canonical().to_string()),
        Err(_) => without_zeros(),
    }
}

fn unusual_range(at: &str, text: &str) -> Vec<String> {
    let Some((address, bits)) = text.split_once('/') else { return Vec::new() };
    let (Some(usual), Ok(length)) = (usual_address(address), bits.parse::<u8>()) else { return Vec::new() };
    let is_mapped = address.parse::<Ipv6Addr>().is_ok_and(|address| address.to_ipv4_mapped().is_some());
    let length = if is_mapped { length.saturating_sub(96) } else { length };
    let Ok(parsed) = format!("{usual}/{length}").parse::<IpNet>() else { return Vec::new() };
    let mut out = Vec::new();
    let network = parsed.trunc().to_string();
    if parsed.trunc() != parsed {
        out.push(format!(
            "{at}: CIDR value {text:?} is ambiguous in this context (should be {network:?} or \"{usual}/{}\"?)",
            parsed.max_prefix_len()
        ));
    }
    if is_mapped || address.parse::<IpAddr>().is_err() {
        out.push(format!("{at}: non-standard CIDR value {text:?} is invalid: use {network:?}"));
    }
    if out.is_empty() && parsed.addr().is_ipv6() && network != text {
        out.push(format!(
            "{at}: IPv6 CIDR value {text:?} should be in RFC 5952 canonical format ({network:?})"
        ));
    }
    out
}

fn deprecated_labels<'a>(
    labels: impl Iterator<Item = &'a String>,
) -> impl Iterator<Item = (&'a String, &'static str)> {
    labels.filter_map(|label| {
        NODE_LABELS.iter().find(|(known, _)| known == label).map(|(_, why)| (label, *why))
    })
}

fn name(out: &mut Vec<String>, object: &Value, use_of: &str) {
    let messages = names::dns1123_label(object.text("metadata.name"));
    if !object.text("metadata.name").is_empty() && !messages.is_empty() {
        out.push(format!(
            "metadata.name: {use_of}, which can result in surprising behavior; a DNS label is recommended: [{}]",
            messages.join(" ")
        ));
    }
}

/// A pod or a template of pods; `at` is its path with a dot behind it.
fn pod(out: &mut Vec<String>, pod: &Value, at: &str) {
    let spec = pod.at("spec");
    for (label, why) in deprecated_labels(spec.map("nodeSelector").keys()) {
        out.push(format!("{at}spec.nodeSelector[{label}]: {why}"));
    }
    for (i, spread) in spec.list("topologySpreadConstraints").iter().enumerate() {
        let at = format!("{at}spec.topologySpreadConstraints[{i}]");
        let key = spread.text("topologyKey").to_owned();
        if let Some((_, why)) = deprecated_labels([&key].into_iter()).next() {
            out.push(format!("{at}.topologyKey: {key} is {why}"));
        }
        if !spread.has("labelSelector") {
            out.push(format!("{at}.labelSelector: a null labelSelector results in matching no pod"));
        }
    }
    for (annotation, why) in POD_ANNOTATIONS {
        if pod.at("metadata.annotations").get(annotation).is_some() {
            out.push(format!("{at}metadata.annotations[{annotation}]: {why}"));
        }
    }
    for (i, volume) in spec.list("volumes").iter().enumerate() {
        for (kind, why, _) in VOLUMES.iter().filter(|row| volume.get(row.0).is_some_and(|v| !v.is_null())) {
            let shown = if *kind == "storageos" { "storageOS" } else { kind };
            out.push(format!("{at}spec.volumes[{i}].{shown}: {why}"));
        }
    }
    duplicates(out, spec, at);
    fractions(out, spec.at("overhead"), &format!("{at}spec.overhead"));
    let containers = containers(spec, at);
    for (container, at) in &containers {
        for list in ["limits", "requests"] {
            fractions(out, container.at("resources").at(list), &format!("{at}.resources.{list}"));
        }
        environment(out, container, at);
    }
    ports(out, &containers);
    if spec.at("terminationGracePeriodSeconds").as_i64().is_some_and(|seconds| seconds < 0) {
        out.push(format!(
            "{at}spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1"
        ));
    }
    affinity(out, spec.at("affinity"), &format!("{at}spec.affinity"));
    POD_ADDRESSES.iter().for_each(|path| addresses(out, pod, (path, false), at));
}

fn containers<'a>(spec: &'a Value, at: &str) -> Vec<(&'a Value, String)> {
    let of = |list: &'static str| {
        let at = at.to_owned();
        spec.list(list).iter().enumerate().map(move |(i, c)| (c, format!("{at}spec.{list}[{i}]")))
    };
    of("initContainers").chain(of("containers")).chain(of("ephemeralContainers")).collect()
}

fn duplicates(out: &mut Vec<String>, spec: &Value, at: &str) {
    for (list, field, what) in [("hostAliases", "ip", "ip"), ("imagePullSecrets", "name", "name")] {
        let all = spec.list(list);
        for (i, item) in all.iter().enumerate() {
            let text = item.text(field);
            if all[..i].iter().any(|before| before.text(field) == text) {
                out.push(format!("{at}spec.{list}[{i}].{field}: duplicate {what} {text:?}"));
            }
            if list == "imagePullSecrets" && text.is_empty() {
                out.push(format!("{at}spec.{list}[{i}].{field}: invalid empty name \"\""));
            }
        }
    }
}

/// Bytes are whole.
fn fractions(out: &mut Vec<String>, amounts: &Value, at: &str) {
    for resource in ["memory", "ephemeral-storage"] {
        let Some(text) = amounts.get(resource).and_then(Value::as_str) else { continue };
        if text.ends_with('m') && text[..text.len() - 1].parse::<u64>().is_ok_and(|milli| milli % 1000 != 0) {
            out.push(format!(
                "{at}[{resource}]: fractional byte value {text:?} is invalid, must be an integer"
            ));
        }
    }
}

fn environment(out: &mut Vec<String>, container: &Value, at: &str) {
    let all = container.list("env");
    for (i, item) in all.iter().enumerate() {
        let (name, value) = (item.text("name"), item.text("value"));
        if !all[..i].iter().any(|before| before.text("name") == name) {
            continue;
        }
        let reference = format!("$({name})");
        if item.has("valueFrom") || value == reference || !value.contains(&reference) {
            out.push(format!(
                "{at}.env[{i}]: hides previous definition of {name:?}, which may be dropped when using apply"
            ));
        }
    }
}

fn ports(out: &mut Vec<String>, containers: &[(&Value, String)]) {
    let mut seen: BTreeMap<String, Vec<(&Value, String)>> = BTreeMap::new();
    let mut named: BTreeMap<&str, String> = BTreeMap::new();
    let mut twice = Vec::new();
    for (container, at) in containers {
        for (i, port) in container.list("ports").iter().enumerate() {
            let at = format!("{at}.ports[{i}]");
            if !port.text("hostIP").is_empty() && port.int("hostPort") == 0 {
                out.push(format!(
                    "{at}: hostIP set without hostPort: {{Name:{} HostPort:0 ContainerPort:{} Protocol:{} HostIP:{}}}",
                    port.text("name"),
                    port.int("containerPort"),
                    port.text("protocol"),
                    port.text("hostIP")
                ));
            }
            let key = format!("{}/{}", port.int("containerPort"), port.text("protocol"));
            for (other, place) in seen.get(&key).into_iter().flatten() {
                let (host, theirs) = (port.int("hostPort"), other.int("hostPort"));
                let (ip, their_ip) = (port.text("hostIP"), other.text("hostIP"));
                if host == theirs && ip == their_ip {
                    out.push(format!("{at}: duplicate port definition with {place}"));
                } else if host == 0 || theirs == 0 {
                    out.push(format!("{at}: overlapping port definition with {place}"));
                } else if host == theirs && ip.is_empty() != their_ip.is_empty() {
                    out.push(format!("{at}: dangerously ambiguous port definition with {place}"));
                }
            }
            let name = port.text("name");
            if !name.is_empty() {
                match named.get(name) {
                    Some(other) => twice.push(format!(
                        "{at}: duplicate port name {name:?} with {other}, services and probes that select ports by name will use {other}"
                    )),
                    None => drop(named.insert(name, at.clone())),
                }
            }
            seen.entry(key).or_default().push((port, at));
        }
    }
    out.extend(twice);
}

fn affinity(out: &mut Vec<String>, affinity: &Value, at: &str) {
    const NONE: &str = "a null labelSelector results in matching no pod";
    for kind in ["podAffinity", "podAntiAffinity"] {
        let list = "requiredDuringSchedulingIgnoredDuringExecution";
        for (i, term) in affinity.at(kind).list(list).iter().enumerate() {
            if !term.has("labelSelector") {
                out.push(format!("{at}.{kind}.{list}[{i}].labelSelector: {NONE}"));
            }
        }
        let list = "preferredDuringSchedulingIgnoredDuringExecution";
        for (i, term) in affinity.at(kind).list(list).iter().enumerate() {
            if !term.has("podAffinityTerm.labelSelector") {
                out.push(format!("{at}.{kind}.{list}[{i}].podAffinityTerm.labelSelector: {NONE}"));
            }
        }
    }
}

fn service(out: &mut Vec<String>, service: &Value) {
    let spec = service.at("spec");
    let headless = spec.text("type") == "ClusterIP" && spec.text("clusterIP") == "None";
    let external = spec.text("type") == "ExternalName";
    let ips = !spec.list("externalIPs").is_empty();
    let old = "service.kubernetes.io/topology-aware-hints";
    if service.at("metadata.annotations").get(old).is_some() {
        out.push(format!(
            "annotation {old} is deprecated, please use service.kubernetes.io/topology-mode instead"
        ));
    }
    if headless {
        if !spec.text("loadBalancerIP").is_empty() {
            out.push("spec.loadBalancerIP is ignored for headless services".to_owned());
        }
        if ips {
            out.push("spec.externalIPs is ignored for headless services".to_owned());
        }
        if spec.text("sessionAffinity") != "None" {
            out.push("spec.SessionAffinity is ignored for headless services".to_owned());
        }
    }
    if ips && !headless && !external {
        out.push(
            "spec.externalIPs is deprecated and may no longer be implemented in some clusters".to_owned(),
        );
    }
    if external && ips {
        out.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    if !external && !spec.text("externalName").is_empty() {
        out.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    if spec.text("trafficDistribution") == "PreferClose" {
        out.push(
            "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"".to_owned(),
        );
    }
}

fn volume(out: &mut Vec<String>, volume: &Value) {
    for (annotation, why) in [
        (
            "volume.beta.kubernetes.io/storage-class",
            "deprecated since v1.8; use \"storageClassName\" attribute instead",
        ),
        (
            "volume.beta.kubernetes.io/mount-options",
            "deprecated since v1.31; use \"mountOptions\" attribute instead",
        ),
    ] {
        if volume.at("metadata.annotations").get(annotation).is_some() {
            out.push(format!("metadata.annotations[{annotation}]: {why}"));
        }
    }
    if volume.text("spec.persistentVolumeReclaimPolicy") == "Recycle" {
        out.push("spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.".to_owned());
    }
    for (kind, why, _) in VOLUMES.iter().filter(|row| row.2 && volume.at("spec").has(row.0)) {
        let shown = if *kind == "storageos" { "storageOS" } else { kind };
        out.push(format!("spec.{shown}: {why}"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Catalog;

    #[test]
    fn unusual_addresses_are_told() {
        let catalog = Catalog::builtin();
        for ((group, plural), object, expect) in [
            (
                ("", "services"),
                json!({"spec": {"type": "ClusterIP", "clusterIPs": ["fd00:0::1"], "loadBalancerSourceRanges": ["10.0.0.1/8"]}}),
                vec![
                    r#"spec.clusterIPs[0]: IPv6 address "fd00:0::1" should be in RFC 5952 canonical format ("fd00::1")"#,
                    r#"spec.loadBalancerSourceRanges[0]: CIDR value "10.0.0.1/8" is ambiguous in this context (should be "10.0.0.0/8" or "10.0.0.1/32"?)"#,
                ],
            ),
            (
                ("", "pods"),
                json!({"metadata": {"name": "p"}, "spec": {"hostAliases": [{"ip": "010.1.0.1"}, {"ip": "10.0.0.1"}, {"ip": "::ffff:1.2.3.4"}]}}),
                vec![
                    r#"spec.hostAliases[0].ip: non-standard IP address "010.1.0.1" is invalid: use "10.1.0.1""#,
                    r#"spec.hostAliases[2].ip: non-standard IP address "::ffff:1.2.3.4" is invalid: use "1.2.3.4""#,
                ],
            ),
            (
                ("discovery.k8s.io", "endpointslices"),
                json!({"addressType": "FQDN", "endpoints": [{"addresses": ["example.com"]}]}),
                vec!["spec.addressType: FQDN endpoints are deprecated"],
            ),
            (
                ("networking.k8s.io", "networkpolicies"),
                json!({"spec": {"egress": [{"to": [{"ipBlock": {"cidr": "2001:DB8::/32", "except": ["2001:db8:1::/48", "001.0.0.0/8"]}}]}]}}),
                vec![
                    r#"spec.egress[0].to[0].ipBlock.cidr: IPv6 CIDR value "2001:DB8::/32" should be in RFC 5952 canonical format ("2001:db8::/32")"#,
                    r#"spec.egress[0].to[0].ipBlock.except[1]: non-standard CIDR value "001.0.0.0/8" is invalid: use "1.0.0.0/8""#,
                ],
            ),
        ] {
            let row = catalog.get(group, "v1", plural).expect("a row");
            assert_eq!(of(row, &object, None), expect, "{plural}");
        }
    }

    #[test]
    fn what_is_hardly_meant_is_told() {
        let catalog = Catalog::builtin();
        let row = |group: &str, plural: &str| catalog.get(group, "v1", plural).expect("a row").clone();
        let pod = |spec: Value| json!({"metadata": {"name": "p"}, "spec": spec});
        for (resource, object, expect) in [
            (
                row("", "pods"),
                json!({"metadata": {"name": "a.b"}, "spec": {}}),
                "metadata.name: this is used in the Pod's hostname",
            ),
            (
                row("", "pods"),
                pod(json!({"nodeSelector": {"beta.kubernetes.io/os": "linux"}})),
                "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
            ),
            (
                row("", "pods"),
                pod(
                    json!({"containers": [{"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}]}),
                ),
                "spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
            ),
            (
                row("", "pods"),
                pod(json!({"containers": [{"resources": {"limits": {"memory": "100m"}}}]})),
                "spec.containers[0].resources.limits[memory]: fractional byte value \"100m\" is invalid, must be an integer",
            ),
            (
                row("", "pods"),
                pod(json!({"containers": [{"ports": [{"containerPort": 80, "protocol": "TCP"}]},
                {"ports": [{"containerPort": 80, "protocol": "TCP", "hostPort": 1}]}]})),
                "spec.containers[1].ports[0]: overlapping port definition with spec.containers[0].ports[0]",
            ),
            (
                row("apps", "deployments"),
                json!({"metadata": {"name": "d"}, "spec": {"template": pod(json!({"volumes": [{"rbd": {}}]}))}}),
                "spec.template.spec.volumes[0].rbd: deprecated in v1.28, non-functional in v1.31+",
            ),
            (
                row("", "services"),
                json!({"spec": {"type": "ClusterIP", "externalName": "x"}}),
                "spec.externalName is ignored when spec.type is not \"ExternalName\"",
            ),
        ] {
            let said = of(&resource, &object, None);
            assert!(said.len() == 1 && said[0].starts_with(expect), "{said:?}");
        }
        assert_eq!(
            of(&row("", "pods"), &pod(json!({"containers": [{"name": "c"}]})), None),
            Vec::<String>::new()
        );
    }
}
