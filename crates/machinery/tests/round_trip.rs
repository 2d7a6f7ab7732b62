//! Generated objects of every kind survive JSON → protobuf → JSON → YAML, and no decoder panics on noise.

use api::k8s::api::{
    admissionregistration::v1 as admission, apps::v1 as apps, autoscaling::v2 as autoscaling,
    batch::v1 as batch, certificates::v1 as certificates, coordination::v1 as coordination, core::v1 as core,
    discovery::v1 as discovery, events::v1 as events, networking::v1 as networking, node::v1 as node,
    policy::v1 as policy, rbac::v1 as rbac, resource::v1 as resources, scheduling::v1 as scheduling,
    storage::v1 as storage,
};
use api::k8s::apiextensions_apiserver::pkg::apis::apiextensions::v1 as extensions;
use api::k8s::kube_aggregator::pkg::apis::apiregistration::v1 as aggregation;
use api::wire::Wire;
use machinery::codec::{canonical, json, proto, yaml};
use machinery::schema::sample::{Dice, Fill, object, resource};
use machinery::schema::{Schema, TypeFacts, facts};
use serde_json::Value;

fn kinds() -> impl Iterator<Item = (&'static TypeFacts, (&'static str, &'static str, &'static str))> {
    facts().types().iter().filter_map(|facts| Some((facts, *facts.gvks.first()?)))
}

#[test]
fn every_kind_survives_json_protobuf_and_yaml() {
    let mut dice = Dice::new(42);
    let mut checked = 0;
    for (facts, (group, version, kind)) in kinds() {
        // Neither stored nor sent as protobuf.
        if matches!(group, "audit.k8s.io" | "admission.k8s.io" | "meta.k8s.io") {
            continue;
        }
        if !facts.is_object() {
            continue;
        }
        for fill in [Fill::All, Fill::Some].repeat(4) {
            let mut first = resource(&mut dice, facts, fill).expect("a kind");
            let schema = Schema::Type(facts);
            canonical::canonicalize(schema, &mut first);
            let text = serde_json::to_vec(&first).expect("json");
            let decoded = json::decode(schema, &text).unwrap_or_else(|e| panic!("{kind}: {e}"));
            assert_eq!(decoded.strict_errors, Vec::<String>::new(), "{kind}");
            assert_eq!(decoded.value, first, "{kind}: canonical JSON reads as itself");
            let (again, unknown) =
                proto::decode_object(&proto::encode_object(facts, &first)).expect("protobuf");
            assert!(!unknown, "{kind} of {group}/{version}");
            assert_eq!(again, first, "{kind}: protobuf");
            let from_yaml = yaml::decode(schema, yaml::encode(&first).as_bytes()).expect("yaml").value;
            assert_eq!(from_yaml, first, "{kind}: yaml");
            checked += 1;
        }
    }
    assert!(checked > 1000, "{checked}");
}

#[test]
fn decoders_do_not_panic_on_noise() {
    let mut dice = Dice::new(7);
    let pods = facts().by_name("io.k8s.api.core.v1.Pod").expect("known");
    let samples: Vec<(Vec<u8>, Vec<u8>)> = (0..20)
        .map(|_| {
            let value = object(&mut dice, pods, Fill::Some);
            (serde_json::to_vec(&value).expect("json"), proto::encode_object(pods, &value))
        })
        .collect();
    for round in 0..1500 {
        let (text, message) = &samples[round % samples.len()];
        let (mut text, mut message) = (text.clone(), message.clone());
        for _ in 0..=dice.roll(4) {
            for bytes in [&mut text, &mut message] {
                let at = usize::try_from(dice.roll(bytes.len() as u64)).expect("small");
                let byte = u8::try_from(dice.roll(256)).expect("a byte");
                match dice.roll(4) {
                    0 => bytes[at] = byte,
                    1 => bytes.truncate(at.max(1)),
                    2 => bytes.insert(at, byte),
                    _ => {
                        bytes.remove(at);
                        bytes.push(byte);
                    }
                }
            }
        }
        let _ = json::decode(Schema::Type(pods), &text);
        let _ = json::decode_any(&text);
        let _ = yaml::decode_all(&text);
        let _ = proto::decode_object(&message);
        let _ = proto::decode(pods, &message);
        let _ = proto::read_watch_frame(&message);
    }
}

/// Reads a tree as the typed crate does and writes it again.
type Typed = fn(&Value) -> Result<Value, serde_json::Error>;

fn through<K: Wire>(tree: &Value) -> Result<Value, serde_json::Error> {
    K::from_tree(tree)?.to_tree()
}

macro_rules! typed {
    ($($module:ident: $($kind:ident)*;)*) => {
        &[$($((stringify!($kind), <$module::$kind as api::k8s::Resource>::API_VERSION, through::<$module::$kind> as Typed),)*)*]
    };
}

/// The stored kinds; the typed crate's code for them is compiled in `api` in any case.
const TYPED: &[(&str, &str, Typed)] = typed! {
    admission: MutatingAdmissionPolicy MutatingAdmissionPolicyBinding MutatingWebhookConfiguration
        ValidatingAdmissionPolicy ValidatingAdmissionPolicyBinding ValidatingWebhookConfiguration;
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
    networking: IPAddress Ingress IngressClass NetworkPolicy ServiceCIDR;
    node: RuntimeClass;
    policy: PodDisruptionBudget;
    rbac: ClusterRole ClusterRoleBinding Role RoleBinding;
    resources: DeviceClass ResourceClaim ResourceClaimTemplate ResourceSlice;
    scheduling: PriorityClass;
    storage: CSIDriver CSINode CSIStorageCapacity StorageClass VolumeAttachment VolumeAttributesClass;
};

/// The typed crate, written by others from the same API, reads every field that ours reads, and as the same.
#[test]
fn stored_kinds_decode_as_in_the_typed_crate() {
    let mut dice = Dice::new(5);
    let mut differing = Vec::new();
    for (kind, api_version, through) in TYPED {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let facts = facts().by_gvk(group, version, kind).expect("a kind of the table");
        let schema = Schema::Type(facts);
        for _ in 0..4 {
            let mut ours = object(&mut dice, facts, Fill::All);
            ours["apiVersion"] = (*api_version).into();
            ours["kind"] = (*kind).into();
            canonical::canonicalize(schema, &mut ours);
            match through(&ours) {
                Ok(mut theirs) => {
                    // It names the kind of a claim within a set, too, which no protobuf carries.
                    if let Some(claims) =
                        theirs.pointer_mut("/spec/volumeClaimTemplates").and_then(Value::as_array_mut)
                    {
                        claims.iter_mut().filter_map(Value::as_object_mut).for_each(|claim| {
                            claim.retain(|name, _| name != "kind" && name != "apiVersion");
                        });
                    }
                    // It writes empty required lists and objects that Go leaves out.
                    let theirs =
                        json::conform(schema, &theirs).expect("the typed crate's tree conforms").value;
                    if theirs != ours {
                        differing.push(format!(
                            "{kind} of {api_version}: {}",
                            first_difference(&ours, &theirs, "")
                        ));
                    }
                }
                Err(error) => differing.push(format!("{kind} of {api_version}: {error}")),
            }
        }
    }
    differing.sort();
    differing.dedup();
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}

fn first_difference(ours: &Value, theirs: &Value, path: &str) -> String {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            let names = a.keys().chain(b.keys());
            let null = Value::Null;
            let of =
                |map: &serde_json::Map<String, Value>, name: &str| map.get(name).unwrap_or(&null).clone();
            let differing = names.map(|name| (name, of(a, name), of(b, name))).find(|(_, a, b)| a != b);
            differing
                .map_or_else(String::new, |(name, a, b)| first_difference(&a, &b, &format!("{path}.{name}")))
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            let differing = a.iter().zip(b).enumerate().find(|(_, (a, b))| a != b);
            differing
                .map_or_else(String::new, |(at, (a, b))| first_difference(a, b, &format!("{path}[{at}]")))
        }
        _ => format!("{path}: {ours}, the typed crate {theirs}"),
    }
}

#[test]
fn a_list_of_a_million_objects_is_refused() {
    let pods = facts().by_name("io.k8s.api.core.v1.Pod").expect("known");
    let text = |count: usize| format!(r#"{{"spec":{{"containers":[{}{{}}]}}}}"#, "{},".repeat(count - 1));
    let read = |count: usize| json::decode(Schema::Type(pods), text(count).as_bytes()).map(|_| ());
    assert_eq!(read(50_000), Ok(()));
    assert_eq!(
        read(50_001).map_err(|e| e.to_string()),
        Err("\"containers\" has more than 50000 items".to_owned())
    );
    // The same as protobuf: empty messages of two bytes in the spec's field 2.
    let spec = [0x12, 0x00].repeat(60_000);
    let mut message = vec![0x12, 0xc0, 0xa9, 0x07];
    message.extend(spec);
    let error = proto::decode(pods, &message).expect_err("too many").to_string();
    assert_eq!(error, "proto: \"containers\" has more than 50000 items");
}

#[test]
fn quantities_from_protobuf_are_judged_and_spelled_alike() {
    let volumes = facts().by_name("io.k8s.api.core.v1.EmptyDirVolumeSource").expect("known");
    let message = |text: &str| {
        let length = u8::try_from(text.len()).expect("short");
        [&[0x12, length + 2, 0x0a, length], text.as_bytes()].concat()
    };
    for (text, expect) in
        [("0Gi", Some("0")), ("1024Mi", Some("1Gi")), ("1.5", Some("1500m")), ("x", None), ("1 Gi", None)]
    {
        let read = proto::decode(volumes, &message(text)).ok();
        assert_eq!(read.as_ref().and_then(|value| value["sizeLimit"].as_str()), expect, "{text}");
    }
}

#[test]
fn a_map_entry_of_protobuf_may_have_no_value() {
    let maps = facts().by_name("io.k8s.api.core.v1.ConfigMap").expect("known");
    let read =
        proto::decode(maps, &[0x1a, 0x03, 0x0a, 0x01, b'k', 0x12, 0x03, 0x0a, 0x01, b'k']).expect("reads");
    assert_eq!((&read["binaryData"]["k"], &read["data"]["k"]), (&Value::from(""), &Value::from("")));
}

#[test]
fn times_from_protobuf_have_years_that_text_can_tell() {
    let maps = facts().by_name("io.k8s.api.core.v1.ConfigMap").expect("known");
    let message = |seconds: i64| {
        let (mut left, mut varint) = (seconds.cast_unsigned(), Vec::new());
        while left >= 0x80 {
            varint.push(left.to_le_bytes()[0] | 0x80);
            left >>= 7;
        }
        varint.push(left.to_le_bytes()[0]);
        let wrap =
            |tag: u8, inner: &[u8]| [&[tag, u8::try_from(inner.len()).expect("short")], inner].concat();
        let time = wrap(0x42, &[&[0x08][..], &varint].concat());
        wrap(0x0a, &time)
    };
    for (seconds, expect) in [
        (-62_167_219_200, Some("0000-01-01T00:00:00Z")),
        (-62_167_219_201, None),
        (253_402_300_800, None),
        (i64::MIN, None),
    ] {
        let read = proto::decode(maps, &message(seconds)).ok();
        let told = read.as_ref().and_then(|value| value["metadata"]["creationTimestamp"].as_str());
        assert_eq!(told, expect, "{seconds}");
    }
}
