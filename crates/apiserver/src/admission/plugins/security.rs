//! PodSecurity: the baseline and restricted standards, by labels of the namespace.

use api::ApiError;
use registry::tree::Tree;
use serde_json::Value;
use store::Key;

use super::super::{Operation, Review};

/// Capabilities that baseline lets containers add.
const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
const SYSCTLS: [&str; 11] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
];
const VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
    "image",
];

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    Privileged,
    Baseline,
    Restricted,
}

/// Where a controller keeps its pod template.
fn template<'a>(review: &Review<'_>, object: &'a Value) -> Option<&'a Value> {
    let path = match (review.row.group.as_str(), review.row.plural.as_str()) {
        ("", "pods") => return Some(object),
        ("", "podtemplates") => "template",
        ("", "replicationcontrollers")
        | ("apps", "deployments" | "replicasets" | "statefulsets" | "daemonsets")
        | ("batch", "jobs") => "spec.template",
        ("batch", "cronjobs") => "spec.jobTemplate.spec.template",
        _ => return None,
    };
    Some(object.at(path)).filter(|template| template.is_object())
}

/// Refuses pods that violate the enforced level; warns of those that violate the warned one.
pub fn check(review: &Review<'_>, object: Option<&Value>, old: Option<&Value>) -> Result<(), ApiError> {
    let (Some(object), true) = (object, matches!(review.operation, Operation::Create | Operation::Update))
    else {
        return Ok(());
    };
    let is_pod = review.is("", "pods");
    if review.namespace.is_empty()
        || !matches!(review.subresource.as_str(), "" | "ephemeralcontainers" | "resize")
    {
        return Ok(());
    }
    if !is_pod && template(review, object).is_none() {
        return Ok(());
    }
    // Changes that do not touch what is judged pass.
    if old.is_some_and(|old| old.at("spec") == object.at("spec")) {
        return Ok(());
    }
    let Some(namespace) = review.server.store.get(&Key::new("namespaces", "", review.namespace.as_str()))
    else {
        return Ok(());
    };
    let namespace = review.server.trees.of(&namespace);
    let Some(pod) = template(review, object) else { return Ok(()) };
    let policy = |mode: &str| policy(&namespace, mode);
    if is_pod {
        let (level, shown) = policy("enforce");
        let violations = violations(pod, level);
        if !violations.is_empty() {
            let why = format!("violates PodSecurity {shown:?}: {}", violations.join(", "));
            return Err(review.forbidden(Some(object), &why));
        }
    }
    let (level, shown) = policy("warn");
    let violations = violations(pod, level);
    if !violations.is_empty() {
        review.exchange.warn(format!("would violate PodSecurity {shown:?}: {}", violations.join(", ")));
    }
    Ok(())
}

/// The level of a mode and how it is shown: `restricted:latest`.
fn policy(namespace: &Value, mode: &str) -> (Level, String) {
    let labels = namespace.map("metadata.labels");
    let text = |key: &str| {
        labels.get(&format!("pod-security.kubernetes.io/{key}")).and_then(Value::as_str).unwrap_or("")
    };
    let version =
        Some(text(&format!("{mode}-version"))).filter(|v| !v.is_empty()).unwrap_or("latest").to_owned();
    let level = match text(mode) {
        "" | "privileged" => Level::Privileged,
        "baseline" => Level::Baseline,
        // A level that cannot be read is taken as the strictest, as upstream does.
        _ => Level::Restricted,
    };
    let name = match level {
        Level::Privileged => "privileged",
        Level::Baseline => "baseline",
        Level::Restricted => "restricted",
    };
    (level, format!("{name}:{version}"))
}

fn quoted<T: AsRef<str>>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(|item| format!("{:?}", item.as_ref())).collect();
    items.join(", ")
}

fn plural<'a>(one: &'a str, many: &'a str, count: usize) -> &'a str {
    if count == 1 { one } else { many }
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    ["spec.initContainers", "spec.containers", "spec.ephemeralContainers"]
        .into_iter()
        .flat_map(|list| pod.list(list))
}

/// Names of containers of which something is true.
fn which(pod: &Value, test: impl Fn(&Value) -> bool) -> Vec<String> {
    containers(pod).filter(|c| test(c)).map(|c| c.text("name").to_owned()).collect()
}

fn named(list: &[String]) -> String {
    format!("{} {}", plural("container", "containers", list.len()), quoted(list))
}

fn violations(pod: &Value, level: Level) -> Vec<String> {
    if level == Level::Privileged {
        return Vec::new();
    }
    let mut out: Vec<String> = Vec::new();
    out.extend(app_armor(pod));
    if level == Level::Baseline {
        out.extend(baseline_capabilities(pod));
    }
    out.extend(host_namespaces(pod));
    out.extend(host_paths(pod));
    out.extend(host_ports(pod));
    out.extend(privileged(pod));
    out.extend(proc_mount(pod));
    out.extend(selinux(pod));
    if level == Level::Baseline {
        out.extend(unconfined(pod));
    }
    out.extend(sysctls(pod));
    out.extend(host_process(pod));
    if level == Level::Restricted {
        out.extend(escalation(pod));
        out.extend(restricted_capabilities(pod));
        out.extend(volumes(pod));
        out.extend(non_root(pod));
        out.extend(root_user(pod));
        out.extend(seccomp(pod));
    }
    out
}

fn app_armor(pod: &Value) -> Option<String> {
    let bad = |profile: &Value| profile.text("type") == "Unconfined";
    let mut setters = Vec::new();
    let mut values = Vec::new();
    if bad(pod.at("spec.securityContext.appArmorProfile")) {
        setters.push("pod".to_owned());
        values.push("Unconfined".to_owned());
    }
    let list = which(pod, |c| bad(c.at("securityContext.appArmorProfile")));
    if !list.is_empty() {
        setters.push(named(&list));
        values.push("Unconfined".to_owned());
    }
    let prefix = "container.apparmor.security.beta.kubernetes.io/";
    for (key, value) in pod.map("metadata.annotations").iter().filter(|(key, _)| key.starts_with(prefix)) {
        let value = value.as_str().unwrap_or("");
        if !value.is_empty() && value != "runtime/default" && !value.starts_with("localhost/") {
            setters.push("annotation".to_owned());
            values.push(format!("{key}={value:?}"));
        }
    }
    values.dedup();
    let what = plural("forbidden AppArmor profile", "forbidden AppArmor profiles", values.len());
    (!setters.is_empty()).then(|| {
        format!(
            "{what} ({} must not set AppArmor profile type to {})",
            setters.join(" and "),
            quoted(&values)
        )
    })
}

fn added(container: &Value) -> impl Iterator<Item = &str> {
    container.list("securityContext.capabilities.add").iter().filter_map(Value::as_str)
}

fn baseline_capabilities(pod: &Value) -> Option<String> {
    let allowed = CAPABILITIES;
    let list = which(pod, |c| added(c).any(|name| !allowed.contains(&name)));
    let mut names: Vec<&str> =
        containers(pod).flat_map(added).filter(|name| !allowed.contains(name)).collect();
    names.sort_unstable();
    names.dedup();
    (!list.is_empty()).then(|| {
        format!(
            "non-default capabilities ({} must not include {} in securityContext.capabilities.add)",
            named(&list),
            quoted(&names)
        )
    })
}

fn host_namespaces(pod: &Value) -> Option<String> {
    let all = ["hostNetwork", "hostPID", "hostIPC"];
    let found: Vec<String> = all
        .iter()
        .filter(|name| pod.flag(&format!("spec.{name}")))
        .map(|name| format!("{name}=true"))
        .collect();
    (!found.is_empty()).then(|| format!("host namespaces ({})", found.join(", ")))
}

fn host_paths(pod: &Value) -> Option<String> {
    let found: Vec<&str> =
        pod.list("spec.volumes").iter().filter(|v| v.has("hostPath")).map(|v| v.text("name")).collect();
    let what = plural("volume", "volumes", found.len());
    (!found.is_empty()).then(|| format!("hostPath volumes ({what} {})", quoted(&found)))
}

fn host_ports(pod: &Value) -> Option<String> {
    let uses = |c: &Value| c.list("ports").iter().any(|p| p.int("hostPort") != 0);
    let list = which(pod, uses);
    let mut ports: Vec<i64> = containers(pod)
        .flat_map(|c| c.list("ports"))
        .map(|p| p.int("hostPort"))
        .filter(|p| *p != 0)
        .collect();
    ports.sort_unstable();
    ports.dedup();
    let shown: Vec<String> = ports.iter().map(i64::to_string).collect();
    (!list.is_empty()).then(|| {
        let (verb, noun) = (plural("uses", "use", list.len()), plural("hostPort", "hostPorts", ports.len()));
        format!("hostPort ({} {verb} {noun} {})", named(&list), shown.join(", "))
    })
}

fn privileged(pod: &Value) -> Option<String> {
    let list = which(pod, |c| c.flag("securityContext.privileged"));
    (!list.is_empty())
        .then(|| format!("privileged ({} must not set securityContext.privileged=true)", named(&list)))
}

fn proc_mount(pod: &Value) -> Option<String> {
    let list = which(pod, |c| !matches!(c.text("securityContext.procMount"), "" | "Default"));
    (!list.is_empty()).then(|| {
        format!("procMount ({} must not set securityContext.procMount to \"Unmasked\")", named(&list))
    })
}

fn selinux(pod: &Value) -> Option<String> {
    let types = ["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];
    let bad = |options: &Value| {
        !types.contains(&options.text("type")) || options.has("user") || options.has("role")
    };
    let mut setters = Vec::new();
    if bad(pod.at("spec.securityContext.seLinuxOptions")) {
        setters.push("pod".to_owned());
    }
    let list = which(pod, |c| bad(c.at("securityContext.seLinuxOptions")));
    if !list.is_empty() {
        setters.push(named(&list));
    }
    (!setters.is_empty()).then(|| {
        format!("seLinuxOptions ({} set forbidden securityContext.seLinuxOptions)", setters.join(" and "))
    })
}

fn unconfined(pod: &Value) -> Option<String> {
    let bad = |profile: &Value| profile.text("type") == "Unconfined";
    let mut setters = Vec::new();
    if bad(pod.at("spec.securityContext.seccompProfile")) {
        setters.push("pod".to_owned());
    }
    let list = which(pod, |c| bad(c.at("securityContext.seccompProfile")));
    if !list.is_empty() {
        setters.push(named(&list));
    }
    (!setters.is_empty()).then(|| {
        format!(
            "seccompProfile ({} must not set securityContext.seccompProfile.type to \"Unconfined\")",
            setters.join(" and ")
        )
    })
}

fn sysctls(pod: &Value) -> Option<String> {
    let all = pod.list("spec.securityContext.sysctls");
    let found: Vec<&str> =
        all.iter().map(|s| s.text("name")).filter(|name| !SYSCTLS.contains(name)).collect();
    (!found.is_empty()).then(|| format!("forbidden sysctls ({})", found.join(", ")))
}

fn host_process(pod: &Value) -> Option<String> {
    let mut setters = Vec::new();
    if pod.flag("spec.securityContext.windowsOptions.hostProcess") {
        setters.push("pod".to_owned());
    }
    let list = which(pod, |c| c.flag("securityContext.windowsOptions.hostProcess"));
    if !list.is_empty() {
        setters.push(named(&list));
    }
    (!setters.is_empty()).then(|| {
        format!(
            "hostProcess ({} must not set securityContext.windowsOptions.hostProcess=true)",
            setters.join(" and ")
        )
    })
}

fn escalation(pod: &Value) -> Option<String> {
    let list = which(pod, |c| c.at("securityContext.allowPrivilegeEscalation") != &Value::Bool(false));
    (!list.is_empty()).then(|| {
        format!(
            "allowPrivilegeEscalation != false ({} must set securityContext.allowPrivilegeEscalation=false)",
            named(&list)
        )
    })
}

fn restricted_capabilities(pod: &Value) -> Option<String> {
    let keeps = which(pod, |c| !c.list("securityContext.capabilities.drop").iter().any(|d| d == "ALL"));
    let adds = which(pod, |c| added(c).any(|name| name != "NET_BIND_SERVICE"));
    let mut parts = Vec::new();
    if !keeps.is_empty() {
        parts.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", named(&keeps)));
    }
    if !adds.is_empty() {
        let mut names: Vec<&str> =
            containers(pod).flat_map(added).filter(|name| *name != "NET_BIND_SERVICE").collect();
        names.sort_unstable();
        names.dedup();
        parts.push(format!(
            "{} must not include {} in securityContext.capabilities.add",
            named(&adds),
            quoted(&names)
        ));
    }
    (!parts.is_empty()).then(|| format!("unrestricted capabilities ({})", parts.join("; ")))
}

fn volumes(pod: &Value) -> Option<String> {
    let kind = |volume: &Value| {
        volume.as_object().and_then(|map| map.keys().find(|key| *key != "name")).cloned().unwrap_or_default()
    };
    let bad: Vec<&Value> =
        pod.list("spec.volumes").iter().filter(|volume| !VOLUMES.contains(&kind(volume).as_str())).collect();
    let names: Vec<&str> = bad.iter().map(|volume| volume.text("name")).collect();
    let mut kinds: Vec<String> = bad.iter().map(|volume| kind(volume)).collect();
    kinds.sort();
    kinds.dedup();
    (!bad.is_empty()).then(|| {
        format!(
            "restricted volume types ({} {} {} {} {})",
            plural("volume", "volumes", names.len()),
            quoted(&names),
            plural("uses", "use", names.len()),
            plural("restricted volume type", "restricted volume types", kinds.len()),
            quoted(&kinds)
        )
    })
}

fn non_root(pod: &Value) -> Option<String> {
    let own = pod.at("spec.securityContext.runAsNonRoot");
    let mut setters = Vec::new();
    if own == &Value::Bool(false) {
        setters.push("pod".to_owned());
    }
    let explicit = which(pod, |c| c.at("securityContext.runAsNonRoot") == &Value::Bool(false));
    if !explicit.is_empty() {
        setters.push(named(&explicit));
    }
    if !setters.is_empty() {
        return Some(format!(
            "runAsNonRoot != true ({} must not set securityContext.runAsNonRoot=false)",
            setters.join(" and ")
        ));
    }
    if own == &Value::Bool(true) {
        return None;
    }
    let implicit = which(pod, |c| c.at("securityContext.runAsNonRoot").is_null());
    (!implicit.is_empty()).then(|| {
        format!(
            "runAsNonRoot != true (pod or {} must set securityContext.runAsNonRoot=true)",
            named(&implicit)
        )
    })
}

fn root_user(pod: &Value) -> Option<String> {
    let root = |context: &Value| context.at("runAsUser").as_i64() == Some(0);
    let mut setters = Vec::new();
    if root(pod.at("spec.securityContext")) {
        setters.push("pod".to_owned());
    }
    let list = which(pod, |c| root(c.at("securityContext")));
    if !list.is_empty() {
        setters.push(named(&list));
    }
    (!setters.is_empty()).then(|| format!("runAsUser=0 ({} must not set runAsUser=0)", setters.join(" and ")))
}

fn seccomp(pod: &Value) -> Option<String> {
    let good = |profile: &Value| matches!(profile.text("type"), "RuntimeDefault" | "Localhost");
    if let Some(bad) = unconfined(pod) {
        return Some(bad);
    }
    if good(pod.at("spec.securityContext.seccompProfile")) {
        return None;
    }
    let list = which(pod, |c| !good(c.at("securityContext.seccompProfile")));
    (!list.is_empty()).then(|| {
        format!(
            "seccompProfile (pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")",
            named(&list)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn levels_judge_pods() {
        let plain = json!({"spec": {"containers": [{"name": "c", "image": "i"}]}});
        assert!(violations(&plain, Level::Baseline).is_empty());
        let expect = [
            "allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false)",
            "unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"])",
            "runAsNonRoot != true (pod or container \"c\" must set securityContext.runAsNonRoot=true)",
            "seccompProfile (pod or container \"c\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")",
        ];
        assert_eq!(violations(&plain, Level::Restricted), expect);
        let bad = json!({"spec": {"hostNetwork": true, "containers": [{"name": "c", "securityContext": {"privileged": true},
            "ports": [{"hostPort": 80}]}], "volumes": [{"name": "v", "hostPath": {"path": "/"}}]}});
        assert_eq!(violations(&bad, Level::Baseline).len(), 4);
    }
}
