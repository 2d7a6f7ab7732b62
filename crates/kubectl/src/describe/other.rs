//! Services, ingresses, configuration, access; and any other kind by its fields.

use base64::Engine as _;
use serde_json::Value;

use super::Related;
use super::doc::{Doc, int, list, or_none, scalar, text};
use crate::print::{go_value, table::labels_text};

/// So many endpoints are shown.
const MAX_ENDPOINTS: usize = 3;

/// A service.
pub fn service(doc: &mut Doc, object: &Value, related: &Related) {
    doc.head(object, true);
    let spec = &object["spec"];
    let words = |field: &str| {
        let words: Vec<&str> = list(spec, field).iter().filter_map(Value::as_str).collect();
        words.join(",")
    };
    doc.field(0, "Selector", &labels_text(&spec["selector"]));
    doc.field(0, "Type", text(spec, "/type"));
    doc.field_if(0, "IP Family Policy", text(spec, "/ipFamilyPolicy"));
    doc.field(0, "IP Families", or_none(&words("/ipFamilies")));
    doc.field(0, "IP", text(spec, "/clusterIP"));
    doc.field(0, "IPs", or_none(&words("/clusterIPs")));
    doc.field_if(0, "External IPs", &words("/externalIPs"));
    doc.field_if(0, "Desired LoadBalancer IP", text(spec, "/loadBalancerIP"));
    doc.field_if(0, "External Name", text(spec, "/externalName"));
    let addresses = balancers(object);
    doc.field_if(0, "LoadBalancer Ingress", &addresses.join(", "));
    let name = text(object, "/metadata/name");
    for port in list(spec, "/ports") {
        let (protocol, called) = (text(port, "/protocol"), text(port, "/name"));
        let shown = if called.is_empty() { "<unset>" } else { called };
        doc.line(0, &format!("Port:\t{shown}\t{}/{protocol}", int(port, "/port")));
        doc.field(0, "TargetPort", &format!("{}/{protocol}", scalar(port, "/targetPort")));
        doc.field_if(0, "AppProtocol", text(port, "/appProtocol"));
        if int(port, "/nodePort") != 0 {
            doc.line(0, &format!("NodePort:\t{shown}\t{}/{protocol}", int(port, "/nodePort")));
        }
        doc.field(0, "Endpoints", &endpoints(related, name, called));
    }
    doc.field(0, "Session Affinity", text(spec, "/sessionAffinity"));
    doc.field_if(0, "External Traffic Policy", text(spec, "/externalTrafficPolicy"));
    doc.field_if(0, "Internal Traffic Policy", text(spec, "/internalTrafficPolicy"));
    doc.field_if(0, "HealthCheck NodePort", &scalar(spec, "/healthCheckNodePort"));
    doc.field_if(0, "LoadBalancer Source Ranges", &words("/loadBalancerSourceRanges"));
    doc.field_if(0, "Traffic Distribution", text(spec, "/trafficDistribution"));
    related.events(doc);
}

fn balancers(object: &Value) -> Vec<String> {
    let one = |ingress: &Value| match (text(ingress, "/ip"), text(ingress, "/hostname")) {
        ("", host) => host.to_owned(),
        (ip, _) => match text(ingress, "/ipMode") {
            "" => ip.to_owned(),
            mode => format!("{ip} ({mode})"),
        },
    };
    list(object, "/status/loadBalancer/ingress").iter().map(one).collect()
}

fn endpoints(related: &Related, service: &str, port_name: &str) -> String {
    let of = |slice: &&Value| text(slice, "/metadata/labels/kubernetes.io~1service-name") == service;
    let slices: Vec<&Value> = related.list("endpointslices").iter().filter(of).collect();
    if slices.is_empty() {
        return "<none>".to_owned();
    }
    let mut found: Vec<String> = Vec::new();
    for slice in slices {
        let ready = |endpoint: &&Value| endpoint.pointer("/conditions/ready") != Some(&Value::Bool(false));
        let addresses: Vec<&str> = list(slice, "/endpoints")
            .iter()
            .filter(ready)
            .map(|endpoint| text(endpoint, "/addresses/0"))
            .collect();
        let ports = list(slice, "/ports");
        if ports.is_empty() {
            found.extend(addresses.iter().map(|address| (*address).to_owned()));
        }
        for port in ports.iter().filter(|port| text(port, "/name") == port_name) {
            let joined = |address: &&str| {
                let number = int(port, "/port");
                if address.contains(':') {
                    format!("[{address}]:{number}")
                } else {
                    format!("{address}:{number}")
                }
            };
            found.extend(addresses.iter().map(joined));
        }
    }
    let more = found.len().saturating_sub(MAX_ENDPOINTS);
    found.truncate(MAX_ENDPOINTS);
    let shown = found.join(",");
    if more > 0 { format!("{shown} + {more} more...") } else { shown }
}

/// An ingress.
pub fn ingress(doc: &mut Doc, object: &Value, related: &Related) {
    doc.field(0, "Name", text(object, "/metadata/name"));
    doc.labels("Labels", &object["metadata"]["labels"]);
    doc.field(0, "Namespace", text(object, "/metadata/namespace"));
    doc.field(0, "Address", &balancers(object).join(","));
    doc.field(0, "Ingress Class", or_none(text(object, "/spec/ingressClassName")));
    let default = match &object["spec"]["defaultBackend"] {
        Value::Null => "<default>".to_owned(),
        default => backend(default, related),
    };
    doc.field(0, "Default backend", &default);
    let tls = list(object, "/spec/tls");
    if !tls.is_empty() {
        doc.line(0, "TLS:");
    }
    for entry in tls {
        let hosts: Vec<&str> = list(entry, "/hosts").iter().filter_map(Value::as_str).collect();
        let hosts = hosts.join(",");
        doc.line(
            1,
            &match text(entry, "/secretName") {
                "" => format!("SNI routes {hosts}"),
                secret => format!("{secret} terminates {hosts}"),
            },
        );
    }
    doc.line(0, "Rules:\n  Host\tPath\tBackends");
    doc.line(1, "----\t----\t--------");
    let rules: Vec<&Value> =
        list(object, "/spec/rules").iter().filter(|rule| rule["http"].is_object()).collect();
    for rule in &rules {
        let host = text(rule, "/host");
        doc.line(1, &format!("{}\t", if host.is_empty() { "*" } else { host }));
        for path in list(rule, "/http/paths") {
            doc.line(2, &format!("\t{} \t{}", text(path, "/path"), backend(&path["backend"], related)));
        }
    }
    if rules.is_empty() {
        doc.line(1, &format!("*\t*\t{default}"));
    }
    doc.annotations("Annotations", &object["metadata"]["annotations"]);
    related.events(doc);
}

fn backend(backend: &Value, related: &Related) -> String {
    let Some(service) = backend.get("service") else {
        let resource = &backend["resource"];
        let group = or_none(text(resource, "/apiGroup"));
        return format!(
            "APIGroup: {group}, Kind: {}, Name: {}",
            text(resource, "/kind"),
            text(resource, "/name")
        );
    };
    let (name, port) = (text(service, "/name"), &service["port"]);
    let shown = if port["number"].is_i64() { scalar(port, "/number") } else { scalar(port, "/name") };
    let Some(found) = related.list("services").iter().find(|service| text(service, "/metadata/name") == name)
    else {
        return format!("{name}:{shown} (<error: services {name:?} not found>)");
    };
    let same = |known: &&Value| {
        (port["number"].is_i64() && known["port"] == port["number"])
            || (port["name"].is_string() && known["name"] == port["name"])
    };
    let called =
        list(found, "/spec/ports").iter().find(same).map(|port| text(port, "/name")).unwrap_or_default();
    format!("{name}:{shown} ({})", endpoints(related, name, called))
}

/// A secret: only sizes.
pub fn secret(doc: &mut Doc, object: &Value, _: &Related) {
    doc.head(object, true);
    doc.line(0, &format!("\nType:\t{}", text(object, "/type")));
    doc.line(0, "\nData\n====");
    let decode = |value: &Value| {
        let coded = value.as_str().unwrap_or_default();
        base64::engine::general_purpose::STANDARD.decode(coded).unwrap_or_default()
    };
    for (key, value) in object["data"].as_object().into_iter().flatten() {
        let bytes = decode(value);
        let token = key == "token" && object["type"] == "kubernetes.io/service-account-token";
        let shown = if token {
            String::from_utf8_lossy(&bytes).into_owned()
        } else {
            format!("{} bytes", bytes.len())
        };
        doc.field(0, key, &shown);
    }
}

/// A config map.
pub fn config_map(doc: &mut Doc, object: &Value, related: &Related) {
    doc.head(object, true);
    doc.line(0, "\nData\n====");
    for (key, value) in object["data"].as_object().into_iter().flatten() {
        doc.line(0, &format!("{key}:\n----\n{}\n", value.as_str().unwrap_or_default()));
    }
    doc.line(0, "\nBinaryData\n====");
    for (key, value) in object["binaryData"].as_object().into_iter().flatten() {
        let coded = value.as_str().unwrap_or_default();
        let bytes = base64::engine::general_purpose::STANDARD.decode(coded).unwrap_or_default();
        doc.line(0, &format!("{key}: {} bytes", bytes.len()));
    }
    doc.line(0, "");
    related.events(doc);
}

/// A service account.
pub fn service_account(doc: &mut Doc, object: &Value, related: &Related) {
    doc.head(object, true);
    let names: Vec<String> =
        list(object, "/imagePullSecrets").iter().map(|secret| text(secret, "/name").to_owned()).collect();
    doc.lines("Image pull secrets", &names);
    related.events(doc);
}

/// A role or cluster role.
pub fn role(doc: &mut Doc, object: &Value, _: &Related) {
    doc.head(object, false);
    doc.line(0, "PolicyRule:");
    doc.line(1, "Resources\tNon-Resource URLs\tResource Names\tVerbs");
    doc.line(1, "---------\t-----------------\t--------------\t-----");
    for line in rule_lines(list(object, "/rules")) {
        doc.line(1, &line);
    }
}

/// A rule about one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Single {
    verbs: Vec<String>,
    group: String,
    resource: String,
    name: String,
    url: String,
}

impl Single {
    /// Upstream orders rules by the text of their fields.
    fn order(&self) -> String {
        let list = |text: &String| if text.is_empty() { String::new() } else { text.clone() };
        format!(
            "[{}]|[{}]|[{}]|[{}]|[{}]",
            self.verbs.join(" "),
            self.group,
            list(&self.resource),
            list(&self.name),
            list(&self.url)
        )
    }

    fn line(&self) -> String {
        let (plain, sub) = self.resource.split_once('/').unwrap_or((&self.resource, ""));
        let mut full = api::meta::group_resource(&self.group, plain);
        if !sub.is_empty() {
            full = format!("{full}/{sub}");
        }
        format!("{full}\t[{}]\t[{}]\t[{}]", self.url, self.name, self.verbs.join(" "))
    }
}

/// Rules taken apart: one line for each resource (and name) with all its verbs, one for each path and verb.
pub fn rule_lines(rules: &[Value]) -> Vec<String> {
    let words = |rule: &Value, field: &str| -> Vec<String> {
        list(rule, field).iter().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let mut found: Vec<Single> = Vec::new();
    for rule in rules {
        let verbs = words(rule, "/verbs");
        let names = words(rule, "/resourceNames");
        let names: Vec<String> = if names.is_empty() { vec![String::new()] } else { names };
        for group in words(rule, "/apiGroups") {
            for resource in words(rule, "/resources") {
                for name in &names {
                    let known = found.iter_mut().find(|other| {
                        other.group == group
                            && other.resource == resource
                            && other.name == *name
                            && other.url.is_empty()
                    });
                    match known {
                        Some(known) => known.verbs.extend(verbs.clone()),
                        None => found.push(Single {
                            verbs: verbs.clone(),
                            group: group.clone(),
                            resource: resource.clone(),
                            name: name.clone(),
                            url: String::new(),
                        }),
                    }
                }
            }
        }
        for url in words(rule, "/nonResourceURLs") {
            for verb in &verbs {
                let (group, resource, name) = Default::default();
                found.push(Single { verbs: vec![verb.clone()], group, resource, name, url: url.clone() });
            }
        }
    }
    found.sort_by_key(Single::order);
    found.iter().map(Single::line).collect()
}

/// A role binding or cluster role binding.
pub fn binding(doc: &mut Doc, object: &Value, _: &Related) {
    doc.head(object, false);
    doc.line(0, "Role:");
    doc.field(1, "Kind", text(object, "/roleRef/kind"));
    doc.field(1, "Name", text(object, "/roleRef/name"));
    doc.line(0, "Subjects:");
    doc.line(1, "Kind\tName\tNamespace");
    doc.line(1, "----\t----\t---------");
    for subject in list(object, "/subjects") {
        let get = |field: &str| text(subject, field);
        doc.line(1, &format!("{}\t{}\t{}", get("/kind"), get("/name"), get("/namespace")));
    }
}

/// Any kind: its fields in alphabetical order.
pub fn generic(doc: &mut Doc, object: &Value, related: &Related) {
    doc.head(object, true);
    fields(doc, 0, object, "");
    related.events(doc);
}

const SHOWN_ABOVE: [&str; 5] = [
    ".metadata.managedFields",
    ".metadata.name",
    ".metadata.namespace",
    ".metadata.labels",
    ".metadata.annotations",
];

fn fields(doc: &mut Doc, level: usize, object: &Value, path: &str) {
    for (field, value) in object.as_object().into_iter().flatten() {
        let path = format!("{path}.{field}");
        if SHOWN_ABOVE.contains(&path.as_str()) {
            continue;
        }
        let title = title(field);
        match value {
            Value::Object(_) => {
                doc.line(level, &format!("{title}:"));
                fields(doc, level + 1, value, &path);
            }
            Value::Array(items) => {
                doc.line(level, &format!("{title}:"));
                for item in items {
                    match item {
                        Value::Object(_) => fields(doc, level + 1, item, &path),
                        other => doc.line(level + 1, &go_value(other)),
                    }
                }
            }
            other => doc.field(level, &title, &go_value(other)),
        }
    }
}

/// `apiVersion` becomes `API Version`.
fn title(field: &str) -> String {
    if field.chars().any(|c| !c.is_alphabetic() && c != '-') {
        return field.to_owned();
    }
    let mut parts: Vec<String> = Vec::new();
    let letters: Vec<char> = field.chars().collect();
    for (at, letter) in letters.iter().enumerate() {
        let before = at.checked_sub(1).map(|at| letters[at]);
        let after = letters.get(at + 1);
        let dash = *letter == '-' || before == Some('-');
        let rises = letter.is_uppercase() && before.is_some_and(char::is_lowercase);
        // The last capital of `URLPath` begins the next word.
        let ends = letter.is_uppercase()
            && before.is_some_and(char::is_uppercase)
            && after.is_some_and(|c| c.is_lowercase());
        if parts.is_empty() || dash || rises || ends {
            parts.push(String::new());
        }
        if let Some(last) = parts.last_mut() {
            last.push(*letter);
        }
    }
    // A capital abbreviation keeps what follows it: `CID` and `Rs` are `CIDRs`.
    let mut merged: Vec<String> = Vec::new();
    let mut parts = parts.into_iter().peekable();
    while let Some(part) = parts.next() {
        let capital = part.len() >= 2 && part.chars().all(char::is_uppercase);
        let next = parts.next_if(|next| capital && next.starts_with(char::is_uppercase));
        merged.push(part + next.as_deref().unwrap_or_default());
    }
    let words = merged.into_iter().map(|part| {
        if ["API", "URL", "UID", "GUID"].contains(&part.to_uppercase().as_str()) {
            return part.to_uppercase();
        }
        let mut letters = part.chars();
        match letters.next() {
            Some(first) if part.chars().all(|c| !c.is_uppercase()) => {
                first.to_uppercase().chain(letters).collect()
            }
            _ => part,
        }
    });
    words.collect::<Vec<String>>().join(" ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn titles() {
        for (field, expect) in [
            ("apiVersion", "API Version"),
            ("uid", "UID"),
            ("spec", "Spec"),
            ("maxSize", "Max Size"),
            ("a_b", "a_b"),
        ] {
            assert_eq!(title(field), expect);
        }
    }

    #[test]
    fn rules_are_joined() {
        let rules = json!([
            {"apiGroups": ["apps"], "resources": ["deployments", "deployments/scale"], "verbs": ["get"]},
            {"apiGroups": ["apps"], "resources": ["deployments"], "verbs": ["list", "get"]},
            {"nonResourceURLs": ["/healthz"], "verbs": ["get"]},
        ]);
        let lines = rule_lines(rules.as_array().expect("a list"));
        assert_eq!(
            lines,
            [
                "deployments.apps\t[]\t[]\t[get list get]",
                "\t[/healthz]\t[]\t[get]",
                "deployments.apps/scale\t[]\t[]\t[get]",
            ]
        );
    }
}
