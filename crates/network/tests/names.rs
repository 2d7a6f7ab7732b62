//! The cluster's resolver in a node's namespace, asked by pods and by the node.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod lab;

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use base::{Clock, Rng, Tasks};
use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use lab::Lab;
use network::dns::{DnsConfig, Port, Server, ServiceNames};
use network::nft::{Base, Family, Protocol};
use network::proxy::choice::Place;
use network::proxy::engine::{Engine, Inputs};
use network::proxy::health::Health;
use network::proxy::plan::Context;
use network::proxy::service::{ServiceInfo, ServicePort};

const ADDRESS: &str = "10.96.0.10";

fn question() -> Vec<u8> {
    let mut message = Message::new(9, MessageType::Query, OpCode::Query);
    let name = Name::from_ascii("web.default.svc.cluster.local.").unwrap();
    message.queries.push(Query::query(name, RecordType::A));
    message.to_vec().unwrap()
}

fn answered(bytes: &[u8]) -> String {
    Message::from_vec(bytes).unwrap().answers[0].data.to_string()
}

fn by_udp() -> String {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    socket.connect((ADDRESS, 53)).unwrap();
    socket.send(&question()).unwrap();
    let mut buffer = [0; 2000];
    let length = socket.recv(&mut buffer).unwrap();
    answered(&buffer[..length])
}

fn by_tcp() -> String {
    let to: SocketAddr = format!("{ADDRESS}:53").parse().unwrap();
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(3)).unwrap();
    let bytes = question();
    stream.write_all(&u16::try_from(bytes.len()).unwrap().to_be_bytes()).unwrap();
    stream.write_all(&bytes).unwrap();
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer).unwrap();
    answered(&answer)
}

/// The DNS Service as it is in every cluster, without endpoints, since no pod serves it.
fn service() -> ServiceInfo {
    let port =
        |name: &str, protocol, port| ServicePort { name: name.into(), protocol, port, node_port: None };
    ServiceInfo {
        key: "kube-system/kube-dns".into(),
        cluster_addresses: vec![ADDRESS.parse().unwrap()],
        external_addresses: Vec::new(),
        balancer_addresses: Vec::new(),
        ports: vec![port("dns", Protocol::Udp, 53), port("dns-tcp", Protocol::Tcp, 53)],
        affinity_s: None,
        external_local: false,
        internal_local: false,
        source_ranges: Vec::new(),
        health_check_node_port: None,
    }
}

#[test]
fn pods_and_the_node_ask_at_the_services_address() {
    if !lab::possible() {
        return;
    }
    let lab = Lab::new(1);
    let address: IpAddr = ADDRESS.parse().unwrap();
    let (started, ready) = std::sync::mpsc::channel();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    lab.inside("node", move || {
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let config = DnsConfig::new(address);
                let server = Arc::new(Server::new(&config, Clock::system(), Rng::seeded(3)).unwrap());
                let ports = vec![Port { name: "http".into(), protocol: Protocol::Tcp, number: 80 }];
                let addresses = vec!["10.96.0.20".parse().unwrap()];
                let names = ServiceNames { addresses, ports, ..ServiceNames::default() };
                server.update(|zone| zone.set_service("default", "web", Some(names)));
                server.complete();
                // Twice: the address may be there from an earlier run.
                let tasks = Tasks::new();
                server.listen(&config, &tasks).await.unwrap();
                assert!(tasks.drain(Duration::from_secs(3)).await);
                let tasks = Tasks::new();
                server.listen(&config, &tasks).await.unwrap();
                started.send(()).unwrap();
                let _ = stopped.await;
                tasks.drain(Duration::from_secs(3)).await;
            });
        })
    });
    ready.recv_timeout(Duration::from_secs(5)).unwrap();
    let mut base = Base::new("navarch", Family::V4);
    base.cluster_nets = vec!["10.244.0.0/16".parse().unwrap()];
    let place = Place { node: "n1".into(), zone: None };
    let context = Context { base, place, dns_address: Some(address) };
    let mut inputs = Inputs::default();
    inputs.set_service("kube-system/kube-dns", Some(service()));
    let mut engine = Engine::new("nft", vec![context], Health::new(Clock::system()));
    engine.plan(&mut inputs);
    lab.block_on("node", move || async move { engine.apply().await.unwrap() });
    for place in ["pod1", "node", "outside"] {
        assert_eq!(lab.inside(place, by_udp), "10.96.0.20", "{place}");
        assert_eq!(lab.inside(place, by_tcp), "10.96.0.20", "{place}");
    }
    drop(stop);
}
