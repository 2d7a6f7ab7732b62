//! Services and Endpoints.

use std::net::IpAddr;

use api::names;
use serde_json::{Value, json};

use super::container::{PROTOCOLS, port};
use super::{ErrorKind, ErrorList, FieldError, Path, Report, ip_messages, meta, shown};
use crate::tree::Tree;

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];

fn ty(service: &Value) -> &str {
    service.text("spec.type")
}

fn headless(service: &Value) -> bool {
    let ips = service.list("spec.clusterIPs");
    ips.len() == 1 && ips[0] == "None"
}

/// Whether clients outside the cluster can reach it.
fn external(service: &Value) -> bool {
    matches!(ty(service), "LoadBalancer" | "NodePort")
        || (ty(service) == "ClusterIP" && !service.list("spec.externalIPs").is_empty())
}

fn health_check(service: &Value) -> bool {
    ty(service) == "LoadBalancer" && service.text("spec.externalTrafficPolicy") == "Local"
}

/// A new service, addresses allocated.
pub fn create(service: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    check(&mut errors, service, None);
    errors
}

/// An update of a service.
pub fn update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    address_changes(&mut errors, new, old);
    family_changes(&mut errors, new, old);
    let path = Path::new("spec").child("loadBalancerClass");
    if ty(new) == "LoadBalancer"
        && ty(old) == "LoadBalancer"
        && new.at("spec.loadBalancerClass") != old.at("spec.loadBalancerClass")
    {
        errors.invalid(&path, new.at("spec.loadBalancerClass").clone(), "may not change once set");
    }
    balancer_class(&mut errors, new, &path);
    let changed = new.int("spec.healthCheckNodePort") != old.int("spec.healthCheckNodePort");
    if health_check(new) && health_check(old) && changed {
        errors.forbidden(&Path::new("spec").child("healthCheckNodePort"), "field is immutable");
    }
    check(&mut errors, new, Some(old));
    errors
}

fn check(errors: &mut ErrorList, service: &Value, old: Option<&Value>) {
    topology_annotations(errors, service);
    let (spec, path) = (service.at("spec"), Path::new("spec"));
    if spec.list("ports").is_empty() && !headless(service) && ty(service) != "ExternalName" {
        errors.required(&path.child("ports"), "");
    }
    type_rules(errors, service, &path);
    let several = spec.list("ports").len() > 1;
    let mut seen: Vec<&str> = Vec::new();
    for (i, p) in spec.list("ports").iter().enumerate() {
        service_port(errors, p, several, &mut seen, &path.child("ports").index(i));
    }
    meta::labels(errors, spec.at("selector"), &path.child("selector"));
    affinity(errors, spec, &path);
    cluster_ips(errors, service, old);
    let at = path.child("externalIPs");
    for (i, ip) in spec.list("externalIPs").iter().filter_map(Value::as_str).enumerate() {
        let had = old.is_some_and(|o| o.list("spec.externalIPs").iter().any(|v| v == ip));
        let messages = if had { Vec::new() } else { ip_messages(ip) };
        if messages.is_empty() {
            endpoint_ip(errors, ip, &at.index(i));
        } else {
            errors.messages(&at.index(i), ip, messages);
        }
    }
    errors.required_one_of(&path.child("type"), ty(service), TYPES);
    port_clashes(errors, service, &path.child("ports"));
    source_ranges(errors, service, old, &path);
    let allocate = spec.has("allocateLoadBalancerNodePorts");
    if allocate && ty(service) != "LoadBalancer" {
        let detail = "may only be used when `type` is 'LoadBalancer'";
        errors.forbidden(&path.child("allocateLoadBalancerNodePorts"), detail);
    }
    if !allocate && ty(service) == "LoadBalancer" {
        errors.required(&Path::new("allocateLoadBalancerNodePorts"), "");
    }
    balancer_class(errors, service, &path.child("loadBalancerClass"));
    traffic(errors, service, &path);
}

fn topology_annotations(errors: &mut ErrorList, service: &Value) {
    const MODE: &str = "service.kubernetes.io/topology-mode";
    const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
    let all = service.map("metadata.annotations");
    if let (Some(mode), Some(hints)) = (all.get(MODE), all.get(HINTS))
        && mode != hints
    {
        let path = Path::new("metadata").child("annotations").key(MODE);
        let detail = format!("must match annotations[{HINTS}] when both are specified");
        errors.invalid(&path, mode.clone(), detail);
    }
}

fn type_rules(errors: &mut ErrorList, service: &Value, path: &Path) {
    match ty(service) {
        kind @ ("LoadBalancer" | "NodePort") if headless(service) => {
            let detail = format!("may not be set to 'None' for {kind} services");
            errors.invalid(&path.child("clusterIPs").index(0), "None", detail);
        }
        "ExternalName" => {
            const WHY: &str = "may not be set for ExternalName services";
            for list in ["clusterIPs", "ipFamilies"] {
                if !service.at("spec").list(list).is_empty() {
                    errors.forbidden(&path.child(list), WHY);
                }
            }
            if service.has("spec.ipFamilyPolicy") {
                errors.forbidden(&path.child("ipFamilyPolicy"), WHY);
            }
            let name = service.text("spec.externalName");
            match name.strip_suffix('.').unwrap_or(name) {
                "" => errors.required(&path.child("externalName"), ""),
                name => errors.messages(&path.child("externalName"), name, names::dns1123_subdomain(name)),
            }
        }
        _ => {}
    }
}

fn service_port<'a>(
    errors: &mut ErrorList,
    p: &'a Value,
    needs_name: bool,
    seen: &mut Vec<&'a str>,
    path: &Path,
) {
    let name = p.text("name");
    if name.is_empty() && needs_name {
        errors.required(&path.child("name"), "");
    } else if !name.is_empty() {
        errors.messages(&path.child("name"), name, names::dns1123_label(name));
        if seen.contains(&name) {
            errors.duplicate(&path.child("name"), name);
        }
        seen.push(name);
    }
    for message in names::port_number(p.int("port")) {
        errors.invalid(&path.child("port"), p.int("port"), message);
    }
    errors.required_one_of(&path.child("protocol"), p.text("protocol"), PROTOCOLS);
    port(errors, p.at("targetPort"), &path.child("targetPort"));
    if let Some(protocol) = p.at("appProtocol").as_str() {
        errors.messages(&path.child("appProtocol"), protocol, names::qualified_name(protocol));
    }
}

fn affinity(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let kind = spec.text("sessionAffinity");
    errors.required_one_of(&path.child("sessionAffinity"), kind, &["ClientIP", "None"]);
    let (config, at) = (spec.at("sessionAffinityConfig"), path.child("sessionAffinityConfig"));
    match kind {
        "ClientIP" => {
            const WHEN: &str = "when session affinity type is ClientIP";
            const LONGEST: i64 = 86_400;
            let seconds = at.child("clientIP.timeoutSeconds");
            if config.is_null() {
                errors.required(&at, WHEN);
            } else if !config.has("clientIP") {
                errors.required(&at.child("clientIP"), WHEN);
            } else {
                match config.at("clientIP.timeoutSeconds").as_i64() {
                    None => errors.required(&seconds, WHEN),
                    Some(n) if !(1..=LONGEST).contains(&n) => {
                        let detail = format!("must be greater than 0 and less than {LONGEST}");
                        errors.invalid(&seconds, n, detail);
                    }
                    Some(_) => {}
                }
            }
        }
        "None" if !config.is_null() => {
            errors.forbidden(&at, "must not be set when session affinity is None");
        }
        _ => {}
    }
}

fn is_v6(ip: &str) -> bool {
    ip.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6())
}

/// What is wrong with a service's addresses and their families by themselves; nothing is allocated until that is right.
pub fn addresses(service: &Value, old: Option<&Value>) -> ErrorList {
    let mut errors = ErrorList::new();
    cluster_ips(&mut errors, service, old);
    errors
}

fn cluster_ips(errors: &mut ErrorList, service: &Value, old: Option<&Value>) {
    if ty(service) == "ExternalName" {
        return;
    }
    let (spec, path) = (service.at("spec"), Path::new("spec"));
    let (ips_at, families_at) = (path.child("clusterIPs"), path.child("ipFamilies"));
    let all = spec.at("clusterIPs").clone();
    let ips: Vec<&str> = spec.list("clusterIPs").iter().filter_map(Value::as_str).collect();
    match (spec.text("clusterIP"), ips.first()) {
        ("", Some(_)) => {
            errors.invalid(&ips_at, all.clone(), "must be empty when `clusterIP` is not specified")
        }
        ("", None) => {}
        (_, None) => errors.required(&ips_at, ""),
        (first, Some(other)) if first != *other => {
            errors.invalid(&ips_at, all.clone(), "first value must match `clusterIP`");
        }
        _ => {}
    }
    let families: Vec<&str> = spec.list("ipFamilies").iter().filter_map(Value::as_str).collect();
    for (i, family) in families.iter().enumerate() {
        errors.one_of(&families_at.index(i), family, &["IPv4", "IPv6"]);
        if families[..i].contains(family) {
            errors.duplicate(&families_at.index(i), *family);
        }
    }
    if let Some(policy) = spec.at("ipFamilyPolicy").as_str() {
        let policies = ["PreferDualStack", "RequireDualStack", "SingleStack"];
        errors.one_of(&path.child("ipFamilyPolicy"), policy, &policies);
    }
    let mut bad = false;
    for (i, ip) in ips.iter().enumerate() {
        if i == 0 && *ip == "None" {
            if ips.len() > 1 {
                bad = true;
                errors.invalid(&ips_at, all.clone(), "'None' must be the first and only value");
            }
            continue;
        }
        let had = old.is_some_and(|o| o.list("spec.clusterIPs").iter().any(|v| v == ip));
        let messages = if had { Vec::new() } else { ip_messages(ip) };
        bad |= !messages.is_empty();
        errors.messages(&ips_at.index(i), ip, messages);
    }
    if ips.len() > 2 {
        errors.invalid(&ips_at, all.clone(), "may only hold up to 2 values");
    }
    if bad {
        return;
    }
    if ips.len() > 1 && (ips.iter().all(|ip| is_v6(ip)) || !ips.iter().any(|ip| is_v6(ip))) {
        errors.invalid(&ips_at, all, "may specify no more than one IP for each IP family");
    }
    if headless(service) {
        return;
    }
    for (i, (ip, family)) in ips.iter().zip(&families).enumerate() {
        if (*family == "IPv4" && is_v6(ip)) || (*family == "IPv6" && !is_v6(ip)) {
            let detail = format!("expected an {family} value as indicated by `ipFamilies[{i}]`");
            errors.invalid(&ips_at.index(i), *ip, detail);
        }
    }
}

fn port_clashes(errors: &mut ErrorList, service: &Value, path: &Path) {
    let ports = service.list("spec.ports");
    if ty(service) == "ClusterIP" {
        for (i, _) in ports.iter().enumerate().filter(|(_, p)| p.int("nodePort") != 0) {
            let detail = "may not be used when `type` is 'ClusterIP'";
            errors.forbidden(&path.index(i).child("nodePort"), detail);
        }
    }
    let same = |a: &Value, b: &Value, field: &str| {
        a.int(field) == b.int(field) && a.text("protocol") == b.text("protocol")
    };
    for (i, p) in ports.iter().enumerate() {
        if p.int("nodePort") != 0 && ports[..i].iter().any(|o| same(o, p, "nodePort")) {
            errors.duplicate(&path.index(i).child("nodePort"), p.int("nodePort"));
        }
    }
    for (i, p) in ports.iter().enumerate() {
        if ports[..i].iter().any(|o| same(o, p, "port")) {
            // Upstream shows its own port struct here: only protocol and port are set in it.
            let only = json!({"protocol": p.at("protocol"), "port": p.at("port")});
            let text = shown::text(&only, shown::SERVICE_PORT);
            shown::report(errors, ErrorKind::Duplicate, &path.index(i), text, "");
        }
    }
}

fn cidr_messages(text: &str) -> Vec<String> {
    let good = text.split_once('/').is_some_and(|(ip, bits)| {
        let longest = if is_v6(ip) { 128 } else { 32 };
        ip_messages(ip).is_empty() && bits.parse::<u8>().is_ok_and(|b| b <= longest)
    });
    if good {
        return Vec::new();
    }
    vec!["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".to_string()]
}

/// What is wrong with an address range.
pub fn cidr(errors: &mut ErrorList, text: &str, path: &Path) {
    errors.messages(path, text, cidr_messages(text));
}

fn source_ranges(errors: &mut ErrorList, service: &Value, old: Option<&Value>, path: &Path) {
    const ANNOTATION: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
    const ONLY: &str = "may only be used when `type` is 'LoadBalancer'";
    let ranges = service.list("spec.loadBalancerSourceRanges");
    if !ranges.is_empty() {
        let at = path.child("LoadBalancerSourceRanges");
        if ty(service) != "LoadBalancer" {
            errors.forbidden(&at, ONLY);
        }
        for (i, range) in ranges.iter().filter_map(Value::as_str).map(str::trim).enumerate() {
            cidr(errors, range, &at.index(i));
        }
        return;
    }
    let Some(text) = service.map("metadata.annotations").get(ANNOTATION).and_then(Value::as_str) else {
        return;
    };
    let at = Path::new("metadata").child("annotations").key(ANNOTATION);
    if ty(service) != "LoadBalancer" {
        errors.forbidden(&at, ONLY);
    }
    let same = old.is_some_and(|o| o.map("metadata.annotations").get(ANNOTATION).is_some_and(|v| v == text));
    if !same && !text.trim().is_empty() {
        text.trim().split(',').for_each(|range| cidr(errors, range.trim(), &at));
    }
}

fn balancer_class(errors: &mut ErrorList, service: &Value, path: &Path) {
    let Some(class) = service.at("spec.loadBalancerClass").as_str() else { return };
    if ty(service) == "LoadBalancer" {
        errors.messages(path, class, names::qualified_name(class));
    } else {
        errors.forbidden(path, "may only be used when `type` is 'LoadBalancer'");
    }
}

fn traffic(errors: &mut ErrorList, service: &Value, path: &Path) {
    let spec = service.at("spec");
    let (policy, at) = (spec.text("externalTrafficPolicy"), path.child("externalTrafficPolicy"));
    if external(service) {
        errors.required_one_of(&at, policy, &["Cluster", "Local"]);
    } else if !policy.is_empty() {
        errors.invalid(&at, policy, "may only be set for externally-accessible services");
    }
    let (number, at) = (spec.int("healthCheckNodePort"), path.child("healthCheckNodePort"));
    match (health_check(service), number) {
        (false, 0) => {}
        (false, n) => {
            let detail =
                "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
            errors.invalid(&at, n, detail);
        }
        (true, 0) => errors.required(&at, ""),
        (true, n) => {
            for message in names::port_number(n) {
                errors.invalid(&at, n, message);
            }
        }
    }
    let at = path.child("internalTrafficPolicy");
    match spec.at("internalTrafficPolicy").as_str() {
        None if matches!(ty(service), "NodePort" | "LoadBalancer" | "ClusterIP") => errors.required(&at, ""),
        None => {}
        Some(policy) => errors.one_of(&at, policy, &["Cluster", "Local"]),
    }
    if let Some(choice) = spec.at("trafficDistribution").as_str() {
        let all = ["PreferClose", "PreferSameZone", "PreferSameNode"];
        errors.one_of(&path.child("trafficDistribution"), choice, &all);
    }
}

fn address_changes(errors: &mut ErrorList, new: &Value, old: &Value) {
    if ty(new) == "ExternalName" || ty(old) == "ExternalName" || (headless(new) && headless(old)) {
        return;
    }
    const WHY: &str = "may not change once set";
    let path = Path::new("spec").child("clusterIPs");
    let (now, was) = (new.list("spec.clusterIPs"), old.list("spec.clusterIPs"));
    let shown = new.at("spec.clusterIPs").clone();
    if now.len() == was.len() {
        for (i, _) in was.iter().enumerate().filter(|(i, ip)| now[*i] != **ip) {
            errors.invalid(&path.index(i), shown.clone(), WHY);
        }
        return;
    }
    if was.len() > now.len() && now.is_empty() {
        errors.invalid(&path.index(0), shown.clone(), "primary clusterIP can not be unset");
    }
    if let (Some(a), Some(b)) = (now.first(), was.first())
        && a != b
    {
        errors.invalid(&path.index(0), shown, WHY);
    }
    if was.len() > now.len() && now.len() == 1 && new.text("spec.ipFamilyPolicy") != "SingleStack" {
        let at = Path::new("spec").child("ipFamilyPolicy");
        let detail = "must be set to 'SingleStack' when releasing the secondary clusterIP";
        errors.invalid(&at, new.at("spec.ipFamilyPolicy").clone(), detail);
    }
}

fn family_changes(errors: &mut ErrorList, new: &Value, old: &Value) {
    if ty(new) == "ExternalName" || ty(old) == "ExternalName" || headless(new) || headless(old) {
        return;
    }
    const WHY: &str = "may not change once set";
    let at = Path::new("spec").child("ipFamilies").index(0);
    let (now, was) = (new.list("spec.ipFamilies"), old.list("spec.ipFamilies"));
    if now.len() == was.len() {
        if now != was {
            errors.invalid(&at, new.at("spec.ipFamilies").clone(), WHY);
        }
        return;
    }
    if was.len() > now.len() && new.list("spec.clusterIPs").is_empty() {
        errors.invalid(&at, new.at("spec.ipFamilies").clone(), "primary ipFamily can not be unset");
    }
    if let (Some(a), Some(b)) = (now.first(), was.first())
        && a != b
    {
        errors.invalid(&at, new.at("spec.clusterIPs").clone(), WHY);
    }
    if was.len() > now.len() && now.len() == 1 && new.text("spec.ipFamilyPolicy") != "SingleStack" {
        let at = Path::new("spec").child("ipFamilyPolicy");
        let detail = "must be set to 'SingleStack' when releasing the secondary ipFamily";
        errors.invalid(&at, new.at("spec.ipFamilyPolicy").clone(), detail);
    }
}

/// An update of `status.loadBalancer`.
pub fn status(new: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("status").child("loadBalancer.ingress");
    let points = new.list("status.loadBalancer.ingress");
    if ty(new) != "LoadBalancer" && !points.is_empty() {
        errors.forbidden(&path, "may only be used when `spec.type` is 'LoadBalancer'");
        return errors;
    }
    let before: Vec<&str> = old.list("status.loadBalancer.ingress").iter().map(|p| p.text("ip")).collect();
    for (i, point) in points.iter().enumerate() {
        let at = path.index(i);
        let ip = point.text("ip");
        if !ip.is_empty() && !before.contains(&ip) {
            errors.ip(&at.child("ip"), ip);
        }
        match (point.at("ipMode").as_str(), ip) {
            (None, "") => {}
            (None, _) => errors.required(&at.child("ipMode"), "must be specified when `ip` is set"),
            (Some(_), "") => {
                errors.forbidden(&at.child("ipMode"), "may not be specified when `ip` is not set");
            }
            (Some(mode), _) => errors.one_of(&at.child("ipMode"), mode, &["Proxy", "VIP"]),
        }
        host_name(&mut errors, point.text("hostname"), &at.child("hostname"));
    }
    errors
}

/// A DNS name that is no address; empty passes.
pub fn host_name(errors: &mut ErrorList, host: &str, path: &Path) {
    if host.is_empty() {
        return;
    }
    errors.messages(path, host, names::dns1123_subdomain(host));
    if host.parse::<IpAddr>().is_ok() {
        errors.invalid(path, host, "must be a DNS name, not an IP address");
    }
}

/// An address that traffic may be sent to: not local to a machine or link.
pub fn endpoint_ip(errors: &mut ErrorList, text: &str, path: &Path) {
    let Ok(ip) = text.parse::<IpAddr>() else {
        errors.invalid(path, text, "must be a valid IP address");
        return;
    };
    let (link, multicast) = match ip {
        IpAddr::V4(v4) => {
            let o = v4.octets();
            (v4.is_link_local(), o[0] == 224 && o[1] == 0 && o[2] == 0)
        }
        IpAddr::V6(v6) => (v6.segments()[0] & 0xffc0 == 0xfe80, v6.segments()[0] & 0xff0f == 0xff02),
    };
    if ip.is_unspecified() {
        errors.invalid(path, text, format!("may not be unspecified ({text})"));
    }
    if ip.is_loopback() {
        errors.invalid(path, text, "may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    if link {
        errors.invalid(path, text, "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    }
    if multicast {
        let detail = "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)";
        errors.invalid(path, text, detail);
    }
}

/// Endpoints; unchanged subsets pass on update.
pub fn endpoints(new: &Value, old: Option<&Value>) -> ErrorList {
    let mut errors = ErrorList::new();
    let same = old.is_some_and(|o| o.at("subsets") == new.at("subsets"));
    if same {
        return errors;
    }
    for (i, subset) in new.list("subsets").iter().enumerate() {
        let path = Path::new("subsets").index(i);
        if subset.list("addresses").is_empty() && subset.list("notReadyAddresses").is_empty() {
            errors.required(&path, "must specify `addresses` or `notReadyAddresses`");
        }
        for list in ["addresses", "notReadyAddresses"] {
            for (j, address) in subset.list(list).iter().enumerate() {
                endpoint_address(&mut errors, address, &path.child(list).index(j));
            }
        }
        let ports = subset.list("ports");
        for (j, p) in ports.iter().enumerate() {
            endpoint_port(&mut errors, p, ports.len() > 1, &path.child("ports").index(j));
        }
    }
    errors
}

fn endpoint_address(errors: &mut ErrorList, address: &Value, path: &Path) {
    errors.ip(&path.child("ip"), address.text("ip"));
    let host = address.text("hostname");
    if !host.is_empty() {
        errors.messages(&path.child("hostname"), host, names::dns1123_label(host));
    }
    if let Some(node) = address.at("nodeName").as_str() {
        errors.messages(&path.child("nodeName"), node, names::dns1123_subdomain(node));
    }
    endpoint_ip(errors, address.text("ip"), &path.child("ip"));
}

fn endpoint_port(errors: &mut ErrorList, p: &Value, needs_name: bool, path: &Path) {
    match p.text("name") {
        "" if needs_name => errors.push(FieldError::required(&path.child("name"), "")),
        "" => {}
        name => errors.messages(&path.child("name"), name, names::dns1123_label(name)),
    }
    for message in names::port_number(p.int("port")) {
        errors.invalid(&path.child("port"), p.int("port"), message);
    }
    errors.required_one_of(&path.child("protocol"), p.text("protocol"), PROTOCOLS);
    if let Some(protocol) = p.at("appProtocol").as_str() {
        errors.messages(&path.child("appProtocol"), protocol, names::qualified_name(protocol));
    }
}
