//! Small languages: selectors, quantities, durations, times, names, JSONPath.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use api::{Quantity, fields, labels, names};
use machinery::codec::scalar;
use machinery::jsonpath::Template;
use machinery::schema::sample::{Dice, Fill, resource};
use machinery::schema::{Scalar, facts};
use serde_json::{Value, json};

use crate::Target;

/// See [`Target`].
pub const TARGETS: &[Target] = &[
    Target { name: "selector", run: run_selector, seeds: selector_seeds, words: selector_words },
    Target { name: "scalar", run: run_scalar, seeds: scalar_seeds, words: scalar_words },
    Target { name: "jsonpath", run: run_jsonpath, seeds: jsonpath_seeds, words: jsonpath_words },
];

fn seeds(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(String::from).collect()
}

fn run_selector(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let one = BTreeMap::from([("a".to_owned(), "1".to_owned()), ("b/c".to_owned(), String::new())]);
    if let Ok(selector) = labels::Selector::parse(text) {
        let printed = selector.to_string();
        let again = labels::Selector::parse(&printed).expect("a printed selector is one");
        assert_eq!(again, selector, "{printed}");
        assert_eq!(again.matches(&one), selector.matches(&one));
    }
    if let Ok(selector) = fields::Selector::parse(text) {
        let found = selector.matches(|name| one.get(name).map(String::as_str));
        let exact = selector.0.iter().all(|r| (one.get(&r.field).map_or("", |v| v) == r.value) == r.equal);
        assert_eq!(found, exact);
    }
}

fn run_scalar(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(quantity) = text.parse::<Quantity>() {
        let printed = quantity.to_string();
        let again: Quantity = printed.parse().expect("a printed quantity is one");
        assert_eq!(again, quantity, "{printed}");
        assert_eq!(again.to_string(), printed, "printed twice");
        let _ = (quantity.value(), quantity.milli_value(), quantity.as_f64());
        let _ = (quantity.add(&again), quantity.sub(&again));
    }
    if let Ok(nanos) = scalar::parse_duration(text) {
        assert_eq!(scalar::parse_duration(&scalar::format_duration(nanos)), Ok(nanos));
    }
    if let Some(time) = api::time::parse(text) {
        let _ = api::time::format_micro(time);
        let printed = api::time::format(time);
        if let Some(again) = api::time::parse(&printed) {
            assert_eq!(api::time::format(again), printed);
        }
    }
    for kind in [
        Scalar::Quantity,
        Scalar::Time,
        Scalar::MicroTime,
        Scalar::Duration,
        Scalar::IntOrString,
        Scalar::Bytes,
    ] {
        if let Ok(value) = scalar::from_json(kind, json!(text), None) {
            assert_eq!(scalar::from_json(kind, value.clone(), None).expect("canonical"), value, "{kind:?}");
        }
    }
    let checks = [
        names::dns1123_label,
        names::dns1123_subdomain,
        names::dns1035_label,
        names::qualified_name,
        names::label_value,
        names::env_var_name,
        names::config_map_key,
        names::port_name,
        names::path_segment,
        names::ip,
        names::wildcard_dns1123_subdomain,
    ];
    checks.iter().for_each(|check| drop(check(text)));
    let _ = api::validation::go_quote(text);
}

fn run_jsonpath(data: &[u8]) {
    static POD: OnceLock<Value> = OnceLock::new();
    let pods = facts().by_name("io.k8s.api.core.v1.Pod").expect("a type of the table");
    let pod = POD.get_or_init(|| resource(&mut Dice::new(3), pods, Fill::All).expect("a kind"));
    let Ok(text) = std::str::from_utf8(data) else { return };
    for template in [Template::parse(text), Template::parse_relaxed(text)].into_iter().flatten() {
        for missing in [true, false] {
            let _ = template.execute(pod, missing);
            let _ = template.find(pod, missing);
        }
    }
}

fn selector_seeds() -> Vec<Vec<u8>> {
    seeds(&[
        "a=b,c!=d,e in (f,g),h,!i,j>3,k<4,l notin (m, ,n)",
        "a",
        "",
        "x/y in (),z==1",
        "metadata.name=a,b!=c\\,d",
        "a.b=\\=\\\\",
    ])
}

fn selector_words() -> Vec<String> {
    words("= == != in notin ( ) , ! > < \\, \\= metadata.name a/b in( notin(")
}

fn scalar_seeds() -> Vec<Vec<u8>> {
    seeds(&[
        "1.5Gi",
        "-100m",
        "+.5e3",
        "12E-6",
        "9223372036854775807n",
        "1h30m1.5s",
        "-250ms",
        "10us",
        "2030-01-02T03:04:05.000006Z",
        "2030-01-02T03:04:05+07:30",
        "a-b.c/d_e",
        "*.a.b",
        "10.0.0.1",
        "::ffff:1.2.3.4",
        "Zm9v",
    ])
}

fn scalar_words() -> Vec<String> {
    words(
        "n u m k M G T P E Ki Mi Gi Ti Pi Ei e3 e-3 ns us µs ms s h T00:00:00Z +00:00 0.000000001 9223372036854775807",
    )
}

fn jsonpath_seeds() -> Vec<Vec<u8>> {
    seeds(&[
        "{.metadata.name}",
        "{range .spec.containers[*]}{.name}{\"\\t\"}{end}",
        "{..name}",
        "{.spec.containers[0:2:1].image}",
        "{.spec.containers[?(@.name==\"a\")].image}",
        "{.metadata.labels.a\\.b}{['spec','status']}",
        "{.items[-1:]}{$}{@}",
        ".spec.containers[?(@.ports[0].containerPort>=80)]",
        "{.spec.containers[?(!@.x && 1 < 2 || true)]}",
    ])
}

fn jsonpath_words() -> Vec<String> {
    words(
        "{range {end} .. [*] [?(@. )] == != >= <= && || ['  '] [0] [-1] [0:1:2] {. } \\. $ @ .metadata .spec.containers",
    )
}
