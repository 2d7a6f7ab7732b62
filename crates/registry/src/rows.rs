//! The built-in rows: every kind and subresource of the GA group versions of v1.36, as
//! api/discovery of upstream lists them. Facts only; behaviour is in the strategies they name.

use std::sync::Arc;

use crate::columns::Columns;
use crate::columns::builtin as print;
use crate::convert;
use crate::resource::{
    Conversion, FieldSource, Resource, Role, ScalePaths, SelectableField, Subresource, Verb, Verbs,
};
use crate::strategies as s;
use crate::strategy::{PLAIN, Rules};

/// Groups in the order upstream's discovery lists them.
pub const GROUP_ORDER: &[&str] = &[
    "",
    "apiregistration.k8s.io",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "storage.k8s.io",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "scheduling.k8s.io",
    "coordination.k8s.io",
    "node.k8s.io",
    "discovery.k8s.io",
    "resource.k8s.io",
    "flowcontrol.apiserver.k8s.io",
];

/// Every built-in row.
pub fn all() -> Vec<Resource> {
    let mut rows = core_rows();
    rows.extend(registration_rows());
    rows.extend(workload_rows());
    rows.extend(review_rows());
    rows.extend(network_rows());
    rows.extend(policy_rows());
    rows.extend(storage_rows());
    rows.extend(other_rows());
    rows
}

const POD_FIELDS: &[&str] = &[
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "status.phase",
    "status.nominatedNodeName",
];

const EVENT_FIELDS: &[&str] = &[
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "type",
];

const NEW_EVENT_FIELDS: &[&str] = &[
    "regarding.kind",
    "regarding.namespace",
    "regarding.name",
    "regarding.uid",
    "regarding.apiVersion",
    "regarding.resourceVersion",
    "regarding.fieldPath",
    "reason",
    "type",
];

#[rustfmt::skip]
fn core_rows() -> Vec<Resource> {
    let v1 = Of("", "v1");
    vec![
        v1.row("Binding", "bindings").namespaced().virtual_only(),
        v1.row("ComponentStatus", "componentstatuses").short(&["cs"]).computed().print(&print::COMPONENT_STATUS),
        v1.row("ConfigMap", "configmaps").namespaced().short(&["cm"]).rules(&s::CONFIG_MAP).print(&print::CONFIG_MAP),
        v1.row("Endpoints", "endpoints").singular("endpoints").list("EndpointsList").namespaced().short(&["ep"]).rules(&s::ENDPOINTS).print(&print::ENDPOINTS),
        v1.row("Event", "events").namespaced().short(&["ev"]).rules(&s::EVENT).print(&print::EVENT)
            .select(EVENT_FIELDS).select_as("reportingComponent", FieldSource::FirstOf(&["reportingComponent"])).select_as("source", FieldSource::FirstOf(&["source.component", "reportingComponent"])),
        v1.row("LimitRange", "limitranges").namespaced().short(&["limits"]).rules(&s::LIMIT_RANGE).print(&print::LIMIT_RANGE),
        v1.row("Namespace", "namespaces").short(&["ns"]).rules(&s::NAMESPACE).print(&print::NAMESPACE).select(&["status.phase"])
            .without(Verb::DeleteCollection).sub("finalize", Verbs::of(&[Verb::Update]), Role::Finalize).status(),
        v1.row("Node", "nodes").short(&["no"]).rules(&s::NODE).print(&print::NODE).select_as("spec.unschedulable", FieldSource::PathOr("spec.unschedulable".into(), "false"))
            .sub_kind("proxy", "", "v1", "NodeProxyOptions", Verbs::PROXY, Role::Proxy).status(),
        v1.row("PersistentVolumeClaim", "persistentvolumeclaims").namespaced().short(&["pvc"]).rules(&s::PVC).print(&print::PVC).status(),
        v1.row("PersistentVolume", "persistentvolumes").short(&["pv"]).rules(&s::PV).print(&print::PV).status(),
        pod_row(v1),
        v1.row("PodTemplate", "podtemplates").namespaced().rules(&s::POD_TEMPLATE).print(&print::POD_TEMPLATE),
        v1.row("ReplicationController", "replicationcontrollers").namespaced().short(&["rc"]).all().rules(&s::REPLICATION_CONTROLLER).print(&print::REPLICATION_CONTROLLER)
            .select_as("status.replicas", FieldSource::PathOr("status.replicas".into(), "0")).scale().status(),
        v1.row("ResourceQuota", "resourcequotas").namespaced().short(&["quota"]).rules(&s::RESOURCE_QUOTA).print(&print::RESOURCE_QUOTA).status(),
        v1.row("Secret", "secrets").namespaced().rules(&s::SECRET).print(&print::SECRET).select(&["type"]),
        v1.row("ServiceAccount", "serviceaccounts").namespaced().short(&["sa"]).rules(&s::SERVICE_ACCOUNT).print(&print::SERVICE_ACCOUNT)
            .sub_kind("token", "authentication.k8s.io", "v1", "TokenRequest", Verbs::CREATE, Role::Token),
        v1.row("Service", "services").namespaced().short(&["svc"]).all().rules(&s::SERVICE).print(&print::SERVICE).select(&["spec.clusterIP", "spec.type"])
            .sub_kind("proxy", "", "v1", "ServiceProxyOptions", Verbs::PROXY, Role::Proxy).status(),
    ]
}

#[rustfmt::skip]
fn pod_row(v1: Of) -> Resource {
    v1.row("Pod", "pods").namespaced().short(&["po"]).all().rules(&s::POD).print(&print::POD)
        .select(POD_FIELDS)
        .select_as("spec.hostNetwork", FieldSource::PathOr("spec.hostNetwork".into(), "false"))
        .select_as("status.podIP", FieldSource::FirstOf(&["status.podIP"]))
        .select_as("status.podIPs", FieldSource::FirstOf(&["status.podIP"]))
        .sub_kind("attach", "", "v1", "PodAttachOptions", Verbs::STREAM, Role::Attach)
        .sub_kind("binding", "", "v1", "Binding", Verbs::CREATE, Role::Binding)
        .sub("ephemeralcontainers", Verbs::VIEW, Role::EphemeralContainers)
        .sub_kind("eviction", "policy", "v1", "Eviction", Verbs::CREATE, Role::Eviction)
        .sub_kind("exec", "", "v1", "PodExecOptions", Verbs::STREAM, Role::Exec)
        .sub("log", Verbs::of(&[Verb::Get]), Role::Log)
        .sub_kind("portforward", "", "v1", "PodPortForwardOptions", Verbs::STREAM, Role::PortForward)
        .sub_kind("proxy", "", "v1", "PodProxyOptions", Verbs::PROXY, Role::Proxy)
        .sub("resize", Verbs::VIEW, Role::Resize)
        .status()
}

#[rustfmt::skip]
fn registration_rows() -> Vec<Resource> {
    let admission = Of("admissionregistration.k8s.io", "v1");
    let extensions = Of("apiextensions.k8s.io", "v1");
    let registration = Of("apiregistration.k8s.io", "v1");
    vec![
        admission.row("MutatingAdmissionPolicy", "mutatingadmissionpolicies").extension().rules(&s::MUTATING_POLICY).print(&print::MUTATING_POLICY),
        admission.row("MutatingAdmissionPolicyBinding", "mutatingadmissionpolicybindings").extension().rules(&s::MUTATING_POLICY_BINDING).print(&print::MUTATING_POLICY_BINDING),
        admission.row("MutatingWebhookConfiguration", "mutatingwebhookconfigurations").extension().rules(&s::MUTATING_WEBHOOK).print(&print::WEBHOOK),
        admission.row("ValidatingAdmissionPolicy", "validatingadmissionpolicies").extension().rules(&s::VALIDATING_POLICY).print(&print::VALIDATING_POLICY).status(),
        admission.row("ValidatingAdmissionPolicyBinding", "validatingadmissionpolicybindings").extension().rules(&s::VALIDATING_POLICY_BINDING).print(&print::VALIDATING_POLICY_BINDING),
        admission.row("ValidatingWebhookConfiguration", "validatingwebhookconfigurations").extension().rules(&s::VALIDATING_WEBHOOK).print(&print::WEBHOOK),
        extensions.row("CustomResourceDefinition", "customresourcedefinitions").extension().short(&["crd", "crds"]).rules(&s::CRD).print(&print::CRD).status(),
        registration.row("APIService", "apiservices").extension().rules(&s::API_SERVICE).print(&print::API_SERVICE).status(),
    ]
}

#[rustfmt::skip]
fn workload_rows() -> Vec<Resource> {
    let apps = Of("apps", "v1");
    let batch = Of("batch", "v1");
    let hpa = |version| {
        Of("autoscaling", version).row("HorizontalPodAutoscaler", "horizontalpodautoscalers")
            .namespaced().short(&["hpa"]).all().print(&print::HPA).status()
    };
    vec![
        apps.row("ControllerRevision", "controllerrevisions").namespaced().rules(&s::CONTROLLER_REVISION).print(&print::CONTROLLER_REVISION),
        apps.row("DaemonSet", "daemonsets").namespaced().short(&["ds"]).all().rules(&s::DAEMON_SET).print(&print::DAEMON_SET).status(),
        apps.row("Deployment", "deployments").namespaced().short(&["deploy"]).all().rules(&s::DEPLOYMENT).print(&print::DEPLOYMENT).scale().status(),
        apps.row("ReplicaSet", "replicasets").namespaced().short(&["rs"]).all().rules(&s::REPLICA_SET).print(&print::REPLICA_SET).scale().status(),
        apps.row("StatefulSet", "statefulsets").namespaced().short(&["sts"]).all().rules(&s::STATEFUL_SET).print(&print::STATEFUL_SET).scale().status(),
        hpa("v1").rules(&s::HPA_V1).convert(convert::HPA_V1),
        hpa("v2").rules(&s::HPA_V2),
        batch.row("CronJob", "cronjobs").namespaced().short(&["cj"]).all().rules(&s::CRON_JOB).print(&print::CRON_JOB).status(),
        batch.row("Job", "jobs").namespaced().all().rules(&s::JOB).print(&print::JOB)
            .select_as("status.successful", FieldSource::PathOr("status.succeeded".into(), "0")).status(),
    ]
}

#[rustfmt::skip]
fn review_rows() -> Vec<Resource> {
    let authentication = Of("authentication.k8s.io", "v1");
    let authorization = Of("authorization.k8s.io", "v1");
    vec![
        authentication.row("SelfSubjectReview", "selfsubjectreviews").virtual_only(),
        authentication.row("TokenReview", "tokenreviews").virtual_only(),
        authorization.row("LocalSubjectAccessReview", "localsubjectaccessreviews").namespaced().virtual_only(),
        authorization.row("SelfSubjectAccessReview", "selfsubjectaccessreviews").virtual_only(),
        authorization.row("SelfSubjectRulesReview", "selfsubjectrulesreviews").virtual_only(),
        authorization.row("SubjectAccessReview", "subjectaccessreviews").virtual_only(),
    ]
}

#[rustfmt::skip]
fn network_rows() -> Vec<Resource> {
    let networking = Of("networking.k8s.io", "v1");
    let discovery = Of("discovery.k8s.io", "v1");
    let events = Of("events.k8s.io", "v1");
    vec![
        discovery.row("EndpointSlice", "endpointslices").namespaced().rules(&s::ENDPOINT_SLICE).print(&print::ENDPOINT_SLICE),
        events.row("Event", "events").namespaced().short(&["ev"]).rules(&s::NEW_EVENT).print(&print::EVENT)
            .select(NEW_EVENT_FIELDS).select(&["reportingController"]).stored_as("events").convert(convert::EVENT_NEW),
        networking.row("IngressClass", "ingressclasses").rules(&s::INGRESS_CLASS).print(&print::INGRESS_CLASS),
        networking.row("Ingress", "ingresses").namespaced().short(&["ing"]).rules(&s::INGRESS).print(&print::INGRESS).status(),
        networking.row("IPAddress", "ipaddresses").short(&["ip"]).rules(&s::IP_ADDRESS).print(&print::IP_ADDRESS),
        networking.row("NetworkPolicy", "networkpolicies").namespaced().short(&["netpol"]).rules(&s::NETWORK_POLICY).print(&print::NETWORK_POLICY),
        networking.row("ServiceCIDR", "servicecidrs").rules(&s::SERVICE_CIDR).print(&print::SERVICE_CIDR).status(),
    ]
}

#[rustfmt::skip]
fn policy_rows() -> Vec<Resource> {
    let policy = Of("policy", "v1");
    let rbac = Of("rbac.authorization.k8s.io", "v1");
    let flow = Of("flowcontrol.apiserver.k8s.io", "v1");
    vec![
        policy.row("PodDisruptionBudget", "poddisruptionbudgets").namespaced().short(&["pdb"]).rules(&s::PDB).print(&print::PDB).status(),
        rbac.row("ClusterRoleBinding", "clusterrolebindings").rules(&s::CLUSTER_ROLE_BINDING).print(&print::CLUSTER_ROLE_BINDING),
        rbac.row("ClusterRole", "clusterroles").rules(&s::CLUSTER_ROLE).print(&print::CLUSTER_ROLE),
        rbac.row("RoleBinding", "rolebindings").namespaced().rules(&s::ROLE_BINDING).print(&print::ROLE_BINDING),
        rbac.row("Role", "roles").namespaced().rules(&s::ROLE).print(&print::ROLE),
        flow.row("FlowSchema", "flowschemas").rules(&s::FLOW_SCHEMA).print(&print::FLOW_SCHEMA).status(),
        flow.row("PriorityLevelConfiguration", "prioritylevelconfigurations").rules(&s::PRIORITY_LEVEL).print(&print::PRIORITY_LEVEL).status(),
    ]
}

#[rustfmt::skip]
fn storage_rows() -> Vec<Resource> {
    let storage = Of("storage.k8s.io", "v1");
    vec![
        storage.row("CSIDriver", "csidrivers").rules(&s::CSI_DRIVER).print(&print::CSI_DRIVER),
        storage.row("CSINode", "csinodes").rules(&s::CSI_NODE).print(&print::CSI_NODE),
        storage.row("CSIStorageCapacity", "csistoragecapacities").namespaced().rules(&s::CSI_CAPACITY),
        storage.row("StorageClass", "storageclasses").short(&["sc"]).rules(&s::STORAGE_CLASS).print(&print::STORAGE_CLASS),
        storage.row("VolumeAttachment", "volumeattachments").rules(&s::VOLUME_ATTACHMENT).print(&print::VOLUME_ATTACHMENT).status(),
        storage.row("VolumeAttributesClass", "volumeattributesclasses").short(&["vac"]).rules(&s::VOLUME_ATTRIBUTES_CLASS).print(&print::VOLUME_ATTRIBUTES_CLASS),
    ]
}

#[rustfmt::skip]
fn other_rows() -> Vec<Resource> {
    let certificates = Of("certificates.k8s.io", "v1");
    let coordination = Of("coordination.k8s.io", "v1");
    let node = Of("node.k8s.io", "v1");
    let resource = Of("resource.k8s.io", "v1");
    let scheduling = Of("scheduling.k8s.io", "v1");
    let metrics = Of("metrics.k8s.io", "v1beta1");
    vec![
        // Not Kubernetes' own: what every cluster with a metrics server has, which this one is by itself.
        metrics.row("NodeMetrics", "nodes").singular("").computed().print(&print::METRICS),
        metrics.row("PodMetrics", "pods").namespaced().singular("").computed().print(&print::METRICS),
        certificates.row("CertificateSigningRequest", "certificatesigningrequests").short(&["csr"]).rules(&s::CSR).print(&print::CSR).select(&["spec.signerName"])
            .sub("approval", Verbs::VIEW, Role::Approval).status(),
        coordination.row("Lease", "leases").namespaced().rules(&s::LEASE).print(&print::LEASE),
        node.row("RuntimeClass", "runtimeclasses").rules(&s::RUNTIME_CLASS).print(&print::RUNTIME_CLASS),
        resource.row("DeviceClass", "deviceclasses").rules(&s::DEVICE_CLASS).print(&print::DEVICE_CLASS),
        resource.row("ResourceClaim", "resourceclaims").namespaced().rules(&s::RESOURCE_CLAIM).print(&print::RESOURCE_CLAIM).status(),
        resource.row("ResourceClaimTemplate", "resourceclaimtemplates").namespaced().rules(&s::RESOURCE_CLAIM_TEMPLATE).print(&print::RESOURCE_CLAIM_TEMPLATE),
        resource.row("ResourceSlice", "resourceslices").rules(&s::RESOURCE_SLICE).print(&print::RESOURCE_SLICE).select(&["spec.nodeName", "spec.driver"]),
        scheduling.row("PriorityClass", "priorityclasses").short(&["pc"]).rules(&s::PRIORITY_CLASS).print(&print::PRIORITY_CLASS),
    ]
}

/// A group version that rows are made of.
#[derive(Clone, Copy)]
struct Of(&'static str, &'static str);

impl Of {
    fn row(self, kind: &str, plural: &str) -> Resource {
        let Of(group, version) = self;
        let storage = if group.is_empty() { plural.to_string() } else { format!("{group}/{plural}") };
        Resource {
            group: group.into(),
            version: version.into(),
            kind: kind.into(),
            list_kind: format!("{kind}List"),
            plural: plural.into(),
            singular: kind.to_lowercase(),
            namespaced: false,
            short_names: Vec::new(),
            categories: Vec::new(),
            verbs: Verbs::STANDARD,
            subresources: Vec::new(),
            storage: Some(storage.into()),
            conversion: None,
            strategy: Arc::new(&PLAIN),
            columns: Columns::NameAge,
            selectable: Vec::new(),
            custom: false,
        }
    }
}

impl Resource {
    fn namespaced(mut self) -> Self {
        self.namespaced = true;
        self
    }

    fn singular(mut self, name: &str) -> Self {
        self.singular = name.into();
        self
    }

    fn list(mut self, kind: &str) -> Self {
        self.list_kind = kind.into();
        self
    }

    fn short(mut self, names: &[&str]) -> Self {
        self.short_names = names.iter().map(|n| (*n).to_string()).collect();
        self
    }

    fn all(mut self) -> Self {
        self.categories.push("all".into());
        self
    }

    fn extension(mut self) -> Self {
        self.categories.push("api-extensions".into());
        self
    }

    /// Reviews and bindings: only created, never stored.
    fn virtual_only(mut self) -> Self {
        self.verbs = Verbs::CREATE;
        self.storage = None;
        self
    }

    /// Read-only and not stored.
    fn computed(mut self) -> Self {
        self.verbs = Verbs::of(&[Verb::Get, Verb::List]);
        self.storage = None;
        self
    }

    fn without(mut self, verb: Verb) -> Self {
        self.verbs = self.verbs.without(verb);
        self
    }

    fn rules(mut self, rules: &'static Rules) -> Self {
        self.strategy = Arc::new(rules);
        self
    }

    fn print(mut self, set: &'static crate::columns::ColumnSet) -> Self {
        self.columns = Columns::BuiltIn(set);
        self
    }

    fn select(mut self, paths: &[&str]) -> Self {
        self.selectable.extend(paths.iter().map(|path| SelectableField {
            label: (*path).to_string(),
            source: FieldSource::Path((*path).to_string()),
        }));
        self
    }

    fn select_as(mut self, label: &str, source: FieldSource) -> Self {
        self.selectable.push(SelectableField { label: label.into(), source });
        self
    }

    fn stored_as(mut self, storage: &str) -> Self {
        self.storage = Some(storage.into());
        self
    }

    fn convert(mut self, conversion: Conversion) -> Self {
        self.conversion = Some(conversion);
        self
    }

    fn sub(self, name: &str, verbs: Verbs, role: Role) -> Self {
        let (group, version, kind) = (self.group.clone(), self.version.clone(), self.kind.clone());
        self.sub_kind(name, &group, &version, &kind, verbs, role)
    }

    fn sub_kind(
        mut self,
        name: &str,
        group: &str,
        version: &str,
        kind: &str,
        verbs: Verbs,
        role: Role,
    ) -> Self {
        self.subresources.push(Subresource {
            name: name.into(),
            group: group.into(),
            version: version.into(),
            kind: kind.into(),
            verbs,
            role,
        });
        self
    }

    fn status(self) -> Self {
        self.sub("status", Verbs::VIEW, Role::Status)
    }

    fn scale(self) -> Self {
        let role = Role::Scale(ScalePaths::workload());
        self.sub_kind("scale", "autoscaling", "v1", "Scale", Verbs::VIEW, role)
    }
}
