//! Whole command lines against the API server in this process over the memory store: what users type, what they
//! read, and the exit codes.

use std::io::Write;
use std::sync::Arc;

use api::user::UserInfo;
use apiserver::{Config, Rows, Server};
use base::{Clock, Rng, Tasks};
use client::{InProcess, Transport};
use kubectl::{Sink, Stdin};
use parking_lot::Mutex;
use store::{Engine, Options, Store};

/// A server, and what the last command wrote.
struct Bench {
    transport: Arc<dyn Transport>,
}

#[derive(Clone, Default)]
struct Held(Arc<Mutex<Vec<u8>>>);

impl Write for Held {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Held {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock()).into_owned()
    }
}

struct Outcome {
    code: i32,
    out: String,
    err: String,
}

impl Bench {
    async fn new() -> Bench {
        let (clock, rng) = (Clock::system(), Rng::seeded(7));
        let rows = Rows::builtin();
        let store =
            Store::open(Engine::Memory, Options::new(rows.indexer(), clock.clone())).await.expect("memory");
        let config = Config {
            service_account_signing_key: Some(base::pki::new_key_pem().expect("a key")),
            ..Config::default()
        };
        let server = Server::new(config, rows, store, clock, rng, Tasks::new()).expect("a server");
        server.start().await.expect("boots");
        let user = UserInfo::component("admin", &["system:masters"]);
        let handler = Arc::new(move |request| {
            let server = server.clone();
            Box::pin(async move { server.call(request).await }) as _
        });
        let bench = Bench { transport: Arc::new(InProcess::new(handler, user)) };
        bench.ok("create serviceaccount default", "serviceaccount/default created\n").await;
        bench
    }

    async fn run_with(&self, line: &str, stdin: &str) -> Outcome {
        let words = split(line);
        let (out, err) = (Held::default(), Held::default());
        let transport = self.transport.clone();
        let code = kubectl::execute(
            &words,
            Sink::new(out.clone()),
            Sink::new(err.clone()),
            Stdin::Bytes(stdin.as_bytes().to_vec()),
            |app| app.over(transport, "default"),
        )
        .await;
        Outcome { code, out: out.text(), err: err.text() }
    }

    async fn run(&self, line: &str) -> Outcome {
        self.run_with(line, "").await
    }

    /// The command succeeds and writes exactly this.
    async fn ok(&self, line: &str, expect: &str) {
        self.ok_with(line, "", expect).await;
    }

    async fn ok_with(&self, line: &str, stdin: &str, expect: &str) {
        let outcome = self.run_with(line, stdin).await;
        assert_eq!((outcome.code, outcome.out.as_str()), (0, expect), "{line}: {}", outcome.err);
    }

    /// The command fails with this code and message.
    async fn fails(&self, line: &str, code: i32, expect: &str) {
        let outcome = self.run(line).await;
        assert_eq!((outcome.code, outcome.err.trim_end()), (code, expect), "{line}: {}", outcome.out);
    }
}

/// Words as a shell splits them: single quotes only.
fn split(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for letter in line.chars() {
        match letter {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            other => words.last_mut().expect("a word").push(other),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

const MANIFEST: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: m, labels: {app: web}}
data: {a: '1', b: '2'}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: d}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: 'x:1'}]}
";

#[tokio::test]
async fn objects_are_applied_changed_and_deleted() {
    let bench = Bench::new().await;
    bench.ok_with("apply -f -", MANIFEST, "configmap/m created\ndeployment.apps/d created\n").await;
    bench.ok_with("apply -f -", MANIFEST, "configmap/m unchanged\ndeployment.apps/d unchanged\n").await;
    // What the manifest drops goes; what others set stays.
    bench.ok("patch cm m --type=merge -p '{\"data\":{\"c\":\"3\"}}'", "configmap/m patched\n").await;
    let changed = MANIFEST.replace("a: '1', b: '2'", "b: '9'").replace("x:1", "x:2");
    bench.ok_with("apply -f -", &changed, "configmap/m configured\ndeployment.apps/d configured\n").await;
    bench.ok("get cm m -o jsonpath={.data}", "{\"b\":\"9\",\"c\":\"3\"}").await;
    bench.ok("get deploy d -o jsonpath={.spec.template.spec.containers[*].image}", "x:2").await;
    bench
        .ok_with(
            "apply --server-side --force-conflicts -f -",
            MANIFEST,
            "configmap/m serverside-applied\ndeployment.apps/d serverside-applied\n",
        )
        .await;
    bench.ok("scale deploy/d --replicas=5", "deployment.apps/d scaled\n").await;
    bench.ok("set image deploy/d c=y:3", "deployment.apps/d image updated\n").await;
    bench.ok("get deploy d -o go-template='{{.spec.replicas}} {{(index .spec.template.spec.containers 0).image}}'", "5 y:3").await;
    bench.ok("label cm m tier=x app-", "configmap/m modified\n").await;
    bench.ok("annotate cm m note='a b'", "configmap/m annotated\n").await;
    bench.ok("get cm -l tier=x -o name", "configmap/m\n").await;
    bench.ok("delete cm/m deploy/d", "configmap \"m\" deleted from default namespace\ndeployment.apps \"d\" deleted from default namespace\n").await;
    bench.fails("get cm m", 1, "Error from server (NotFound): configmaps \"m\" not found").await;
}

#[tokio::test]
async fn tables_and_formats() {
    let bench = Bench::new().await;
    bench.ok("create cm one --from-literal=k=v", "configmap/one created\n").await;
    bench.ok("create cm two --from-literal=k=v", "configmap/two created\n").await;
    let table = bench.run("get cm").await;
    let first: Vec<&str> =
        table.out.lines().map(|line| line.split_whitespace().next().unwrap_or_default()).collect();
    assert_eq!(first, ["NAME", "one", "two"], "{}", table.out);
    let both = bench.run("get cm,sa --no-headers -A").await;
    assert!(both.out.contains("default") && both.out.contains("configmap/one"), "{}", both.out);
    bench
        .ok(
            "get cm -o custom-columns=N:.metadata.name,K:.data.k --sort-by=.metadata.name",
            "N     K\none   v\ntwo   v\n",
        )
        .await;
    bench.ok("get cm one two -o jsonpath='{range .items[*]}{.metadata.name};{end}'", "one;two;").await;
    let empty = bench.run("get pods").await;
    assert_eq!((empty.code, empty.err.as_str()), (0, "No resources found in default namespace.\n"));
    let yaml = bench.run("create deploy x --image=nginx --dry-run=client -o yaml").await;
    assert!(yaml.out.starts_with("apiVersion: apps/v1\nkind: Deployment\n"), "{}", yaml.out);
    let described = bench.run("describe cm one").await;
    assert!(described.out.contains("Data\n====\nk:\n----\nv\n"), "{}", described.out);
    let explained = bench.run("explain cm.data").await;
    assert!(explained.out.contains("FIELD: data <map[string]string>"), "{}", explained.out);
    let resources = bench.run("api-resources --api-group=apps -o name").await;
    assert!(resources.out.contains("deployments.apps\n"), "{}", resources.out);
}

#[tokio::test]
async fn mistakes_and_exit_codes() {
    let bench = Bench::new().await;
    bench.fails("get nope", 1, "error: the server doesn't have a resource type \"nope\"").await;
    bench
        .fails(
            "create ns default",
            1,
            "Error from server (AlreadyExists): namespaces \"default\" already exists",
        )
        .await;
    bench.fails("delete pod x", 1, "Error from server (NotFound): pods \"x\" not found").await;
    bench.ok("delete pod x --ignore-not-found", "").await;
    bench
        .fails("get pods --nope", 1, "error: unknown flag: --nope\nSee 'kubectl get --help' for usage.")
        .await;
    bench.fails("scale deploy/x", 1, "error: required flag(s) \"replicas\" not set").await;
    bench
        .fails(
            "create quota q --hard=pods",
            1,
            "error: Invalid argument syntax pods, expected <resource>=<value>",
        )
        .await;
    let invalid =
        bench.run_with("create -f -", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: 'A B'}\n").await;
    assert!(
        invalid.err.starts_with("The ConfigMap \"A B\" is invalid: metadata.name: Invalid value"),
        "{}",
        invalid.err
    );
    let unknown =
        bench.run_with("apply -f -", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\nnope: 1\n").await;
    assert!(unknown.err.contains("strict decoding error: unknown field \"nope\""), "{}", unknown.err);
    // A difference ends with 1, a failure with more.
    let differs = bench.run_with("diff -f -", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n").await;
    assert_eq!(differs.code, 1, "{}", differs.err);
    assert!(differs.out.contains("+  name: a"), "{}", differs.out);
    let broken = bench.run("diff -f /nope").await;
    assert_eq!(broken.code, 2, "{}", broken.err);
    let denied = bench.run("auth can-i list pods --as=bob").await;
    assert_eq!((denied.code, denied.out.as_str()), (1, "no\n"));
    bench.ok("auth can-i list pods", "yes\n").await;
}

#[tokio::test]
async fn waiting_and_nodes() {
    let bench = Bench::new().await;
    bench.ok("create cm w --from-literal=k=v", "configmap/w created\n").await;
    bench.ok("wait --for=jsonpath='{.data.k}'=v cm/w", "configmap/w condition met\n").await;
    bench
        .fails(
            "wait --for=jsonpath='{.data.k}'=z cm/w --timeout=100ms",
            1,
            "error: timed out waiting for the condition on configmaps/w",
        )
        .await;
    let node = "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\n";
    bench.ok_with("create -f -", node, "node/n1 created\n").await;
    bench.ok("cordon n1", "node/n1 cordoned\n").await;
    bench.ok("cordon n1", "node/n1 already cordoned\n").await;
    bench.ok("taint nodes n1 a=b:NoSchedule", "node/n1 tainted\n").await;
    bench.ok("drain n1", "node/n1 already cordoned\nnode/n1 drained\n").await;
    bench.ok("uncordon n1", "node/n1 uncordoned\n").await;
    let described = bench.run("describe node n1").await;
    assert!(described.out.contains("Taints:             a=b:NoSchedule\n"), "{}", described.out);
}
