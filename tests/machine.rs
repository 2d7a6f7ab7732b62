//! The real binary on this machine: containerd, runc, CNI, nftables. Run by `./test` as root; ignored elsewhere.
//!
//! One cluster serves all scenarios of one node, in order; the last removes it and looks for what was left behind.
//! Another has three nodes, in network namespaces of this machine.

mod support;

use serde_json::json;
use support::links::{Joined, Links, Place};
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
    scenario("adoption", adoption(&cluster)).await;
    scenario("data of a stateful set", stateful(&cluster)).await;
    scenario("restart", restart(&mut cluster)).await;
    scenario("data after a restart", data_after_restart(&cluster)).await;
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

/// A ReplicaSet takes a bare pod that it selects and removes one that is too many; orphaned pods stay.
async fn adoption(cluster: &Cluster) {
    let template = json!({"metadata": {"labels": {"app": "adopted"}}, "spec": {
        "containers": [busybox("main", "sleep 3600", json!([]))], "terminationGracePeriodSeconds": 0}});
    let bare = |name: &str| {
        json!({"apiVersion": "v1", "kind": "Pod", "spec": template["spec"],
            "metadata": {"name": name, "labels": {"app": "adopted"}}})
    };
    let owned = |pod: &serde_json::Value| pod["metadata"]["ownerReferences"][0]["kind"] == "ReplicaSet";
    cluster.create("pods", bare("bare")).await;
    cluster.pod_phase("bare", "Running").await;
    let set = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "adopting"},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "adopted"}}, "template": template}});
    cluster.create("replicasets", set).await;
    cluster.pod_when("bare", owned).await;
    cluster.create("pods", bare("surplus")).await;
    cluster.gone("surplus").await;
    cluster.orphan("replicasets", "adopting").await;
    cluster.pod_when("bare", |pod| !owned(pod)).await;
    assert_eq!(cluster.pods("app=adopted").await, ["bare"]);
    cluster.delete_pod("bare").await;
}

/// Pods of a StatefulSet have names in DNS and get their own volumes back.
async fn stateful(cluster: &Cluster) {
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "data"},
        "spec": {"clusterIP": "None", "selector": {"app": "data"}}});
    cluster.create("services", service).await;
    let script = "echo $HOSTNAME >> /data/file; sleep 3600";
    let container = busybox("main", script, json!([{"name": "data", "mountPath": "/data"}]));
    let template = json!({"metadata": {"labels": {"app": "data"}},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 0}});
    let claim = json!({"metadata": {"name": "data"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}});
    let set = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "data"},
        "spec": {"serviceName": "data", "replicas": 2, "selector": {"matchLabels": {"app": "data"}},
            "template": template, "volumeClaimTemplates": [claim]}});
    cluster.create("statefulsets", set).await;
    cluster.pod_phase("data-1", "Running").await;
    let second = cluster.get("pods", "data-1").await;
    let address = second["status"]["podIP"].as_str().expect("an address").to_owned();
    let look = format!("nslookup data-1.data.default.svc.cluster.local | grep -o {address}$");
    cluster.exec_eventually("data-0", &look, &address).await;
    cluster.replace_same("data-1").await;
    cluster.exec_eventually("data-1", "cat /data/file | tr '\\n' ' '; echo", "data-1 data-1 ").await;
    cluster.exec_eventually("data-0", "cat /data/file", "data-0").await;
}

/// Volumes that were in use when the process was killed still hold their data, for running pods and new ones.
async fn data_after_restart(cluster: &Cluster) {
    cluster.exec_eventually("data-0", "cat /data/file | wc -l", "1").await;
    cluster.replace_same("data-0").await;
    cluster.exec_eventually("data-0", "cat /data/file | wc -l", "2").await;
    cluster.exec_eventually("data-1", "cat /data/file | wc -l", "2").await;
    cluster.delete("statefulsets", "data").await;
    for pod in ["data-0", "data-1"] {
        cluster.gone(pod).await;
        cluster.delete("persistentvolumeclaims", &format!("data-{pod}")).await;
    }
}

/// kill -9 of the whole process: acknowledged writes are there afterwards, and pods have kept running.
async fn restart(cluster: &mut Cluster) {
    let before = cluster.restarts("app=hello").await;
    let writer = cluster.write_config_maps();
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    cluster.kill().await;
    let acknowledged = writer.end().await;
    assert!(!acknowledged.is_empty());
    cluster.start_again().await;
    for name in &acknowledged {
        cluster.get("configmaps", name).await;
    }
    println!("   {} acknowledged writes are there", acknowledged.len());
    cluster.available("hello", 3).await;
    assert_eq!(cluster.restarts("app=hello").await, before, "pods keep running over a restart");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, containerd and nftables; ./test runs it"]
async fn nodes_from_joining_to_loss() {
    let before = support::traces();
    {
        let mut links = Links::make();
        let mut first = links.machine("one", 1, 11);
        first.flags = ["--node-monitor-grace-period", "20s"].map(str::to_owned).to_vec();
        // On the same network, and behind a router.
        let (near, far) = (links.machine("two", 1, 12), links.machine("three", 2, 13));
        let server = format!("https://{}:6443", first.address);
        let cluster = Cluster::start_in(first).await;
        let started = base::Clock::system();
        let token = cluster.navarch(&["token", "create", "--quiet"]).await;
        let token = token.trim();
        // With the CA's digest, and with the signature of the token alone.
        let mut two = Joined::join(&cluster, near, &server, token).await;
        let bare = token.split('@').next().unwrap_or(token);
        let three = Joined::join(&cluster, far, &server, bare).await;
        println!("-- joined: ok, {:.1} s", started.monotonic().as_secs_f64());
        two.import(&cluster.busybox_archive());
        three.import(&cluster.busybox_archive());
        scenario("between nodes", between_nodes(&cluster)).await;
        scenario("services", services(&cluster)).await;
        scenario("network policies", policies(&cluster)).await;
        scenario("loss of a node", loss(&cluster, &mut two)).await;
        drop((two, three));
        cluster.down().await;
    }
    let after = support::traces();
    let left: Vec<&String> = after.difference(&before).collect();
    assert!(left.is_empty(), "the machine must be as it was: {left:#?}");
}

const NODES: [&str; 3] = ["one", "two", "three"];

/// Pods reach each other over a shared network and through a tunnel, by address, name and Service; logs, exec and
/// port-forward reach every node.
async fn between_nodes(cluster: &Cluster) {
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8000}]}});
    cluster.create("services", service).await;
    for node in NODES {
        // More than fits one packet, so that packets that are too large for the tunnel would show.
        let script = "mkdir /www && echo $NODE > /www/index.html && head -c 300000 /dev/zero > /www/large && \
                      echo serving && exec httpd -f -p 8000 -h /www";
        let mut container = busybox("main", script, json!([]));
        container["env"] = json!([{"name": "NODE", "value": node}]);
        container["ports"] = json!([{"containerPort": 8000, "hostPort": 8099}]);
        let pod = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": format!("web-{node}"), "labels": {"app": "web", "only": node}},
            "spec": {"containers": [container], "nodeName": node, "terminationGracePeriodSeconds": 0}});
        cluster.create("pods", pod).await;
    }
    let mut addresses = Vec::new();
    for node in NODES {
        let pod = format!("web-{node}");
        cluster.pod_phase(&pod, "Running").await;
        cluster.log_line(&pod, "main", "serving").await;
        let found = cluster.get("pods", &pod).await;
        addresses.push(found["status"]["podIP"].as_str().expect("an address").to_owned());
        assert!(cluster.forward(&pod, 8000).await.ends_with(&format!("{node}\n")), "port-forward to {pod}");
    }
    for from in NODES {
        let pod = format!("web-{from}");
        for (to, address) in NODES.iter().zip(&addresses) {
            let script =
                format!("wget -qO- http://{address}:8000/ && wget -qO- http://{address}:8000/large | wc -c");
            let answer = cluster.exec(&pod, &["sh", "-c", &script]).await;
            assert_eq!(answer, format!("{to}\n300000\n"), "from {from} to {to}");
        }
        let script =
            "for i in 0 1 2 3 4 5 6 7 8 9 a b c d e f g h i j k l m n; do wget -qO- http://web/; done";
        let answer = cluster.exec(&pod, &["sh", "-c", script]).await;
        assert!(NODES.iter().all(|node| answer.contains(node)), "from {from} through the Service: {answer}");
    }
}

/// Session affinity keeps a client at one pod; a pod reaches itself through its Service; a balancer has the nodes'
/// addresses, with the policy `Local` only those with an endpoint; a host port leads to its pod.
async fn services(cluster: &Cluster) {
    let service = |name: &str, spec: serde_json::Value| {
        let mut spec = spec;
        spec["ports"] = json!([{"port": 8090, "targetPort": 8000}]);
        spec["selector"] = spec.get("selector").cloned().unwrap_or(json!({"app": "web"}));
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
    };
    cluster.create("services", service("sticky", json!({"sessionAffinity": "ClientIP"}))).await;
    let script = "for i in 0 1 2 3 4 5 6 7; do wget -qO- http://sticky:8090/; done";
    let answer = cluster.exec("web-one", &["sh", "-c", script]).await;
    let first = answer.lines().next().unwrap_or_default();
    assert!(answer.lines().count() == 8 && answer.lines().all(|line| line == first), "affinity: {answer}");
    let local =
        json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "selector": {"only": "two"}});
    cluster.create("services", service("balanced", local)).await;
    let two =
        cluster.get("pods", "web-two").await["status"]["hostIP"].as_str().expect("an address").to_owned();
    let balanced = |object: &serde_json::Value| {
        let ingress = &object["status"]["loadBalancer"]["ingress"];
        ingress.as_array().is_some_and(|list| list.len() == 1) && ingress[0]["ip"] == two.as_str()
    };
    cluster.when("services", "default", "balanced", balanced).await;
    cluster.page_eventually(&two, 8090, "two").await;
    cluster.page_eventually(&two, 8099, "two").await;
    // A pod that is its Service's only endpoint reaches itself.
    let answer = cluster.exec("web-two", &["sh", "-c", "wget -qO- http://balanced:8090/"]).await;
    assert_eq!(answer, "two\n");
}

/// A pod that a policy isolates is closed to all but those it allows, on its own node and from others.
async fn policies(cluster: &Cluster) {
    let policy = |name: &str, ingress: serde_json::Value| {
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": name},
            "spec": {"podSelector": {"matchLabels": {"only": "two"}}, "policyTypes": ["Ingress"], "ingress": ingress}})
    };
    let reach = "timeout 2 wget -qO- http://balanced:8090/ || echo closed";
    cluster.create("networkpolicies", policy("closed", json!([]))).await;
    for from in ["one", "three"] {
        cluster.exec_eventually(&format!("web-{from}"), reach, "closed").await;
    }
    let some =
        json!([{"from": [{"podSelector": {"matchLabels": {"only": "three"}}}], "ports": [{"port": 8000}]}]);
    cluster.create("networkpolicies", policy("open", some)).await;
    cluster.exec_eventually("web-three", reach, "two").await;
    cluster.exec_eventually("web-one", reach, "closed").await;
    for name in ["closed", "open"] {
        cluster.delete("networkpolicies", name).await;
    }
    cluster.exec_eventually("web-one", reach, "two").await;
    for node in NODES {
        cluster.delete_pod(&format!("web-{node}")).await;
    }
}

/// A node that falls silent loses its pods to others after the time they tolerate; it comes back without a token.
async fn loss(cluster: &Cluster, two: &mut Joined) {
    let tolerate = |key: &str| {
        json!({"key": format!("node.kubernetes.io/{key}"), "operator": "Exists", "effect": "NoExecute",
            "tolerationSeconds": 2})
    };
    let prefer = json!([{"weight": 100, "preference": {"matchExpressions": [
        {"key": "kubernetes.io/hostname", "operator": "In", "values": ["two"]}]}}]);
    let others = json!({"nodeSelectorTerms": [{"matchExpressions": [
        {"key": "kubernetes.io/hostname", "operator": "In", "values": ["two", "three"]}]}]});
    let affinity = json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": prefer,
        "requiredDuringSchedulingIgnoredDuringExecution": others}});
    let template = json!({"metadata": {"labels": {"app": "moving"}}, "spec": {
        "containers": [busybox("main", "sleep 3600", json!([]))], "affinity": affinity,
        "terminationGracePeriodSeconds": 0, "tolerations": [tolerate("unreachable"), tolerate("not-ready")]}});
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "moving"},
        "spec": {"selector": {"matchLabels": {"app": "moving"}}, "template": template}});
    cluster.create("deployments", deployment).await;
    cluster.available("moving", 1).await;
    let before = cluster.pods("app=moving").await;
    assert_eq!(cluster.get("pods", &before[0]).await["spec"]["nodeName"], "two");
    two.kill();
    cluster.node_lost("two").await;
    let replaced = cluster.replaced("app=moving", &before[0]).await;
    cluster.pod_phase(&replaced, "Running").await;
    assert_eq!(cluster.get("pods", &replaced).await["spec"]["nodeName"], "three");
    two.start_again();
    cluster.node_ready("two").await;
    cluster.gone(&before[0]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root; ./test runs it"]
async fn control_planes_are_kept_and_shared() {
    scenario("backup under load", backup()).await;
    scenario("two control planes on etcd", shared_store()).await;
}

/// A backup taken under load holds everything acknowledged before; so does what is salvaged after a crash.
async fn backup() {
    let cluster = Cluster::server(tempfile::tempdir().expect("a directory"), Place::machine()).await;
    let writer = cluster.write_config_maps();
    while writer.acknowledged().len() < 100 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let shown = cluster.navarch(&["certs", "show"]).await;
    assert!(
        shown.contains("pki/apiserver.crt") && shown.contains("kubernetes-admin (system:masters)"),
        "{shown}"
    );
    let files = tempfile::tempdir().expect("a directory");
    let file = |name: &str| files.path().join(name).to_string_lossy().into_owned();
    let before = writer.acknowledged();
    cluster.navarch(&["backup", &file("backup")]).await;
    let during = writer.acknowledged().len() - before.len();
    let crashed = cluster.crash();
    let all = writer.end().await;
    println!("   {} objects before the backup, {during} while it was taken", before.len());
    let place = Place::machine();
    let run = |dir: &std::path::Path, words: &[&str]| {
        let mut command = place.command();
        let output = command.args(words).arg("--data-dir").arg(dir.join("data")).output().expect("it runs");
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    run(crashed.path(), &["salvage", &file("salvaged")]);
    run(crashed.path(), &["down"]);
    for (name, expected) in [("backup", &before), ("salvaged", &all)] {
        let dir = tempfile::tempdir().expect("a directory");
        run(dir.path(), &["restore", &file(name)]);
        let restored = Cluster::server(dir, Place::machine()).await;
        for object in expected {
            restored.get("configmaps", object).await;
        }
        restored.down().await;
    }
}

/// Two control planes share an etcd: what one writes the other serves; when the leader goes the other leads.
async fn shared_store() {
    let etcd = support::Etcd::start();
    let place = |port: &str| {
        let mut place = Place::machine();
        place.flags =
            ["--secure-port", port, "--service-cluster-ip-range", "10.252.0.0/16", "--etcd-servers"]
                .map(str::to_owned)
                .to_vec();
        place.flags.push(etcd.url.clone());
        place
    };
    let first = Cluster::server(tempfile::tempdir().expect("a directory"), place("16499")).await;
    let dir = tempfile::tempdir().expect("a directory");
    // Control planes of one cluster have the same keys.
    first.copy_keys(dir.path());
    let second = Cluster::server(dir, place("16497")).await;
    let web = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": "web"}]}}}});
    first.create("deployments", web.clone()).await;
    let created = |object: &serde_json::Value| object["status"]["replicas"] == 2;
    second.when("deployments", "default", "web", created).await;
    // The first holds the lease for a while longer; then the second leads.
    first.lose();
    let mut other = web;
    other["metadata"]["name"] = "other".into();
    second.create("deployments", other).await;
    second.when("deployments", "default", "other", created).await;
    second.down().await;
}
