//! How a machine and a cluster get to know each other: the CA is found and checked against the token, then
//! certificates are asked for by certificate signing requests. Must not know what a node runs.

use std::time::Duration;

use api::Gvr;
use base::pki::{self, Identity, Subject};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use client::client::WatchOptions;
use client::kubeconfig::Settings;
use client::{Client, ClientError, Https, Kubeconfig, WatchEvent, WriteOptions};
use ring::hmac;
use serde_json::{Value, json};
use std::sync::Arc;

use crate::cluster;
use crate::error::CliError;
use crate::process::{Process, user_agent};
use crate::token::{Token, pin_of};

/// How long the controllers may take to sign what a token vouches for.
const SIGN_LIMIT: Duration = Duration::from_secs(60);
/// Between looks at what is not there yet.
const AGAIN: Duration = Duration::from_millis(500);
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const SERVING_SIGNER: &str = "kubernetes.io/kubelet-serving";

fn failed(what: &str, detail: impl ToString, next: impl Into<String>) -> CliError {
    CliError::Join { what: what.to_owned(), detail: detail.to_string(), next: next.into() }
}

fn client_of(settings: Settings, process: &Process) -> Result<Client, CliError> {
    let https = Https::new(settings, process.clock.clone(), process.tasks.clone())?;
    Ok(Client::new(Arc::new(https), &user_agent("navarch-agent"), process.clock.clone()))
}

/// The cluster's CA bundle, PEM. What comes over the unverified first connection is believed only if the token
/// vouches for it: by its pin, or by a signature made with its secret. Then it is asked for again over a verified
/// connection, which proves that the server has the CA's certificate.
pub async fn discover(server: &str, token: &Token, process: &Process) -> Result<String, CliError> {
    let started = process.clock.monotonic();
    let unverified = Settings { server: server.to_owned(), insecure: true, ..Settings::default() };
    let client = client_of(unverified, process)?;
    let trusted = loop {
        let data = cluster::info(&client).await.map_err(|error| unreachable(server, &error))?;
        match vouched(&data, token) {
            Ok(ca) => break ca,
            // The signature of a new token takes the controllers a moment.
            Err(Doubt::Unsigned) if process.clock.monotonic() - started < SIGN_LIMIT => {
                process.clock.sleep(AGAIN).await;
            }
            Err(doubt) => return Err(failed("checking the cluster's CA", doubt, doubt.next())),
        }
    };
    let verified = Settings { server: server.to_owned(), ca: Some(trusted), ..Settings::default() };
    let data = cluster::info(&client_of(verified, process)?).await.map_err(|error| {
        let next = "the server does not have a certificate of the cluster's CA for this address; \
                    name an address it has (`--tls-san` of `navarch up` adds one)";
        failed(&format!("connecting to {server}"), error, next)
    })?;
    let told = ca_of(&data).map(|ca| ca.trim_end().to_owned());
    told.ok_or_else(|| failed("reading the cluster's CA", Doubt::Empty, Doubt::Empty.next()))
}

fn unreachable(server: &str, error: &ClientError) -> CliError {
    let next = match error {
        ClientError::Api(_) => {
            "the cluster does not say who it is: is it a `navarch server` or `navarch up` that has been up for a moment?"
        }
        _ => "is --server the address that `navarch token create` printed, and can this machine reach it?",
    };
    failed(&format!("asking {server} who it is"), error, next)
}

/// Why a CA is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Doubt {
    #[error("the server did not tell its CA")]
    Empty,
    #[error("the server's CA is not the one that the token was made for")]
    OtherCa,
    #[error("the cluster does not know the token")]
    Unsigned,
    #[error("the signature is not the token's")]
    BadSignature,
}

impl Doubt {
    fn next(self) -> &'static str {
        match self {
            Doubt::Empty => "is --server the address that `navarch token create` printed?",
            Doubt::OtherCa | Doubt::BadSignature => {
                "something else answers at this address, or the token is of another cluster: \
                 make one there with `navarch token create`"
            }
            Doubt::Unsigned => {
                "it may have expired: make a new one on the control plane with `navarch token create`"
            }
        }
    }
}

fn ca_of(data: &Value) -> Option<String> {
    let config = Kubeconfig::parse(data["kubeconfig"].as_str()?).ok()?;
    config.settings(None).ok()?.ca.filter(|pem| !pem.is_empty())
}

/// The CAs in the cluster's public words that the token vouches for.
fn vouched(data: &Value, token: &Token) -> Result<String, Doubt> {
    let bundle = ca_of(data).ok_or(Doubt::Empty)?;
    let Some(pin) = token.pin else {
        let name = format!("jws-kubeconfig-{}", token.id);
        let signature = data[&name].as_str().ok_or(Doubt::Unsigned)?;
        let content = data["kubeconfig"].as_str().unwrap_or_default();
        return if signed(signature, content, token) { Ok(bundle) } else { Err(Doubt::BadSignature) };
    };
    let pinned: Vec<String> = pki::certificates(&bundle)
        .unwrap_or_default()
        .iter()
        .filter(|certificate| pin_of(certificate).is_ok_and(|found| found == pin))
        .map(|certificate| pem_of(certificate))
        .collect();
    if pinned.is_empty() { Err(Doubt::OtherCa) } else { Ok(pinned.concat()) }
}

fn pem_of(certificate: &[u8]) -> String {
    let text = STANDARD.encode(certificate);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("base64 is ASCII")).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// Checks a detached JWS (RFC 7515, appendix F) with the token as its key, as the bootstrap signer makes it.
fn signed(jws: &str, content: &str, token: &Token) -> bool {
    let mut parts = jws.split('.');
    let (Some(header), Some(""), Some(signature), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    let decoded = URL_SAFE_NO_PAD.decode(header).ok();
    let said: Value = decoded.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    if said["alg"] != "HS256" || said["kid"] != token.id.as_str() {
        return false;
    }
    let Ok(signature) = URL_SAFE_NO_PAD.decode(signature) else { return false };
    let key = hmac::Key::new(hmac::HMAC_SHA256, token.secret.as_bytes());
    let text = format!("{header}.{}", URL_SAFE_NO_PAD.encode(content));
    hmac::verify(&key, text.as_bytes(), &signature).is_ok()
}

/// A client that joins with a token.
pub fn token_client(server: &str, ca: &str, token: &Token, process: &Process) -> Result<Client, CliError> {
    let (server, ca) = (server.to_owned(), Some(ca.to_owned()));
    client_of(Settings { server, ca, token: Some(token.bearer()), ..Settings::default() }, process)
}

fn node_subject(node: &str) -> Subject {
    Subject {
        common_name: format!("system:node:{node}"),
        organization: Some("system:nodes".to_owned()),
        ..Subject::default()
    }
}

/// A certificate with which a node calls the API server.
pub async fn client_certificate(
    client: &Client,
    node: &str,
    process: &Process,
) -> Result<Identity, CliError> {
    let subject = node_subject(node);
    let asked = ask(client, CLIENT_SIGNER, "client auth", &subject, process);
    match process.clock.timeout(SIGN_LIMIT, asked).await {
        Some(signed) => signed,
        None => Err(failed(
            "asking for a client certificate",
            "nobody approved the request",
            "do the controllers run? See `kubectl get csr`; `kubectl certificate approve NAME` approves one by hand",
        )),
    }
}

/// A certificate with which a node's agent serves; waits as long as it takes to be approved.
pub async fn serving_certificate(
    client: &Client,
    node: &str,
    address: std::net::IpAddr,
    process: &Process,
) -> Result<Identity, CliError> {
    let subject =
        Subject { dns_names: vec![node.to_owned()], addresses: vec![address], ..node_subject(node) };
    ask(client, SERVING_SIGNER, "server auth", &subject, process).await
}

/// Makes a key, posts a request for a certificate of it, and waits for the certificate.
async fn ask(
    client: &Client,
    signer: &str,
    usage: &str,
    subject: &Subject,
    process: &Process,
) -> Result<Identity, CliError> {
    let what = format!("asking {signer} for a certificate of {}", subject.common_name);
    let (key, request) = pki::request(subject)?;
    let gvr = Gvr::new("certificates.k8s.io", "v1", "certificatesigningrequests");
    let object = json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"generateName": "node-csr-"},
        "spec": {
            "request": STANDARD.encode(&request), "signerName": signer, "usages": ["digital signature", usage],
        },
    });
    let created: Result<Value, ClientError> =
        client.create_at(&gvr, "", &object, &WriteOptions::default()).await;
    let created = created.map_err(|error| {
        failed(&what, error, "the token may have expired: make a new one with `navarch token create`")
    })?;
    let name = created["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let options = WatchOptions { fields: format!("metadata.name={name}"), ..WatchOptions::default() };
    loop {
        let mut stream = match client.watch_at::<Value>(&gvr, "", &options).await {
            Ok(stream) => stream,
            Err(error) => {
                tracing::debug!(%error, name, "waiting for a certificate");
                process.clock.sleep(AGAIN).await;
                continue;
            }
        };
        while let Some(Ok(event)) = stream.next().await {
            match event {
                WatchEvent::Added(csr) | WatchEvent::Modified(csr) => {
                    if let Some(done) = outcome(&csr) {
                        let cert = done.map_err(|why| {
                            failed(&what, why, format!("see `kubectl describe csr {name}`"))
                        })?;
                        return Ok(Identity { cert, key });
                    }
                }
                WatchEvent::Deleted(_) => {
                    return Err(failed(&what, "the request was deleted", "start the agent again"));
                }
                _ => {}
            }
        }
    }
}

/// The certificate of a request, or why there will be none; `None` while undecided.
fn outcome(csr: &Value) -> Option<Result<String, String>> {
    let status = &csr["status"];
    for condition in status["conditions"].as_array().into_iter().flatten() {
        let kind = condition["type"].as_str().unwrap_or_default();
        if matches!(kind, "Denied" | "Failed") {
            let message = condition["message"].as_str().unwrap_or_default();
            return Some(Err(format!("{}: {message}", kind.to_lowercase())));
        }
    }
    let encoded = status["certificate"].as_str().filter(|text| !text.is_empty())?;
    let pem = STANDARD.decode(encoded).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    Some(pem.ok_or_else(|| "the certificate is not PEM".to_owned()))
}

#[cfg(test)]
mod tests {
    use base::pki::Ca;
    use base::{Clock, Rng};

    use super::*;

    fn signature(content: &str, token: &Token) -> String {
        let header = URL_SAFE_NO_PAD.encode(json!({"alg": "HS256", "kid": token.id}).to_string());
        let key = hmac::Key::new(hmac::HMAC_SHA256, token.secret.as_bytes());
        let text = format!("{header}.{}", URL_SAFE_NO_PAD.encode(content));
        format!("{header}..{}", URL_SAFE_NO_PAD.encode(hmac::sign(&key, text.as_bytes())))
    }

    #[test]
    fn a_ca_is_believed_only_with_the_tokens_word() {
        let (now, rng) = (Clock::system().now(), Rng::seeded(1));
        let life = Duration::from_secs(86_400);
        let ca = Ca::new("kubernetes", now, life, &rng).expect("a CA").identity().cert.clone();
        let other = Ca::new("kubernetes", now, life, &rng).expect("a CA").identity().cert.clone();
        let mut token = Token::random(&rng);
        let kubeconfig =
            |ca: &str| Kubeconfig::single("", "https://a:1", ca, None, None).to_yaml().expect("a kubeconfig");
        let mut data = json!({"kubeconfig": kubeconfig(&ca)});
        assert_eq!(vouched(&data, &token), Err(Doubt::Unsigned));
        let name = format!("jws-kubeconfig-{}", token.id);
        data[&name] = signature(&kubeconfig(&ca), &token).into();
        assert_eq!(vouched(&data, &token).as_ref(), Ok(&ca));
        data["kubeconfig"] = kubeconfig(&other).into();
        assert_eq!(vouched(&data, &token), Err(Doubt::BadSignature));
        let pin = |pem: &str| pin_of(&pki::certificates(pem).expect("PEM")[0]).expect("a key");
        token.pin = Some(pin(&ca));
        assert_eq!(vouched(&data, &token), Err(Doubt::OtherCa));
        // Of a bundle only what is pinned is believed.
        data["kubeconfig"] = kubeconfig(&format!("{other}{ca}")).into();
        let believed = vouched(&data, &token).expect("pinned");
        assert_eq!(pki::certificates(&believed).expect("PEM"), pki::certificates(&ca).expect("PEM"));
        assert_eq!(vouched(&json!({}), &token), Err(Doubt::Empty));
    }

    #[test]
    fn requests_end_in_a_certificate_or_a_reason() {
        let check = |status: Value| outcome(&json!({"status": status}));
        assert_eq!(check(json!({})), None);
        assert_eq!(check(json!({"conditions": [{"type": "Approved"}]})), None);
        let denied = json!({"conditions": [{"type": "Denied", "message": "not today"}]});
        assert_eq!(check(denied), Some(Err("denied: not today".to_owned())));
        assert_eq!(check(json!({"certificate": STANDARD.encode("PEM")})), Some(Ok("PEM".to_owned())));
    }
}
