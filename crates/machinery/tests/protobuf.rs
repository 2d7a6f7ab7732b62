//! Our protobuf beside code that others generated from upstream's `.proto` files (`k8s-pb`): what we write, it reads,
//! and what it writes, we read as the same object. It is of v1.35, so that it drops what v1.36 brought: those paths
//! are listed here. Must not know how either codec works.

use k8s_pb::api::{
    admissionregistration::v1 as admission, apps::v1 as apps, autoscaling::v2 as autoscaling,
    batch::v1 as batch, certificates::v1 as certificates, coordination::v1 as coordination, core::v1 as core,
    discovery::v1 as discovery, events::v1 as events, flowcontrol::v1 as flowcontrol,
    networking::v1 as networking, node::v1 as node, policy::v1 as policy, rbac::v1 as rbac,
    resource::v1 as resources, scheduling::v1 as scheduling, storage::v1 as storage,
};
use k8s_pb::apiextensions_apiserver::pkg::apis::apiextensions::v1 as extensions;
use k8s_pb::kube_aggregator::pkg::apis::apiregistration::v1 as aggregation;
use machinery::codec::{canonical, proto};
use machinery::schema::sample::{Dice, Fill, object};
use machinery::schema::{Schema, facts};
use serde_json::Value;

/// Reads a message as the other code does and writes it again.
type Other = fn(&[u8]) -> Result<Vec<u8>, prost::DecodeError>;

fn through<M: prost::Message + Default>(message: &[u8]) -> Result<Vec<u8>, prost::DecodeError> {
    M::decode(message).map(|read| read.encode_to_vec())
}

macro_rules! others {
    ($($module:ident: $($kind:ident)*;)*) => {
        &[$($((
            stringify!($kind),
            <$module::$kind as k8s_pb::Resource>::API_VERSION,
            through::<$module::$kind> as Other,
        ),)*)*]
    };
}

/// The stored kinds that v1.35 has.
const OTHERS: &[(&str, &str, Other)] = others! {
    admission: MutatingWebhookConfiguration ValidatingAdmissionPolicy ValidatingAdmissionPolicyBinding
        ValidatingWebhookConfiguration;
    aggregation: APIService;
    apps: ControllerRevision DaemonSet Deployment ReplicaSet StatefulSet;
    autoscaling: HorizontalPodAutoscaler;
    batch: CronJob Job;
    certificates: CertificateSigningRequest;
    coordination: Lease;
    core: Binding ConfigMap Endpoints Event LimitRange Namespace Node PersistentVolume PersistentVolumeClaim Pod
        PodTemplate ReplicationController ResourceQuota Secret Service ServiceAccount;
    discovery: EndpointSlice;
    events: Event;
    extensions: CustomResourceDefinition;
    flowcontrol: FlowSchema PriorityLevelConfiguration;
    networking: IPAddress Ingress IngressClass NetworkPolicy ServiceCIDR;
    node: RuntimeClass;
    policy: PodDisruptionBudget;
    rbac: ClusterRole ClusterRoleBinding Role RoleBinding;
    resources: DeviceClass ResourceClaim ResourceClaimTemplate ResourceSlice;
    scheduling: PriorityClass;
    storage: CSIDriver CSINode CSIStorageCapacity StorageClass
        VolumeAttachment VolumeAttributesClass;
};

/// What v1.36 brought, by kind.
const NEWER: &[&str] = &[
    "CSIDriver.spec.preventPodSchedulingIfMissing",
    "CronJob.spec.jobTemplate.spec.template.spec.schedulingGroup",
    "DaemonSet.spec.template.spec.schedulingGroup",
    "Deployment.spec.template.spec.schedulingGroup",
    "Job.spec.template.spec.schedulingGroup",
    "Pod.spec.schedulingGroup",
    "Pod.status.containerStatuses[].allocatedResourcesStatus[].resources[].message",
    "Pod.status.containerStatuses[].volumeMounts[].volumeStatus",
    "Pod.status.ephemeralContainerStatuses[].allocatedResourcesStatus[].resources[].message",
    "Pod.status.ephemeralContainerStatuses[].volumeMounts[].volumeStatus",
    "Pod.status.initContainerStatuses[].allocatedResourcesStatus[].resources[].message",
    "Pod.status.initContainerStatuses[].volumeMounts[].volumeStatus",
    "Pod.status.nodeAllocatableResourceClaimStatuses",
    "PodTemplate.template.spec.schedulingGroup",
    "ReplicaSet.spec.template.spec.schedulingGroup",
    "ReplicationController.spec.template.spec.schedulingGroup",
    "ResourceSlice.spec.devices[].attributes.k0.bools",
    "ResourceSlice.spec.devices[].attributes.k0.ints",
    "ResourceSlice.spec.devices[].attributes.k0.strings",
    "ResourceSlice.spec.devices[].attributes.k0.versions",
    "ResourceSlice.spec.devices[].nodeAllocatableResourceMappings",
    "StatefulSet.spec.template.spec.schedulingGroup",
];

#[test]
fn messages_read_as_in_code_generated_by_others() {
    let mut dice = Dice::new(11);
    let (mut differing, mut dropped) = (Vec::new(), Vec::new());
    for (kind, api_version, through) in OTHERS {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let facts = facts().by_gvk(group, version, kind).expect("a kind of the table");
        let schema = Schema::Type(facts);
        for fill in [Fill::All, Fill::All, Fill::Some, Fill::Some] {
            let mut ours = object(&mut dice, facts, fill);
            canonical::canonicalize(schema, &mut ours);
            let again = through(&proto::encode(facts, &ours)).expect("the other code reads it");
            let mut theirs = proto::decode(facts, &again).expect("ours reads it");
            canonical::canonicalize(schema, &mut theirs);
            compare(kind, &ours, &theirs, &mut differing, &mut dropped);
        }
    }
    for list in [&mut differing, &mut dropped] {
        list.sort();
        list.dedup();
    }
    assert!(differing.is_empty(), "{}", differing.join("\n"));
    assert_eq!(dropped, NEWER, "{}", dropped.join("\n"));
}

/// Notes what differs, and apart from that what the other code does not know.
fn compare(path: &str, ours: &Value, theirs: &Value, differing: &mut Vec<String>, dropped: &mut Vec<String>) {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            let names: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for name in names {
                let path = format!("{path}.{name}");
                match (a.get(name), b.get(name)) {
                    (Some(a), Some(b)) => compare(&path, a, b, differing, dropped),
                    (Some(_), None) => dropped.push(path),
                    (None, _) => differing.push(format!("{path}: only the other code has it")),
                }
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).for_each(|(a, b)| compare(&format!("{path}[]"), a, b, differing, dropped));
        }
        _ if ours == theirs => {}
        _ => differing.push(format!("{path}: {ours}, the other code {theirs}")),
    }
}
