//! Ingresses, network policies, endpoint slices, addresses and address ranges.

use std::net::IpAddr;

use api::names;
use ipnet::IpNet;
use serde_json::Value;

use super::batch::domain_prefixed;
use super::container::PROTOCOLS;
use super::service::{cidr, endpoint_ip, host_name};
use super::{ErrorList, FieldError, Path, Report, ip_messages, meta};
use crate::tree::Tree;

const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

/// An ingress; `new` when it is being created.
pub fn ingress(i: &Value, new: bool) -> ErrorList {
    let mut errors = ErrorList::new();
    let (spec, path) = (i.at("spec"), Path::new("spec"));
    let (rules, backend) = (spec.list("rules"), spec.at("defaultBackend"));
    if rules.is_empty() && backend.is_null() {
        let detail = "either `defaultBackend` or `rules` must be specified";
        errors.invalid(&path, spec.at("rules").clone(), detail);
    }
    if !backend.is_null() {
        self::backend(&mut errors, backend, &path.child("defaultBackend"));
    }
    for (i, rule) in rules.iter().enumerate() {
        ingress_rule(&mut errors, rule, &path.child("rules").index(i));
    }
    for (i, tls) in spec.list("tls").iter().enumerate() {
        let at = path.child("tls").index(i);
        for (j, host) in tls.list("hosts").iter().filter_map(Value::as_str).enumerate() {
            errors.messages(&at.child("hosts").index(j), host, host_messages(host));
        }
        let secret = tls.text("secretName");
        if !secret.is_empty() {
            errors.messages(&at.child("secretName"), secret, names::dns1123_subdomain(secret));
        }
    }
    if let Some(class) = spec.at("ingressClassName").as_str() {
        errors.messages(&path.child("ingressClassName"), class, names::dns1123_subdomain(class));
        let old = i.map("metadata.annotations").get(CLASS_ANNOTATION).and_then(Value::as_str);
        if let Some(old) = old.filter(|old| new && *old != class) {
            let at = Path::new("annotations").child(CLASS_ANNOTATION);
            errors.invalid(&at, old, "must match `ingressClassName` when both are specified");
        }
    }
    errors
}

fn host_messages(host: &str) -> Vec<String> {
    if host.contains('*') { names::wildcard_dns1123_subdomain(host) } else { names::dns1123_subdomain(host) }
}

fn ingress_rule(errors: &mut ErrorList, rule: &Value, path: &Path) {
    let host = rule.text("host");
    if !host.is_empty() {
        if host.parse::<IpAddr>().is_ok() {
            errors.invalid(&path.child("host"), host, "must be a DNS name, not an IP address");
        }
        errors.messages(&path.child("host"), host, host_messages(host));
    }
    if !rule.has("http") {
        return;
    }
    let path = path.child("http.paths");
    if rule.list("http.paths").is_empty() {
        errors.required(&path, "");
    }
    for (i, p) in rule.list("http.paths").iter().enumerate() {
        http_path(errors, p, &path.index(i));
    }
}

fn http_path(errors: &mut ErrorList, p: &Value, path: &Path) {
    let (text, at) = (p.text("path"), path.child("path"));
    match p.at("pathType").as_str() {
        None => {
            errors.required(&path.child("pathType"), "pathType must be specified");
            return;
        }
        Some("Exact" | "Prefix") => {
            if !text.starts_with('/') {
                errors.invalid(&at, text, "must be an absolute path");
            }
            for bad in ["//", "/./", "/../", "%2f", "%2F"] {
                if text.contains(bad) {
                    errors.invalid(&at, text, format!("must not contain '{bad}'"));
                }
            }
            for bad in ["/..", "/."] {
                if text.ends_with(bad) {
                    errors.invalid(&at, text, format!("cannot end with '{bad}'"));
                }
            }
        }
        Some("ImplementationSpecific") => {
            if !text.is_empty() && !text.starts_with('/') {
                errors.invalid(&at, text, "must be an absolute path");
            }
        }
        Some(other) => {
            let all = ["Exact", "ImplementationSpecific", "Prefix"];
            errors.one_of(&path.child("pathType"), other, &all);
        }
    }
    backend(errors, p.at("backend"), &path.child("backend"));
}

fn backend(errors: &mut ErrorList, backend: &Value, path: &Path) {
    match (backend.has("resource"), backend.has("service")) {
        (true, true) => errors.invalid(path, "", "cannot set both resource and service backends"),
        (true, false) => typed_reference(errors, backend.at("resource"), &path.child("resource")),
        (false, true) => {
            let (service, at) = (backend.at("service"), path.child("service"));
            match service.text("name") {
                "" => errors.required(&at.child("name"), ""),
                name => errors.messages(&at.child("name"), name, names::dns1123_label(name)),
            }
            match (service.text("port.name"), service.int("port.number")) {
                ("", 0) => errors.required(path, "port name or number is required"),
                ("", n) => {
                    for message in names::port_number(n) {
                        errors.invalid(&at.child("port.number"), n, message);
                    }
                }
                (name, 0) => errors.messages(&at.child("port.name"), name, names::port_name(name)),
                _ => errors.invalid(path, "", "cannot set both port name & port number"),
            }
        }
        (false, false) => errors.invalid(path, "", "resource or service backend is required"),
    }
}

fn typed_reference(errors: &mut ErrorList, reference: &Value, path: &Path) {
    if let Some(group) = reference.at("apiGroup").as_str() {
        errors.messages(&path.child("apiGroup"), group, names::dns1123_subdomain(group));
    }
    for field in ["kind", "name"] {
        segment(errors, reference.text(field), true, &path.child(field));
    }
}

fn segment(errors: &mut ErrorList, text: &str, needed: bool, path: &Path) {
    if text.is_empty() {
        if needed {
            errors.required(path, "");
        }
        return;
    }
    errors.messages(path, text, names::path_segment(text));
}

/// An ingress' `/status`.
pub fn ingress_status(new: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("status").child("loadBalancer.ingress");
    let before: Vec<&str> = old.list("status.loadBalancer.ingress").iter().map(|p| p.text("ip")).collect();
    for (i, point) in new.list("status.loadBalancer.ingress").iter().enumerate() {
        let ip = point.text("ip");
        if !ip.is_empty() && !before.contains(&ip) {
            errors.ip(&path.index(i).child("ip"), ip);
        }
        host_name(&mut errors, point.text("hostname"), &path.index(i).child("hostname"));
    }
    errors
}

/// An ingress class.
pub fn ingress_class(class: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec");
    let controller = class.text("spec.controller");
    if controller.len() > 250 {
        errors.push(FieldError::too_long(&path.child("controller"), 250));
    }
    domain_prefixed(&mut errors, controller, &path.child("controller"));
    let (p, at) = (class.at("spec.parameters"), path.child("parameters"));
    if p.is_null() {
        return errors;
    }
    typed_reference(&mut errors, p, &at);
    let namespace = p.at("namespace").as_str();
    match (p.text("scope"), namespace) {
        ("", _) if !p.has("scope") => errors.required(&at.child("scope"), ""),
        ("Namespace", None) => {
            errors.required(&at.child("namespace"), "`parameters.scope` is set to 'Namespace'");
        }
        ("Namespace", Some(ns)) => errors.messages(&at.child("namespace"), ns, names::dns1123_label(ns)),
        ("Cluster", Some(_)) => {
            errors.forbidden(&at.child("namespace"), "`parameters.scope` is set to 'Cluster'");
        }
        (other, _) => errors.one_of(&at.child("scope"), other, &["Cluster", "Namespace"]),
    }
    errors
}

/// An update of an ingress class.
pub fn ingress_class_update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec").child("controller");
    if new.text("spec.controller") != old.text("spec.controller") {
        errors.invalid(&path, new.text("spec.controller"), super::IMMUTABLE);
    }
    errors.extend(ingress_class(new));
    errors
}

/// A network policy.
pub fn network_policy(policy: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let (spec, path) = (policy.at("spec"), Path::new("spec"));
    meta::selector(&mut errors, spec.at("podSelector"), &path.child("podSelector"));
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for (i, rule) in spec.list(direction).iter().enumerate() {
            let at = path.child(direction).index(i);
            for (j, port) in rule.list("ports").iter().enumerate() {
                policy_port(&mut errors, port, &at.child("ports").index(j));
            }
            for (j, peer) in rule.list(peers).iter().enumerate() {
                policy_peer(&mut errors, peer, &at.child(peers).index(j));
            }
        }
    }
    let (types, at) = (spec.list("policyTypes"), path.child("policyTypes"));
    if types.len() > 2 {
        let detail = "may not specify more than two policyTypes";
        errors.invalid(&at, spec.at("policyTypes").clone(), detail);
        return errors;
    }
    for (i, ty) in types.iter().filter_map(Value::as_str).enumerate() {
        errors.one_of(&at.index(i), ty, &["Ingress", "Egress"]);
    }
    errors
}

fn policy_port(errors: &mut ErrorList, port: &Value, path: &Path) {
    if let Some(protocol) = port.at("protocol").as_str() {
        errors.one_of(&path.child("protocol"), protocol, &["TCP", "UDP", "SCTP"]);
    }
    let end = port.at("endPort").as_i64();
    let (end_at, at) = (path.child("endPort"), path.child("port"));
    match port.at("port") {
        Value::Null => {
            if let Some(end) = end {
                errors.invalid(&end_at, end, "may not be specified when `port` is not specified");
            }
        }
        Value::String(name) => {
            if let Some(end) = end {
                errors.invalid(&end_at, end, "may not be specified when `port` is non-numeric");
            }
            errors.messages(&at, name, names::port_name(name));
        }
        number => {
            let number = number.as_i64().unwrap_or(0);
            for message in names::port_number(number) {
                errors.invalid(&at, number, message);
            }
            let Some(end) = end else { return };
            if end < number {
                errors.invalid(&end_at, number, "must be greater than or equal to `port`");
            }
            for message in names::port_number(end) {
                errors.invalid(&end_at, end, message);
            }
        }
    }
}

fn policy_peer(errors: &mut ErrorList, peer: &Value, path: &Path) {
    let mut count = 0;
    for field in ["podSelector", "namespaceSelector"] {
        if peer.has(field) {
            count += 1;
            meta::selector(errors, peer.at(field), &path.child(field));
        }
    }
    if peer.has("ipBlock") {
        count += 1;
        ip_block(errors, peer.at("ipBlock"), &path.child("ipBlock"));
    }
    if count == 0 {
        errors.required(path, "must specify a peer");
    } else if count > 1 && peer.has("ipBlock") {
        errors.forbidden(path, "may not specify both ipBlock and another peer");
    }
}

fn ip_block(errors: &mut ErrorList, block: &Value, path: &Path) {
    let text = block.text("cidr");
    if text.is_empty() {
        errors.required(&path.child("cidr"), "");
        return;
    }
    cidr(errors, text, &path.child("cidr"));
    let Ok(range) = text.parse::<IpNet>() else { return };
    for (i, except) in block.list("except").iter().filter_map(Value::as_str).enumerate() {
        let at = path.child("except").index(i);
        cidr(errors, except, &at);
        let Ok(inner) = except.parse::<IpNet>() else { continue };
        if !range.contains(&inner.addr()) || range.prefix_len() >= inner.prefix_len() {
            errors.invalid(&at, except, "must be a strict subset of `cidr`");
        }
    }
}

/// An endpoint slice; unchanged endpoints pass on update.
pub fn endpoint_slice(slice: &Value, old: Option<&Value>) -> ErrorList {
    let mut errors = ErrorList::new();
    let ty = slice.text("addressType");
    errors.required_one_of(&Path::new("addressType"), ty, &["FQDN", "IPv4", "IPv6"]);
    slice_ports(&mut errors, slice.list("ports"), &Path::new("ports"));
    if old.is_none_or(|o| o.at("endpoints") != slice.at("endpoints")) {
        slice_endpoints(&mut errors, slice, ty);
    }
    if let Some(old) = old {
        errors.immutable(&Path::new("addressType"), slice.at("addressType"), old.at("addressType"));
    }
    errors
}

fn slice_ports(errors: &mut ErrorList, ports: &[Value], path: &Path) {
    if ports.len() > 20_000 {
        errors.push(FieldError::too_many(path, ports.len(), 20_000));
        return;
    }
    let mut seen: Vec<&str> = Vec::new();
    for (i, port) in ports.iter().enumerate() {
        let (path, name) = (path.index(i), port.text("name"));
        if !name.is_empty() {
            errors.messages(&path.child("name"), name, names::dns1123_label(name));
        }
        if seen.contains(&name) {
            errors.duplicate(&path.child("name"), name);
        }
        seen.push(name);
        match port.at("protocol").as_str() {
            None => errors.required(&path.child("protocol"), ""),
            Some(protocol) => errors.one_of(&path.child("protocol"), protocol, PROTOCOLS),
        }
        if let Some(protocol) = port.at("appProtocol").as_str() {
            errors.messages(&path.child("appProtocol"), protocol, names::qualified_name(protocol));
        }
    }
}

fn slice_endpoints(errors: &mut ErrorList, slice: &Value, ty: &str) {
    let (all, path) = (slice.list("endpoints"), Path::new("endpoints"));
    if all.len() > 1000 {
        errors.push(FieldError::too_many(&path, all.len(), 1000));
        return;
    }
    for (i, endpoint) in all.iter().enumerate() {
        let path = path.index(i);
        let at = path.child("addresses");
        let addresses: Vec<&str> = endpoint.list("addresses").iter().filter_map(Value::as_str).collect();
        if addresses.is_empty() {
            errors.required(&at, "must contain at least 1 address");
        } else if addresses.len() > 100 {
            errors.push(FieldError::too_many(&at, addresses.len(), 100));
        }
        for (j, address) in addresses.iter().enumerate() {
            slice_address(errors, address, ty, &at, &at.index(j));
        }
        if let Some(node) = endpoint.at("nodeName").as_str() {
            errors.messages(&path.child("nodeName"), node, names::dns1123_subdomain(node));
        }
        if let Some(host) = endpoint.at("hostname").as_str() {
            errors.messages(&path.child("hostname"), host, names::dns1123_label(host));
        }
        hints(errors, endpoint.at("hints"), &path.child("hints"));
    }
}

fn slice_address(errors: &mut ErrorList, address: &str, ty: &str, list: &Path, path: &Path) {
    match ty {
        "IPv4" | "IPv6" => {
            let messages = ip_messages(address);
            if !messages.is_empty() {
                errors.messages(path, address, messages);
                return;
            }
            let v6 = address.contains(':');
            if v6 != (ty == "IPv6") {
                errors.invalid(list, address, format!("must be an {ty} address"));
            }
            endpoint_ip(errors, address, path);
        }
        "FQDN" => {
            if address.is_empty() {
                errors.required(path, "");
            } else {
                let name = address.strip_suffix('.').unwrap_or(address);
                let messages = names::dns1123_subdomain(name);
                if messages.is_empty() && !name.contains('.') {
                    let detail = "should be a domain with at least two segments separated by dots";
                    errors.invalid(path, address, detail);
                }
                errors.messages(path, address, messages);
            }
        }
        _ => {}
    }
}

fn hints(errors: &mut ErrorList, hints: &Value, path: &Path) {
    type Check = fn(&str) -> Vec<String>;
    for (list, check) in [("forZones", names::label_value as Check), ("forNodes", names::dns1123_subdomain)] {
        let (all, at) = (hints.list(list), path.child(list));
        if all.len() > 8 {
            errors.push(FieldError::too_many(&at, all.len(), 8));
            return;
        }
        for (i, hint) in all.iter().enumerate() {
            let (name, at) = (hint.text("name"), at.index(i).child("name"));
            if all[..i].iter().any(|h| h.text("name") == name) {
                errors.duplicate(&at, name);
            }
            errors.messages(&at, name, check(name));
        }
    }
}

/// What is wrong with the name of an IPAddress object: it is the address.
pub fn address_messages(name: &str) -> Vec<String> {
    let mut messages = ip_messages(name);
    if let (true, Ok(ip)) = (messages.is_empty(), name.parse::<IpAddr>())
        && ip.to_string() != name
    {
        messages.push(format!("must be in canonical form (\"{ip}\")"));
    }
    messages
}

/// An IPAddress object.
pub fn ip_address(object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let (parent, path) = (object.at("spec.parentRef"), Path::new("spec").child("parentRef"));
    if parent.is_null() {
        errors.required(&path, "");
        return errors;
    }
    let group = parent.text("group");
    if !group.is_empty() {
        errors.messages(&path.child("group"), group, names::dns1123_subdomain(group));
    }
    segment(&mut errors, parent.text("resource"), true, &path.child("resource"));
    segment(&mut errors, parent.text("name"), true, &path.child("name"));
    segment(&mut errors, parent.text("namespace"), false, &path.child("namespace"));
    errors
}

/// An update of an IPAddress.
pub fn ip_address_update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = ip_address(new);
    let path = Path::new("spec").child("parentRef");
    errors.immutable(&path, new.at("spec.parentRef"), old.at("spec.parentRef"));
    errors
}

/// A ServiceCIDR.
pub fn service_cidr(object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec").child("cidrs");
    let all: Vec<&str> = object.list("spec.cidrs").iter().filter_map(Value::as_str).collect();
    match all.len() {
        0 => errors.required(&path, "at least one CIDR required"),
        1 | 2 => {
            for (i, range) in all.iter().enumerate() {
                let at = path.index(i);
                cidr(&mut errors, range, &at);
                if let Ok(net) = range.parse::<IpNet>()
                    && net.trunc().to_string() != *range
                {
                    let detail = if net.trunc() == net {
                        format!("must be in canonical form (\"{net}\")")
                    } else {
                        "must not have bits set beyond the prefix length".to_string()
                    };
                    errors.invalid(&at, *range, detail);
                }
            }
            let all_valid = all.iter().all(|range| range.parse::<IpNet>().is_ok());
            if all.len() == 2 && all_valid && all[0].contains(':') == all[1].contains(':') {
                let detail = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
                errors.invalid(&path, object.at("spec.cidrs").clone(), detail);
            }
        }
        _ => errors.invalid(&path, object.at("spec").clone(), "may only hold up to 2 values"),
    }
    errors
}

/// An update of a ServiceCIDR: a second family may be added.
pub fn service_cidr_update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec").child("cidrs");
    let (now, was) = (new.list("spec.cidrs"), old.list("spec.cidrs"));
    if now.len() == was.len() || (was.len() == 1 && now.len() == 2) {
        for (i, _) in was.iter().enumerate().filter(|(i, range)| now[*i] != **range) {
            errors.invalid(&path.index(i), now[i].clone(), super::IMMUTABLE);
        }
        if now.len() > was.len() {
            errors.extend(service_cidr(new));
        }
    } else {
        errors.invalid(&path, new.at("spec.cidrs").clone(), super::IMMUTABLE);
    }
    errors
}
