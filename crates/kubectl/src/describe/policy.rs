//! Autoscalers, disruption budgets, network policies, endpoint slices.

use serde_json::Value;

use super::Related;
use super::doc::{Doc, int, list, or_none, scalar, selector, text};

/// A horizontal pod autoscaler.
pub fn autoscaler(doc: &mut Doc, object: &Value, related: &Related) {
    doc.head(object, true);
    let created = doc.time(text(object, "/metadata/creationTimestamp"));
    doc.field(0, "CreationTimestamp", &created);
    let target = &object["spec"]["scaleTargetRef"];
    let kind = text(target, "/kind");
    doc.field(0, "Reference", &format!("{kind}/{}", text(target, "/name")));
    doc.line(0, "Metrics:\t( current / target )");
    for (at, metric) in list(object, "/spec/metrics").iter().enumerate() {
        let current = list(object, "/status/currentMetrics").get(at).unwrap_or(&Value::Null);
        doc.line(1, &metric_line(metric, current));
    }
    let least = scalar(object, "/spec/minReplicas");
    doc.field(0, "Min replicas", if least.is_empty() { "<unset>" } else { &least });
    doc.field(0, "Max replicas", &int(object, "/spec/maxReplicas").to_string());
    let behavior = &object["spec"]["behavior"];
    if behavior.is_object() {
        doc.line(0, "Behavior:");
        direction(doc, "Scale Up", &behavior["scaleUp"]);
        direction(doc, "Scale Down", &behavior["scaleDown"]);
    }
    let (has, wants) = (int(object, "/status/currentReplicas"), int(object, "/status/desiredReplicas"));
    doc.field(0, &format!("{kind} pods"), &format!("{has} current / {wants} desired"));
    let conditions = list(object, "/status/conditions");
    if !conditions.is_empty() {
        doc.line(0, "Conditions:");
        doc.line(1, "Type\tStatus\tReason\tMessage");
        doc.line(1, "----\t------\t------\t-------");
    }
    for condition in conditions {
        let get = |field: &str| text(condition, field);
        doc.line(
            1,
            &format!("{}\t{}\t{}\t{}", get("/type"), get("/status"), get("/reason"), get("/message")),
        );
    }
    related.events(doc);
}

/// A text, or `<unknown>`.
fn known(text: String) -> String {
    if text.is_empty() { "<unknown>".to_owned() } else { text }
}

fn metric_line(metric: &Value, current: &Value) -> String {
    let kind = text(metric, "/type");
    let mut field = kind.to_owned();
    if let Some(first) = field.get_mut(..1) {
        first.make_ascii_lowercase();
    }
    let (source, now) = (&metric[&field], &current[&field]["current"]);
    let target = &source["target"];
    let name = text(source, "/metric/name");
    let average = known(scalar(now, "/averageValue"));
    let by_average = !target["averageValue"].is_null();
    let start = match kind {
        "Resource" => format!("resource {} on pods", text(source, "/name")),
        "ContainerResource" => {
            format!(
                "resource {} of container \"{}\" on pods",
                text(source, "/name"),
                text(source, "/container")
            )
        }
        "Pods" => return format!("{name:?} on pods:\t{average} / {}", scalar(target, "/averageValue")),
        "External" | "Object" => {
            let about = &source["describedObject"];
            let place = match kind {
                "Object" => format!(" on {}/{}", text(about, "/kind"), text(about, "/name")),
                _ => String::new(),
            };
            return if by_average {
                format!(
                    "{name:?}{place} (target average value):\t{average} / {}",
                    scalar(target, "/averageValue")
                )
            } else {
                let value = known(scalar(now, "/value"));
                format!("{name:?}{place} (target value):\t{value} / {}", scalar(target, "/value"))
            };
        }
        other => return format!("<unknown metric type {other:?}>"),
    };
    if by_average {
        return format!("{start}:\t{average} / {}", scalar(target, "/averageValue"));
    }
    let share = match scalar(now, "/averageUtilization") {
        percent if percent.is_empty() => "<unknown>".to_owned(),
        percent => format!("{percent}% ({})", scalar(now, "/averageValue")),
    };
    let wanted = match scalar(target, "/averageUtilization") {
        percent if percent.is_empty() => "<auto>".to_owned(),
        percent => format!("{percent}%"),
    };
    format!("{start}  (as a percentage of request):\t{share} / {wanted}")
}

fn direction(doc: &mut Doc, title: &str, rules: &Value) {
    if !rules.is_object() {
        return;
    }
    doc.line(1, &format!("{title}:"));
    if rules["stabilizationWindowSeconds"].is_i64() {
        let seconds = int(rules, "/stabilizationWindowSeconds");
        doc.line(2, &format!("Stabilization Window: {seconds} seconds"));
    }
    let policies = list(rules, "/policies");
    if policies.is_empty() {
        return;
    }
    let select = text(rules, "/selectPolicy");
    doc.line(2, &format!("Select Policy: {}", if select.is_empty() { "Max" } else { select }));
    doc.line(2, "Policies:");
    for policy in policies {
        let (value, seconds) = (int(policy, "/value"), int(policy, "/periodSeconds"));
        doc.line(3, &format!("- Type: {}\tValue: {value}\tPeriod: {seconds} seconds", text(policy, "/type")));
    }
}

/// A pod disruption budget.
pub fn budget(doc: &mut Doc, object: &Value, related: &Related) {
    doc.field(0, "Name", text(object, "/metadata/name"));
    doc.field(0, "Namespace", text(object, "/metadata/namespace"));
    let least = scalar(object, "/spec/minAvailable");
    if least.is_empty() {
        doc.field_if(0, "Max unavailable", &scalar(object, "/spec/maxUnavailable"));
    } else {
        doc.field(0, "Min available", &least);
    }
    let pods = &object["spec"]["selector"];
    let shown = if pods.is_object() { or_none(&selector(pods)).to_owned() } else { "<unset>".to_owned() };
    doc.field(0, "Selector", &shown);
    doc.line(0, "Status:");
    for (title, field) in [
        ("Allowed disruptions", "disruptionsAllowed"),
        ("Current", "currentHealthy"),
        ("Desired", "desiredHealthy"),
        ("Total", "expectedPods"),
    ] {
        doc.field(2, title, &int(&object["status"], &format!("/{field}")).to_string());
    }
    related.events(doc);
}

/// A network policy.
pub fn network_policy(doc: &mut Doc, object: &Value, _: &Related) {
    doc.field(0, "Name", text(object, "/metadata/name"));
    doc.field(0, "Namespace", text(object, "/metadata/namespace"));
    let created = doc.plain_time(text(object, "/metadata/creationTimestamp"));
    doc.field(0, "Created on", &created);
    doc.meta(object);
    doc.line(0, "Spec:");
    let spec = &object["spec"];
    let pods = selector(&spec["podSelector"]);
    let all = "<none> (Allowing the specific traffic to all pods in this namespace)";
    doc.line(1, &format!("PodSelector:     {}", if pods.is_empty() { all } else { &pods }));
    let types: Vec<&str> = list(spec, "/policyTypes").iter().filter_map(Value::as_str).collect();
    for (kind, word, side) in [("Ingress", "ingress", "From"), ("Egress", "egress", "To")] {
        if types.contains(&kind) {
            doc.line(1, &format!("Allowing {word} traffic:"));
            policy_rules(doc, list(spec, &format!("/{word}")), word, side);
        } else {
            doc.line(1, &format!("Not affecting {word} traffic"));
        }
    }
    doc.line(1, &format!("Policy Types: {}", types.join(", ")));
}

fn policy_rules(doc: &mut Doc, rules: &[Value], word: &str, side: &str) {
    if rules.is_empty() {
        return doc.line(2, &format!("<none> (Selected pods are isolated for {word} connectivity)"));
    }
    for (at, rule) in rules.iter().enumerate() {
        let ports = list(rule, "/ports");
        if ports.is_empty() {
            doc.line(2, "To Port: <any> (traffic allowed to all ports)");
        }
        for port in ports {
            let protocol = text(port, "/protocol");
            let protocol = if protocol.is_empty() { "TCP" } else { protocol };
            let number = scalar(port, "/port");
            doc.line(
                2,
                &match port["endPort"].as_i64() {
                    Some(end) => format!("To Port Range: {number}-{end}/{protocol}"),
                    None => format!("To Port: {number}/{protocol}"),
                },
            );
        }
        let peers = list(rule, &format!("/{}", side.to_lowercase()));
        if peers.is_empty() {
            let what = if side == "From" { "source" } else { "destination" };
            doc.line(2, &format!("{side}: <any> (traffic not restricted by {what})"));
        }
        for peer in peers {
            doc.line(2, &format!("{side}:"));
            policy_peer(doc, peer);
        }
        if at + 1 < rules.len() {
            doc.line(2, "----------");
        }
    }
}

fn policy_peer(doc: &mut Doc, peer: &Value) {
    for (title, field) in [("NamespaceSelector", "namespaceSelector"), ("PodSelector", "podSelector")] {
        if peer[field].is_object() {
            doc.line(3, &format!("{title}: {}", or_none(&selector(&peer[field]))));
        }
    }
    let block = &peer["ipBlock"];
    if block.is_object() {
        let except: Vec<&str> = list(block, "/except").iter().filter_map(Value::as_str).collect();
        doc.line(3, "IPBlock:");
        doc.line(4, &format!("CIDR: {}", text(block, "/cidr")));
        doc.line(4, &format!("Except: {}", except.join(", ")));
    }
}

/// An endpoint slice.
pub fn endpoint_slice(doc: &mut Doc, object: &Value, related: &Related) {
    doc.head(object, true);
    doc.field(0, "AddressType", text(object, "/addressType"));
    let unset = |text: String| if text.is_empty() { "<unset>".to_owned() } else { text };
    let ports = list(object, "/ports");
    if ports.is_empty() {
        doc.line(0, "Ports: <unset>");
    } else {
        doc.line(0, "Ports:");
        doc.line(1, "Name\tPort\tProtocol");
        doc.line(1, "----\t----\t--------");
    }
    for port in ports {
        let (name, number) = (unset(scalar(port, "/name")), unset(scalar(port, "/port")));
        doc.line(1, &format!("{name}\t{number}\t{}", text(port, "/protocol")));
    }
    let endpoints = list(object, "/endpoints");
    doc.line(0, if endpoints.is_empty() { "Endpoints: <none>" } else { "Endpoints:" });
    for endpoint in endpoints {
        let addresses: Vec<&str> = list(endpoint, "/addresses").iter().filter_map(Value::as_str).collect();
        doc.field(1, "- Addresses", or_none(&addresses.join(", ")));
        doc.line(2, "Conditions:");
        doc.field(3, "Ready", &unset(scalar(endpoint, "/conditions/ready")));
        doc.field(2, "Hostname", &unset(scalar(endpoint, "/hostname")));
        let target = &endpoint["targetRef"];
        if target.is_object() {
            doc.field(2, "TargetRef", &format!("{}/{}", text(target, "/kind"), text(target, "/name")));
        }
        doc.field(2, "NodeName", &unset(scalar(endpoint, "/nodeName")));
        doc.field(2, "Zone", &unset(scalar(endpoint, "/zone")));
    }
    related.events(doc);
}
