//! The proxy's table in a real kernel, with real clients and servers in namespaces.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod lab;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use base::{Clock, Rng};
use lab::{Lab, Seen, ask};
use network::nft::{Base, Family, Protocol};
use network::proxy::choice::Place;
use network::proxy::engine::{Engine, Inputs};
use network::proxy::health::Health;
use network::proxy::plan::{Context, HostPort};
use network::proxy::service::{Endpoint, ServiceInfo, ServicePort, SliceInfo};

const VIP: &str = "10.96.0.20";

fn context() -> Context {
    let mut base = Base::new("navarch-test", Family::V4);
    base.cluster_nets = vec!["10.244.0.0/16".parse().unwrap()];
    base.local_pod_nets = vec!["10.244.0.0/24".parse().unwrap()];
    Context { base, place: Place { node: "n1".into(), zone: None }, dns_address: None }
}

fn service() -> ServiceInfo {
    let port =
        |protocol, name: &str, port, node_port| ServicePort { name: name.into(), protocol, port, node_port };
    ServiceInfo {
        key: "default/web".into(),
        cluster_addresses: vec![VIP.parse().unwrap()],
        external_addresses: vec!["198.51.100.7".parse().unwrap()],
        balancer_addresses: Vec::new(),
        ports: vec![port(Protocol::Tcp, "tcp", 80, Some(30080)), port(Protocol::Udp, "udp", 80, Some(30080))],
        affinity_s: None,
        external_local: false,
        internal_local: false,
        source_ranges: Vec::new(),
        health_check_node_port: None,
    }
}

fn endpoint(address: IpAddr, node: &str) -> Endpoint {
    Endpoint {
        address,
        port: 8080,
        ready: true,
        serving: true,
        terminating: false,
        node: Some(node.into()),
        zones: BTreeSet::new(),
        nodes: BTreeSet::new(),
    }
}

fn slice(pods: &[usize]) -> SliceInfo {
    let endpoints: Vec<Endpoint> = pods.iter().map(|pod| endpoint(Lab::pod(*pod), "n1")).collect();
    let ports = BTreeMap::from([
        (("tcp".to_owned(), Protocol::Tcp), endpoints.clone()),
        (("udp".to_owned(), Protocol::Udp), endpoints),
    ]);
    SliceInfo { service: "default/web".into(), ports }
}

/// A proxy on the lab's node.
struct Proxy<'a> {
    lab: &'a Lab,
    engine: Option<Engine>,
    inputs: Inputs,
}

impl<'a> Proxy<'a> {
    fn start(lab: &'a Lab) -> Proxy<'a> {
        let engine = Engine::new("nft", vec![context()], Health::new(Clock::system()));
        Proxy { lab, engine: Some(engine), inputs: Inputs::default() }
    }

    fn set(&mut self, service: ServiceInfo, pods: &[usize]) {
        self.inputs.set_service("default/web", Some(service));
        self.inputs.set_slice("default/web-1", Some(slice(pods)));
        self.apply();
    }

    fn apply(&mut self) {
        let mut engine = self.engine.take().unwrap();
        engine.plan(&mut self.inputs);
        self.engine = Some(self.lab.block_on("node", move || async move {
            engine.apply().await.unwrap();
            engine
        }));
    }

    /// What the kernel holds, without what it counts itself.
    fn kernel(&self) -> String {
        self.lab.nft("-s list table ip navarch-test")
    }
}

fn names(seen: &[Seen]) -> BTreeMap<String, usize> {
    let mut names = BTreeMap::new();
    for seen in seen {
        match seen {
            Seen::Answer(name, _) => *names.entry(name.clone()).or_insert(0) += 1,
            other => *names.entry(format!("{other:?}")).or_insert(0) += 1,
        }
    }
    names
}

fn answer(name: &str, from: &str) -> Seen {
    Seen::Answer(name.into(), from.parse().unwrap())
}

#[test]
fn traffic_is_spread_evenly_and_everyone_gets_in() {
    if !lab::possible() {
        return;
    }
    let lab = Lab::new(4);
    (1..=3).for_each(|pod| lab.serve(&format!("pod{pod}"), 8080));
    let mut proxy = Proxy::start(&lab);
    proxy.set(service(), &[1, 2, 3]);
    let tries: Vec<Seen> = (0..300).map(|_| lab.tcp("pod4", "10.96.0.20:80")).collect();
    let counts = names(&tries);
    assert_eq!(counts.len(), 3, "{counts:?}");
    assert!(counts.values().all(|count| (60..=140).contains(count)), "{counts:?}");
    assert!(
        tries.iter().all(|seen| matches!(seen, Seen::Answer(_, from) if *from == Lab::pod(4))),
        "{tries:?}"
    );
    assert_eq!(names(&(0..60).map(|_| lab.udp("pod4", "10.96.0.20:80")).collect::<Vec<_>>()).len(), 3);
    // From the node itself, from outside, at a node port on each address, at an external address.
    for (place, to) in [
        ("node", "10.96.0.20:80"),
        ("node", "192.0.2.1:30080"),
        ("node", "127.0.0.1:30080"),
        ("node", "10.244.0.1:30080"),
        ("outside", "192.0.2.1:30080"),
        ("outside", "198.51.100.7:80"),
        ("outside", "10.96.0.20:80"),
        ("pod4", "192.0.2.1:30080"),
        ("pod4", "198.51.100.7:80"),
    ] {
        for _ in 0..5 {
            assert!(matches!(lab.tcp(place, to), Seen::Answer(..)), "tcp from {place} to {to}");
            assert!(matches!(lab.udp(place, to), Seen::Answer(..)), "udp from {place} to {to}");
        }
    }
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    if !lab::possible() {
        return;
    }
    let lab = Lab::new(1);
    lab.serve("pod1", 8080);
    let mut proxy = Proxy::start(&lab);
    proxy.set(service(), &[1]);
    for to in ["10.96.0.20:80", "192.0.2.1:30080", "198.51.100.7:80"] {
        assert_eq!(lab.tcp("pod1", to), answer("pod1", "10.244.0.1"), "{to}");
        assert_eq!(lab.udp("pod1", to), answer("pod1", "10.244.0.1"), "{to}");
    }
}

#[test]
fn without_endpoints_clients_are_refused_at_once() {
    if !lab::possible() {
        return;
    }
    let lab = Lab::new(2);
    lab.serve("pod1", 8080);
    let mut proxy = Proxy::start(&lab);
    proxy.set(service(), &[]);
    let doors = [
        ("pod2", "10.96.0.20:80"),
        ("node", "10.96.0.20:80"),
        ("outside", "192.0.2.1:30080"),
        ("node", "127.0.0.1:30080"),
        ("outside", "198.51.100.7:80"),
    ];
    for (place, to) in doors {
        assert_eq!(lab.tcp(place, to), Seen::Refused, "tcp from {place} to {to}");
        assert_eq!(lab.udp(place, to), Seen::Refused, "udp from {place} to {to}");
    }
    // A port that the Service does not have.
    assert_eq!(lab.tcp("pod2", "10.96.0.20:81"), Seen::Refused);
    proxy.set(service(), &[1]);
    for (place, to) in doors {
        assert!(matches!(lab.tcp(place, to), Seen::Answer(..)), "tcp from {place} to {to}");
    }
    assert_eq!(lab.tcp("pod2", "10.96.0.20:81"), Seen::Refused);
}

#[test]
fn clients_stick_while_affinity_is_on() {
    if !lab::possible() {
        return;
    }
    let lab = Lab::new(4);
    (1..=3).for_each(|pod| lab.serve(&format!("pod{pod}"), 8080));
    let mut proxy = Proxy::start(&lab);
    let sticky = ServiceInfo { affinity_s: Some(60), ..service() };
    let loose = service();
    let hits = |to: &str| names(&(0..30).map(|_| lab.tcp("pod4", to)).collect::<Vec<_>>());
    for _ in 0..2 {
        proxy.set(sticky.clone(), &[1, 2, 3]);
        assert_eq!(hits("10.96.0.20:80").len(), 1);
        assert_eq!(hits("192.0.2.1:30080").len(), 1);
        proxy.set(loose.clone(), &[1, 2, 3]);
        assert_eq!(hits("10.96.0.20:80").len(), 3);
    }
    // The endpoint that a client stuck to goes: it gets another and stays there.
    proxy.set(sticky.clone(), &[1, 2, 3]);
    let stuck = hits("10.96.0.20:80").into_keys().next().unwrap();
    let others: Vec<usize> = (1..=3).filter(|pod| format!("pod{pod}") != stuck).collect();
    proxy.set(sticky.clone(), &others);
    let now = hits("10.96.0.20:80");
    assert!(now.len() == 1 && !now.contains_key(&stuck), "{now:?}");
    // Different clients spread.
    let spread: BTreeSet<String> = ["pod1", "pod2", "pod3", "pod4", "node", "outside"]
        .into_iter()
        .filter_map(|place| match lab.tcp(place, "10.96.0.20:80") {
            Seen::Answer(name, _) => Some(name),
            _ => None,
        })
        .collect();
    assert!(!spread.is_empty());
    // A short time-out is kept, and runs out.
    proxy.set(ServiceInfo { affinity_s: Some(1), ..service() }, &[1, 2, 3]);
    let mut all = BTreeSet::new();
    for _ in 0..12 {
        let two = [lab.tcp("pod4", "10.96.0.20:80"), lab.tcp("pod4", "10.96.0.20:80")];
        assert_eq!(names(&two).len(), 1);
        all.extend(names(&two).into_keys());
        std::thread::sleep(std::time::Duration::from_millis(1200));
        if all.len() > 1 {
            break;
        }
    }
    assert!(all.len() > 1, "12 expiries and always the same endpoint");
}

#[test]
fn local_traffic_keeps_its_source_and_stays() {
    if !lab::possible() {
        return;
    }
    let lab = Lab::new(2);
    lab.serve("pod1", 8080);
    let mut proxy = Proxy::start(&lab);
    let local = ServiceInfo { external_local: true, ..service() };
    let far = |node: &str| {
        let mut slice = slice(&[1]);
        slice.ports.values_mut().flatten().for_each(|endpoint| endpoint.node = Some(node.into()));
        slice
    };
    proxy.inputs.set_service("default/web", Some(local.clone()));
    proxy.inputs.set_slice("default/web-1", Some(far("n1")));
    proxy.apply();
    for to in ["192.0.2.1:30080", "198.51.100.7:80"] {
        assert_eq!(lab.tcp("outside", to), answer("pod1", "192.0.2.2"), "{to}");
        assert_eq!(lab.udp("outside", to), answer("pod1", "192.0.2.2"), "{to}");
    }
    // The only endpoint is on another node: nobody from outside gets in here, pods and the node itself do.
    proxy.inputs.set_slice("default/web-1", Some(far("n2")));
    proxy.apply();
    assert_eq!(lab.tcp("outside", "192.0.2.1:30080"), Seen::Silence);
    assert!(matches!(lab.tcp("pod2", "192.0.2.1:30080"), Seen::Answer(..)));
    assert!(matches!(lab.tcp("node", "192.0.2.1:30080"), Seen::Answer(..)));
    assert!(matches!(lab.tcp("pod2", "10.96.0.20:80"), Seen::Answer(..)));
    // The same for traffic inside.
    proxy.inputs.set_service("default/web", Some(ServiceInfo { internal_local: true, ..service() }));
    proxy.apply();
    assert_eq!(lab.tcp("pod2", "10.96.0.20:80"), Seen::Silence);
    proxy.inputs.set_slice("default/web-1", Some(far("n1")));
    proxy.apply();
    assert_eq!(lab.tcp("pod2", "10.96.0.20:80"), answer("pod1", "10.244.0.3"));
}

#[test]
fn a_udp_client_is_moved_when_its_endpoint_leaves() {
    if !lab::possible() {
        return;
    }
    let lab = Lab::new(3);
    lab.serve("pod1", 8080);
    lab.serve("pod2", 8080);
    let mut proxy = Proxy::start(&lab);
    proxy.set(service(), &[1]);
    let client = lab.udp_client("pod3", "10.96.0.20:80");
    let outside = lab.udp_client("outside", "192.0.2.1:30080");
    assert_eq!(ask(&client), answer("pod1", "10.244.0.4"));
    assert!(matches!(ask(&outside), Seen::Answer(name, _) if name == "pod1"));
    proxy.set(service(), &[2]);
    assert_eq!(ask(&client), answer("pod2", "10.244.0.4"));
    assert!(matches!(ask(&outside), Seen::Answer(name, _) if name == "pod2"));
    // An endpoint that stays keeps its clients.
    proxy.set(service(), &[1, 2]);
    (0..10).for_each(|_| assert_eq!(ask(&client), answer("pod2", "10.244.0.4")));
}

#[test]
fn host_ports_answer_on_the_node() {
    if !lab::possible() {
        return;
    }
    let lab = Lab::new(2);
    lab.serve("pod1", 8080);
    let mut proxy = Proxy::start(&lab);
    let port = |protocol, host_address: Option<&str>, host_port| HostPort {
        protocol,
        host_address: host_address.map(|address| address.parse().unwrap()),
        host_port,
        pod_address: Lab::pod(1),
        pod_port: 8080,
    };
    let ports = vec![
        port(Protocol::Tcp, None, 5000),
        port(Protocol::Udp, None, 5000),
        port(Protocol::Tcp, Some("127.0.0.1"), 5001),
        port(Protocol::Udp, Some("192.0.2.1"), 5001),
    ];
    proxy.inputs.set_host_ports("default/p", ports);
    proxy.apply();
    assert_eq!(lab.tcp("outside", "192.0.2.1:5000"), answer("pod1", "192.0.2.2"));
    assert_eq!(lab.udp("outside", "192.0.2.1:5000"), answer("pod1", "192.0.2.2"));
    assert_eq!(lab.tcp("pod2", "192.0.2.1:5000"), answer("pod1", "10.244.0.3"));
    assert!(matches!(lab.tcp("node", "127.0.0.1:5000"), Seen::Answer(..)));
    assert!(matches!(lab.tcp("node", "127.0.0.1:5001"), Seen::Answer(..)));
    assert!(matches!(lab.udp("outside", "192.0.2.1:5001"), Seen::Answer(..)));
    assert!(matches!(lab.tcp("pod1", "192.0.2.1:5000"), Seen::Answer(..)), "itself");
    assert_eq!(lab.tcp("outside", "192.0.2.1:5001"), Seen::Refused);
    proxy.inputs.set_host_ports("default/p", Vec::new());
    proxy.apply();
    assert_eq!(lab.tcp("outside", "192.0.2.1:5000"), Seen::Refused);
}

/// Whatever the series of changes, the kernel ends where a fresh proxy would take it; no change breaks a client.
#[test]
fn changes_end_where_a_restart_ends() {
    if !lab::possible() {
        return;
    }
    let lab = Lab::new(3);
    (1..=3).for_each(|pod| lab.serve(&format!("pod{pod}"), 8080));
    let mut proxy = Proxy::start(&lab);
    let rng = Rng::seeded(11);
    for step in 0..60 {
        let pods: Vec<usize> = (1..=3).filter(|_| rng.below(2) == 0).collect();
        let service = ServiceInfo {
            affinity_s: (rng.below(3) == 0).then_some(30),
            external_local: rng.below(2) == 0,
            internal_local: rng.below(4) == 0,
            ..service()
        };
        proxy.set(service.clone(), &pods);
        let expected = !pods.is_empty();
        assert_eq!(
            matches!(lab.tcp("node", "10.96.0.20:80"), Seen::Answer(..)),
            expected,
            "step {step} {pods:?}"
        );
        if step % 10 == 9 {
            let before = settled(&proxy.kernel());
            let mut fresh = Proxy::start(&lab);
            fresh.set(service, &pods);
            assert_eq!(before, settled(&fresh.kernel()), "step {step}");
        }
    }
    proxy.inputs.set_service("default/web", None);
    proxy.apply();
    let before = settled(&proxy.kernel());
    Proxy::start(&lab).apply();
    assert_eq!(before, settled(&proxy.kernel()));
}

/// A listing in an order of its own: maps are listed by hash, chains and sets by age; sticky clients left out.
fn settled(listing: &str) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    let mut block = String::new();
    for line in listing.lines().map(str::trim) {
        if block.starts_with("set affinity") && line.contains("timeout 30s") {
            continue;
        }
        if line.ends_with('{') {
            block = line.to_owned();
        }
        for part in line.trim_start_matches("elements = {").trim_end_matches('}').split(',') {
            lines.insert(format!("{block} {}", part.trim()));
        }
    }
    lines
}

/// A rolling update under load: endpoints come and go, connections never fail.
#[test]
fn no_connection_fails_while_endpoints_roll() {
    if !lab::possible() {
        return;
    }
    let lab = Lab::new(4);
    (1..=3).for_each(|pod| lab.serve(&format!("pod{pod}"), 8080));
    let mut proxy = Proxy::start(&lab);
    proxy.set(service(), &[1, 2, 3]);
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let load = {
        let stop = std::sync::Arc::clone(&stop);
        lab.inside("pod4", move || {
            std::thread::spawn(move || {
                let (mut good, mut bad) = (0, Vec::new());
                // Fewer than there are ports, for a port used twice within a minute is a trouble of its own.
                while !stop.load(std::sync::atomic::Ordering::Relaxed) && good < 20_000 {
                    match std::net::TcpStream::connect_timeout(
                        &"10.96.0.20:80".parse().unwrap(),
                        std::time::Duration::from_millis(900),
                    ) {
                        // To the end of the answer, so that the servers are never behind.
                        Ok(mut stream) => match std::io::Read::read_to_end(&mut stream, &mut Vec::new()) {
                            Ok(length) if length > 0 => good += 1,
                            other => bad.push(format!("{other:?}")),
                        },
                        Err(error) => bad.push(error.to_string()),
                    }
                }
                (good, bad)
            })
        })
    };
    for round in 0..100_usize {
        let pods: Vec<usize> = (1..=3).filter(|pod| round % 2 == 0 || *pod != 1 + (round / 2) % 3).collect();
        proxy.set(service(), &pods);
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let (good, bad) = load.join().unwrap();
    assert!(good > 100 && bad.is_empty(), "{good} connections, failures: {bad:?}");
}

#[test]
fn a_load_balancers_source_ranges() {
    if !lab::possible() {
        return;
    }
    let lab = Lab::new(2);
    lab.serve("pod1", 8080);
    let mut proxy = Proxy::start(&lab);
    let balanced = |range: &str| ServiceInfo {
        balancer_addresses: vec!["198.51.100.7".parse().unwrap()],
        source_ranges: vec![range.parse().unwrap()],
        ..service()
    };
    proxy.set(balanced("192.0.2.0/24"), &[1]);
    assert!(matches!(lab.tcp("outside", "198.51.100.7:80"), Seen::Answer(..)));
    proxy.set(balanced("203.0.113.0/24"), &[1]);
    assert_eq!(lab.tcp("outside", "198.51.100.7:80"), Seen::Silence);
    assert!(matches!(lab.tcp("outside", "192.0.2.1:30080"), Seen::Answer(..)), "only the balancer's address");
}

/// Reloading another firewall may flush every table.
#[test]
fn a_flushed_table_is_made_anew() {
    if !lab::possible() {
        return;
    }
    let lab = Lab::new(2);
    lab.serve("pod1", 8080);
    let mut proxy = Proxy::start(&lab);
    proxy.set(service(), &[1]);
    lab.nft("flush ruleset");
    let mut engine = proxy.engine.take().unwrap();
    proxy.engine = Some(lab.block_on("node", move || async move {
        assert!(!engine.look_after().await);
        assert!(engine.apply().await.unwrap());
        assert!(engine.look_after().await);
        engine
    }));
    assert!(matches!(lab.tcp("pod2", "10.96.0.20:80"), Seen::Answer(..)));
}

/// Another node's neighbour must not reach what listens on this node's loopback only.
#[test]
fn loopback_stays_private() {
    if !lab::possible() {
        return;
    }
    let lab = Lab::new(1);
    lab.serve("node", 9000);
    let mut proxy = Proxy::start(&lab);
    proxy.set(service(), &[1]);
    assert!(matches!(lab.tcp("node", "127.0.0.1:9000"), Seen::Answer(..)));
    lab::sh(&format!(
        "ip -n {0} link set lo down; ip -n {0} route add 127.0.0.0/8 via 192.0.2.1 dev eth0 src 192.0.2.2
         ip netns exec {0} sysctl -qw net.ipv4.conf.all.route_localnet=1 net.ipv4.conf.eth0.route_localnet=1",
        lab.name("outside")
    ));
    assert_eq!(lab.tcp("outside", "127.0.0.1:9000"), Seen::Silence);
}

/// Ten thousand Services, thirty thousand endpoints: `cargo test -p network --release -- --ignored scale`.
#[test]
#[ignore = "a measurement"]
fn scale() {
    let lab = Lab::new(1);
    let mut proxy = Proxy::start(&lab);
    let clock = Clock::system();
    let address = |base: u32, n: u32| IpAddr::from(std::net::Ipv4Addr::from(base + n));
    let numbered = |n: u32| {
        let mut slice = slice(&[]);
        slice.service = format!("default/web-{n}");
        slice.ports.values_mut().for_each(|endpoints| {
            endpoints.extend((0..3).map(|k| endpoint(address(0x0af4_0000, n * 3 + k), "n2")));
        });
        let service = ServiceInfo {
            key: slice.service.clone(),
            cluster_addresses: vec![address(0x0a60_0100, n)],
            external_addresses: Vec::new(),
            ports: vec![ServicePort { node_port: None, ..service().ports[0].clone() }],
            ..service()
        };
        (service, slice)
    };
    for n in 0..10_000 {
        let (service, slice) = numbered(n);
        proxy.inputs.set_slice(&format!("default/web-{n}"), Some(slice));
        proxy.inputs.set_service(&service.key.clone(), Some(service));
    }
    let mut engine = proxy.engine.take().unwrap();
    let start = clock.monotonic();
    engine.plan(&mut proxy.inputs);
    println!("plan 10,000 services: {:?}", clock.monotonic() - start);
    proxy.engine = Some(engine);
    let start = clock.monotonic();
    proxy.apply();
    println!("apply them: {:?}", clock.monotonic() - start);
    for round in 0..5 {
        let (_, mut slice) = numbered(4711);
        slice.ports.values_mut().for_each(|endpoints| drop(endpoints.remove(round % 3)));
        proxy.inputs.set_slice("default/web-4711", Some(slice));
        let start = clock.monotonic();
        proxy.apply();
        println!("one endpoint changes: {:?}", clock.monotonic() - start);
    }
}

/// The API server's own Service leads to the node itself.
#[test]
fn an_endpoint_on_the_nodes_own_network() {
    if !lab::possible() {
        return;
    }
    let lab = Lab::new(1);
    lab.serve("node", 8080);
    let mut proxy = Proxy::start(&lab);
    let mut own = slice(&[]);
    own.ports.values_mut().for_each(|endpoints| endpoints.push(endpoint("192.0.2.1".parse().unwrap(), "n1")));
    proxy.inputs.set_service("default/web", Some(service()));
    proxy.inputs.set_slice("default/web-1", Some(own));
    proxy.apply();
    for (place, to) in [
        ("node", "10.96.0.20:80"),
        ("node", "127.0.0.1:30080"),
        ("node", "192.0.2.1:30080"),
        ("pod1", "10.96.0.20:80"),
        ("pod1", "192.0.2.1:30080"),
        ("outside", "192.0.2.1:30080"),
    ] {
        assert!(matches!(lab.tcp(place, to), Seen::Answer(..)), "tcp from {place} to {to}");
        // A UDP server on all addresses answers a pod from the bridge's address, which no table can mend.
        if place != "pod1" {
            assert!(matches!(lab.udp(place, to), Seen::Answer(..)), "udp from {place} to {to}");
        }
    }
}
