//! Everything that watches the cluster, against a real API server: set `NAVARCH_TEST_KUBECONFIG` to run it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod lab;

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use api::k8s::api::core::v1::{Namespace, Node, Pod, Service, ServiceAccount};
use api::k8s::api::discovery::v1::EndpointSlice;
use api::wire::Wire as _;
use base::metrics::Metrics;
use base::{Clock, Rng, Tasks};
use client::{Client, DeleteOptions, Https, Kind, Kubeconfig, Patch, SharedInformers};
use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use lab::{Lab, Seen};
use network::cni::CniConfig;
use network::dns::DnsConfig;
use network::proxy::{ProxyConfig, ProxyDeps};
use network::{NodeDeps, cni, dns, proxy};
use serde_json::json;
use tokio::net::UdpSocket;

const NAMESPACE: &str = "navarch-network-test";
const NODE: &str = "navarch-network-test";

async fn eventually<F: Future<Output = bool>>(what: &str, mut done: impl FnMut() -> F) {
    let clock = Clock::system();
    for _ in 0..200 {
        if done().await {
            return;
        }
        clock.sleep(Duration::from_millis(50)).await;
    }
    panic!("never: {what}");
}

async fn create<K: Kind>(client: &Client, value: serde_json::Value) {
    client.create(&K::from_tree(&value).unwrap()).await.unwrap();
}

async fn clean(client: &Client) {
    let now = DeleteOptions::default().grace(0);
    let _ = client.delete::<Node>("", NODE, &now).await;
    for name in ["web", "kube-dns"] {
        let _ = client.delete::<Service>(NAMESPACE, name, &now).await;
        let _ = client.delete::<EndpointSlice>(NAMESPACE, name, &now).await;
    }
    let _ = client.delete::<Pod>(NAMESPACE, "p", &now).await;
}

/// The address of `name`, if it has one.
async fn resolve(server: SocketAddr, name: &str) -> Option<String> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message.queries.push(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    socket.send_to(&message.to_vec().unwrap(), server).await.unwrap();
    let mut buffer = vec![0; 2000];
    let received = Clock::system().timeout(Duration::from_secs(1), socket.recv(&mut buffer)).await?;
    let answer = Message::from_vec(&buffer[..received.ok()?]).unwrap();
    answer.answers.first().map(|record| record.data.to_string())
}

fn slice(ready: &[usize]) -> serde_json::Value {
    let endpoint = |pod: &usize| json!({"addresses": [Lab::pod(*pod).to_string()], "nodeName": NODE});
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": "web", "namespace": NAMESPACE, "labels": {"kubernetes.io/service-name": "web"}},
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": ready.iter().map(endpoint).collect::<Vec<_>>(),
    })
}

/// A node's network in a lab: the tasks run here, where the API server is; the table is in the lab.
struct Running {
    lab: Arc<Lab>,
    client: Client,
    tasks: Tasks,
    conflist: PathBuf,
    resolver: SocketAddr,
    _dir: tempfile::TempDir,
}

async fn start(kubeconfig: &Path) -> Running {
    let lab = Arc::new(Lab::new(3));
    (1..=2).for_each(|pod| lab.serve(&format!("pod{pod}"), 8080));
    let (clock, tasks, rng) = (Clock::system(), Tasks::new(), Rng::system());
    let config = Kubeconfig::load(kubeconfig).unwrap();
    let transport = Https::from_kubeconfig(&config, None, clock.clone(), tasks.clone()).unwrap();
    let client = Client::new(Arc::new(transport), "network-test", clock.clone());
    clean(&client).await;
    let _ = client.create(&Namespace::from_tree(&json!({"metadata": {"name": NAMESPACE}})).unwrap()).await;
    // Nobody may be there to make it.
    let account = json!({"metadata": {"name": "default", "namespace": NAMESPACE}});
    let _ = client.create(&ServiceAccount::from_tree(&account).unwrap()).await;
    let informers = SharedInformers::new(client.clone(), clock.clone(), rng.clone(), tasks.clone());
    let dir = tempfile::tempdir().unwrap();
    let config = proxy_config(&lab, dir.path());
    let deps = ProxyDeps {
        informers: informers.clone(),
        pods: None,
        clock: clock.clone(),
        tasks: tasks.clone(),
        metrics: Metrics::new(),
    };
    tasks.spawn("proxy", async move { proxy::run(deps, config).await.unwrap() });
    let deps = NodeDeps { informers, clock, tasks: tasks.clone(), node_name: NODE.into() };
    let cni_config = CniConfig { conf_dir: dir.path().join("net.d"), ..CniConfig::default() };
    let conflist = cni_config.conf_dir.join(&cni_config.file_name);
    tasks.spawn("cni", cni::run(deps.clone(), cni_config, || {}));
    let port = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let dns_config = DnsConfig { port, set_address: false, ..DnsConfig::new("127.0.0.1".parse().unwrap()) };
    tasks.spawn("dns", async move { dns::run(deps, dns_config, rng).await.unwrap() });
    Running { lab, client, tasks, conflist, resolver: SocketAddr::from(([127, 0, 0, 1], port)), _dir: dir }
}

fn proxy_config(lab: &Lab, dir: &Path) -> ProxyConfig {
    let nft = dir.join("nft");
    std::fs::write(&nft, format!("#!/bin/sh\nexec ip netns exec {} nft \"$@\"\n", lab.name("node"))).unwrap();
    std::fs::set_permissions(&nft, std::fs::Permissions::from_mode(0o755)).unwrap();
    ProxyConfig {
        nft_program: nft.to_string_lossy().into_owned(),
        cluster_nets: vec!["10.244.0.0/16".parse().unwrap()],
        masquerade_pods: true,
        host_ports: true,
        set_sysctls: false,
        healthz: None,
        metrics: None,
        ..ProxyConfig::new(NODE)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_reach_the_kernel_and_the_resolver() {
    let Some(path) = std::env::var_os("NAVARCH_TEST_KUBECONFIG").map(PathBuf::from) else {
        eprintln!("skipped: NAVARCH_TEST_KUBECONFIG is not set");
        return;
    };
    if !lab::possible() {
        return;
    }
    let Running { lab, client, tasks, conflist, resolver: server, _dir } = start(&path).await;
    create::<Node>(&client, json!({"metadata": {"name": NODE}, "spec": {"podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24"]}})).await;
    eventually("conflist", async || conflist.exists()).await;
    create::<Service>(
        &client,
        json!({
            "metadata": {"name": "web", "namespace": NAMESPACE},
            "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 8080}], "type": "NodePort"},
        }),
    )
    .await;
    create::<EndpointSlice>(&client, slice(&[1])).await;
    let service: Service = client.get(NAMESPACE, "web").await.unwrap();
    let spec = service.spec.unwrap();
    let address = format!("{}:80", spec.cluster_ip.clone().unwrap());
    let node_port = format!("192.0.2.1:{}", spec.ports.unwrap()[0].node_port.unwrap());
    let answers = |name: &'static str, to: &str| {
        let (lab, to) = (Arc::clone(&lab), to.to_owned());
        move || {
            let (lab, to) = (Arc::clone(&lab), to.clone());
            async move {
                let seen = tokio::task::spawn_blocking(move || lab.tcp("pod3", &to)).await.unwrap();
                matches!(seen, Seen::Answer(server, _) if server == name)
            }
        }
    };
    eventually("the first endpoint", answers("pod1", &address)).await;
    eventually("the node port", answers("pod1", &node_port)).await;
    let name = format!("web.{NAMESPACE}.svc.cluster.local.");
    let wanted = spec.cluster_ip;
    eventually("the name", async || resolve(server, &name).await == wanted).await;
    let patch = Patch::Merge(json!({"endpoints": slice(&[2])["endpoints"]}));
    client.patch::<EndpointSlice>(NAMESPACE, "web", &patch).await.unwrap();
    eventually("the second endpoint", answers("pod2", &address)).await;

    create::<Pod>(
        &client,
        json!({
            "metadata": {"name": "p", "namespace": NAMESPACE},
            "spec": {"nodeName": NODE, "automountServiceAccountToken": false, "tolerations": [{"operator": "Exists"}],
                "containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 8080, "hostPort": 9999}]}]},
        }),
    )
    .await;
    let status =
        json!({"status": {"phase": "Running", "podIP": "10.244.0.2", "podIPs": [{"ip": "10.244.0.2"}]}});
    client.patch_status::<Pod>(NAMESPACE, "p", &Patch::Merge(status)).await.unwrap();
    eventually("the host port", answers("pod1", "192.0.2.1:9999")).await;
    client.delete::<Service>(NAMESPACE, "web", &DeleteOptions::default()).await.unwrap();
    eventually("no name", async || resolve(server, &name).await.is_none()).await;
    clean(&client).await;
    tasks.drain(Duration::from_secs(5)).await;
}
