//! Requests that are hostile by what they say: deep, wide, huge, or larger than they look.

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use std::io::Write as _;

/// The most that the server reads of a body.
const LIMIT: usize = 3 * 1024 * 1024;
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const APPLY: &str = "application/apply-patch+yaml";

/// One request, sent again and again.
pub struct Shot {
    pub method: &'static str,
    /// `{n}` becomes the number of the request.
    pub path: String,
    pub media: &'static str,
    pub body: Vec<u8>,
    /// More header lines.
    pub extra: String,
}

fn shot(
    method: &'static str,
    path: impl Into<String>,
    media: &'static str,
    body: impl Into<Vec<u8>>,
) -> Shot {
    Shot { method, path: path.into(), media, body: body.into(), extra: String::new() }
}

/// Makes the requests of an attack.
type Make = fn() -> Vec<Shot>;

/// The attacks: name, how many parts of all bytes they get, the requests.
pub const ALL: &[(&str, u64, Make)] = &[
    ("deep JSON, YAML and protobuf", 3, deep),
    ("wide objects", 3, wide),
    ("bodies beyond the limit", 4, huge),
    ("YAML aliases and anchors", 2, aliases),
    ("patches that multiply", 3, patches),
    ("apply with huge field sets, many managers", 2, applies),
    ("selectors, parameters, headers", 1, heads),
    ("schemas and expressions", 2, schemas),
    ("compressed bodies", 1, compressed),
];

fn nest(open: &str, close: &str, limit: usize) -> String {
    let times = limit / (open.len() + close.len());
    format!("{}{}", open.repeat(times), close.repeat(times))
}

fn varint(mut value: usize, out: &mut Vec<u8>) {
    while value >= 128 {
        out.push(u8::try_from(value % 128).expect("below 128") | 128);
        value /= 128;
    }
    out.push(u8::try_from(value).expect("below 128"));
}

/// A message in a message: field 6 of a JSON schema is `not`-like; any number will do for depth.
fn deep_protobuf() -> Vec<u8> {
    let mut inner = Vec::new();
    while inner.len() < LIMIT / 64 {
        let mut outer = vec![0x12];
        varint(inner.len(), &mut outer);
        outer.append(&mut inner);
        inner = outer;
    }
    let mut out = b"k8s\0\x0a\x09\x0a\x02v1\x12\x03Pod\x12".to_vec();
    varint(inner.len(), &mut out);
    out.append(&mut inner);
    out
}

fn deep() -> Vec<Shot> {
    let limit = LIMIT - 200;
    let pod = |inner: String| {
        format!(r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"a"}},"spec":{inner}}}"#)
    };
    vec![
        shot("POST", PODS, JSON, nest("[", "]", limit)),
        shot("POST", PODS, JSON, pod(nest(r#"{"a":"#, "}", limit))),
        shot("POST", PODS, YAML, nest("[", "]", limit)),
        shot("POST", PODS, YAML, "- ".repeat(limit / 2)),
        shot("POST", PODS, YAML, (0..1_500).map(|at| format!("{}a:\n", " ".repeat(at))).collect::<String>()),
        shot("POST", PODS, PROTOBUF, deep_protobuf()),
        shot("POST", PODS, PROTOBUF, [b"k8s\0".as_slice(), &[0x0a; LIMIT - 300]].concat()),
    ]
}

fn entries(count: usize) -> Value {
    (0..count).map(|at| (format!("k{at}"), json!(""))).collect::<serde_json::Map<_, _>>().into()
}

fn wide() -> Vec<Shot> {
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{n}"}, "data": entries(200_000)});
    let labels = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "labels": entries(200_000)}});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"},
        "spec": {"containers": vec![json!({}); 900_000], "tolerations": vec![json!({}); 20_000]}});
    let terms = vec![json!({"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}); 20_000];
    let spread = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": [{"name": "a", "image": "a"}],
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}}});
    let unknown = format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"a"}},"x":[{}0]}}"#,
        "0,".repeat(1_400_000)
    );
    let repeated = format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"a"}},{}"x":0}}"#,
        "\"x\":0,".repeat(400_000)
    );
    let mut shots: Vec<Shot> = [map, labels, pod, spread]
        .into_iter()
        .map(|body| shot("POST", MAPS, JSON, body.to_string()))
        .collect();
    shots[2].path = PODS.to_owned();
    shots[3].path = PODS.to_owned();
    shots.push(shot("POST", format!("{MAPS}?fieldValidation=Strict"), JSON, unknown));
    shots.push(shot("POST", format!("{MAPS}?fieldValidation=Warn"), JSON, repeated));
    shots
}

fn huge() -> Vec<Shot> {
    let zeros = vec![b' '; 16 * LIMIT];
    vec![
        shot("POST", MAPS, JSON, zeros.clone()),
        shot("POST", PODS, YAML, zeros.clone()),
        shot("PATCH", format!("{MAPS}/a"), APPLY, zeros),
    ]
}

fn aliases() -> Vec<Shot> {
    let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned();
    (1..12)
        .for_each(|at| bomb += &format!("a{at}: &a{at} [{}]\n", vec![format!("*a{}", at - 1); 9].join(",")));
    let mut merges = "a0: &a0 {x: 1}\n".to_owned();
    (1..30_000)
        .for_each(|at| merges += &format!("a{at}: &a{at}\n  <<: [*a{}, *a{}]\n  y{at}: 1\n", at - 1, at / 2));
    let anchors: String = (0..150_000).map(|at| format!("a{at}: &b{at} c\n")).collect();
    let one = format!("a: &a [{}]\nb: [{}]\n", "x,".repeat(10_000), "*a,".repeat(10_000));
    [bomb, merges, anchors, one].into_iter().map(|body| shot("POST", MAPS, YAML, body)).collect()
}

fn patches() -> Vec<Shot> {
    let target = format!("{MAPS}/victim");
    let doubling: Vec<Value> =
        (0..60).map(|_| json!({"op": "copy", "from": "/data", "path": "/data/a"})).collect();
    let tests = vec![json!({"op": "test", "path": "/data/a", "value": "b"}); 40_000];
    let long = json!([{"op": "add", "path": "/a".repeat(1_000_000), "value": 1}]);
    let many = vec![json!({"op": "add", "path": "/metadata/labels", "value": entries(10)}); 9_999];
    let deep = nest(r#"{"data":"#, "}", LIMIT - 100);
    let order: Vec<Value> = (0..60_000).map(|at| json!({"name": format!("n{at}")})).collect();
    let strategic = json!({"spec": {"$setElementOrder/containers": order, "containers": order}});
    let delete = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": vec!["a"; 400_000]}});
    const PATCH: &str = "application/json-patch+json";
    vec![
        shot("PATCH", target.clone(), PATCH, json!(doubling).to_string()),
        shot("PATCH", target.clone(), PATCH, json!(tests).to_string()),
        shot("PATCH", target.clone(), PATCH, long.to_string()),
        shot("PATCH", target.clone(), PATCH, json!(many).to_string()),
        shot("PATCH", target.clone(), "application/merge-patch+json", deep),
        shot(
            "PATCH",
            format!("{PODS}/victim"),
            "application/strategic-merge-patch+json",
            strategic.to_string(),
        ),
        shot("PATCH", target, "application/strategic-merge-patch+json", delete.to_string()),
    ]
}

fn applies() -> Vec<Shot> {
    let map = |count: usize, name: &str| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": entries(count)})
            .to_string()
    };
    let path = |name: &str, manager: &str| format!("{MAPS}/{name}?fieldManager={manager}&force=true");
    vec![
        shot("PATCH", path("applied", "m"), APPLY, map(50_000, "applied")),
        shot("PATCH", path("shared", "m{n}"), APPLY, map(500, "shared")),
        shot("PATCH", path("few", "f{n}"), APPLY, map(20, "few")),
    ]
}

fn heads() -> Vec<Shot> {
    let selector = "a,".repeat(300_000);
    let values = format!("a+in+({})", vec!["b"; 100_000].join(","));
    let parameters: String = (0..40_000).map(|at| format!("p{at}=1&")).collect();
    let mut shots = vec![
        shot("GET", format!("{MAPS}?labelSelector={selector}a"), "", ""),
        shot("GET", format!("{MAPS}?labelSelector={values}"), "", ""),
        shot("GET", format!("{MAPS}?fieldSelector={}", "metadata.name!=a,".repeat(30_000)), "", ""),
        shot("GET", format!("{MAPS}?{parameters}limit=1"), "", ""),
        shot("GET", format!("{MAPS}/{}", "%2e%2e/".repeat(50_000)), "", ""),
        shot("GET", MAPS, "", ""),
        shot("GET", MAPS, "", ""),
        shot("DELETE", format!("{MAPS}?labelSelector=none"), JSON, nest("[", "]", 1 << 20)),
    ];
    shots[5].extra = format!("X-Long: {}\r\n", "a".repeat(900_000));
    shots[6].extra = format!("Accept: {}\r\n", "application/json;q=0.1;as=Table,".repeat(20_000));
    shots
}

fn schemas() -> Vec<Shot> {
    let definition = |name: &str, schema: Value| {
        json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{name}s.bench.example.com")},
            "spec": {"group": "bench.example.com", "scope": "Namespaced",
                "names": {"plural": format!("{name}s"), "singular": name, "kind": name.to_uppercase(), "listKind": format!("{name}List")},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}})
    };
    let mut deep = json!({"type": "string"});
    (0..100).for_each(|_| deep = json!({"type": "object", "properties": {"a": deep}}));
    let wide: serde_json::Map<String, Value> =
        (0..20_000).map(|at| (format!("p{at}"), json!({"type": "string", "pattern": "^(a+)+$"}))).collect();
    let lists = "[1,2,3,4,5,6,7,8,9]";
    let costly = (0..8).fold("true".to_owned(), |rule, at| format!("{lists}.all(x{at}, {rule})"));
    let rules = vec![json!({"rule": costly}); 200];
    let long = format!("{}true", "self.a == 1 && ".repeat(6_000));
    let regex = json!({"type": "object", "properties": {"a": {"type": "string", "pattern": "((a{1000}){1000}){1000}"},
        "b": {"type": "string", "pattern": "(x{0,900}y{0,900}){0,900}"}}});
    [
        definition("deep", deep),
        definition("wide", json!({"type": "object", "properties": wide})),
        definition("cost", json!({"type": "object", "x-kubernetes-validations": rules})),
        definition("long", json!({"type": "object", "properties": {"a": {"type": "integer"}}, "x-kubernetes-validations": [{"rule": long}]})),
        definition("regex", regex),
        definition("default", json!({"type": "object", "properties": {"a": {"type": "object", "default": {"x": "y".repeat(500_000)},
            "properties": {"x": {"type": "string", "default": "z".repeat(500_000)}}}}})),
    ]
    .into_iter()
    .map(|body| shot("POST", CRDS, JSON, body.to_string()))
    .collect()
}

fn compressed() -> Vec<Shot> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    let spaces = vec![b' '; 1 << 20];
    (0..1_000).for_each(|_| encoder.write_all(&spaces).expect("into memory"));
    let mut shot = shot("POST", MAPS, JSON, encoder.finish().expect("into memory"));
    shot.extra = "Content-Encoding: gzip\r\n".to_owned();
    vec![shot]
}
