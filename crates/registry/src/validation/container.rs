//! Containers: ports, environment, mounts, probes, hooks, restart rules.

use std::collections::{BTreeMap, BTreeSet};

use api::names;
use serde_json::Value;

use super::resources::{self, Names};
use super::volume::{descending_path, no_backsteps};
use super::{ErrorList, FieldError, Path, Report, security};
use crate::tree::Tree;

/// When an image is pulled.
pub const PULL_POLICIES: &[&str] = &["Always", "IfNotPresent", "Never"];
/// Transport protocols of ports.
pub const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const RESTART_POLICIES: &[&str] = &["Always", "Never", "OnFailure"];

/// Field paths that an environment variable may show.
const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

const RESOURCE_FIELDS: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// What containers are checked against.
pub struct Scene<'a> {
    /// The pod's good volumes by name.
    pub volumes: BTreeMap<&'a str, &'a Value>,
    /// Names in spec.resourceClaims.
    pub claims: BTreeSet<String>,
    /// spec.terminationGracePeriodSeconds
    pub grace: Option<i64>,
    /// spec.restartPolicy
    pub restart_policy: &'a str,
    /// spec.os.name, when set.
    pub os: Option<&'a str>,
    /// False in a user namespace.
    pub host_users: bool,
}

impl Scene<'_> {
    /// `spec.containers`
    pub fn main(&self, errors: &mut ErrorList, containers: &[Value], path: &Path) {
        if containers.is_empty() {
            errors.required(path, "");
            return;
        }
        let mut seen: Vec<&str> = Vec::new();
        for (i, c) in containers.iter().enumerate() {
            let path = path.index(i);
            self.common(errors, c, &path);
            if seen.contains(&c.text("name")) {
                errors.duplicate(&path.child("name"), c.text("name"));
            }
            seen.push(c.text("name"));
            self.life(errors, c, &path);
            restart_rules(errors, c, &path);
        }
        host_ports(errors, containers, path);
    }

    /// `spec.initContainers`
    pub fn init(&self, errors: &mut ErrorList, init: &[Value], main: &[Value], path: &Path) {
        let mut seen: Vec<&str> = main.iter().map(|c| c.text("name")).collect();
        for (i, c) in init.iter().enumerate() {
            let at = path.index(i);
            self.common(errors, c, &at);
            let sidecar = c.text("restartPolicy") == "Always";
            restart_rules(errors, c, &at);
            let name = c.text("name");
            if seen.contains(&name) {
                errors.duplicate(&at.child("name"), name);
            } else if !name.is_empty() {
                seen.push(name);
            }
            host_ports(errors, std::slice::from_ref(c), path);
            if sidecar {
                self.life(errors, c, &at);
                continue;
            }
            for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
                if c.has(field) {
                    let detail = "may not be set for init containers without restartPolicy=Always";
                    errors.forbidden(&at.child(field), detail);
                }
            }
            for (j, policy) in c.list("resizePolicy").iter().enumerate() {
                if policy.text("restartPolicy") == "RestartContainer" {
                    let at = at.child("resizePolicy").index(j).child("restartPolicy");
                    let detail = "must not be set to 'RestartContainer' for non-sidecar initContainers";
                    errors.invalid(&at, "RestartContainer", detail);
                }
            }
        }
    }

    /// `spec.ephemeralContainers`
    pub fn ephemeral(&self, errors: &mut ErrorList, all: &[Value], others: &[&Value], path: &Path) {
        const NOT_ALLOWED: &[&str] = &[
            "ports",
            "livenessProbe",
            "readinessProbe",
            "startupProbe",
            "lifecycle",
            "resizePolicy",
            "restartPolicy",
            "restartPolicyRules",
        ];
        const CANNOT: &str = "cannot be set for an Ephemeral Container";
        let others: Vec<&str> = others.iter().map(|c| c.text("name")).collect();
        let mut seen = others.clone();
        for (i, c) in all.iter().enumerate() {
            let path = path.index(i);
            self.common(errors, c, &path);
            image_padding(errors, c, &path);
            if seen.contains(&c.text("name")) {
                errors.duplicate(&path.child("name"), c.text("name"));
            }
            seen.push(c.text("name"));
            let target = c.text("targetContainerName");
            if !target.is_empty() && !others.contains(&target) {
                errors.not_found(&path.child("targetContainerName"), target);
            }
            for field in NOT_ALLOWED {
                if c.has(field) {
                    errors.forbidden(&path.child(field), CANNOT);
                }
            }
            if !c.map("resources").is_empty() {
                errors.forbidden(&path.child("resources"), CANNOT);
            }
            for (i, mount) in c.list("volumeMounts").iter().enumerate() {
                for field in ["subPath", "subPathExpr"] {
                    if !mount.text(field).is_empty() {
                        errors.forbidden(&path.child("volumeMounts").index(i).child(field), CANNOT);
                    }
                }
            }
        }
    }

    fn common(&self, errors: &mut ErrorList, c: &Value, path: &Path) {
        match c.text("name") {
            "" => errors.required(&path.child("name"), ""),
            name => errors.messages(&path.child("name"), name, names::dns1123_label(name)),
        }
        errors.required_text(path, c, "image");
        let policy = c.text("terminationMessagePolicy");
        let at = path.child("terminationMessagePolicy");
        errors.required_one_of(&at, policy, &["File", "FallbackToLogsOnError"]);
        ports(errors, c.list("ports"), &path.child("ports"));
        env(errors, c.list("env"), &path.child("env"));
        env_from(errors, c.list("envFrom"), &path.child("envFrom"));
        self.mounts(errors, c, &path.child("volumeMounts"));
        self.devices(errors, c, &path.child("volumeDevices"));
        let at = path.child("imagePullPolicy");
        errors.required_one_of(&at, c.text("imagePullPolicy"), PULL_POLICIES);
        let at = path.child("resources");
        resources::requirements(errors, &at, c.at("resources"), Names::Container, &self.claims);
        self.resize_policy(errors, c.list("resizePolicy"), &path.child("resizePolicy"));
        let context = c.at("securityContext");
        security::container(errors, context, &path.child("securityContext"), self.host_users);
    }

    fn mounts(&self, errors: &mut ErrorList, c: &Value, path: &Path) {
        let devices = c.list("volumeDevices");
        let mut seen: Vec<&str> = Vec::new();
        for (i, mount) in c.list("volumeMounts").iter().enumerate() {
            let at = path.index(i);
            let (name, target) = (mount.text("name"), mount.text("mountPath"));
            errors.required_text(&at, mount, "name");
            if !self.volumes.contains_key(name) {
                errors.not_found(&at.child("name"), name);
            }
            errors.required_text(&at, mount, "mountPath");
            if seen.contains(&target) {
                errors.invalid(&at.child("mountPath"), target, "must be unique");
            }
            seen.push(target);
            if devices.iter().any(|d| d.text("name") == name) {
                errors.invalid(&at.child("name"), name, "must not already exist in volumeDevices");
            }
            if devices.iter().any(|d| d.text("devicePath") == target) {
                let detail = "must not already exist as a path in volumeDevices";
                errors.invalid(&at.child("mountPath"), target, detail);
            }
            sub_paths(errors, mount, path, &at);
            propagation(errors, mount, c, &path.child("mountPropagation"));
            recursive_read_only(errors, mount, &path.child("recursiveReadOnly"));
        }
    }

    fn devices(&self, errors: &mut ErrorList, c: &Value, path: &Path) {
        let mounts = c.list("volumeMounts");
        // Of several mounts of a volume upstream knows the last.
        let paths_by_name: BTreeMap<&str, &str> =
            mounts.iter().map(|m| (m.text("name"), m.text("mountPath"))).collect();
        let (mut names, mut paths): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
        for (i, device) in c.list("volumeDevices").iter().enumerate() {
            let at = path.index(i);
            let (name, target) = (device.text("name"), device.text("devicePath"));
            let (name_at, path_at) = (at.child("name"), at.child("devicePath"));
            errors.required_text(&at, device, "name");
            if names.contains(&name) {
                errors.invalid(&name_at, name, "must be unique");
            }
            match self.volumes.get(name) {
                Some(v) if v.has("persistentVolumeClaim") || v.has("ephemeral") => {}
                Some(_) => {
                    let detail = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                    errors.invalid(&name_at, name, detail);
                }
                None => errors.not_found(&name_at, name),
            }
            errors.required_text(&at, device, "devicePath");
            if paths.contains(&target) {
                errors.invalid(&path_at, target, "must be unique");
            }
            if target.split('/').any(|p| p == "..") {
                errors.invalid(&path_at, target, "can not contain backsteps ('..')");
            } else {
                paths.push(target);
            }
            if mounts.iter().any(|m| m.text("name") == name) {
                errors.invalid(&name_at, name, "must not already exist in volumeMounts");
            }
            if paths_by_name.values().any(|p| *p == target) {
                errors.invalid(&path_at, target, "must not already exist as a path in volumeMounts");
            }
            names.push(name);
        }
    }

    fn resize_policy(&self, errors: &mut ErrorList, policies: &[Value], path: &Path) {
        let mut seen: Vec<&str> = Vec::new();
        for (i, policy) in policies.iter().enumerate() {
            let (resource, restart) = (policy.text("resourceName"), policy.text("restartPolicy"));
            if seen.contains(&resource) {
                errors.duplicate(&path.index(i), resource);
            }
            seen.push(resource);
            errors.required_one_of(path, resource, &["cpu", "memory"]);
            errors.required_one_of(path, restart, &["NotRequired", "RestartContainer"]);
            if self.restart_policy == "Never" && restart != "NotRequired" {
                let detail = "must be 'NotRequired' when pod `restartPolicy` is 'Never'";
                errors.invalid(path, restart, detail);
            }
        }
    }

    /// Hooks and probes.
    fn life(&self, errors: &mut ErrorList, c: &Value, path: &Path) {
        for hook in ["postStart", "preStop"] {
            let body = c.at("lifecycle").at(hook);
            if !body.is_null() {
                self.handler(errors, body, &path.child("lifecycle").child(hook), true);
            }
        }
        for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
            let (probe, path) = (c.at(name), path.child(name));
            if probe.is_null() {
                continue;
            }
            self.probe(errors, probe, &path);
            let seconds = probe.at("terminationGracePeriodSeconds");
            if name != "readinessProbe" {
                let threshold = probe.int("successThreshold");
                if threshold != 1 {
                    errors.invalid(&path.child("successThreshold"), threshold, "must be 1");
                }
            } else if !seconds.is_null() {
                let at = path.child("terminationGracePeriodSeconds");
                errors.invalid(&at, seconds.clone(), "must not be set for readinessProbes");
            }
        }
    }

    fn probe(&self, errors: &mut ErrorList, probe: &Value, path: &Path) {
        self.handler(errors, probe, path, false);
        for field in
            ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
        {
            errors.non_negative(&path.child(field), probe.int(field));
        }
        if let Some(seconds) = probe.at("terminationGracePeriodSeconds").as_i64()
            && seconds <= 0
        {
            let at = path.child("terminationGracePeriodSeconds");
            errors.invalid(&at, seconds, "must be greater than 0");
        }
    }

    fn handler(&self, errors: &mut ErrorList, body: &Value, path: &Path, hook: bool) {
        let mut found = false;
        for kind in ["exec", "httpGet", "tcpSocket", "grpc", "sleep"] {
            let action = body.at(kind);
            if action.is_null() || (hook && kind == "grpc") || (!hook && kind == "sleep") {
                continue;
            }
            let at = path.child(kind);
            if found {
                errors.forbidden(&at, "may not specify more than 1 handler type");
                continue;
            }
            found = true;
            match kind {
                "exec" if action.list("command").is_empty() => errors.required(&at.child("command"), ""),
                "httpGet" => http_get(errors, action, &at),
                "tcpSocket" | "grpc" => port(errors, action.at("port"), &at.child("port")),
                "sleep" => self.sleep(errors, action.int("seconds"), &at),
                _ => {}
            }
        }
        if !found {
            errors.required(path, "must specify a handler type");
        }
    }

    fn sleep(&self, errors: &mut ErrorList, seconds: i64, path: &Path) {
        if let Some(grace) = self.grace
            && (seconds < 0 || seconds > grace)
        {
            let detail =
                format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
            errors.invalid(path, seconds, detail);
        }
    }
}

fn http_get(errors: &mut ErrorList, action: &Value, path: &Path) {
    errors.required_text(path, action, "path");
    port(errors, action.at("port"), &path.child("port"));
    errors.one_of(&path.child("scheme"), action.text("scheme"), &["HTTP", "HTTPS"]);
    for header in action.list("httpHeaders") {
        let name = header.text("name");
        let good = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !good {
            let detail = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. \
                          'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";
            errors.invalid(&path.child("httpHeaders"), name, detail);
        }
    }
}

/// A port by number or name.
pub fn port(errors: &mut ErrorList, port: &Value, path: &Path) {
    match port {
        Value::String(name) => errors.messages(path, name, names::port_name(name)),
        other => {
            let number = other.as_i64().unwrap_or(0);
            for message in names::port_number(number) {
                errors.invalid(path, number, message);
            }
        }
    }
}

fn ports(errors: &mut ErrorList, ports: &[Value], path: &Path) {
    let mut seen: Vec<&str> = Vec::new();
    for (i, p) in ports.iter().enumerate() {
        let path = path.index(i);
        let name = p.text("name");
        if !name.is_empty() {
            let messages = names::port_name(name);
            if !messages.is_empty() {
                errors.messages(&path.child("name"), name, messages);
            } else if seen.contains(&name) {
                errors.duplicate(&path.child("name"), name);
            } else {
                seen.push(name);
            }
        }
        if p.int("containerPort") == 0 {
            errors.required(&path.child("containerPort"), "");
        }
        for field in ["containerPort", "hostPort"] {
            let number = p.int(field);
            if number != 0 && !names::port_number(number).is_empty() {
                errors.invalid(&path.child(field), number, names::in_range(1, 65535));
            }
        }
        errors.required_one_of(&path.child("protocol"), p.text("protocol"), PROTOCOLS);
    }
}

fn host_ports(errors: &mut ErrorList, containers: &[Value], path: &Path) {
    let mut seen: BTreeSet<String> = BTreeSet::new();
    for (i, c) in containers.iter().enumerate() {
        for (j, p) in c.list("ports").iter().enumerate() {
            let port = p.int("hostPort");
            if port == 0 {
                continue;
            }
            let key = format!("{}/{}/{port}", p.text("protocol"), p.text("hostIP"));
            if !seen.insert(key.clone()) {
                let at = path.index(i).child("ports").index(j).child("hostPort");
                errors.duplicate(&at, key);
            }
        }
    }
}

fn env(errors: &mut ErrorList, vars: &[Value], path: &Path) {
    for (i, var) in vars.iter().enumerate() {
        let path = path.index(i);
        match var.text("name") {
            "" => errors.required(&path.child("name"), ""),
            name => errors.messages(&path.child("name"), name, names::env_var_name(name)),
        }
        if var.has("valueFrom") {
            value_from(errors, var, &path.child("valueFrom"));
        }
    }
}

fn value_from(errors: &mut ErrorList, var: &Value, path: &Path) {
    let from = var.at("valueFrom");
    let mut sources = 0;
    for kind in ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"] {
        let source = from.at(kind);
        if source.is_null() {
            continue;
        }
        sources += 1;
        let at = path.child(kind);
        match kind {
            "fieldRef" => field_ref(errors, source, ENV_FIELDS, &at),
            "resourceFieldRef" => resource_field_ref(errors, source, &at, false),
            "fileKeyRef" => file_key(errors, source, &at),
            _ => {
                let name = source.text("name");
                errors.messages(&at.child("name"), name, names::dns1123_subdomain(name));
                match source.text("key") {
                    "" => errors.required(&at.child("key"), ""),
                    key => errors.messages(&at.child("key"), key, names::config_map_key(key)),
                }
            }
        }
    }
    if sources == 0 {
        let detail = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
        errors.invalid(path, "", detail);
    } else if !var.text("value").is_empty() {
        errors.invalid(path, "", "may not be specified when `value` is not empty");
    } else if sources > 1 {
        errors.invalid(path, "", "may not have more than one field specified at a time");
    }
}

fn file_key(errors: &mut ErrorList, source: &Value, path: &Path) {
    match source.text("key") {
        "" => errors.required(&path.child("key"), ""),
        key => errors.messages(&path.child("key"), key, names::env_var_name(key)),
    }
    match source.text("volumeName") {
        "" => errors.required(&path.child("volumeName"), ""),
        name => errors.messages(&path.child("volumeName"), name, names::dns1123_label(name)),
    }
    match source.text("path") {
        "" => errors.required(&path.child("path"), ""),
        text => no_backsteps(errors, &path.child("path"), text),
    }
}

/// Labels that only the old downward API knew are gone; these convert.
const CONVERTIBLE: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// A reference to a field of the pod: `metadata.name`, `metadata.labels['x']`.
pub fn field_ref(errors: &mut ErrorList, reference: &Value, allowed: &[&str], path: &Path) {
    let (version, field) = (reference.text("apiVersion"), reference.text("fieldPath"));
    let at = path.child("fieldPath");
    if version.is_empty() {
        errors.required(&path.child("apiVersion"), "");
        return;
    }
    if field.is_empty() {
        errors.required(&at, "");
        return;
    }
    if version != "v1" {
        let detail = format!("error converting fieldPath: unsupported pod version: {version}");
        errors.invalid(&at, field, detail);
        return;
    }
    let subscripted = field.strip_suffix("']").and_then(|f| f.split_once("['"));
    match subscripted {
        Some((base @ ("metadata.annotations" | "metadata.labels"), key)) => {
            let key = if base == "metadata.annotations" { key.to_lowercase() } else { key.to_string() };
            errors.messages(path, &key, names::qualified_name(&key));
        }
        Some((base, _)) => {
            let detail =
                format!("error converting fieldPath: field label does not support subscript: {field}");
            let _ = base;
            errors.invalid(&at, field, detail);
        }
        None if field == "spec.host" => {
            errors.push(FieldError::not_supported(&at, "spec.nodeName", allowed));
        }
        None if !CONVERTIBLE.contains(&field) => {
            let detail = format!("error converting fieldPath: field label not supported: {field}");
            errors.invalid(&at, field, detail);
        }
        None => errors.one_of(&at, field, allowed),
    }
}

/// A reference to a container's resources.
pub fn resource_field_ref(errors: &mut ErrorList, reference: &Value, path: &Path, in_volume: bool) {
    let resource = reference.text("resource");
    let huge = resource.starts_with("requests.hugepages-") || resource.starts_with("limits.hugepages-");
    if in_volume && reference.text("containerName").is_empty() {
        errors.required(&path.child("containerName"), "");
    } else if resource.is_empty() {
        errors.required(&path.child("resource"), "");
    } else if !huge {
        errors.one_of(&path.child("resource"), resource, RESOURCE_FIELDS);
    }
    let divisor = reference.text("divisor");
    if divisor.is_empty() || divisor == "0" {
        return;
    }
    const SIZES: &[&str] =
        &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
    let at = path.child("divisor");
    let cpu = resource.ends_with(".cpu");
    if cpu && divisor != "1" && divisor != "1m" {
        let detail = "only divisor's values 1m and 1 are supported with the cpu resource";
        errors.invalid(&at, resource, detail);
    } else if !cpu && !SIZES.contains(&divisor) {
        let what = match resource.split_once('.').map(|r| r.1) {
            Some("memory") => "memory",
            Some("ephemeral-storage") => "local ephemeral storage",
            _ if huge => "hugepages",
            _ => return,
        };
        let detail =
            format!("only divisor's values {} are supported with the {what} resource", SIZES.join(", "));
        errors.invalid(&at, resource, detail);
    }
}

fn env_from(errors: &mut ErrorList, sources: &[Value], path: &Path) {
    for (i, source) in sources.iter().enumerate() {
        let at = path.index(i);
        let prefix = source.text("prefix");
        if !prefix.is_empty() {
            errors.messages(&at.child("prefix"), prefix, names::env_var_name(prefix));
        }
        let mut count = 0;
        for kind in ["configMapRef", "secretRef"] {
            if !source.has(kind) {
                continue;
            }
            count += 1;
            let at = at.child(kind).child("name");
            match source.at(kind).text("name") {
                "" => errors.required(&at, ""),
                name => {
                    let rule = super::meta::NameRule::DnsSubdomain;
                    errors.messages(&at, name, rule.check(name, true));
                }
            }
        }
        // Upstream reports these at the list, not at the entry.
        if count == 0 {
            errors.invalid(path, "", "must specify one of: `configMapRef` or `secretRef`");
        } else if count > 1 {
            errors.invalid(path, "", "may not have more than one field specified at a time");
        }
    }
}

/// Upstream reports sub-paths at the list, not at the entry.
fn sub_paths(errors: &mut ErrorList, mount: &Value, list: &Path, at: &Path) {
    let (plain, expression) = (mount.text("subPath"), mount.text("subPathExpr"));
    if !plain.is_empty() {
        descending_path(errors, &list.child("subPath"), plain);
    }
    if !expression.is_empty() {
        if !plain.is_empty() {
            let detail = "subPathExpr and subPath are mutually exclusive";
            errors.invalid(&at.child("subPathExpr"), expression, detail);
        }
        descending_path(errors, &list.child("subPathExpr"), expression);
    }
}

fn propagation(errors: &mut ErrorList, mount: &Value, c: &Value, path: &Path) {
    let Some(mode) = mount.at("mountPropagation").as_str() else { return };
    errors.one_of(path, mode, &["Bidirectional", "HostToContainer", "None"]);
    if mode == "Bidirectional" && !c.flag("securityContext.privileged") {
        let detail = "Bidirectional mount propagation is available only to privileged containers";
        errors.forbidden(path, detail);
    }
}

fn recursive_read_only(errors: &mut ErrorList, mount: &Value, path: &Path) {
    let Some(mode) = mount.at("recursiveReadOnly").as_str() else { return };
    match mode {
        "Disabled" => {}
        "Enabled" | "IfPossible" => {
            if !mount.flag("readOnly") {
                errors.forbidden(path, "may only be specified when readOnly is true");
            }
            if !matches!(mount.text("mountPropagation"), "" | "None") {
                let detail = "may only be specified when mountPropagation is None or not specified";
                errors.forbidden(path, detail);
            }
        }
        other => errors.one_of(path, other, &["Disabled", "Enabled", "IfPossible"]),
    }
}

fn restart_rules(errors: &mut ErrorList, c: &Value, path: &Path) {
    let (policy, rules) = (c.at("restartPolicy"), c.list("restartPolicyRules"));
    let at = path.child("restartPolicy");
    match policy.as_str() {
        None if rules.is_empty() => return,
        None => errors.required(&at, "must specify restartPolicy when restart rules are used"),
        Some(policy) => errors.one_of(&at, policy, RESTART_POLICIES),
    }
    let at = path.child("restartPolicyRules");
    if rules.len() > 20 {
        errors.push(FieldError::too_many(&at, rules.len(), 20));
    }
    for (i, rule) in rules.iter().enumerate() {
        let at = at.index(i);
        let actions = ["Restart", "RestartAllContainers"];
        errors.one_of(&at.child("action"), rule.text("action"), &actions);
        let (codes, at) = (rule.at("exitCodes"), at.child("exitCodes"));
        if codes.is_null() {
            errors.required(&at, "must be specified");
            continue;
        }
        errors.one_of(&at.child("operator"), codes.text("operator"), &["In", "NotIn"]);
        if codes.list("values").len() > 255 {
            errors.push(FieldError::too_many(&at.child("values"), codes.list("values").len(), 255));
        }
    }
}

/// Images of pods (not templates) have no blanks around them.
pub fn image_padding(errors: &mut ErrorList, c: &Value, path: &Path) {
    let image = c.text("image");
    if image.trim() != image {
        errors.invalid(&path.child("image"), image, "must not have leading or trailing whitespace");
    }
}
