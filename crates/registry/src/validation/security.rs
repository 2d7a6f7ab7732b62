//! Security contexts of pods and containers.

use std::sync::LazyLock;

use api::names;
use regex::Regex;
use serde_json::Value;

use super::volume::{descending_path, no_backsteps};
use super::{ErrorList, FieldError, Path, Report};
use crate::tree::Tree;

const ID_RANGE: &str = "must be between 0 and 2147483647, inclusive";
const SYSCTL: &str = r"^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";

static SYSCTL_NAME: LazyLock<Regex> = LazyLock::new(|| Regex::new(SYSCTL).expect("a const pattern"));

fn id(errors: &mut ErrorList, context: &Value, path: &Path, field: &str) {
    if let Some(id) = context.at(field).as_i64()
        && !(0..=i64::from(i32::MAX)).contains(&id)
    {
        errors.invalid(&path.child(field), id, ID_RANGE);
    }
}

/// `spec.securityContext`; `spec` holds the host namespaces.
pub fn pod(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let context = spec.at("securityContext");
    for field in ["fsGroup", "runAsUser", "runAsGroup"] {
        id(errors, context, path, field);
    }
    for (i, group) in context.list("supplementalGroups").iter().enumerate() {
        if let Some(group) = group.as_i64().filter(|g| !(0..=i64::from(i32::MAX)).contains(g)) {
            errors.invalid(&path.child("supplementalGroups").index(i), group, ID_RANGE);
        }
    }
    if spec.flag("shareProcessNamespace") && spec.flag("hostPID") {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.invalid(&path.child("shareProcessNamespace"), true, detail);
    }
    sysctls(errors, spec, context, &path.child("sysctls"));
    let choices: [(&str, &[&str]); 1] = [("fsGroupChangePolicy", &["Always", "OnRootMismatch"])];
    for (field, allowed) in choices {
        if context.has(field) {
            errors.one_of(&path.child(field), context.text(field), allowed);
        }
    }
    seccomp(errors, context.at("seccompProfile"), &path.child("seccompProfile"));
    windows_options(errors, context.at("windowsOptions"), &path.child("windowsOptions"));
    app_armor(errors, context.at("appArmorProfile"), &path.child("appArmorProfile"));
    let choices: [(&str, &[&str]); 2] =
        [("supplementalGroupsPolicy", &["Merge", "Strict"]), ("seLinuxChangePolicy", &["Recursive"])];
    for (field, allowed) in choices {
        if context.has(field) {
            errors.one_of(&path.child(field), context.text(field), allowed);
        }
    }
}

fn sysctls(errors: &mut ErrorList, spec: &Value, context: &Value, path: &Path) {
    let mut seen: Vec<&str> = Vec::new();
    for (i, sysctl) in context.list("sysctls").iter().enumerate() {
        let (name, path) = (sysctl.text("name"), path.index(i).child("name"));
        if name.is_empty() {
            errors.required(&path, "");
        } else if name.len() > 253 || !SYSCTL_NAME.is_match(name) {
            errors.invalid(&path, name, format!("must have at most 253 characters and match regex {SYSCTL}"));
        } else if seen.contains(&name) {
            errors.duplicate(&path, name);
        }
        let dotted = name.replace('/', ".");
        let ipc = dotted.starts_with("kernel.shm")
            || dotted.starts_with("kernel.msg")
            || dotted.starts_with("fs.mqueue.")
            || dotted == "kernel.sem";
        if spec.flag("hostNetwork") && dotted.starts_with("net.") {
            errors.invalid(&path, name, "may not be specified when 'hostNetwork' is true");
        } else if spec.flag("hostIPC") && ipc {
            errors.invalid(&path, name, "may not be specified when 'hostIPC' is true");
        }
        seen.push(name);
    }
}

fn seccomp(errors: &mut ErrorList, profile: &Value, path: &Path) {
    if profile.is_null() {
        return;
    }
    let ty = profile.text("type");
    if ty.is_empty() {
        errors.required(&path.child("type"), "type is required when seccompProfile is set");
    } else {
        errors.one_of(&path.child("type"), ty, &["Localhost", "RuntimeDefault", "Unconfined"]);
    }
    let local = path.child("localhostProfile");
    match (ty, profile.at("localhostProfile").as_str()) {
        ("Localhost", None) => errors.required(&local, "must be set when seccomp type is Localhost"),
        ("Localhost", Some(file)) => descending_path(errors, &local, file),
        (_, Some(_)) => {
            errors.invalid(&local, profile.clone(), "can only be set when seccomp type is Localhost");
        }
        _ => {}
    }
}

fn app_armor(errors: &mut ErrorList, profile: &Value, path: &Path) {
    if profile.is_null() {
        return;
    }
    const MUST: &str = "must be set when AppArmor type is Localhost";
    const LONGEST: usize = 4095;
    let local = path.child("localhostProfile");
    match (profile.text("type"), profile.at("localhostProfile").as_str()) {
        ("Localhost", None) => errors.required(&local, MUST),
        ("Localhost", Some(name)) => {
            if name.trim() != name {
                errors.invalid(&local, name, "must not be padded with whitespace");
            } else if name.is_empty() {
                errors.required(&local, MUST);
            }
            if name.len() > LONGEST {
                errors.push(FieldError::too_long(&local, LONGEST));
            }
        }
        ("RuntimeDefault" | "Unconfined", None) => {}
        ("RuntimeDefault" | "Unconfined", Some(name)) => {
            errors.invalid(&local, name, "can only be set when AppArmor type is Localhost");
        }
        ("", _) => {
            errors.required(&path.child("type"), "type is required when appArmorProfile is set");
        }
        (other, _) => {
            errors.one_of(&path.child("type"), other, &["Localhost", "RuntimeDefault", "Unconfined"]);
        }
    }
}

/// A container's security context; `host_users` is false in a user namespace.
pub fn container(errors: &mut ErrorList, context: &Value, path: &Path, host_users: bool) {
    if context.is_null() {
        return;
    }
    for field in ["runAsUser", "runAsGroup"] {
        id(errors, context, path, field);
    }
    if let Some(mount) = context.at("procMount").as_str() {
        errors.one_of(&path.child("procMount"), mount, &["Default", "Unmasked"]);
        if host_users && mount == "Unmasked" {
            errors.invalid(&path.child("procMount"), mount, "`hostUsers` must be false to use `Unmasked`");
        }
    }
    seccomp(errors, context.at("seccompProfile"), &path.child("seccompProfile"));
    if context.at("allowPrivilegeEscalation") == &Value::Bool(false) {
        if context.flag("privileged") {
            let detail = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.invalid(path, context.clone(), detail);
        }
        if context.list("capabilities.add").iter().any(|c| c == "CAP_SYS_ADMIN") {
            let detail =
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.invalid(path, context.clone(), detail);
        }
    }
    windows_options(errors, context.at("windowsOptions"), &path.child("windowsOptions"));
    app_armor(errors, context.at("appArmorProfile"), &path.child("appArmorProfile"));
}

fn windows_options(errors: &mut ErrorList, options: &Value, path: &Path) {
    if let Some(name) = options.at("gmsaCredentialSpecName").as_str() {
        errors.messages(&path.child("gmsaCredentialSpecName"), name, names::dns1123_subdomain(name));
    }
    if let Some(spec) = options.at("gmsaCredentialSpec").as_str() {
        let at = path.child("gmsaCredentialSpec");
        if spec.is_empty() {
            errors.invalid(&at, "", "gmsaCredentialSpec cannot be an empty string");
        } else if spec.len() > 64 * 1024 {
            errors.invalid(&at, spec, "gmsaCredentialSpec size must be under 64 KiB");
        }
    }
    if let Some(user) = options.at("runAsUserName").as_str() {
        let at = path.child("runAsUserName");
        if user.is_empty() {
            errors.invalid(&at, "", "runAsUserName cannot be an empty string");
        } else if user.chars().any(char::is_control) {
            errors.invalid(&at, user, "runAsUserName cannot contain control characters");
        } else if user.matches('\\').count() > 1 {
            errors.invalid(&at, user, "runAsUserName cannot contain more than one backslash");
        } else {
            windows_user(errors, user, &at);
        }
    }
}

/// `DOMAIN\USER`, or the user alone.
fn windows_user(errors: &mut ErrorList, name: &str, path: &Path) {
    let (domain, user) = name.split_once('\\').map_or((None, name), |(domain, user)| (Some(domain), user));
    if let Some(domain) = domain {
        if domain.len() >= 256 {
            errors.invalid(path, name, "runAsUserName's Domain length must be under 256 characters");
        }
        let netbios = (1..=15).contains(&domain.chars().count())
            && !domain.starts_with('.')
            && !domain.contains(['\\', '/', ':', '*', '?', '"', '<', '>', '|']);
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        if !netbios && !domain.split('.').all(label) {
            errors.invalid(path, name, "runAsUserName's Domain doesn't match the NetBios nor the DNS format");
        }
    }
    if user.is_empty() {
        errors.invalid(path, name, "runAsUserName's User cannot be empty");
    } else if user.len() > 104 {
        errors.invalid(path, name, "runAsUserName's User length must not be longer than 104 characters");
    }
    if !user.is_empty() && user.chars().all(|c| c == '.' || c == ' ') {
        errors.invalid(path, name, "runAsUserName's User cannot contain only periods or spaces");
    }
    if user.contains(['"', '/', '\\', ':', ';', '|', '=', ',', '+', '*', '?', '<', '>', '@', '[', ']']) {
        let detail = "runAsUserName's User cannot contain the following characters: \"/\\:;|=,+*?<>@[]";
        errors.invalid(path, name, detail);
    }
}

/// Containers that are processes of a Windows host: all of a pod's or none.
pub fn host_processes(errors: &mut ErrorList, spec: &Value, path: &Path) {
    const FIELD: &str = "securityContext.windowsOptions.hostProcess";
    let pod = spec.at(FIELD).as_bool();
    let (mut all, mut on_host) = (0, 0);
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for (i, container) in spec.list(list).iter().enumerate() {
            let own = container.at(FIELD).as_bool();
            if let (Some(pod), Some(own)) = (pod, own)
                && pod != own
            {
                let at = path.child(list).index(i).child(FIELD);
                let detail =
                    format!("pod hostProcess value must be identical if both are specified, was {pod}");
                errors.invalid(&at, own, detail);
            }
            all += 1;
            on_host += usize::from(own.or(pod).unwrap_or(false));
        }
    }
    if on_host == 0 {
        return;
    }
    if on_host != all {
        let detail =
            "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        errors.invalid(path, "", detail);
    }
    if !spec.flag("hostNetwork") {
        let detail = "hostNetwork must be true if pod contains any hostProcess containers";
        errors.invalid(&path.child("hostNetwork"), false, detail);
    }
}

/// A seccomp profile named by a deprecated annotation.
pub fn seccomp_annotation(errors: &mut ErrorList, profile: &str, path: &Path) {
    match profile {
        "runtime/default" | "docker/default" | "unconfined" => {}
        other => match other.strip_prefix("localhost/") {
            Some(file) => {
                if file.starts_with('/') {
                    errors.invalid(path, file, "must be a relative path");
                }
                no_backsteps(errors, path, file);
            }
            None => errors.invalid(path, other, "must be a valid seccomp profile"),
        },
    }
}
