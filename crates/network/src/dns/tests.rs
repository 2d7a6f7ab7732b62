//! Questions and answers, and the server on real sockets.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use api::wire::Wire;
use base::{Clock, Rng, Tasks};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::*;

const CLUSTER: &str = "
kind: Service
metadata: {name: web, namespace: default}
spec: {clusterIP: 10.96.0.20, clusterIPs: [10.96.0.20, 'fd00::20'], ports: [{name: http, port: 80}, {name: dns, port: 53, protocol: UDP}]}
---
kind: Service
metadata: {name: db, namespace: data}
spec: {clusterIP: None, ports: [{name: sql, port: 5432}]}
---
kind: EndpointSlice
metadata: {name: db-1, namespace: data, labels: {kubernetes.io/service-name: db}}
addressType: IPv4
ports: [{name: sql, port: 5432, protocol: TCP}]
endpoints:
- {addresses: [10.244.0.5], hostname: db-0}
- {addresses: [10.244.0.6], hostname: db-1, conditions: {ready: true}}
- {addresses: [10.244.0.7], conditions: {ready: false}}
- {addresses: [10.244.0.8]}
---
kind: Service
metadata: {name: empty, namespace: data}
spec: {clusterIP: None, ports: [{port: 80}]}
---
kind: Service
metadata: {name: inside, namespace: default}
spec: {type: ExternalName, externalName: db.data.svc.cluster.local}
---
kind: Service
metadata: {name: outside, namespace: default}
spec: {type: ExternalName, externalName: www.Example.org.}
---
kind: Service
metadata: {name: circle, namespace: default}
spec: {type: ExternalName, externalName: circle.default.svc.cluster.local}
";

fn read<K: Wire>(yaml: &str) -> K {
    K::from_tree(&serde_saphyr::from_str(yaml).unwrap()).unwrap()
}

fn fill(zone: &mut Zone, yaml: &str) {
    for document in yaml.split("---\n") {
        if document.contains("kind: EndpointSlice") {
            let slice = read(&format!("apiVersion: discovery.k8s.io/v1\n{document}"));
            zone.set_slice(&key_of(&slice), SliceNames::parse(&slice));
        } else {
            let service: Service = read(&format!("apiVersion: v1\n{document}"));
            zone.set_service(service.namespace(), service.name(), Some(ServiceNames::parse(&service)));
        }
    }
}

fn config() -> DnsConfig {
    let nets = vec!["10.96.0.0/12".parse().unwrap(), "10.244.0.0/16".parse().unwrap()];
    DnsConfig { cluster_nets: nets, ..DnsConfig::new("10.96.0.10".parse().unwrap()) }
}

fn server(config: &DnsConfig) -> Arc<Server> {
    let server = Server::new(config, Clock::system(), Rng::seeded(1)).unwrap();
    server.update(|zone| fill(zone, CLUSTER));
    server.complete();
    Arc::new(server)
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(0, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.queries.push(Query::query(Name::from_ascii(format!("{name}.")).unwrap(), kind));
    message
}

fn show(message: &Message) -> String {
    let line = |record: &Record| format!("{} {}", record.name, record.data);
    let mut lines: Vec<String> = message.answers.iter().map(line).collect();
    if message.metadata.response_code != ResponseCode::NoError {
        lines.insert(0, message.metadata.response_code.to_string());
    }
    if message.authorities.iter().any(|record| record.record_type() == RecordType::SOA) {
        lines.push("soa".into());
    }
    lines.extend(message.additionals.iter().map(|record| format!("+ {}", line(record))));
    lines.join("\n")
}

/// `expect`: answers one a line as `name data`, then `soa` for a negative answer, then extra records after `+`;
/// a failure's name first; `forward NAME` for what is asked elsewhere.
#[track_caller]
fn check(name: &str, kind: RecordType, expect: &str) {
    let config = config();
    let server = server(&config);
    let got = match answer(&question(name, kind), &server.zone.read(), &server.rules) {
        Step::Reply(message) => show(&message),
        Step::Forward(query) => format!("forward {}", query.name),
        Step::Chase(message, query) => format!("{}\nforward {}", show(&message), query.name),
        Step::Ignore => "ignored".into(),
    };
    let expect: Vec<&str> = expect.lines().map(str::trim).collect();
    assert_eq!(got, expect.join("\n"), "{name} {kind}");
}

#[test]
fn services() {
    use RecordType::{A, AAAA, ANY, MX, TXT};
    check("web.default.svc.cluster.local", A, "web.default.svc.cluster.local. 10.96.0.20");
    check("WEB.default.svc.Cluster.local", A, "WEB.default.svc.Cluster.local. 10.96.0.20");
    check("web.default.svc.cluster.local", AAAA, "web.default.svc.cluster.local. fd00::20");
    check("web.default.svc.cluster.local", MX, "soa");
    check("web.other.svc.cluster.local", A, "Non-Existent Domain\nsoa");
    check("db.data.svc.cluster.local", AAAA, "soa");
    check("empty.data.svc.cluster.local", A, "soa");
    check("data.svc.cluster.local", A, "soa");
    check("nobody.svc.cluster.local", A, "Non-Existent Domain\nsoa");
    check("svc.cluster.local", A, "soa");
    check("cluster.local", A, "soa");
    check("www.google.com.default.svc.cluster.local", A, "Non-Existent Domain\nsoa");
    check("www.google.com.cluster.local", A, "Non-Existent Domain\nsoa");
    check("dns-version.cluster.local", TXT, "dns-version.cluster.local. 1.1.0");
    check("ns.dns.cluster.local", A, "ns.dns.cluster.local. 10.96.0.10");
    check(
        "web.default.svc.cluster.local",
        ANY,
        "web.default.svc.cluster.local. 10.96.0.20\nweb.default.svc.cluster.local. fd00::20",
    );
    check("www.example.org", A, "forward www.example.org.");
}

#[test]
fn headless_services() {
    use RecordType::A;
    check(
        "db.data.svc.cluster.local",
        A,
        "db.data.svc.cluster.local. 10.244.0.5
         db.data.svc.cluster.local. 10.244.0.6
         db.data.svc.cluster.local. 10.244.0.8",
    );
    check("db-0.db.data.svc.cluster.local", A, "db-0.db.data.svc.cluster.local. 10.244.0.5");
    check("10-244-0-8.db.data.svc.cluster.local", A, "10-244-0-8.db.data.svc.cluster.local. 10.244.0.8");
    check("db-9.db.data.svc.cluster.local", A, "Non-Existent Domain\nsoa");
}

#[test]
fn ports() {
    use RecordType::{A, SRV};
    check(
        "_http._tcp.web.default.svc.cluster.local",
        SRV,
        "_http._tcp.web.default.svc.cluster.local. 0 100 80 web.default.svc.cluster.local.
         + web.default.svc.cluster.local. 10.96.0.20
         + web.default.svc.cluster.local. fd00::20",
    );
    check("_http._udp.web.default.svc.cluster.local", SRV, "Non-Existent Domain\nsoa");
    check("_http._tcp.web.default.svc.cluster.local", A, "soa");
    check("_tcp.web.default.svc.cluster.local", SRV, "soa");
    check(
        "_sql._tcp.db.data.svc.cluster.local",
        SRV,
        "_sql._tcp.db.data.svc.cluster.local. 0 33 5432 10-244-0-8.db.data.svc.cluster.local.
         _sql._tcp.db.data.svc.cluster.local. 0 33 5432 db-0.db.data.svc.cluster.local.
         _sql._tcp.db.data.svc.cluster.local. 0 33 5432 db-1.db.data.svc.cluster.local.
         + 10-244-0-8.db.data.svc.cluster.local. 10.244.0.8
         + db-0.db.data.svc.cluster.local. 10.244.0.5
         + db-1.db.data.svc.cluster.local. 10.244.0.6",
    );
}

#[test]
fn aliases() {
    use RecordType::{A, CNAME};
    check("outside.default.svc.cluster.local", CNAME, "outside.default.svc.cluster.local. www.example.org.");
    check(
        "outside.default.svc.cluster.local",
        A,
        "outside.default.svc.cluster.local. www.example.org.\nforward www.example.org.",
    );
    check(
        "inside.default.svc.cluster.local",
        A,
        "inside.default.svc.cluster.local. db.data.svc.cluster.local.
         db.data.svc.cluster.local. 10.244.0.5
         db.data.svc.cluster.local. 10.244.0.6
         db.data.svc.cluster.local. 10.244.0.8",
    );
    check("circle.default.svc.cluster.local", A, "Server Failure");
}

#[test]
fn pods_and_reverse_names() {
    use RecordType::{A, PTR};
    check("10-244-3-4.default.pod.cluster.local", A, "10-244-3-4.default.pod.cluster.local. 10.244.3.4");
    check("nonsense.default.pod.cluster.local", A, "Non-Existent Domain\nsoa");
    check("20.0.96.10.in-addr.arpa", PTR, "20.0.96.10.in-addr.arpa. web.default.svc.cluster.local.");
    check("5.0.244.10.in-addr.arpa", PTR, "5.0.244.10.in-addr.arpa. db-0.db.data.svc.cluster.local.");
    check("99.0.244.10.in-addr.arpa", PTR, "Non-Existent Domain\nsoa");
    check("9.9.9.9.in-addr.arpa", PTR, "forward 9.9.9.9.in-addr.arpa.");
    check(
        "0.2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa",
        PTR,
        "0.2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa. web.default.svc.cluster.local.",
    );
}

#[test]
fn names_come_and_go() {
    let mut zone = Zone::default();
    fill(&mut zone, CLUSTER);
    let reverse = |zone: &Zone, address: &str| zone.names_of(address.parse().unwrap()).len();
    assert_eq!((reverse(&zone, "10.96.0.20"), reverse(&zone, "10.244.0.5")), (1, 1));
    zone.set_slice("data/db-1", None);
    assert_eq!(zone.find(&["db", "data", "svc"]), Found::Bare);
    assert_eq!(reverse(&zone, "10.244.0.5"), 0);
    zone.set_service("default", "web", None);
    assert_eq!(zone.find(&["web", "default", "svc"]), Found::Nothing);
    assert_eq!(reverse(&zone, "10.96.0.20"), 0);
    for name in ["inside", "outside", "circle"] {
        zone.set_service("default", name, None);
    }
    assert_eq!(zone.find(&["default", "svc"]), Found::Nothing);
}

#[test]
fn odd_requests() {
    let config = config();
    let server = server(&config);
    let code = |bytes: &[u8]| match server.react(bytes) {
        Reaction::Send(_, message) => Some(message.metadata.response_code),
        _ => None,
    };
    let mut message = question("web.default.svc.cluster.local", RecordType::A);
    message.metadata.op_code = OpCode::Notify;
    assert_eq!(code(&message.to_vec().unwrap()), Some(ResponseCode::NotImp));
    let mut message = question("web.default.svc.cluster.local", RecordType::A);
    message.queries.clear();
    assert_eq!(code(&message.to_vec().unwrap()), Some(ResponseCode::FormErr));
    message.metadata.message_type = MessageType::Response;
    assert_eq!(code(&message.to_vec().unwrap()), None);
    assert_eq!(code(b"short"), None);
    assert_eq!(code(&[1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 99, 1]), Some(ResponseCode::FormErr));
    assert_eq!(
        code(&question("cluster.local", RecordType::AXFR).to_vec().unwrap()),
        Some(ResponseCode::Refused)
    );
    // A pointer that points at itself.
    let mut bytes = question("web.default.svc.cluster.local", RecordType::A).to_vec().unwrap();
    bytes.splice(12.., [0xc0, 12, 0, 1, 0, 1]);
    assert_eq!(code(&bytes), Some(ResponseCode::FormErr));
}

#[test]
fn large_answers_are_cut_for_udp() {
    let config = config();
    let server = server(&config);
    let list: Vec<String> =
        (0..200).map(|n| format!("- {{addresses: [10.244.{}.{}]}}", n / 100, n % 100 + 10)).collect();
    let yaml = format!(
        "kind: EndpointSlice\nmetadata: {{name: db-2, namespace: data, labels: {{kubernetes.io/service-name: db}}}}\n\
         addressType: IPv4\nports: [{{name: sql, port: 5432}}]\nendpoints:\n{}\n",
        list.join("\n")
    );
    server.update(|zone| fill(zone, &yaml));
    let ask = |payload: Option<u16>| {
        let mut request = question("db.data.svc.cluster.local", RecordType::A);
        request.edns = payload.map(|payload| {
            let mut edns = Edns::new();
            edns.set_max_payload(payload);
            edns
        });
        let Reaction::Send(request, message) = server.react(&request.to_vec().unwrap()) else { panic!() };
        assert_eq!(Message::from_vec(&encode_tcp(&message).unwrap()).unwrap().answers.len(), 203);
        let bytes = encode_udp(&request, message).unwrap();
        let message = Message::from_vec(&bytes).unwrap();
        assert!(message.metadata.truncation && message.edns.is_some() == payload.is_some());
        (bytes.len(), message.answers.len())
    };
    let (length, count) = ask(None);
    assert!(length <= 512 && count > 20, "{length} {count}");
    let (length, count) = ask(Some(1232));
    assert!(length <= 1232 && count > 60, "{length} {count}");
    let (length, _) = ask(Some(100));
    assert!(length > 400, "every client must take 512 bytes");
}

/// A server elsewhere: answers every A question with 192.0.2.80, `nowhere.test` with nothing, long ones by TCP.
async fn elsewhere(tasks: &Tasks, asked: Arc<AtomicUsize>) -> SocketAddr {
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = udp.local_addr().unwrap();
    let tcp = TcpListener::bind(address).await.unwrap();
    let reply = |bytes: &[u8], whole: bool| {
        let request = Message::from_vec(bytes).unwrap();
        let name = request.queries[0].name.clone();
        let mut message = Message::response(request.metadata.id, OpCode::Query);
        message.queries = request.queries;
        if name.to_string().starts_with("nowhere") {
            message.metadata.response_code = ResponseCode::NXDomain;
        } else if name.to_string().starts_with("long") && !whole {
            message.metadata.truncation = true;
        } else {
            message.answers.push(Record::from_rdata(name, 60, RData::A(A(Ipv4Addr::new(192, 0, 2, 80)))));
        }
        message.to_vec().unwrap()
    };
    tasks.spawn("upstream", async move {
        let mut buffer = vec![0; 2000];
        loop {
            let (length, peer) = udp.recv_from(&mut buffer).await.unwrap();
            asked.fetch_add(1, Ordering::Relaxed);
            udp.send_to(&reply(&buffer[..length], false), peer).await.unwrap();
        }
    });
    tasks.spawn("upstream over TCP", async move {
        loop {
            let (mut stream, _) = tcp.accept().await.unwrap();
            let mut bytes = vec![0; usize::from(stream.read_u16().await.unwrap())];
            stream.read_exact(&mut bytes).await.unwrap();
            let answer = reply(&bytes, true);
            stream.write_u16(answer.len().try_into().unwrap()).await.unwrap();
            stream.write_all(&answer).await.unwrap();
        }
    });
    address
}

#[tokio::test]
async fn over_sockets() {
    let tasks = Tasks::new();
    let asked = Arc::new(AtomicUsize::new(0));
    let upstream = elsewhere(&tasks, Arc::clone(&asked)).await;
    let server = server(&DnsConfig { upstreams: vec![upstream], ..config() });
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = udp.local_addr().unwrap();
    let tcp = TcpListener::bind(address).await.unwrap();
    tasks.spawn("udp", Arc::clone(&server).serve_udp(udp, tasks.clone()));
    tasks.spawn("tcp", Arc::clone(&server).serve_tcp(tcp, tasks.clone()));
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.connect(address).await.unwrap();
    let ask = async |name: &str| {
        client.send(&question(name, RecordType::A).to_vec().unwrap()).await.unwrap();
        let mut buffer = vec![0; 2000];
        let length = client.recv(&mut buffer).await.unwrap();
        let message = Message::from_vec(&buffer[..length]).unwrap();
        assert!(message.metadata.recursion_available && message.metadata.recursion_desired);
        show(&message)
    };
    assert_eq!(ask("web.default.svc.cluster.local").await, "web.default.svc.cluster.local. 10.96.0.20");
    assert_eq!(ask("a.test").await, "a.test. 192.0.2.80");
    assert_eq!(ask("A.test").await, "a.test. 192.0.2.80", "from the cache");
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    assert_eq!(ask("nowhere.test").await, "Non-Existent Domain");
    assert_eq!(ask("long.test").await, "long.test. 192.0.2.80");
    assert_eq!(
        ask("outside.default.svc.cluster.local").await,
        "outside.default.svc.cluster.local. www.example.org.\nwww.example.org. 192.0.2.80"
    );
    // Two questions on one connection.
    let mut stream = TcpStream::connect(address).await.unwrap();
    for name in ["web.default.svc.cluster.local", "b.test"] {
        let bytes = question(name, RecordType::A).to_vec().unwrap();
        stream.write_u16(bytes.len().try_into().unwrap()).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let mut answer = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(Message::from_vec(&answer).unwrap().answers.len(), 1, "{name}");
    }
    tasks.drain(std::time::Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_loop_is_noticed() {
    let tasks = Tasks::new();
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = udp.local_addr().unwrap();
    // It asks itself, which it cannot see from its configuration.
    let server = server(&DnsConfig { upstreams: vec![address], ..config() });
    tasks.spawn("udp", Arc::clone(&server).serve_udp(udp, tasks.clone()));
    server.forwarder.look_for_loop().await;
    let request = question("a.test", RecordType::A);
    let Reaction::Wait(request, step) = server.react(&request.to_vec().unwrap()) else { panic!() };
    let message = server.elsewhere(&request, step).await;
    assert_eq!(message.metadata.response_code, ResponseCode::ServFail);
    tasks.drain(std::time::Duration::from_secs(5)).await;
}

#[tokio::test]
async fn nobody_elsewhere_is_a_failure() {
    let dir = tempfile::tempdir().unwrap();
    let resolv_conf = dir.path().join("resolv.conf");
    // Only ourselves: not asked.
    std::fs::write(&resolv_conf, "nameserver 10.96.0.10\n").unwrap();
    let server = server(&DnsConfig { resolv_conf, ..config() });
    let request = question("a.test", RecordType::A);
    let Reaction::Wait(request, step) = server.react(&request.to_vec().unwrap()) else { panic!() };
    assert_eq!(server.elsewhere(&request, step).await.metadata.response_code, ResponseCode::ServFail);
}

#[test]
fn nothing_is_denied_before_everything_is_known() {
    let config = config();
    let server = Server::new(&config, Clock::system(), Rng::seeded(1)).unwrap();
    let request = question("web.default.svc.cluster.local", RecordType::A).to_vec().unwrap();
    let code = |server: &Server| match server.react(&request) {
        Reaction::Send(_, message) => message.metadata.response_code,
        _ => panic!("no answer"),
    };
    assert_eq!(code(&server), ResponseCode::ServFail);
    server.complete();
    assert_eq!(code(&server), ResponseCode::NXDomain);
}
