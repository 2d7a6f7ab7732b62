//! The table of built-in printers: one row per kind, columns in upstream's order and spelling.

use super::{ColumnDef, ColumnSet, cluster, pod, workload};

/// A column shown always.
const fn c(name: &'static str, ty: &'static str) -> ColumnDef {
    ColumnDef { name, ty, format: "", priority: 0 }
}

/// A text column shown always.
const fn s(name: &'static str) -> ColumnDef {
    c(name, "string")
}

/// A whole-number column shown always.
const fn i(name: &'static str) -> ColumnDef {
    c(name, "integer")
}

/// A boolean column shown always.
const fn b(name: &'static str) -> ColumnDef {
    c(name, "boolean")
}

/// A text column of wide output.
const fn w(name: &'static str) -> ColumnDef {
    ColumnDef { name, ty: "string", format: "", priority: 1 }
}

const NAME: ColumnDef = ColumnDef { name: "Name", ty: "string", format: "name", priority: 0 };
const AGE: ColumnDef = s("Age");

macro_rules! printers {
    ($($(#[$doc:meta])* $name:ident: [$($col:expr),* $(,)?], $cells:path;)*) => {
        $(
            #[allow(missing_docs)]
            pub static $name: ColumnSet = ColumnSet { columns: &[$($col),*], cells: $cells };
        )*
        /// Every built-in printer by name, for the golden test.
        pub static ALL: &[(&str, &ColumnSet)] = &[$((stringify!($name), &$name)),*];
    };
}

printers! {
    POD: [NAME, s("Ready"), s("Status"), s("Restarts"), AGE, w("IP"), w("Node"), w("Nominated Node"), w("Readiness Gates")], pod::cells;
    POD_TEMPLATE: [NAME, s("Containers"), s("Images"), s("Pod Labels")], workload::pod_template;
    PDB: [NAME, s("Min Available"), s("Max Unavailable"), i("Allowed Disruptions"), AGE], workload::pdb;
    REPLICATION_CONTROLLER: [NAME, i("Desired"), i("Current"), i("Ready"), AGE, w("Containers"), w("Images"), w("Selector")], workload::replication_controller;
    REPLICA_SET: [NAME, i("Desired"), i("Current"), i("Ready"), AGE, w("Containers"), w("Images"), w("Selector")], workload::replica_set;
    DAEMON_SET: [NAME, i("Desired"), i("Current"), i("Ready"), i("Up-to-date"), i("Available"), s("Node Selector"), AGE, w("Containers"), w("Images"), w("Selector")], workload::daemon_set;
    JOB: [NAME, s("Status"), s("Completions"), s("Duration"), AGE, w("Containers"), w("Images"), w("Selector")], workload::job;
    CRON_JOB: [NAME, s("Schedule"), s("Timezone"), b("Suspend"), i("Active"), s("Last Schedule"), AGE, w("Containers"), w("Images"), w("Selector")], workload::cron_job;
    STATEFUL_SET: [NAME, s("Ready"), AGE, w("Containers"), w("Images")], workload::stateful_set;
    DEPLOYMENT: [NAME, s("Ready"), s("Up-to-date"), s("Available"), AGE, w("Containers"), w("Images"), w("Selector")], workload::deployment;
    HPA: [NAME, s("Reference"), s("Targets"), s("MinPods"), s("MaxPods"), s("Replicas"), AGE], workload::hpa;
    CONTROLLER_REVISION: [NAME, s("Controller"), s("Revision"), AGE], workload::controller_revision;
    SCALE: [s("Name"), i("Desired"), i("Available"), AGE], workload::scale;
    SERVICE: [NAME, s("Type"), s("Cluster-IP"), s("External-IP"), s("Port(s)"), AGE, w("Selector")], cluster::service;
    INGRESS: [NAME, s("Class"), s("Hosts"), s("Address"), s("Ports"), AGE], cluster::ingress;
    INGRESS_CLASS: [NAME, s("Controller"), s("Parameters"), AGE], cluster::ingress_class;
    ENDPOINTS: [NAME, s("Endpoints"), AGE], cluster::endpoints;
    ENDPOINT_SLICE: [NAME, s("AddressType"), s("Ports"), s("Endpoints"), AGE], cluster::endpoint_slice;
    NETWORK_POLICY: [NAME, s("Pod-Selector"), AGE], cluster::network_policy;
    SERVICE_CIDR: [NAME, s("CIDRs"), AGE], cluster::service_cidr;
    IP_ADDRESS: [NAME, s("ParentRef")], cluster::ip_address;
    NODE: [NAME, s("Status"), s("Roles"), AGE, s("Version"), w("Internal-IP"), w("External-IP"), w("OS-Image"), w("Kernel-Version"), w("Container-Runtime")], cluster::node;
    EVENT: [s("Last Seen"), s("Type"), s("Reason"), s("Object"), w("Subobject"), w("Source"), s("Message"), w("First Seen"), w("Count"), ColumnDef { priority: 1, ..NAME }], cluster::event;
    NAMESPACE: [NAME, s("Status"), AGE], cluster::namespace;
    SECRET: [NAME, s("Type"), s("Data"), AGE], cluster::secret;
    CONFIG_MAP: [NAME, s("Data"), AGE], cluster::config_map;
    SERVICE_ACCOUNT: [NAME, AGE], cluster::name_age;
    PV: [NAME, s("Capacity"), s("Access Modes"), s("Reclaim Policy"), s("Status"), s("Claim"), s("StorageClass"), s("VolumeAttributesClass"), s("Reason"), AGE, w("VolumeMode")], cluster::pv;
    PVC: [NAME, s("Status"), s("Volume"), s("Capacity"), s("Access Modes"), s("StorageClass"), s("VolumeAttributesClass"), AGE, w("VolumeMode")], cluster::pvc;
    COMPONENT_STATUS: [NAME, s("Status"), s("Message"), s("Error")], cluster::component_status;
    METRICS: [NAME, s("cpu"), s("memory"), s("Window")], cluster::metrics;
    ROLE_BINDING: [NAME, s("Role"), AGE, w("Users"), w("Groups"), w("ServiceAccounts")], cluster::role_binding;
    CLUSTER_ROLE_BINDING: [NAME, s("Role"), AGE, w("Users"), w("Groups"), w("ServiceAccounts")], cluster::role_binding;
    ROLE: [NAME, c("Created At", "date")], cluster::created_at;
    CLUSTER_ROLE: [NAME, c("Created At", "date")], cluster::created_at;
    LIMIT_RANGE: [NAME, c("Created At", "date")], cluster::created_at;
    CRD: [NAME, c("Created At", "date")], cluster::created_at;
    API_SERVICE: [NAME, s("Service"), s("Available"), AGE], cluster::api_service;
    CSR: [NAME, AGE, s("SignerName"), s("Requestor"), s("RequestedDuration"), s("Condition")], cluster::csr;
    LEASE: [NAME, s("Holder"), AGE], cluster::lease;
    STORAGE_CLASS: [NAME, s("Provisioner"), s("ReclaimPolicy"), s("VolumeBindingMode"), s("AllowVolumeExpansion"), AGE], cluster::storage_class;
    VOLUME_ATTRIBUTES_CLASS: [NAME, s("DriverName"), AGE], cluster::volume_attributes_class;
    RESOURCE_QUOTA: [NAME, s("Request"), s("Limit"), AGE], cluster::resource_quota;
    PRIORITY_CLASS: [NAME, i("Value"), b("Global-Default"), AGE, s("PreemptionPolicy")], cluster::priority_class;
    RUNTIME_CLASS: [NAME, s("Handler"), AGE], cluster::runtime_class;
    VOLUME_ATTACHMENT: [NAME, ColumnDef { name: "Attacher", ..NAME }, s("PV"), s("Node"), b("Attached"), AGE], cluster::volume_attachment;
    CSI_NODE: [NAME, i("Drivers"), AGE], cluster::csi_node;
    CSI_DRIVER: [NAME, b("AttachRequired"), b("PodInfoOnMount"), b("StorageCapacity"), s("TokenRequests"), b("RequiresRepublish"), s("Modes"), AGE], cluster::csi_driver;
    WEBHOOK: [NAME, i("Webhooks"), AGE], cluster::webhook;
    VALIDATING_POLICY: [NAME, i("Validations"), s("ParamKind"), AGE], cluster::validating_policy;
    MUTATING_POLICY: [NAME, i("Mutations"), s("ParamKind"), AGE], cluster::mutating_policy;
    VALIDATING_POLICY_BINDING: [NAME, s("PolicyName"), s("ParamRef"), AGE], cluster::policy_binding;
    MUTATING_POLICY_BINDING: [NAME, s("PolicyName"), s("ParamRef"), AGE], cluster::policy_binding;
    FLOW_SCHEMA: [NAME, s("PriorityLevel"), s("MatchingPrecedence"), s("DistinguisherMethod"), AGE, s("MissingPL")], cluster::flow_schema;
    PRIORITY_LEVEL: [NAME, s("Type"), s("NominalConcurrencyShares"), s("Queues"), s("HandSize"), s("QueueLengthLimit"), AGE], cluster::priority_level;
    DEVICE_CLASS: [NAME, AGE], cluster::name_age;
    RESOURCE_CLAIM: [NAME, s("State"), AGE], cluster::resource_claim;
    RESOURCE_CLAIM_TEMPLATE: [NAME, AGE], cluster::name_age;
    RESOURCE_SLICE: [NAME, s("Node"), s("Driver"), s("Pool"), AGE], cluster::resource_slice;
}
