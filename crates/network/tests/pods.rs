//! Pods made by the real CNI plugins from our configuration, on one node and on several.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod lab;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use base::Clock;
use lab::{Lab, Seen};
use network::cni::{self, CniConfig, Wiring};
use network::nft::{Base, Family, Protocol};
use network::proxy::choice::Place;
use network::proxy::engine::{Engine, Inputs};
use network::proxy::health::Health;
use network::proxy::plan::Context;
use network::proxy::service::{Endpoint, ServiceInfo, ServicePort, SliceInfo};
use network::routes::{Between, NodeNet, RouteConfig, Router};
use network::{CleanupConfig, cleanup};

const PLUGINS: &str = "/usr/lib/cni";

fn possible() -> bool {
    let there = Path::new(PLUGINS).join("bridge").exists();
    if !there {
        eprintln!("skipped: needs containernetworking-plugins");
    }
    lab::possible() && there
}

/// What containerd does with a conflist: joins the namespace `pod` to the node. Returns the pod's address.
fn join(lab: &Lab, node: &str, pod: &str, config: &CniConfig, command: &str) -> Option<IpAddr> {
    let text = std::fs::read(config.conf_dir.join(&config.file_name)).unwrap();
    let list: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let mut plugin = list["plugins"][0].clone();
    plugin["name"] = list["name"].clone();
    plugin["cniVersion"] = list["cniVersion"].clone();
    let program = Path::new(PLUGINS).join(plugin["type"].as_str().unwrap());
    let (space, pod, command) = (format!("/run/netns/{}", lab.name(pod)), pod.to_owned(), command.to_owned());
    let output = lab.inside(node, move || {
        let mut child = Command::new(program)
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", pod)
            .env("CNI_NETNS", space)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", PLUGINS)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(plugin.to_string().as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    });
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let result: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    let net = result["ips"][0]["address"].as_str()?;
    net.split('/').next()?.parse().ok()
}

fn service(targets: &[IpAddr]) -> (ServiceInfo, SliceInfo) {
    let info = ServiceInfo {
        key: "default/web".into(),
        cluster_addresses: vec!["10.96.0.20".parse().unwrap()],
        external_addresses: Vec::new(),
        balancer_addresses: Vec::new(),
        ports: vec![ServicePort { name: String::new(), protocol: Protocol::Tcp, port: 80, node_port: None }],
        affinity_s: None,
        external_local: false,
        internal_local: false,
        source_ranges: Vec::new(),
        health_check_node_port: None,
    };
    let endpoint = |address: &IpAddr| Endpoint {
        address: *address,
        port: 8080,
        ready: true,
        serving: true,
        terminating: false,
        node: Some("a".into()),
        zones: Default::default(),
        nodes: Default::default(),
    };
    let ports = BTreeMap::from([((String::new(), Protocol::Tcp), targets.iter().map(endpoint).collect())]);
    (info, SliceInfo { service: "default/web".into(), ports })
}

fn context(net: &str) -> Context {
    let mut base = Base::new("navarch", Family::V4);
    base.cluster_nets = vec!["10.244.0.0/16".parse().unwrap()];
    base.local_pod_nets = vec![net.parse().unwrap()];
    Context { base, place: Place { node: "a".into(), zone: None }, dns_address: None }
}

fn apply(lab: &Lab, node: &str, net: &str, targets: &[IpAddr]) {
    let (info, slice) = service(targets);
    let mut inputs = Inputs::default();
    inputs.set_service("default/web", Some(info));
    inputs.set_slice("default/web", Some(slice));
    let mut engine = Engine::new("nft", vec![context(net)], Health::new(Clock::system()));
    engine.plan(&mut inputs);
    lab.block_on(node, move || async move { engine.apply().await.unwrap() });
    sysctls(lab, node);
}

fn sysctls(lab: &Lab, node: &str) {
    let name = lab.name(node);
    lab::sh(&format!(
        "ip netns exec {name} sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.route_localnet=1"
    ));
}

fn config(dir: &Path, wiring: Wiring) -> CniConfig {
    CniConfig {
        conf_dir: dir.join("net.d"),
        data_dir: Some(dir.join("leases")),
        wiring: Some(wiring),
        ..CniConfig::default()
    }
}

#[test]
fn pods_reach_each_other_and_themselves_with_either_wiring() {
    if !possible() {
        return;
    }
    for wiring in [Wiring::Bridge, Wiring::PointToPoint] {
        let lab = Lab::bare(&["a", "out", "p1", "p2"]);
        let (a, out) = (lab.name("a"), lab.name("out"));
        lab::sh(&format!(
            "ip -n {a} link add eth0 type veth peer name eth0 netns {out}
             ip -n {a} addr add 192.0.2.1/24 dev eth0; ip -n {a} link set eth0 up
             ip -n {out} addr add 192.0.2.2/24 dev eth0; ip -n {out} link set eth0 up"
        ));
        if wiring == Wiring::PointToPoint {
            // Where bridged packets pass the firewall, point to point must not be the one that needs it.
            lab::sh(&format!("ip netns exec {a} sysctl -qw net.bridge.bridge-nf-call-iptables=0 || true"));
        }
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path(), wiring);
        cni::write(&config, &["10.244.0.0/24".parse().unwrap()]).unwrap();
        let p1 = join(&lab, "a", "p1", &config, "ADD").unwrap();
        let p2 = join(&lab, "a", "p2", &config, "ADD").unwrap();
        lab.serve("p1", 8080);
        lab.serve("out", 8080);
        apply(&lab, "a", "10.244.0.0/24", &[p1]);
        assert_eq!(lab.tcp("p2", &format!("{p1}:8080")), Seen::Answer("p1".into(), p2), "{wiring:?}");
        assert_eq!(lab.tcp("p2", "10.96.0.20:80"), Seen::Answer("p1".into(), p2), "{wiring:?}");
        assert!(matches!(lab.tcp("p1", "10.96.0.20:80"), Seen::Answer(..)), "{wiring:?}: itself");
        assert!(matches!(lab.tcp("a", &format!("{p1}:8080")), Seen::Answer(..)), "{wiring:?}: from the node");
        // Outside knows nothing of pods: it sees the node.
        assert_eq!(
            lab.tcp("p2", "192.0.2.2:8080"),
            Seen::Answer("out".into(), "192.0.2.1".parse().unwrap()),
            "{wiring:?}"
        );
        join(&lab, "a", "p1", &config, "DEL");
        join(&lab, "a", "p2", &config, "DEL");
        gone_after_cleanup(&lab, config);
    }
}

/// Nothing is left of what was made: tables, links, routes, addresses, files.
fn gone_after_cleanup(lab: &Lab, config: CniConfig) {
    let conf = config.conf_dir.clone();
    let left = lab.block_on("a", move || async move {
        let config = CleanupConfig {
            cni: config,
            dns_addresses: vec!["10.96.0.10".parse().unwrap()],
            ..Default::default()
        };
        let first = cleanup(&config).await;
        [first, cleanup(&config).await].concat()
    });
    assert_eq!(left, [""; 0]);
    assert_eq!(std::fs::read_dir(conf).unwrap().count(), 0);
    let state = lab.inside("a", || {
        let show = |line: &str| {
            let output = Command::new("sh").args(["-c", line]).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        [
            show("nft list tables"),
            show("ip -brief link | grep -vE '^(lo|eth0)'"),
            show("ip route show proto 158"),
        ]
    });
    assert_eq!(state, ["", "", ""]);
}

fn node(name: &str, address: &str, net: &str) -> NodeNet {
    NodeNet {
        name: name.into(),
        addresses: vec![address.parse().unwrap()],
        pod_nets: vec![net.parse().unwrap()],
    }
}

/// Two nodes, a pod on each; `between` the nodes is one link or a router.
fn two_nodes(routed: bool) {
    let lab = Lab::bare(&["a", "b", "router", "p1", "p2"]);
    let (a, b, router) = (lab.name("a"), lab.name("b"), lab.name("router"));
    let b_address = if routed { "198.51.100.2" } else { "192.0.2.2" };
    if routed {
        lab::sh(&format!(
            "ip -n {router} link add e1 type veth peer name eth0 netns {a}
             ip -n {router} link add e2 type veth peer name eth0 netns {b}
             ip -n {router} addr add 192.0.2.254/24 dev e1; ip -n {router} addr add 198.51.100.254/24 dev e2
             ip -n {router} link set e1 up; ip -n {router} link set e2 up
             ip netns exec {router} sysctl -qw net.ipv4.ip_forward=1"
        ));
    } else {
        lab::sh(&format!("ip -n {a} link add eth0 type veth peer name eth0 netns {b}"));
    }
    lab::sh(&format!(
        "ip -n {a} addr add 192.0.2.1/24 dev eth0; ip -n {a} link set eth0 up
         ip -n {b} addr add {b_address}/24 dev eth0; ip -n {b} link set eth0 up"
    ));
    if routed {
        lab::sh(&format!(
            "ip -n {a} route add default via 192.0.2.254; ip -n {b} route add default via 198.51.100.254"
        ));
    }
    let nodes = [node("a", "192.0.2.1", "10.244.0.0/24"), node("b", b_address, "10.244.1.0/24")];
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let mut addresses = Vec::new();
    let mut configs = Vec::new();
    for (index, (place, pod)) in [("a", "p1"), ("b", "p2")].into_iter().enumerate() {
        let config = config(dirs[index].path(), Wiring::Bridge);
        cni::write(&config, &nodes[index].pod_nets).unwrap();
        addresses.push(join(&lab, place, pod, &config, "ADD").unwrap());
        lab.serve(pod, 8080);
        let all = nodes.clone();
        let route_config = RouteConfig {
            between: Between::Auto,
            service_nets: vec!["10.96.0.0/12".parse().unwrap()],
            ..Default::default()
        };
        lab.block_on(place, move || async move {
            let mut router = Router::new(place, route_config);
            router.apply(&all).await.unwrap();
            // Once more changes nothing and breaks nothing.
            router.apply(&all).await.unwrap();
        });
        configs.push(config);
    }
    let all = addresses.clone();
    apply(&lab, "a", "10.244.0.0/24", &all);
    apply(&lab, "b", "10.244.1.0/24", &all);
    // Pods see each other's own addresses across nodes.
    let seen = lab.tcp("p1", &format!("{}:8080", addresses[1]));
    assert_eq!(seen, Seen::Answer("p2".into(), addresses[0]), "routed: {routed}");
    for place in ["a", "b", "p1", "p2"] {
        let tries: Vec<Seen> = (0..20).map(|_| lab.tcp(place, "10.96.0.20:80")).collect();
        assert!(
            tries.iter().all(|seen| matches!(seen, Seen::Answer(..))),
            "{place}, routed: {routed}: {tries:?}"
        );
    }
    join(&lab, "a", "p1", &configs[0], "DEL");
    gone_after_cleanup(&lab, configs.remove(0));
}

/// Docker and ufw drop what they do not know.
#[test]
fn pods_pass_a_host_firewall_that_drops() {
    if !possible() {
        return;
    }
    if !Path::new("/usr/sbin/iptables").exists() {
        eprintln!("skipped: needs iptables");
        return;
    }
    let lab = Lab::bare(&["a", "out", "p1"]);
    let (a, out) = (lab.name("a"), lab.name("out"));
    lab::sh(&format!(
        "ip -n {a} link add eth0 type veth peer name eth0 netns {out}
         ip -n {a} addr add 192.0.2.1/24 dev eth0; ip -n {a} link set eth0 up
         ip -n {out} addr add 192.0.2.2/24 dev eth0; ip -n {out} link set eth0 up
         ip netns exec {a} iptables -P FORWARD DROP; ip netns exec {a} iptables -P INPUT DROP
         ip netns exec {a} iptables -A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT"
    ));
    let dir = tempfile::tempdir().unwrap();
    let config = config(dir.path(), Wiring::Bridge);
    cni::write(&config, &["10.244.0.0/24".parse().unwrap()]).unwrap();
    join(&lab, "a", "p1", &config, "ADD").unwrap();
    lab.serve("out", 8080);
    lab.serve("a", 8080);
    apply(&lab, "a", "10.244.0.0/24", &[]);
    assert_eq!(lab.tcp("p1", "192.0.2.2:8080"), Seen::Silence);
    let nodes = vec![node("a", "192.0.2.1", "10.244.0.0/24")];
    lab.block_on("a", move || async move {
        let mut router = Router::new("a", RouteConfig::default());
        router.apply(&nodes).await.unwrap();
        router.apply(&nodes).await.unwrap();
    });
    assert!(matches!(lab.tcp("p1", "192.0.2.2:8080"), Seen::Answer(..)));
    assert!(matches!(lab.tcp("p1", "192.0.2.1:8080"), Seen::Answer(..)));
    join(&lab, "a", "p1", &config, "DEL");
    let rules = |lab: &Lab| {
        let output =
            Command::new("ip").args(["netns", "exec", &lab.name("a"), "iptables", "-S"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().matches("navarch").count()
    };
    assert_eq!(rules(&lab), 3);
    lab.block_on("a", move || async move {
        cleanup(&CleanupConfig { cni: config, ..Default::default() }).await;
    });
    assert_eq!(rules(&lab), 0);
}

#[test]
fn pods_of_nodes_on_one_link() {
    if possible() {
        two_nodes(false);
    }
}

#[test]
fn pods_of_nodes_behind_a_router() {
    if possible() {
        two_nodes(true);
    }
}
