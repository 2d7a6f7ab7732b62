//! The proxy's plans as golden text: YAML in, nft commands out. `BLESS=1 cargo test -p network` writes them anew.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::k8s::api::core::v1::Service;
use api::k8s::api::discovery::v1::EndpointSlice;
use api::wire::Wire;
use network::nft::{Base, Family, Model, Protocol};
use network::proxy::choice::Place;
use network::proxy::plan::{Context, HostPort, plan, plan_service, service_owner};
use network::proxy::service::{ServiceInfo, SliceInfo};

fn context(family: Family) -> Context {
    let mut base = Base::new("navarch", family);
    base.cluster_nets = vec!["10.244.0.0/16".parse().unwrap(), "fd00:244::/56".parse().unwrap()];
    base.local_pod_nets = vec!["10.244.0.0/24".parse().unwrap()];
    let place = Place { node: "n1".into(), zone: None };
    Context { base, place, dns_address: Some("10.96.0.10".parse().unwrap()) }
}

fn read<K: Wire>(yaml: &str) -> K {
    K::from_tree(&serde_saphyr::from_str(yaml).unwrap()).unwrap()
}

fn objects(yaml: &str) -> (Vec<ServiceInfo>, Vec<SliceInfo>) {
    let (mut services, mut slices) = (Vec::new(), Vec::new());
    for document in yaml.split("\n---\n") {
        if document.contains("kind: EndpointSlice") {
            let slice: EndpointSlice = read(document);
            slices.extend(SliceInfo::parse(&slice));
        } else {
            let service: Service = read(document);
            services.extend(ServiceInfo::parse(&service));
        }
    }
    (services, slices)
}

fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/testdata").join(name)
}

#[track_caller]
fn expect(name: &str, text: &str) {
    let path = testdata(name);
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let wanted = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(wanted == text, "{} differs; BLESS=1 writes it anew. Now:\n{text}", path.display());
}

fn model_of(name: &str, family: Family) -> Model {
    let (services, slices) = objects(&std::fs::read_to_string(testdata(name)).unwrap());
    plan(&services, &slices, &[], &context(family))
}

#[track_caller]
fn check(name: &str, family: Family) {
    let text = model_of(&format!("{name}.yaml"), family).take_whole();
    // The fixed part is one golden of its own.
    let fixed = Model::new(context(family).base).take_whole();
    let fixed: Vec<&str> = fixed.lines().collect();
    let rest: String =
        text.lines().filter(|line| !fixed.contains(line)).map(|line| format!("{line}\n")).collect();
    expect(&format!("{name}.{}.nft", family.word()), &rest);
}

#[test]
fn fixed_part() {
    expect("fixed.ip.nft", &Model::new(context(Family::V4).base).take_whole());
    expect("fixed.ip6.nft", &Model::new(context(Family::V6).base).take_whole());
}

#[test]
fn cluster_addresses() {
    check("cluster", Family::V4);
    check("cluster", Family::V6);
}

#[test]
fn addresses_and_ports_for_the_outside() {
    check("outside", Family::V4);
}

#[test]
fn affinity() {
    check("affinity", Family::V4);
}

#[test]
fn host_ports() {
    let port = |protocol, host_address: Option<&str>, host_port| HostPort {
        protocol,
        host_address: host_address.map(|address| address.parse().unwrap()),
        host_port,
        pod_address: "10.244.0.9".parse().unwrap(),
        pod_port: 80,
    };
    let ports = vec![
        port(Protocol::Tcp, None, 8080),
        port(Protocol::Tcp, Some("127.0.0.1"), 8081),
        port(Protocol::Udp, Some("192.0.2.1"), 8081),
        port(Protocol::Tcp, Some("::1"), 8081),
    ];
    let pods = [("default/p".to_owned(), ports)];
    let mut empty = plan([].iter(), &[], &[], &context(Family::V4));
    let mut model = plan([].iter(), &[], &pods, &context(Family::V4));
    let fixed = empty.take_whole();
    let text: String = model
        .take_whole()
        .lines()
        .filter(|line| !fixed.lines().any(|other| other == *line))
        .map(|line| format!("{line}\n"))
        .collect();
    expect("host-ports.ip.nft", &text);
}

/// Every step of a rolling update and a change of affinity is one transaction of what changed.
#[test]
fn changes_are_small_and_end_where_a_whole_plan_ends() {
    let yaml = std::fs::read_to_string(testdata("affinity.yaml")).unwrap();
    let loose = yaml.replace("sessionAffinity: ClientIP", "sessionAffinity: None");
    let third = loose
        .replace("- {addresses: [10.244.0.5]", "- {addresses: [10.244.0.4]}\n- {addresses: [10.244.0.5]");
    let steps = [yaml.as_str(), &loose, &third, &loose, &yaml, ""];
    let context = context(Family::V4);
    let mut model = Model::new(context.base.clone());
    model.take_whole();
    let owner = service_owner("default/sticky");
    let mut story = String::new();
    for step in steps {
        if step.is_empty() {
            model.set(&owner, None);
        } else {
            let (services, slices) = objects(step);
            let slices: Vec<&SliceInfo> = slices.iter().collect();
            model.set(&owner, Some(plan_service(&services[0], &slices, &context).fragment));
        }
        story.push_str(&model.take_changes().join("# and then\n"));
        story.push_str("#\n");
        assert_eq!(model.take_changes(), [""; 0]);
        let mut fresh = if step.is_empty() {
            Model::new(context.base.clone())
        } else {
            let (services, slices) = objects(step);
            plan(&services, &slices, &[], &context)
        };
        let mut again = plan([].iter(), &[], &[], &context);
        std::mem::swap(&mut again, &mut fresh);
        assert_eq!(model.take_whole(), again.take_whole());
    }
    expect("changes.nft", &story);
}

/// Two Services may claim one address; the loser gets it when the winner goes.
#[test]
fn a_claim_passes_on() {
    let yaml = std::fs::read_to_string(testdata("outside.yaml")).unwrap();
    let (services, slices) = objects(&yaml);
    let context = context(Family::V4);
    let mut model = Model::new(context.base.clone());
    let of: Vec<&SliceInfo> = slices.iter().filter(|slice| slice.service == "default/door").collect();
    let fragment = plan_service(&services[0], &of, &context).fragment;
    let (first, second): (Arc<str>, Arc<str>) = ("a/a".into(), "b/b".into());
    model.set(&first, Some(fragment.clone()));
    let alone = model.take_whole();
    model.set(&second, Some(fragment));
    assert_eq!(model.take_changes(), [""; 0], "the first has everything already");
    model.set(&first, None);
    assert_eq!(model.take_changes(), [""; 0], "the second wants just the same");
    assert_eq!(model.take_whole(), alone.replace("a/a", "b/b"));
    model.set(&second, None);
    assert!(!model.take_changes().is_empty());
}

/// An external address that is another Service's cluster address takes nothing over: neither its traffic, nor its
/// refusals, whoever came first.
#[test]
fn an_external_address_gives_way_to_a_cluster_address() {
    let thief = "metadata: {name: thief, namespace: a}\nspec: {clusterIP: 10.96.0.99, externalIPs: [10.96.0.20], \
                 ports: [{name: http, port: 80}]}\n";
    let owner = "metadata: {name: web, namespace: default}\nspec: {clusterIP: 10.96.0.20, \
                 ports: [{name: http, port: 80}]}\n";
    let service = |yaml: &str| ServiceInfo::parse(&read(yaml)).unwrap();
    let slice = |service: &str| {
        let name = service.split('/').next_back().unwrap();
        let yaml = format!(
            "metadata: {{name: s, namespace: {}, labels: {{kubernetes.io/service-name: {name}}}}}\n\
             addressType: IPv4\nports: [{{name: http, port: 80}}]\nendpoints: [{{addresses: [10.244.0.5]}}]\n",
            service.split('/').next().unwrap()
        );
        SliceInfo::parse(&read(&yaml)).unwrap()
    };
    let lines = |slices: &[SliceInfo]| -> Vec<String> {
        let services = [service(thief), service(owner)];
        let text = plan(&services, slices, &[], &context(Family::V4)).take_whole();
        let about = |line: &&str| line.contains("-addresses { ") && line.contains("10.96.0.20");
        text.lines().filter(about).map(str::to_owned).collect()
    };
    let both = lines(&[slice("a/thief"), slice("default/web")]);
    assert!(both[0].contains("10.96.0.20 . tcp . 80 comment \"default/web\" : goto cluster/1"), "{both:?}");
    let thief_only = lines(&[slice("a/thief")]);
    assert!(
        thief_only[0].contains("closed-addresses { 10.96.0.20 . tcp . 80 : goto refuse"),
        "{thief_only:?}"
    );
    let owner_only = lines(&[slice("default/web")]);
    assert!(owner_only[0].contains("comment \"default/web\" : goto cluster/1"), "{owner_only:?}");
    assert!(!owner_only.iter().any(|line| line.contains("closed")), "{owner_only:?}");
}
