//! `navarch demo`: deploys the demo application, waits for it, and shows its page fetched through the Service.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use api::k8s::api::apps::v1::Deployment;
use api::k8s::api::core::v1::{Node, Service};
use base::{Clock, Rng, Tasks};
use client::{Client, Https, Kind, Kubeconfig, ListOptions, Meta, SharedInformers};
use http::{Request, header};
use serde_json::{Value, json};

use crate::error::CliError;

/// Where the demo is served on every node.
const NODE_PORT: u16 = 30080;
/// How long the demo may take to run, seconds.
const WAIT_SECONDS: u64 = 120;
/// The longest page shown, bytes.
const MAX_PAGE: usize = 64 << 10;

/// Flags of `navarch demo`.
#[derive(Clone, Debug, clap::Args)]
pub struct DemoArgs {
    /// Where the cluster keeps its things.
    #[arg(long, default_value = crate::DEFAULT_DATA_DIR, value_name = "DIR")]
    pub data_dir: PathBuf,
}

/// A client of the cluster of a data directory, as its administrator; waits until the cluster runs.
pub async fn admin_client(data_dir: &Path, clock: &Clock, tasks: &Tasks) -> Result<Client, CliError> {
    let path = data_dir.join("admin.kubeconfig");
    let started = clock.monotonic();
    loop {
        if let Some(client) = try_admin_client(&path, clock, tasks).await {
            return Ok(client);
        }
        if clock.monotonic() - started > Duration::from_secs(WAIT_SECONDS) {
            return Err(CliError::NotRunning(data_dir.to_owned()));
        }
        clock.sleep(Duration::from_millis(50)).await;
    }
}

async fn try_admin_client(path: &Path, clock: &Clock, tasks: &Tasks) -> Option<Client> {
    let config = Kubeconfig::load(path).ok()?;
    let https = Https::from_kubeconfig(&config, None, clock.clone(), tasks.clone()).ok()?;
    let client = Client::new(Arc::new(https), "navarch-demo", clock.clone());
    client.get_path::<Value>("/version").await.ok()?;
    Some(client)
}

/// Deploys, waits, fetches, prints.
pub async fn run(args: &DemoArgs) -> Result<(), CliError> {
    let (clock, tasks) = (Clock::system(), Tasks::new());
    let client = admin_client(&args.data_dir, &clock, &tasks).await?;
    println!("the API server answers ({:.1} s)", clock.monotonic().as_secs_f64());
    ensure::<Deployment>(&client, deployment()).await?;
    ensure::<Service>(&client, service()).await?;
    let informers = SharedInformers::new(client.clone(), clock.clone(), Rng::system(), tasks.clone());
    let wait = wait_available(&informers);
    if clock.timeout(Duration::from_secs(WAIT_SECONDS), wait).await.is_none() {
        let what = "starting the demo (look at `kubectl describe pods`)".to_owned();
        let log = args.data_dir.join("navarch.log").display().to_string();
        return Err(CliError::Timeout { what, seconds: WAIT_SECONDS, log });
    }
    println!("three replicas of the demo run ({:.1} s)", clock.monotonic().as_secs_f64());
    let nodes = client.list::<Node>("", &ListOptions::default()).await?;
    let node = nodes.items.first().and_then(|node| node.status.as_ref()?.addresses.as_ref()?.first());
    let host = node.map_or_else(|| "127.0.0.1".to_owned(), |address| address.address.clone());
    let page = fetch_patiently(&host, &clock).await?;
    println!("\n    $ curl http://{host}:{NODE_PORT}/\n");
    page.lines().for_each(|line| println!("    {line}"));
    let kubeconfig = args.data_dir.join("admin.kubeconfig");
    println!("\nTry next:\n\n    export KUBECONFIG={}", kubeconfig.display());
    println!("    kubectl get nodes,pods,services -o wide\n    kubectl scale deployment hello --replicas=5");
    println!("    kubectl logs -l app=hello --prefix\n    curl http://{host}:{NODE_PORT}/   # a few times");
    println!("    navarch down   # removes the cluster and everything it made");
    tasks.drain(Duration::from_secs(1)).await;
    Ok(())
}

async fn wait_available(informers: &SharedInformers) {
    let deployments = informers.of::<Deployment>();
    let mut ticks = deployments.ticks();
    loop {
        let found = deployments.cache().get("default", "hello");
        let available = found.and_then(|found| found.status.as_ref()?.available_replicas);
        if available.is_some_and(|count| count >= 3) || ticks.changed().await.is_err() {
            return;
        }
    }
}

/// Creates an object unless one of its name is there.
async fn ensure<K: Kind>(client: &Client, object: Value) -> Result<(), CliError> {
    let object = K::from_tree(&object).expect("the demo's own manifest is valid");
    if client.get_opt::<K>(object.namespace(), object.name()).await?.is_some() {
        return Ok(());
    }
    match client.create(&object).await {
        Err(error) if !error.is_already_exists() => Err(error.into()),
        _ => Ok(()),
    }
}

fn deployment() -> Value {
    let field = |path: &str| json!({"fieldRef": {"fieldPath": path}});
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "hello", "namespace": "default", "labels": {"app": "hello"}},
        "spec": {
            "replicas": 3,
            "selector": {"matchLabels": {"app": "hello"}},
            "template": {
                "metadata": {"labels": {"app": "hello"}},
                "spec": {"containers": [{
                    "name": "hello", "image": crate::image::HELLO,
                    "ports": [{"name": "http", "containerPort": 8080}],
                    "env": [
                        {"name": "POD_NAME", "valueFrom": field("metadata.name")},
                        {"name": "NODE_NAME", "valueFrom": field("spec.nodeName")},
                    ],
                    "readinessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 1},
                    "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
                }]},
            },
        },
    })
}

fn service() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "hello", "namespace": "default", "labels": {"app": "hello"}},
        "spec": {
            "type": "NodePort",
            "selector": {"app": "hello"},
            "ports": [{"name": "http", "port": 80, "targetPort": "http", "nodePort": NODE_PORT}],
        },
    })
}

/// The proxy programs the Service a moment after its endpoints are known.
async fn fetch_patiently(host: &str, clock: &Clock) -> Result<String, CliError> {
    let started = clock.monotonic();
    loop {
        match fetch(host).await {
            Ok(page) => return Ok(page),
            Err(source) if clock.monotonic() - started > Duration::from_secs(20) => {
                return Err(CliError::component("demo's Service", source));
            }
            Err(_) => clock.sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn fetch(host: &str) -> Result<String, base::BoxError> {
    let connect = tokio::net::TcpStream::connect((host, NODE_PORT));
    let stream = tokio::time::timeout(Duration::from_secs(2), connect).await??;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await?;
    let tasks = Tasks::new();
    tasks.spawn("connection", async move {
        // An error shows in the request below.
        let _ = connection.await;
    });
    let request =
        Request::get("/").header(header::HOST, format!("{host}:{NODE_PORT}")).body(base::http::empty())?;
    let response = sender.send_request(request).await?;
    let body = base::http::read(base::http::wrap(response.into_body()), MAX_PAGE).await?;
    tasks.drain(Duration::from_millis(100)).await;
    Ok(String::from_utf8_lossy(&body).into_owned())
}
