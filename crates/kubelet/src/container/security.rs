//! Security contexts of pods and containers in the runtime's terms.
//!
//! Must not know images: the image's user is an argument.

use api::k8s::api::core::v1::{AppArmorProfile, Container, Pod, SeccompProfile, SecurityContext};
use runtime::cri::messages as m;

use super::SpecError;
use crate::pods::pod::PodExt;

/// Paths of /proc and /sys that containers cannot read.
const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// Paths of /proc that containers cannot write.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Who an image runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageUser {
    /// A numeric user.
    pub uid: Option<i64>,
    /// A user known by name only.
    pub name: String,
}

fn own(container: &Container) -> SecurityContext {
    container.security_context.clone().unwrap_or_default()
}

/// True when the container asks for all privileges.
pub fn privileged(container: &Container) -> bool {
    container.security_context.as_ref().and_then(|security| security.privileged).unwrap_or(false)
}

/// The user that a container is to run as, if it says so.
pub fn run_as_user(pod: &Pod, container: &Container) -> Option<i64> {
    let own = container.security_context.as_ref().and_then(|security| security.run_as_user);
    own.or_else(|| pod.spec().security_context.as_ref()?.run_as_user)
}

/// Refuses to run as root what must not.
pub fn check_non_root(pod: &Pod, container: &Container, image: &ImageUser) -> Result<(), SpecError> {
    let wanted = container.security_context.as_ref().and_then(|security| security.run_as_non_root);
    let wanted = wanted.or_else(|| pod.spec().security_context.as_ref()?.run_as_non_root);
    if wanted != Some(true) {
        return Ok(());
    }
    let what = match (run_as_user(pod, container), image.uid) {
        (Some(0), _) => "the container's runAsUser breaks non-root policy".to_owned(),
        (Some(_), _) => return Ok(()),
        (None, Some(0)) => "image will run as root".to_owned(),
        (None, Some(_)) => return Ok(()),
        (None, None) if !image.name.is_empty() => {
            format!("image has non-numeric user ({}), cannot verify user is non-root", image.name)
        }
        (None, None) => "image will run as root".to_owned(),
    };
    Err(SpecError::Root { what, pod: pod.display(), container: container.name.clone() })
}

fn seccomp(
    profile: Option<&SeccompProfile>,
    by_default: m::ProfileType,
    root: &str,
) -> Result<m::SecurityProfile, SpecError> {
    let (kind, file) = match profile.map(|profile| profile.type_.as_str()) {
        None => (by_default, String::new()),
        Some("Localhost") => {
            // An empty profile must never mean "no profile".
            let name = profile.and_then(|p| p.localhost_profile.as_deref()).filter(|name| !name.is_empty());
            (m::ProfileType::Localhost, format!("{root}/seccomp/{}", name.ok_or(SpecError::Seccomp)?))
        }
        Some("Unconfined") => (m::ProfileType::Unconfined, String::new()),
        Some(_) => (m::ProfileType::RuntimeDefault, String::new()),
    };
    Ok(m::SecurityProfile { profile_type: kind as i32, localhost_ref: file })
}

fn apparmor(profile: Option<&AppArmorProfile>) -> Option<m::SecurityProfile> {
    let profile = profile?;
    let kind = match profile.type_.as_str() {
        "Localhost" => m::ProfileType::Localhost,
        "Unconfined" => m::ProfileType::Unconfined,
        _ => m::ProfileType::RuntimeDefault,
    };
    let localhost_ref = profile.localhost_profile.clone().unwrap_or_default();
    Some(m::SecurityProfile { profile_type: kind as i32, localhost_ref })
}

/// The namespaces that a pod's containers share. `target` is a container whose processes an ephemeral container
/// is to see.
pub fn namespaces(pod: &Pod, target: Option<&str>) -> m::NamespaceOption {
    let spec = pod.spec();
    let node = |on: Option<bool>, other: m::NamespaceMode| {
        if on.unwrap_or(false) { m::NamespaceMode::Node } else { other }
    };
    let pid = if spec.host_pid.unwrap_or(false) {
        m::NamespaceMode::Node
    } else if target.is_some() {
        m::NamespaceMode::Target
    } else if spec.share_process_namespace.unwrap_or(false) {
        m::NamespaceMode::Pod
    } else {
        m::NamespaceMode::Container
    };
    m::NamespaceOption {
        network: node(spec.host_network, m::NamespaceMode::Pod) as i32,
        ipc: node(spec.host_ipc, m::NamespaceMode::Pod) as i32,
        pid: pid as i32,
        target_id: target.unwrap_or("").to_owned(),
        userns_options: None,
    }
}

fn groups(pod: &Pod, extra: &[i64]) -> Vec<i64> {
    let security = pod.spec().security_context.as_ref();
    let mut groups: Vec<i64> = security.and_then(|s| s.fs_group).into_iter().collect();
    groups.extend(security.into_iter().filter_map(|s| s.supplemental_groups.as_ref()).flatten());
    groups.extend(extra);
    groups
}

fn groups_policy(pod: &Pod) -> i32 {
    let policy = pod.spec().security_context.as_ref().and_then(|s| s.supplemental_groups_policy.as_deref());
    let strict = policy == Some("Strict");
    (if strict { m::SupplementalGroupsPolicy::Strict } else { m::SupplementalGroupsPolicy::Merge }) as i32
}

fn selinux(options: Option<&api::k8s::api::core::v1::SELinuxOptions>) -> Option<m::SELinuxOption> {
    options.map(|options| m::SELinuxOption {
        user: options.user.clone().unwrap_or_default(),
        role: options.role.clone().unwrap_or_default(),
        r#type: options.type_.clone().unwrap_or_default(),
        level: options.level.clone().unwrap_or_default(),
    })
}

/// Settings of the node that security depends on.
#[derive(Clone, Debug, Default)]
pub struct Defaults {
    /// Unset seccomp profiles mean the runtime's profile instead of none.
    pub seccomp_runtime_default: bool,
    /// Where seccomp profiles are.
    pub root_dir: String,
}

impl Defaults {
    fn seccomp(&self) -> m::ProfileType {
        if self.seccomp_runtime_default { m::ProfileType::RuntimeDefault } else { m::ProfileType::Unconfined }
    }
}

/// A container's security context.
pub fn container(
    pod: &Pod,
    container: &Container,
    image: &ImageUser,
    target: Option<&str>,
    extra_groups: &[i64],
    defaults: &Defaults,
) -> Result<m::LinuxContainerSecurityContext, SpecError> {
    check_non_root(pod, container, image)?;
    let security = own(container);
    let whole = pod.spec().security_context.clone().unwrap_or_default();
    let privileged = privileged(container);
    let user = run_as_user(pod, container).or(image.uid);
    let number = |value: Option<i64>| value.map(|value| m::Int64Value { value });
    let capabilities = security.capabilities.clone().unwrap_or_default();
    let unmasked = security.proc_mount.as_deref() == Some("Unmasked");
    let paths = |list: &[&str]| {
        if unmasked { Vec::new() } else { list.iter().map(|path| (*path).to_owned()).collect() }
    };
    let profile = security.seccomp_profile.as_ref().or(whole.seccomp_profile.as_ref());
    Ok(m::LinuxContainerSecurityContext {
        capabilities: Some(m::Capability {
            add_capabilities: capabilities.add.unwrap_or_default(),
            drop_capabilities: capabilities.drop.unwrap_or_default(),
            add_ambient_capabilities: Vec::new(),
        }),
        privileged,
        namespace_options: Some(namespaces(pod, target)),
        selinux_options: selinux(security.se_linux_options.as_ref().or(whole.se_linux_options.as_ref())),
        run_as_user: number(user),
        run_as_group: number(security.run_as_group.or(whole.run_as_group)).filter(|_| user.is_some()),
        run_as_username: if user.is_none() { image.name.clone() } else { String::new() },
        readonly_rootfs: security.read_only_root_filesystem.unwrap_or(false),
        supplemental_groups: groups(pod, extra_groups),
        supplemental_groups_policy: groups_policy(pod),
        no_new_privs: security.allow_privilege_escalation == Some(false),
        masked_paths: paths(&MASKED),
        readonly_paths: paths(&READ_ONLY),
        seccomp: if privileged {
            None
        } else {
            Some(seccomp(profile, defaults.seccomp(), &defaults.root_dir)?)
        },
        apparmor: apparmor(security.app_armor_profile.as_ref().or(whole.app_armor_profile.as_ref())),
    })
}

/// A sandbox's security context.
pub fn sandbox(pod: &Pod, defaults: &Defaults) -> Result<m::LinuxSandboxSecurityContext, SpecError> {
    let whole = pod.spec().security_context.clone().unwrap_or_default();
    let number = |value: Option<i64>| value.map(|value| m::Int64Value { value });
    let all: Vec<Container> = pod.slots().into_iter().filter_map(|slot| pod.container(slot)).collect();
    let _ = defaults;
    Ok(m::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod, None)),
        selinux_options: selinux(whole.se_linux_options.as_ref()),
        run_as_user: number(whole.run_as_user),
        run_as_group: number(whole.run_as_group).filter(|_| whole.run_as_user.is_some()),
        readonly_rootfs: false,
        supplemental_groups: groups(pod, &[]),
        supplemental_groups_policy: groups_policy(pod),
        privileged: all.iter().any(privileged),
        seccomp: Some(m::SecurityProfile {
            profile_type: m::ProfileType::RuntimeDefault as i32,
            localhost_ref: String::new(),
        }),
        apparmor: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(security: serde_json::Value, container: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"securityContext": security, "containers": [{"name": "c", "securityContext": container}]}}))
        .expect("a pod")
    }

    #[test]
    fn root_is_refused_where_forbidden() {
        let root = ImageUser { uid: Some(0), name: String::new() };
        let named = ImageUser { uid: None, name: "app".into() };
        for (whole, own, image, fine) in [
            (json!({}), json!({}), &root, true),
            (json!({"runAsNonRoot": true}), json!({}), &root, false),
            (json!({"runAsNonRoot": true}), json!({"runAsUser": 5}), &root, true),
            (json!({"runAsNonRoot": true, "runAsUser": 0}), json!({}), &named, false),
            (json!({"runAsNonRoot": true}), json!({}), &named, false),
            (json!({"runAsNonRoot": true}), json!({"runAsNonRoot": false}), &root, true),
        ] {
            let pod = pod(whole.clone(), own);
            assert_eq!(check_non_root(&pod, &pod.apps()[0], image).is_ok(), fine, "{whole}");
        }
    }

    #[test]
    fn seccomp_is_never_empty() {
        let pod = pod(json!({}), json!({"seccompProfile": {"type": "Localhost", "localhostProfile": ""}}));
        let result = container(&pod, &pod.apps()[0], &ImageUser::default(), None, &[], &Defaults::default());
        assert_eq!(result.expect_err("refused"), SpecError::Seccomp);
    }
}
