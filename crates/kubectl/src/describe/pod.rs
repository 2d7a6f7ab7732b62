//! Pods and pod templates: containers, volumes, tolerations.

use serde_json::Value;

use super::Related;
use super::doc::{Doc, int, list, or_none, scalar, selector, text};
use crate::print::go_value;

/// A pod.
pub fn pod(doc: &mut Doc, pod: &Value, related: &Related) {
    doc.field(0, "Name", text(pod, "/metadata/name"));
    doc.field(0, "Namespace", text(pod, "/metadata/namespace"));
    doc.field_if(0, "Priority", &scalar(pod, "/spec/priority"));
    doc.field_if(0, "Priority Class Name", text(pod, "/spec/priorityClassName"));
    doc.field_if(0, "Runtime Class Name", text(pod, "/spec/runtimeClassName"));
    doc.field_if(0, "Service Account", text(pod, "/spec/serviceAccountName"));
    match text(pod, "/spec/nodeName") {
        "" => doc.field(0, "Node", "<none>"),
        node => doc.field(0, "Node", &format!("{node}/{}", text(pod, "/status/hostIP"))),
    }
    if let Some(time) = pod.pointer("/status/startTime").and_then(Value::as_str) {
        let time = doc.time(time);
        doc.field(0, "Start Time", &time);
    }
    doc.meta(pod);
    status(doc, pod);
    doc.field(0, "IP", text(pod, "/status/podIP"));
    let ips = list(pod, "/status/podIPs");
    doc.line(0, if ips.is_empty() { "IPs:\t<none>" } else { "IPs:" });
    for ip in ips {
        doc.field(1, "IP", text(ip, "/ip"));
    }
    doc.controller(pod);
    doc.field_if(0, "NominatedNodeName", text(pod, "/status/nominatedNodeName"));
    if pod["spec"]["resources"].is_object() {
        doc.line(0, "Resources:");
        resources(doc, 1, &pod["spec"]["resources"]);
    }
    for (title, field) in [
        ("Init Containers", "initContainers"),
        ("Containers", "containers"),
        ("Ephemeral Containers", "ephemeralContainers"),
    ] {
        let containers = list(&pod["spec"], &format!("/{field}"));
        if field == "containers" || !containers.is_empty() {
            let statuses = field.replace("ontainers", "ontainerStatuses");
            containers_of(
                doc,
                title,
                containers,
                list(&pod["status"], &format!("/{statuses}")),
                Some(pod),
                "",
            );
        }
    }
    pod_conditions(doc, pod);
    volumes(doc, list(pod, "/spec/volumes"), "");
    doc.field(0, "QoS Class", text(pod, "/status/qosClass"));
    doc.labels("Node-Selectors", &pod["spec"]["nodeSelector"]);
    tolerations(doc, "Tolerations", list(pod, "/spec/tolerations"));
    spread(doc, list(pod, "/spec/topologySpreadConstraints"), "");
    related.events(doc);
}

fn status(doc: &mut Doc, pod: &Value) {
    let phase = text(pod, "/status/phase");
    let deleted = text(pod, "/metadata/deletionTimestamp");
    if !deleted.is_empty() && !["Failed", "Succeeded"].contains(&phase) {
        let since = doc.since(deleted);
        doc.field(0, "Status", &format!("Terminating (lasts {since})"));
        let grace = int(pod, "/metadata/deletionGracePeriodSeconds");
        doc.field(0, "Termination Grace Period", &format!("{grace}s"));
    } else {
        doc.field(0, "Status", phase);
    }
    doc.field_if(0, "Reason", text(pod, "/status/reason"));
    doc.field_if(0, "Message", text(pod, "/status/message"));
    seccomp(doc, &pod["spec"]["securityContext"]["seccompProfile"], 0, 0);
}

fn seccomp(doc: &mut Doc, profile: &Value, level: usize, inner: usize) {
    if profile.is_object() {
        doc.field(level, "SeccompProfile", text(profile, "/type"));
        doc.field_if(inner, "LocalhostProfile", text(profile, "/localhostProfile"));
    }
}

fn pod_conditions(doc: &mut Doc, pod: &Value) {
    let conditions = list(pod, "/status/conditions");
    let gates = list(pod, "/spec/readinessGates");
    if !gates.is_empty() {
        doc.line(0, "Readiness Gates:\n  Type\tStatus");
        for gate in gates {
            let kind = text(gate, "/conditionType");
            let found = conditions.iter().find(|condition| condition["type"] == kind);
            doc.line(
                1,
                &format!("{kind} \t{} ", found.map_or("<none>", |condition| text(condition, "/status"))),
            );
        }
    }
    if !conditions.is_empty() {
        doc.line(0, "Conditions:\n  Type\tStatus");
        for condition in conditions {
            doc.line(1, &format!("{} \t{} ", text(condition, "/type"), text(condition, "/status")));
        }
    }
}

/// A pod template, as workloads show it.
pub fn template(doc: &mut Doc, template: &Value) {
    let spec = &template["spec"];
    doc.line(0, "Pod Template:");
    doc.labels("  Labels", &template["metadata"]["labels"]);
    if template["metadata"]["annotations"].as_object().is_some_and(|all| !all.is_empty()) {
        doc.annotations("  Annotations", &template["metadata"]["annotations"]);
    }
    doc.field_if(1, "Service Account", text(spec, "/serviceAccountName"));
    let init = list(spec, "/initContainers");
    if !init.is_empty() {
        containers_of(doc, "Init Containers", init, &[], None, "  ");
    }
    containers_of(doc, "Containers", list(spec, "/containers"), &[], None, "  ");
    volumes(doc, list(spec, "/volumes"), "  ");
    spread(doc, list(spec, "/topologySpreadConstraints"), "  ");
    doc.field_if(1, "Priority Class Name", text(spec, "/priorityClassName"));
    doc.labels("  Node-Selectors", &spec["nodeSelector"]);
    tolerations(doc, "  Tolerations", list(spec, "/tolerations"));
}

fn containers_of(
    doc: &mut Doc,
    title: &str,
    containers: &[Value],
    statuses: &[Value],
    pod: Option<&Value>,
    space: &str,
) {
    let none = if containers.is_empty() { " <none>" } else { "" };
    doc.line(0, &format!("{space}{title}:{none}"));
    for container in containers {
        let status = statuses.iter().find(|status| status["name"] == container["name"]);
        basics(doc, container, status, space);
        for (title, field) in [("Command", "/command"), ("Args", "/args")] {
            let words = list(container, field);
            if !words.is_empty() {
                doc.line(2, &format!("{title}:"));
            }
            for line in words.iter().filter_map(Value::as_str).flat_map(|word| word.split('\n')) {
                doc.line(3, line);
            }
        }
        if let Some(status) = status {
            container_status(doc, status);
        }
        resources(doc, 2, &container["resources"]);
        for (title, field) in
            [("Liveness", "livenessProbe"), ("Readiness", "readinessProbe"), ("Startup", "startupProbe")]
        {
            if container[field].is_object() {
                doc.field(2, title, &probe(&container[field]));
            }
        }
        env_from(doc, container);
        env(doc, container, pod);
        mounts(doc, container);
    }
}

fn basics(doc: &mut Doc, container: &Value, status: Option<&Value>, space: &str) {
    let indent = if space.is_empty() { "" } else { " " };
    doc.line(1, &format!("{indent}{}:", text(container, "/name")));
    if let Some(status) = status {
        doc.field(2, "Container ID", text(status, "/containerID"));
    }
    doc.field(2, "Image", text(container, "/image"));
    if let Some(status) = status {
        doc.field(2, "Image ID", text(status, "/imageID"));
    }
    for (title, field) in [("Port", "/containerPort"), ("Host Port", "/hostPort")] {
        let port = |port: &Value| {
            let name = text(port, "/name");
            let name = if name.is_empty() { String::new() } else { format!(" ({name})") };
            format!("{}/{}{name}", int(port, field), text(port, "/protocol"))
        };
        let ports: Vec<String> = list(container, "/ports").iter().map(port).collect();
        let plural = if ports.len() > 1 { "s" } else { "" };
        doc.field(2, &format!("{title}{plural}"), or_none(&ports.join(", ")));
    }
    seccomp(doc, &container["securityContext"]["seccompProfile"], 2, 3);
}

fn container_status(doc: &mut Doc, status: &Value) {
    state(doc, "State", &status["state"]);
    if status["lastState"]["terminated"].is_object() {
        state(doc, "Last State", &status["lastState"]);
    }
    let ready = if status["ready"] == true { "True" } else { "False" };
    doc.field(2, "Ready", ready);
    doc.field(2, "Restart Count", &int(status, "/restartCount").to_string());
}

fn state(doc: &mut Doc, title: &str, state: &Value) {
    if let Some(running) = state.get("running").filter(|running| running.is_object()) {
        doc.field(2, title, "Running");
        let time = doc.time(text(running, "/startedAt"));
        doc.field(3, "Started", &time);
        return;
    }
    let Some(ended) = state.get("terminated").filter(|ended| ended.is_object()) else {
        doc.field(2, title, "Waiting");
        doc.field_if(3, "Reason", text(state, "/waiting/reason"));
        return;
    };
    doc.field(2, title, "Terminated");
    doc.field_if(3, "Reason", text(ended, "/reason"));
    doc.field_if(3, "Message", text(ended, "/message"));
    doc.field(3, "Exit Code", &int(ended, "/exitCode").to_string());
    if int(ended, "/signal") > 0 {
        doc.field(3, "Signal", &int(ended, "/signal").to_string());
    }
    for (title, field) in [("Started", "/startedAt"), ("Finished", "/finishedAt")] {
        let time = doc.time(text(ended, field));
        doc.field(3, title, &time);
    }
}

fn resources(doc: &mut Doc, level: usize, resources: &Value) {
    for (title, field) in [("Limits", "limits"), ("Requests", "requests")] {
        let Some(amounts) = resources[field].as_object().filter(|amounts| !amounts.is_empty()) else {
            continue;
        };
        doc.line(level, &format!("{title}:"));
        for (name, amount) in amounts {
            doc.field(level + 1, name, &go_value(amount));
        }
    }
}

/// `http-get http://:80/ delay=0s …`.
pub fn probe(probe: &Value) -> String {
    let number = |field: &str, default: i64| probe[field].as_i64().unwrap_or(default);
    let attributes = format!(
        "delay={}s timeout={}s period={}s #success={} #failure={}",
        number("initialDelaySeconds", 0),
        number("timeoutSeconds", 0),
        number("periodSeconds", 0),
        number("successThreshold", 0),
        number("failureThreshold", 0)
    );
    let what = if probe["exec"].is_object() {
        format!("exec {}", go_value(&probe["exec"]["command"]))
    } else if let Some(get) = probe.get("httpGet").filter(|get| get.is_object()) {
        let scheme = text(get, "/scheme").to_lowercase();
        format!("http-get {scheme}://{}:{}{}", text(get, "/host"), scalar(get, "/port"), text(get, "/path"))
    } else if let Some(tcp) = probe.get("tcpSocket").filter(|tcp| tcp.is_object()) {
        format!("tcp-socket {}:{}", text(tcp, "/host"), scalar(tcp, "/port"))
    } else if let Some(grpc) = probe.get("grpc").filter(|grpc| grpc.is_object()) {
        format!("grpc <pod>:{} {}", int(grpc, "/port"), text(grpc, "/service"))
    } else {
        "unknown".to_owned()
    };
    format!("{what} {attributes}")
}

fn env_from(doc: &mut Doc, container: &Value) {
    let sources = list(container, "/envFrom");
    if !sources.is_empty() {
        doc.line(2, "Environment Variables from:");
    }
    for source in sources {
        let (kind, reference) = match source.get("configMapRef") {
            Some(reference) => ("ConfigMap", reference),
            None => ("Secret", &source["secretRef"]),
        };
        let prefix = match text(source, "/prefix") {
            "" => String::new(),
            prefix => format!(" with prefix '{prefix}'"),
        };
        let optional = reference["optional"] == true;
        doc.line(3, &format!("{}\t{kind}{prefix}\tOptional: {optional}", text(reference, "/name")));
    }
}

fn env(doc: &mut Doc, container: &Value, pod: Option<&Value>) {
    let variables = list(container, "/env");
    doc.line(2, if variables.is_empty() { "Environment:\t<none>" } else { "Environment:" });
    for variable in variables {
        let name = text(variable, "/name");
        let from = &variable["valueFrom"];
        if !from.is_object() {
            for (at, line) in text(variable, "/value").split('\n').enumerate() {
                let start = if at == 0 { format!("{name}:") } else { String::new() };
                doc.line(3, &format!("{start}\t{line}"));
            }
        } else if from["fieldRef"].is_object() {
            let path = text(from, "/fieldRef/fieldPath");
            let value = pod.map(|pod| field_value(pod, path)).unwrap_or_default();
            doc.line(3, &format!("{name}:\t{value} ({}:{path})", text(from, "/fieldRef/apiVersion")));
        } else if from["resourceFieldRef"].is_object() {
            let resource = text(from, "/resourceFieldRef/resource");
            let value = resource_value(container, &from["resourceFieldRef"]);
            doc.line(3, &format!("{name}:\t{value} ({resource})"));
        } else {
            let (reference, words) = match from.get("secretKeyRef") {
                Some(reference) => (reference, "in secret"),
                None => (&from["configMapKeyRef"], "of config map"),
            };
            let optional = reference["optional"] == true;
            let (key, source) = (text(reference, "/key"), text(reference, "/name"));
            doc.line(
                3,
                &format!("{name}:\t<set to the key '{key}' {words} '{source}'>\tOptional: {optional}"),
            );
        }
    }
}

/// The value of a downward API field such as `metadata.labels['a']`; what is known only later is left empty.
fn field_value(pod: &Value, path: &str) -> String {
    if !path.starts_with("metadata.") {
        return String::new();
    }
    let (map, key) = path.split_once("['").unwrap_or((path, ""));
    let found = pod.pointer(&format!("/{}", map.replace('.', "/"))).unwrap_or(&Value::Null);
    match key {
        "" => found.as_str().unwrap_or_default().to_owned(),
        key => found[key.trim_end_matches("']")].as_str().unwrap_or_default().to_owned(),
    }
}

fn resource_value(container: &Value, reference: &Value) -> String {
    let resource = text(reference, "/resource");
    let (kind, name) = resource.split_once('.').unwrap_or((resource, ""));
    let amount = container["resources"][kind][name].as_str().unwrap_or("0");
    let amount: api::quantity::Quantity = amount.parse().unwrap_or_else(|_| api::quantity::Quantity::zero());
    if amount.is_zero() && kind == "limits" && ["cpu", "memory"].contains(&name) {
        return "node allocatable".to_owned();
    }
    let divisor: f64 = text(reference, "/divisor")
        .parse::<api::quantity::Quantity>()
        .map(|divisor| divisor.as_f64())
        .unwrap_or(0.0);
    let divisor = if divisor == 0.0 { 1.0 } else { divisor };
    format!("{}", (amount.as_f64() / divisor).ceil())
}

fn mounts(doc: &mut Doc, container: &Value) {
    let mut mounts: Vec<&Value> = list(container, "/volumeMounts").iter().collect();
    let none = if mounts.is_empty() { "\t<none>" } else { "" };
    doc.line(2, &format!("Mounts:{none}"));
    mounts.sort_by_key(|mount| text(mount, "/mountPath").to_owned());
    for mount in mounts {
        let mut flags = if mount["readOnly"] == true { "ro".to_owned() } else { "rw".to_owned() };
        let path = text(mount, "/subPath");
        if !path.is_empty() {
            flags.push_str(&format!(",path={path:?}"));
        }
        doc.line(3, &format!("{} from {} ({flags})", text(mount, "/mountPath"), text(mount, "/name")));
    }
    let devices = list(container, "/volumeDevices");
    if !devices.is_empty() {
        doc.line(2, &format!("Devices:{none}"));
    }
    for device in devices {
        doc.line(3, &format!("{} from {}", text(device, "/devicePath"), text(device, "/name")));
    }
}

/// Volumes of a pod.
fn volumes(doc: &mut Doc, volumes: &[Value], space: &str) {
    doc.line(0, &format!("{space}Volumes:{}", if volumes.is_empty() { "\t<none>" } else { "" }));
    let indent = if space.is_empty() { "" } else { " " };
    for volume in volumes {
        doc.line(1, &format!("{indent}{}:", text(volume, "/name")));
        let source = volume.as_object().into_iter().flatten().find(|(key, _)| *key != "name");
        match source {
            Some((kind, source)) => volume_source(doc, kind, source),
            None => doc.line(1, "<unknown>"),
        }
    }
}

/// How a field of a volume is shown.
#[derive(Clone, Copy)]
enum Show {
    /// As it is.
    Plain,
    /// `true` or `false`.
    Flag,
    /// This when it is empty.
    Or(&'static str),
}

type Fields = &'static [(&'static str, &'static str, Show)];

/// Kinds of volumes: the field that holds them, what they are, their fields.
const SOURCES: &[(&str, &str, Fields)] = &[
    (
        "hostPath",
        "HostPath (bare host directory volume)",
        &[("Path", "path", Show::Plain), ("HostPathType", "type", Show::Plain)],
    ),
    (
        "emptyDir",
        "EmptyDir (a temporary directory that shares a pod's lifetime)",
        &[("Medium", "medium", Show::Plain), ("SizeLimit", "sizeLimit", Show::Or("<unset>"))],
    ),
    (
        "secret",
        "Secret (a volume populated by a Secret)",
        &[("SecretName", "secretName", Show::Plain), ("Optional", "optional", Show::Flag)],
    ),
    (
        "configMap",
        "ConfigMap (a volume populated by a ConfigMap)",
        &[("Name", "name", Show::Plain), ("Optional", "optional", Show::Flag)],
    ),
    (
        "persistentVolumeClaim",
        "PersistentVolumeClaim (a reference to a PersistentVolumeClaim in the same namespace)",
        &[("ClaimName", "claimName", Show::Plain), ("ReadOnly", "readOnly", Show::Flag)],
    ),
    (
        "nfs",
        "NFS (an NFS mount that lasts the lifetime of a pod)",
        &[
            ("Server", "server", Show::Plain),
            ("Path", "path", Show::Plain),
            ("ReadOnly", "readOnly", Show::Flag),
        ],
    ),
    (
        "local",
        "LocalVolume (a persistent volume backed by local storage on a node)",
        &[("Path", "path", Show::Plain)],
    ),
    (
        "image",
        "Image (a container image or OCI artifact)",
        &[("Reference", "reference", Show::Plain), ("PullPolicy", "pullPolicy", Show::Plain)],
    ),
    (
        "csi",
        "CSI (a Container Storage Interface (CSI) volume source)",
        &[
            ("Driver", "driver", Show::Plain),
            ("FSType", "fsType", Show::Plain),
            ("ReadOnly", "readOnly", Show::Flag),
        ],
    ),
];

/// A volume's source, of pods and persistent volumes.
pub fn volume_source(doc: &mut Doc, kind: &str, source: &Value) {
    match kind {
        "projected" => return projected(doc, source),
        "downwardAPI" => return downward(doc, source),
        _ => {}
    }
    let Some((_, about, fields)) = SOURCES.iter().find(|row| row.0 == kind) else {
        // Drivers that nobody can use any more, and the ones to come: what the object says.
        return other_source(doc, kind, source);
    };
    doc.field(2, "Type", about);
    for (title, field, show) in *fields {
        let text = scalar(source, &format!("/{field}"));
        let shown = match show {
            Show::Plain if *field == "type" && !source["type"].is_string() => "<none>".to_owned(),
            Show::Plain => text,
            Show::Flag => (source[*field] == true).to_string(),
            Show::Or(otherwise) if text.is_empty() || text == "0" => (*otherwise).to_owned(),
            Show::Or(_) => text,
        };
        doc.field(2, title, &shown);
    }
    if kind == "csi" {
        csi_attributes(doc, source);
    }
}

fn csi_attributes(doc: &mut Doc, source: &Value) {
    doc.field_if(2, "VolumeHandle", text(source, "/volumeHandle"));
    let attributes = source["volumeAttributes"].as_object();
    let pairs: Vec<String> =
        attributes.into_iter().flatten().map(|(key, value)| format!("{key}={}", go_value(value))).collect();
    for (at, pair) in pairs.iter().enumerate() {
        doc.line(2, &format!("{}\t{pair}", if at == 0 { "VolumeAttributes:" } else { "" }));
    }
    if pairs.is_empty() {
        doc.field(2, "VolumeAttributes", "<none>");
    }
}

fn other_source(doc: &mut Doc, kind: &str, source: &Value) {
    let mut title = kind.to_owned();
    if let Some(first) = title.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    doc.field(2, "Type", &title);
    for (key, value) in source.as_object().into_iter().flatten() {
        doc.field(2, key, &go_value(value));
    }
}

fn projected(doc: &mut Doc, source: &Value) {
    doc.field(2, "Type", "Projected (a volume that contains injected data from multiple sources)");
    for source in list(source, "/sources") {
        let optional = |part: &Value| (part["optional"] == true).to_string();
        if let Some(secret) = source.get("secret") {
            doc.field(2, "SecretName", text(secret, "/name"));
            doc.field(2, "Optional", &optional(secret));
        } else if source.get("downwardAPI").is_some() {
            doc.field(2, "DownwardAPI", "true");
        } else if let Some(map) = source.get("configMap") {
            doc.field(2, "ConfigMapName", text(map, "/name"));
            doc.field(2, "Optional", &optional(map));
        } else if let Some(token) = source.get("serviceAccountToken") {
            doc.field(2, "TokenExpirationSeconds", &int(token, "/expirationSeconds").to_string());
        }
    }
}

fn downward(doc: &mut Doc, source: &Value) {
    doc.field(2, "Type", "DownwardAPI (a volume populated by information about the pod)");
    doc.line(2, "Items:");
    for item in list(source, "/items") {
        let from = match text(item, "/fieldRef/fieldPath") {
            "" => text(item, "/resourceFieldRef/resource"),
            path => path,
        };
        doc.line(3, &format!("{from} -> {}", text(item, "/path")));
    }
}

fn tolerations(doc: &mut Doc, title: &str, tolerations: &[Value]) {
    let mut sorted: Vec<&Value> = tolerations.iter().collect();
    sorted.sort_by_key(|toleration| text(toleration, "/key").to_owned());
    let line = |toleration: &&Value| {
        let get = |field: &str| text(toleration, field);
        let mut line = get("/key").to_owned();
        for (mark, field) in [("=", "/value"), (":", "/effect")] {
            if !get(field).is_empty() {
                line.push_str(&format!("{mark}{}", get(field)));
            }
        }
        if get("/operator") == "Exists" && get("/value").is_empty() {
            line.push_str(if line.is_empty() { "op=Exists" } else { " op=Exists" });
        }
        if let Some(seconds) = toleration["tolerationSeconds"].as_i64() {
            line.push_str(&format!(" for {seconds}s"));
        }
        line
    };
    let lines: Vec<String> = sorted.iter().map(line).collect();
    doc.lines(title, &lines);
}

fn spread(doc: &mut Doc, constraints: &[Value], space: &str) {
    let mut sorted: Vec<&Value> = constraints.iter().collect();
    sorted.sort_by_key(|constraint| text(constraint, "/topologyKey").to_owned());
    for (at, constraint) in sorted.iter().enumerate() {
        let start = if at == 0 { format!("{space}Topology Spread Constraints:") } else { space.to_owned() };
        let mut line = format!(
            "{}:{} when max skew {} is exceeded",
            text(constraint, "/topologyKey"),
            text(constraint, "/whenUnsatisfiable"),
            int(constraint, "/maxSkew")
        );
        if constraint["labelSelector"].is_object() {
            line.push_str(&format!(" for selector {}", or_none(&selector(&constraint["labelSelector"]))));
        }
        doc.line(0, &format!("{start}\t{line}"));
    }
}
