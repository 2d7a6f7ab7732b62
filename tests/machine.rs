//! The real binary on this machine: containerd, runc, CNI, nftables. Run by `./test` as root; ignored elsewhere.
//!
//! One cluster serves all scenarios, in order; the last removes it and looks for what was left behind.

mod support;

use serde_json::json;
use support::{Cluster, busybox, page};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, containerd and nftables; ./test runs it"]
async fn a_cluster_from_start_to_end() {
    let before = support::traces();
    let mut cluster = Cluster::start().await;
    scenario("demo", demo(&cluster)).await;
    scenario("shared volume", shared_volume(&cluster)).await;
    scenario("configuration", configuration(&cluster)).await;
    scenario("names", names(&cluster)).await;
    scenario("replacement", replacement(&cluster)).await;
    scenario("rolling update under load", rolling_update(&cluster)).await;
    scenario("restart", restart(&mut cluster)).await;
    cluster.down().await;
    let after = support::traces();
    let left: Vec<&String> = after.difference(&before).collect();
    assert!(left.is_empty(), "navarch down must leave the machine as it was: {left:#?}");
}

async fn scenario(name: &str, work: impl Future<Output = ()>) {
    let started = base::Clock::system();
    println!("-- {name}");
    work.await;
    println!("-- {name}: ok, {:.1} s", started.monotonic().as_secs_f64());
}

/// Three replicas behind a NodePort Service, as `./up` shows them.
async fn demo(cluster: &Cluster) {
    let shown = cluster.navarch(&["demo"]).await;
    assert!(shown.contains("Hello from Navarch!"), "{shown}");
    let mut pods = std::collections::BTreeSet::new();
    for _ in 0..60 {
        let text = page(&cluster.node_address().await, 30080).await.expect("the page");
        pods.extend(text.lines().find(|line| line.starts_with("pod:")).map(str::to_owned));
    }
    assert_eq!(pods.len(), 3, "three replicas share the load: {pods:?}");
}

/// Two containers of a pod share an emptyDir.
async fn shared_volume(cluster: &Cluster) {
    let mount = json!([{"name": "shared", "mountPath": "/data"}]);
    let writer = busybox("writer", "echo written by the other > /data/file; sleep 3600", mount.clone());
    let reader = busybox("reader", "until cat /data/file; do sleep 0.1; done; sleep 3600", mount);
    let spec = json!({"containers": [writer, reader], "volumes": [{"name": "shared", "emptyDir": {}}],
        "terminationGracePeriodSeconds": 0});
    cluster.create_pod("shared", spec).await;
    cluster.pod_phase("shared", "Running").await;
    cluster.log_line("shared", "reader", "written by the other").await;
    cluster.delete_pod("shared").await;
}

/// Environment from literals, ConfigMap, Secret and the pod itself; a Secret as a volume.
async fn configuration(cluster: &Cluster) {
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "config"},
        "data": {"color": "blue"}});
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "secret"},
        "stringData": {"word": "sesame"}});
    cluster.create("configmaps", config).await;
    cluster.create("secrets", secret).await;
    let script = "echo $COLOR $WORD $NAME $HELLO_SERVICE_PORT $(cat /secret/word)";
    let mut container = busybox("main", script, json!([{"name": "secret", "mountPath": "/secret"}]));
    container["env"] = json!([
        {"name": "COLOR", "valueFrom": {"configMapKeyRef": {"name": "config", "key": "color"}}},
        {"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "secret", "key": "word"}}},
        {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
    ]);
    let spec = json!({"containers": [container], "restartPolicy": "Never",
        "volumes": [{"name": "secret", "secret": {"secretName": "secret"}}]});
    cluster.create_pod("configured", spec).await;
    cluster.pod_phase("configured", "Succeeded").await;
    cluster.log_line("configured", "main", "blue sesame configured 80 sesame").await;
    cluster.delete_pod("configured").await;
}

/// Cluster DNS from a pod, short and long names.
async fn names(cluster: &Cluster) {
    let names = ["hello", "hello.default", "hello.default.svc", "hello.default.svc.cluster.local"];
    let checks: Vec<String> = names
        .iter()
        .map(|name| format!("wget -qO- http://{name}/ >/dev/null && echo {name} found"))
        .collect();
    let script = format!("{}; wget -qO- http://hello/ | head -1", checks.join("; "));
    let spec = json!({"containers": [busybox("main", &script, json!([]))], "restartPolicy": "Never"});
    cluster.create_pod("names", spec).await;
    cluster.pod_phase("names", "Succeeded").await;
    for name in names {
        cluster.log_line("names", "main", &format!("{name} found")).await;
    }
    cluster.log_line("names", "main", "Hello from Navarch!").await;
    cluster.delete_pod("names").await;
}

/// A deleted pod is replaced; a failed container is restarted.
async fn replacement(cluster: &Cluster) {
    let pods = cluster.pods("app=hello").await;
    cluster.delete_pod(&pods[0]).await;
    cluster.available("hello", 3).await;
    let now = cluster.pods("app=hello").await;
    assert!(!now.contains(&pods[0]) && now.len() == 3, "{pods:?} became {now:?}");
    let spec = json!({"containers": [busybox("main", "sleep 1; exit 3", json!([]))],
        "terminationGracePeriodSeconds": 0});
    cluster.create_pod("failing", spec).await;
    cluster
        .pod_when("failing", |pod| {
            let status = &pod["status"]["containerStatuses"][0];
            status["restartCount"].as_i64() >= Some(1) && status["lastState"]["terminated"]["exitCode"] == 3
        })
        .await;
    cluster.delete_pod("failing").await;
}

/// Not one request fails while every replica is replaced.
async fn rolling_update(cluster: &Cluster) {
    let strategy = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}});
    let template = json!({"metadata": {"annotations": {"example.com/version": "2"}}});
    let patch = json!({"spec": {"strategy": strategy, "minReadySeconds": 1, "template": template}});
    let before = cluster.pods("app=hello").await;
    let load = support::Load::start(&cluster.node_address().await, 30080);
    cluster.patch_deployment("hello", patch).await;
    cluster.rolled_out("hello", 3).await;
    let (served, failed) = load.stop().await;
    let after = cluster.pods("app=hello").await;
    assert!(before.iter().all(|pod| !after.contains(pod)), "{before:?} became {after:?}");
    assert!(failed.is_empty() && served > 50, "{served} requests served, failed: {failed:?}");
}

/// kill -9 of the whole process: acknowledged writes are there afterwards, and pods have kept running.
async fn restart(cluster: &mut Cluster) {
    let before = cluster.restarts("app=hello").await;
    let writer = cluster.write_config_maps();
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    cluster.kill().await;
    let acknowledged = writer.await.expect("the writer ends with the server");
    assert!(!acknowledged.is_empty());
    cluster.start_again().await;
    for name in &acknowledged {
        cluster.get("configmaps", name).await;
    }
    println!("   {} acknowledged writes are there", acknowledged.len());
    cluster.available("hello", 3).await;
    assert_eq!(cluster.restarts("app=hello").await, before, "pods keep running over a restart");
}
