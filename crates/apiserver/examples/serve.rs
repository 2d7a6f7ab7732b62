//! An API server alone, for trying kubectl: `cargo run -p apiserver --example serve -- DIR [PORT] [disk]`.
//! Makes certificates, writes DIR/admin.kubeconfig, keeps objects in memory (or in DIR/db with `disk`).

use std::path::Path;
use std::time::Duration;

use apiserver::{Config, Rows, Server};
use base::pki::{Ca, Subject};
use base::{Clock, Rng, Tasks};
use store::{DiskOptions, Engine, Options, Store};

/// The product's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const YEAR: Duration = Duration::from_secs(365 * 86_400);

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    base::telemetry::init("info", base::telemetry::LogFormat::Text);
    let mut arguments = std::env::args().skip(1);
    let dir = arguments.next().unwrap_or_else(|| "/tmp/navarch-serve".to_owned());
    let port: u16 = arguments.next().map_or(Ok(7443), |text| text.parse())?;
    let engine = match arguments.next().as_deref() {
        Some("disk") => Engine::disk(DiskOptions::new(Path::new(&dir).join("db")))?,
        _ => Engine::Memory,
    };
    let dir = Path::new(&dir);
    std::fs::create_dir_all(dir)?;
    let (clock, rng, tasks) = (Clock::system(), Rng::system(), Tasks::new());
    let now = clock.now();
    let ca = Ca::new("kubernetes-ca", now, YEAR * 10, &rng)?;
    let names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
        .map(str::to_owned)
        .to_vec();
    let server = Subject {
        common_name: "kube-apiserver".to_owned(),
        dns_names: names,
        addresses: vec![[127, 0, 0, 1].into(), [10, 96, 0, 1].into()],
        server: true,
        ..Subject::default()
    };
    let admin = Subject {
        common_name: "kubernetes-admin".to_owned(),
        organization: Some("system:masters".to_owned()),
        client: true,
        ..Subject::default()
    };
    let identity = ca.issue(&server, now, YEAR, &rng)?;
    let admin = ca.issue(&admin, now, YEAR, &rng)?;
    use base64::Engine as _;
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let kubeconfig = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: navarch\nclusters:\n- name: navarch\n  cluster:\n    server: \
         https://127.0.0.1:{port}\n    certificate-authority-data: {}\nusers:\n- name: admin\n  user:\n    \
         client-certificate-data: {}\n    client-key-data: {}\ncontexts:\n- name: navarch\n  context:\n    cluster: \
         navarch\n    user: admin\n",
        encode(&ca.identity().cert),
        encode(&admin.cert),
        encode(&admin.key)
    );
    std::fs::write(dir.join("admin.kubeconfig"), kubeconfig)?;
    std::fs::write(dir.join("ca.crt"), &ca.identity().cert)?;
    std::fs::write(dir.join("ca.key"), &ca.identity().key)?;
    let signing = base::pki::new_key_pem()?;
    std::fs::write(dir.join("sa.key"), &signing)?;
    let config = Config {
        identity: Some(base::pki::LiveIdentity::new(&identity)?),
        client_ca: Some(ca.identity().cert.clone()),
        tokens: "admin-token,admin,1,system:masters\nalice-token,alice,2,developers\n".to_owned(),
        service_account_signing_key: Some(signing),
        advertise: Some(([127, 0, 0, 1].into(), port)),
        ..Config::default()
    };
    let rows = Rows::builtin();
    let store = Store::open(engine, Options::new(rows.indexer(), clock.clone())).await?;
    let server = Server::new(config, rows, store, clock, rng, tasks.clone())?;
    server.start().await?;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    tracing::info!(port, kubeconfig = %dir.join("admin.kubeconfig").display(), "serving");
    tokio::select! {
        result = server.serve(listener) => result?,
        _ = tokio::signal::ctrl_c() => {}
    }
    tasks.drain(Duration::from_secs(5)).await;
    Ok(())
}
