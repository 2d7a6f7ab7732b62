//! Nodes, namespaces, storage.

use std::collections::BTreeMap;

use api::quantity::Quantity;
use serde_json::Value;

use super::Related;
use super::doc::{Doc, int, list, or_none, scalar, text};
use super::pod::volume_source;
use crate::print::{go_value, sort};

/// A node.
pub fn node(doc: &mut Doc, node: &Value, related: &Related) {
    doc.field(0, "Name", text(node, "/metadata/name"));
    doc.field(0, "Roles", or_none(&roles(node)));
    doc.meta(node);
    let created = doc.time(text(node, "/metadata/creationTimestamp"));
    doc.field(0, "CreationTimestamp", &created);
    let mut taints: Vec<&Value> = list(node, "/spec/taints").iter().collect();
    taints.sort_by_key(|taint| format!("{},{}", text(taint, "/effect"), text(taint, "/key")));
    let taints: Vec<String> = taints.into_iter().map(taint).collect();
    doc.lines("Taints", &taints);
    doc.field(0, "Unschedulable", if node["spec"]["unschedulable"] == true { "true" } else { "false" });
    lease(doc, related.list("leases").first());
    conditions(doc, node);
    doc.line(0, "Addresses:");
    for address in list(node, "/status/addresses") {
        doc.field(1, text(address, "/type"), text(address, "/address"));
    }
    for (title, field) in [("Capacity", "capacity"), ("Allocatable", "allocatable")] {
        let Some(amounts) = node["status"][field].as_object().filter(|amounts| !amounts.is_empty()) else {
            continue;
        };
        doc.line(0, &format!("{title}:"));
        for (name, amount) in amounts {
            doc.field(1, name, &go_value(amount));
        }
    }
    doc.line(0, "System Info:");
    for (title, field) in [
        ("Machine ID", "machineID"),
        ("System UUID", "systemUUID"),
        ("Boot ID", "bootID"),
        ("Kernel Version", "kernelVersion"),
        ("OS Image", "osImage"),
        ("Operating System", "operatingSystem"),
        ("Architecture", "architecture"),
        ("Container Runtime Version", "containerRuntimeVersion"),
        ("Kubelet Version", "kubeletVersion"),
    ] {
        doc.field(1, title, text(&node["status"]["nodeInfo"], &format!("/{field}")));
    }
    doc.field_if(0, "PodCIDR", text(node, "/spec/podCIDR"));
    let ranges: Vec<&str> = list(node, "/spec/podCIDRs").iter().filter_map(Value::as_str).collect();
    doc.field_if(0, "PodCIDRs", &ranges.join(","));
    doc.field_if(0, "ProviderID", text(node, "/spec/providerID"));
    node_pods(doc, node, related);
    related.events(doc);
}

fn roles(node: &Value) -> String {
    let mut found: Vec<String> = Vec::new();
    for (key, value) in node["metadata"]["labels"].as_object().into_iter().flatten() {
        if let Some(role) = key.strip_prefix("node-role.kubernetes.io/").filter(|role| !role.is_empty()) {
            found.push(role.to_owned());
        } else if key == "kubernetes.io/role" {
            found.push(go_value(value));
        }
    }
    found.sort();
    found.join(",")
}

fn taint(taint: &Value) -> String {
    let get = |field: &str| text(taint, field);
    match (get("/value"), get("/effect")) {
        ("", "") => get("/key").to_owned(),
        ("", effect) => format!("{}:{effect}", get("/key")),
        (value, "") => format!("{}={value}:", get("/key")),
        (value, effect) => format!("{}={value}:{effect}", get("/key")),
    }
}

fn lease(doc: &mut Doc, lease: Option<&Value>) {
    let Some(lease) = lease else {
        return doc.field(0, "Lease", "Failed to get lease: not found");
    };
    doc.line(0, "Lease:");
    let or_unset = |text: String| if text.is_empty() { "<unset>".to_owned() } else { text };
    doc.field(1, "HolderIdentity", &or_unset(text(lease, "/spec/holderIdentity").to_owned()));
    for (title, field) in [("AcquireTime", "/spec/acquireTime"), ("RenewTime", "/spec/renewTime")] {
        let time = text(lease, field);
        let time = if time.is_empty() { String::new() } else { doc.time(time) };
        doc.field(1, title, &or_unset(time));
    }
}

fn conditions(doc: &mut Doc, node: &Value) {
    let conditions = list(node, "/status/conditions");
    if conditions.is_empty() {
        return;
    }
    doc.line(0, "Conditions:\n  Type\tStatus\tLastHeartbeatTime\tLastTransitionTime\tReason\tMessage");
    doc.line(1, "----\t------\t-----------------\t------------------\t------\t-------");
    for condition in conditions {
        let get = |field: &str| text(condition, field);
        let (beat, moved) = (doc.time(get("/lastHeartbeatTime")), doc.time(get("/lastTransitionTime")));
        let line = format!(
            "{} \t{} \t{beat} \t{moved} \t{} \t{}",
            get("/type"),
            get("/status"),
            get("/reason"),
            get("/message")
        );
        doc.line(1, &line);
    }
}

type Amounts = BTreeMap<String, Quantity>;

fn add(into: &mut Amounts, name: &str, amount: &Quantity) {
    let sum = match into.get(name) {
        Some(known) => known.add(amount),
        None => *amount,
    };
    into.insert(name.to_owned(), sum);
}

fn amounts(container: &Value, field: &str) -> Amounts {
    let mut found = Amounts::new();
    for (name, amount) in container["resources"][field].as_object().into_iter().flatten() {
        if let Ok(amount) = go_value(amount).parse::<Quantity>() {
            found.insert(name.clone(), amount);
        }
    }
    found
}

fn at_least(into: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        let more = into.get(name).is_none_or(|known| known.as_f64() < amount.as_f64());
        if more {
            into.insert(name.clone(), *amount);
        }
    }
}

/// What a pod asks for (or may use): containers and sidecars together, or its largest init container.
pub fn pod_amounts(pod: &Value, field: &str) -> Amounts {
    let mut sum = Amounts::new();
    for container in list(pod, "/spec/containers") {
        amounts(container, field).iter().for_each(|(name, amount)| add(&mut sum, name, amount));
    }
    let (mut sidecars, mut most) = (Amounts::new(), Amounts::new());
    for container in list(pod, "/spec/initContainers") {
        let own = amounts(container, field);
        if container["restartPolicy"] == "Always" {
            own.iter().for_each(|(name, amount)| add(&mut sidecars, name, amount));
            own.iter().for_each(|(name, amount)| add(&mut sum, name, amount));
            at_least(&mut most, &sidecars.clone());
        } else {
            let mut own = own;
            sidecars.iter().for_each(|(name, amount)| add(&mut own, name, amount));
            at_least(&mut most, &own);
        }
    }
    at_least(&mut sum, &most);
    at_least(&mut sum, &amounts(&pod["spec"], field));
    for (name, amount) in pod["spec"]["overhead"].as_object().into_iter().flatten() {
        if let Ok(amount) = go_value(amount).parse::<Quantity>()
            && (field == "requests" || sum.contains_key(name))
        {
            add(&mut sum, name, &amount);
        }
    }
    sum
}

fn share(amount: &Quantity, of: f64) -> String {
    // A share of nothing is nothing.
    let percent = if of == 0.0 { 0.0 } else { amount.as_f64() / of * 100.0 };
    format!("{amount} ({}%)", percent.trunc())
}

fn node_pods(doc: &mut Doc, node: &Value, related: &Related) {
    let mut pods: Vec<&Value> = related
        .list("pods")
        .iter()
        .filter(|pod| !["Succeeded", "Failed"].contains(&text(pod, "/status/phase")))
        .collect();
    pods.sort_by_key(|pod| {
        (text(pod, "/metadata/namespace").to_owned(), text(pod, "/metadata/name").to_owned())
    });
    let held = if node["status"]["allocatable"].is_object() { "allocatable" } else { "capacity" };
    let held = |name: &str| {
        node["status"][held][name]
            .as_str()
            .and_then(|text| text.parse::<Quantity>().ok())
            .map_or(0.0, |amount| amount.as_f64())
    };
    doc.field(0, "Non-terminated Pods", &format!("({} in total)", pods.len()));
    doc.line(1, "Namespace\tName\t\tCPU Requests\tCPU Limits\tMemory Requests\tMemory Limits\tAge");
    doc.line(1, "---------\t----\t\t------------\t----------\t---------------\t-------------\t---");
    let (mut requests, mut limits) = (Amounts::new(), Amounts::new());
    for pod in pods {
        let (asked, most) = (pod_amounts(pod, "requests"), pod_amounts(pod, "limits"));
        let one =
            |amounts: &Amounts, name: &str| share(amounts.get(name).unwrap_or(&Quantity::zero()), held(name));
        let since = doc.since(text(pod, "/metadata/creationTimestamp"));
        let line = format!(
            "{}\t{}\t\t{}\t{}\t{}\t{}\t{since}",
            text(pod, "/metadata/namespace"),
            text(pod, "/metadata/name"),
            one(&asked, "cpu"),
            one(&most, "cpu"),
            one(&asked, "memory"),
            one(&most, "memory")
        );
        doc.line(1, &line);
        asked.iter().for_each(|(name, amount)| add(&mut requests, name, amount));
        most.iter().for_each(|(name, amount)| add(&mut limits, name, amount));
    }
    doc.line(0, "Allocated resources:\n  (Total limits may be over 100 percent, i.e., overcommitted.)");
    doc.line(1, "Resource\tRequests\tLimits");
    doc.line(1, "--------\t--------\t------");
    let zero = Quantity::zero();
    let sums = |name: &str| (requests.get(name).unwrap_or(&zero), limits.get(name).unwrap_or(&zero));
    let mut extended = Vec::new();
    let mut shown = vec!["cpu".to_owned(), "memory".to_owned(), "ephemeral-storage".to_owned()];
    for name in node["status"]["allocatable"].as_object().into_iter().flatten().map(|(name, _)| name) {
        if name.starts_with("hugepages-") {
            shown.push(name.clone());
        } else if !shown.contains(name) && name != "pods" {
            extended.push(name.clone());
        }
    }
    for name in shown {
        let (asked, most) = sums(&name);
        doc.line(1, &format!("{name}\t{}\t{}", share(asked, held(&name)), share(most, held(&name))));
    }
    for name in extended {
        let (asked, most) = sums(&name);
        doc.line(1, &format!("{name}\t{asked}\t{most}"));
    }
}

/// A namespace.
pub fn namespace(doc: &mut Doc, object: &Value, related: &Related) {
    doc.head(object, false);
    doc.field(0, "Status", text(object, "/status/phase"));
    let conditions = list(object, "/status/conditions");
    if !conditions.is_empty() {
        doc.line(0, "Conditions:");
        doc.line(1, "Type\tStatus\tLastTransitionTime\tReason\tMessage");
        doc.line(1, "----\t------\t------------------\t------\t-------");
    }
    for condition in conditions {
        let get = |field: &str| text(condition, field);
        let moved = doc.time(get("/lastTransitionTime"));
        let line =
            format!("{}\t{}\t{moved}\t{}\t{}", get("/type"), get("/status"), get("/reason"), get("/message"));
        doc.line(1, &line);
    }
    doc.line(0, "");
    quotas(doc, related.list("resourcequotas"));
    doc.line(0, "");
    limit_ranges(doc, related.list("limitranges"));
}

fn quotas(doc: &mut Doc, quotas: &[Value]) {
    if quotas.is_empty() {
        return doc.line(0, "No resource quota.");
    }
    doc.line(0, "Resource Quotas");
    for quota in quotas {
        doc.field(1, "Name", text(quota, "/metadata/name"));
        let mut scopes: Vec<&str> = list(quota, "/spec/scopes").iter().filter_map(Value::as_str).collect();
        scopes.sort_unstable();
        doc.field_if(1, "Scopes", &scopes.join(", "));
        for scope in scopes {
            let about = match scope {
                "Terminating" => {
                    "Matches all pods that have an active deadline. These pods have a limited lifespan on a node before being actively terminated by the system."
                }
                "NotTerminating" => {
                    "Matches all pods that do not have an active deadline. These pods usually include long running pods whose container command is not expected to terminate."
                }
                "BestEffort" => {
                    "Matches all pods that do not have resource requirements set. These pods have a best effort quality of service."
                }
                "NotBestEffort" => {
                    "Matches all pods that have at least one resource requirement set. These pods have a burstable or guaranteed quality of service."
                }
                _ => continue,
            };
            doc.line(1, &format!("* {about}"));
        }
        doc.line(1, "Resource\tUsed\tHard");
        doc.line(1, "--------\t---\t---");
        for (name, hard) in quota["status"]["hard"].as_object().into_iter().flatten() {
            let used = match &quota["status"]["used"][name] {
                Value::Null => "0".to_owned(),
                used => go_value(used),
            };
            doc.line(1, &format!("{name}\t{used}\t{}", go_value(hard)));
        }
    }
}

fn limit_ranges(doc: &mut Doc, ranges: &[Value]) {
    if ranges.is_empty() {
        return doc.line(0, "No LimitRange resource.");
    }
    doc.line(
        0,
        "Resource Limits\n Type\tResource\tMin\tMax\tDefault Request\tDefault Limit\tMax Limit/Request Ratio",
    );
    doc.line(0, " ----\t--------\t---\t---\t---------------\t-------------\t-----------------------");
    for range in ranges {
        limits(doc, range, " ");
    }
}

fn limits(doc: &mut Doc, range: &Value, prefix: &str) {
    for item in list(range, "/spec/limits") {
        const FIELDS: [&str; 5] = ["min", "max", "defaultRequest", "default", "maxLimitRequestRatio"];
        let names: std::collections::BTreeSet<&String> = FIELDS
            .iter()
            .filter_map(|field| item[field].as_object())
            .flat_map(|amounts| amounts.keys())
            .collect();
        for name in names {
            let cell = |field: &&str| match &item[*field][name] {
                Value::Null => "-".to_owned(),
                amount => go_value(amount),
            };
            let cells: Vec<String> = FIELDS.iter().map(cell).collect();
            doc.line(0, &format!("{prefix}{}\t{name}\t{}", text(item, "/type"), cells.join("\t")));
        }
    }
}

/// A limit range.
pub fn limit_range(doc: &mut Doc, object: &Value, _: &Related) {
    doc.field(0, "Name", text(object, "/metadata/name"));
    doc.field(0, "Namespace", text(object, "/metadata/namespace"));
    doc.line(0, "Type\tResource\tMin\tMax\tDefault Request\tDefault Limit\tMax Limit/Request Ratio");
    doc.line(0, "----\t--------\t---\t---\t---------------\t-------------\t-----------------------");
    limits(doc, object, "");
}

/// A resource quota.
pub fn quota(doc: &mut Doc, object: &Value, _: &Related) {
    doc.field(0, "Name", text(object, "/metadata/name"));
    doc.field(0, "Namespace", text(object, "/metadata/namespace"));
    let scopes: Vec<&str> = list(object, "/spec/scopes").iter().filter_map(Value::as_str).collect();
    doc.field_if(0, "Scopes", &scopes.join(", "));
    doc.line(0, "Resource\tUsed\tHard");
    doc.line(0, "--------\t----\t----");
    for (name, hard) in object["status"]["hard"].as_object().into_iter().flatten() {
        let used = scalar(&object["status"]["used"], &format!("/{}", name.replace('/', "~1")));
        doc.line(0, &format!("{name}\t{}\t{}", if used.is_empty() { "0" } else { &used }, go_value(hard)));
    }
}

fn modes(list: &[Value]) -> String {
    let has = |mode: &str| list.iter().any(|other| other == mode);
    let short = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let found: Vec<&str> = short.into_iter().filter(|(mode, _)| has(mode)).map(|(_, short)| short).collect();
    found.join(",")
}

/// `[a b]`, as Go prints a list.
fn brackets(list: &[Value]) -> String {
    go_value(&Value::Array(list.to_vec()))
}

fn phase(doc: &mut Doc, object: &Value) {
    let deleted = text(object, "/metadata/deletionTimestamp");
    let shown = if deleted.is_empty() {
        text(object, "/status/phase").to_owned()
    } else {
        format!("Terminating (lasts {})", doc.since(deleted))
    };
    doc.field(0, "Status", &shown);
}

/// A persistent volume claim.
pub fn claim(doc: &mut Doc, object: &Value, related: &Related) {
    doc.field(0, "Name", text(object, "/metadata/name"));
    doc.field(0, "Namespace", text(object, "/metadata/namespace"));
    doc.field(0, "StorageClass", text(object, "/spec/storageClassName"));
    phase(doc, object);
    let volume = text(object, "/spec/volumeName");
    doc.field(0, "Volume", volume);
    doc.meta(object);
    doc.field(0, "Finalizers", &brackets(list(object, "/metadata/finalizers")));
    let (capacity, access) = if volume.is_empty() {
        (String::new(), String::new())
    } else {
        let capacity = scalar(object, "/status/capacity/storage");
        let capacity = if capacity.is_empty() { "0".to_owned() } else { capacity };
        (capacity, modes(list(object, "/status/accessModes")))
    };
    doc.field(0, "Capacity", &capacity);
    doc.field(0, "Access Modes", &access);
    doc.field_if(0, "VolumeMode", text(object, "/spec/volumeMode"));
    let source = &object["spec"]["dataSource"];
    if source.is_object() {
        doc.line(0, "DataSource:");
        doc.field_if(1, "APIGroup", text(source, "/apiGroup"));
        doc.field(1, "Kind", text(source, "/kind"));
        doc.field(1, "Name", text(source, "/name"));
    }
    let name = text(object, "/metadata/name");
    let uses = |pod: &&Value| {
        list(pod, "/spec/volumes")
            .iter()
            .any(|volume| text(volume, "/persistentVolumeClaim/claimName") == name)
    };
    let mut users: Vec<String> =
        related.list("pods").iter().filter(uses).map(|pod| text(pod, "/metadata/name").to_owned()).collect();
    users.sort_by(|a, b| sort::natural(a, b));
    doc.lines("Used By", &users);
    related.events(doc);
}

/// A persistent volume.
pub fn volume(doc: &mut Doc, object: &Value, related: &Related) {
    doc.head(object, false);
    doc.field(0, "Finalizers", &brackets(list(object, "/metadata/finalizers")));
    doc.field(0, "StorageClass", text(object, "/spec/storageClassName"));
    phase(doc, object);
    let claim = &object["spec"]["claimRef"];
    let claim = match claim.is_object() {
        true => format!("{}/{}", text(claim, "/namespace"), text(claim, "/name")),
        false => String::new(),
    };
    doc.field(0, "Claim", &claim);
    doc.field(0, "Reclaim Policy", text(object, "/spec/persistentVolumeReclaimPolicy"));
    doc.field(0, "Access Modes", &modes(list(object, "/spec/accessModes")));
    doc.field_if(0, "VolumeMode", text(object, "/spec/volumeMode"));
    doc.field(0, "Capacity", &scalar(object, "/spec/capacity/storage"));
    affinity(doc, object);
    doc.field(0, "Message", text(object, "/status/message"));
    doc.line(0, "Source:");
    const OTHERS: [&str; 9] = [
        "accessModes",
        "capacity",
        "claimRef",
        "mountOptions",
        "nodeAffinity",
        "persistentVolumeReclaimPolicy",
        "storageClassName",
        "volumeAttributesClassName",
        "volumeMode",
    ];
    let mut sources = object["spec"].as_object().into_iter().flatten();
    match sources.find(|(key, _)| !OTHERS.contains(&key.as_str())) {
        Some((kind, source)) => volume_source(doc, kind, source),
        None => doc.line(1, "<unknown>"),
    }
    related.events(doc);
}

fn affinity(doc: &mut Doc, object: &Value) {
    let required = &object["spec"]["nodeAffinity"]["required"];
    if !required.is_object() {
        return doc.field(0, "Node Affinity", "<none>");
    }
    doc.line(0, "Node Affinity:\t");
    doc.line(1, "Required Terms:\t");
    for (at, term) in list(required, "/nodeSelectorTerms").iter().enumerate() {
        let expressions = list(term, "/matchExpressions");
        if expressions.is_empty() {
            doc.line(2, &format!("Term {at}:\t<none>"));
        }
        for (number, expression) in expressions.iter().enumerate() {
            let values: Vec<&str> = list(expression, "/values").iter().filter_map(Value::as_str).collect();
            let values = if values.is_empty() { String::new() } else { format!(" [{}]", values.join(", ")) };
            let operator = text(expression, "/operator").to_lowercase();
            let start = if number == 0 { format!("Term {at}:") } else { String::new() };
            doc.line(2, &format!("{start}\t{} {operator}{values}", text(expression, "/key")));
        }
    }
}

/// A storage class.
pub fn storage_class(doc: &mut Doc, object: &Value, related: &Related) {
    doc.field(0, "Name", text(object, "/metadata/name"));
    let default =
        text(object, "/metadata/annotations/storageclass.kubernetes.io~1is-default-class") == "true";
    doc.field(0, "IsDefaultClass", if default { "Yes" } else { "No" });
    let pairs = |object: &Value| {
        let pairs: Vec<String> = object
            .as_object()
            .into_iter()
            .flatten()
            .map(|(key, value)| format!("{key}={}", go_value(value)))
            .collect();
        or_none(&pairs.join(",")).to_owned()
    };
    doc.field(0, "Annotations", &pairs(&object["metadata"]["annotations"]));
    doc.field(0, "Provisioner", text(object, "/provisioner"));
    doc.field(0, "Parameters", &pairs(&object["parameters"]));
    let expansion = scalar(object, "/allowVolumeExpansion");
    let expansion = match expansion.as_str() {
        "true" => "True",
        "false" => "False",
        _ => "<unset>",
    };
    doc.field(0, "AllowVolumeExpansion", expansion);
    let options = list(object, "/mountOptions");
    if options.is_empty() {
        doc.field(0, "MountOptions", "<none>");
    } else {
        doc.line(0, "MountOptions:");
        options.iter().for_each(|option| doc.line(1, &go_value(option)));
    }
    doc.field_if(0, "ReclaimPolicy", text(object, "/reclaimPolicy"));
    doc.field_if(0, "VolumeBindingMode", text(object, "/volumeBindingMode"));
    let topologies = list(object, "/allowedTopologies");
    if topologies.is_empty() {
        doc.field(0, "AllowedTopologies", "<none>");
    } else {
        doc.line(0, "AllowedTopologies:");
    }
    for (at, topology) in topologies.iter().enumerate() {
        for expression in list(topology, "/matchLabelExpressions") {
            let values: Vec<&str> = list(expression, "/values").iter().filter_map(Value::as_str).collect();
            doc.line(1, &format!("Term {at}:\t{} in [{}]", text(expression, "/key"), values.join(", ")));
        }
    }
    related.events(doc);
}

/// A priority class.
pub fn priority_class(doc: &mut Doc, object: &Value, related: &Related) {
    doc.field(0, "Name", text(object, "/metadata/name"));
    doc.field(0, "Value", &int(object, "/value").to_string());
    doc.field(0, "GlobalDefault", if object["globalDefault"] == true { "true" } else { "false" });
    doc.field(0, "PreemptionPolicy", text(object, "/preemptionPolicy"));
    doc.field(0, "Description", text(object, "/description"));
    let annotations = crate::print::table::labels_text(&object["metadata"]["annotations"]);
    doc.field(0, "Annotations", &annotations);
    related.events(doc);
}
