//! Who is believed, and what is not: certificates, front proxies and tokens, one refusal for each rule.

use std::sync::Arc;
use std::time::Duration;

use apiserver::authn::jwt::SigningKey;
use apiserver::authn::service_account::Issuer;
use apiserver::{Config, Rows, Server};
use base::pki::{Ca, Identity, LiveIdentity, Subject};
use base::{Clock, Rng, Tasks};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::Method;
use serde_json::{Value, json};
use store::{Engine, Options, Store};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::Api;

const HOUR: Duration = Duration::from_secs(3600);
const ISSUER: &str = "https://issuer.example.com";
const REVIEW: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

/// A server with this configuration, and a service account `default/default`.
pub async fn api(config: Config) -> Api {
    let (clock, rows) = (Clock::system(), Rows::builtin());
    let store =
        Store::open(Engine::Memory, Options::new(rows.indexer(), clock.clone())).await.expect("memory");
    let server = Server::new(config, rows, store, clock, Rng::seeded(7), Tasks::new()).expect("a server");
    server.start().await.expect("boots");
    let api = Api(server);
    api.create("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "default"}})).await;
    api
}

/// Asks over TLS who one is; `None` when the connection is refused.
async fn over_tls(
    port: u16,
    roots: &str,
    identity: Option<&Identity>,
    headers: &str,
) -> Option<(u16, String)> {
    let identity = identity.map(|identity| LiveIdentity::new(identity).expect("an identity"));
    let config =
        base::trust::client_config(base::trust::Trust::From(roots), identity.as_ref()).expect("a client");
    let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.expect("connects");
    let name = rustls_pki_types::ServerName::try_from("localhost").expect("a name");
    let mut stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.ok()?;
    let request = format!(
        "POST {REVIEW} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\
         connection: close\r\n{headers}\r\n{{}}"
    );
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).ok().filter(|answer| !answer.is_empty())?;
    let code = answer.split(' ').nth(1)?.parse().ok()?;
    let body: Value = serde_json::from_str(answer.split_once("\r\n\r\n")?.1).unwrap_or_default();
    Some((code, body["status"]["userInfo"]["username"].as_str().unwrap_or("").to_owned()))
}

#[tokio::test]
async fn certificates_are_held_against_their_rules() {
    let (now, rng) = (Clock::system().now(), Rng::seeded(3));
    let [clients, fronts, others] =
        ["clients", "fronts", "others"].map(|n| Ca::new(n, now, 9 * HOUR, &rng).expect("a CA"));
    let who = |name: &str, client: bool| Subject {
        common_name: name.to_owned(),
        dns_names: vec!["localhost".to_owned()],
        server: !client,
        client,
        ..Subject::default()
    };
    let issue =
        |ca: &Ca, subject: Subject, at, lifetime| ca.issue(&subject, at, lifetime, &rng).expect("issued");
    let serving = issue(&clients, who("server", false), now, HOUR);
    let config = Config {
        identity: Some(LiveIdentity::new(&serving).expect("an identity")),
        client_ca: Some(clients.identity().cert.clone()),
        requestheader_ca: Some(fronts.identity().cert.clone()),
        requestheader_names: vec!["front".to_owned()],
        requestheaders: [
            vec!["X-Remote-User".into()],
            vec!["X-Remote-Group".into()],
            vec!["X-Remote-Extra-".into()],
        ],
        ..Config::default()
    };
    let api = api(config).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let server = api.0.clone();
    tokio::task::spawn(async move { server.serve(listener).await });
    let (earlier, later) = (now - 96 * HOUR, now + 96 * HOUR);
    let front = "x-remote-user: jane\r\n";
    let jane = Some((201, "jane".to_owned()));
    let none = Some((403, String::new()));
    let cases = [
        ("good", issue(&clients, who("bob", true), now, HOUR), "", Some((201, "bob".to_owned()))),
        ("expired", issue(&clients, who("bob", true), earlier, HOUR), "", None),
        ("not yet valid", issue(&clients, who("bob", true), later, HOUR), "", None),
        ("of another authority", issue(&others, who("bob", true), now, HOUR), "", None),
        ("for servers", issue(&clients, who("bob", false), now, HOUR), "", None),
        (
            "a client's, with a front proxy's headers",
            issue(&clients, who("front", true), now, HOUR),
            front,
            Some((201, "front".to_owned())),
        ),
        ("a front proxy's", issue(&fronts, who("front", true), now, HOUR), front, jane),
        (
            "a front proxy's of another name",
            issue(&fronts, who("back", true), now, HOUR),
            front,
            none.clone(),
        ),
        ("a front proxy's, expired", issue(&fronts, who("front", true), earlier, HOUR), front, None),
        ("a front proxy's without headers", issue(&fronts, who("front", true), now, HOUR), "", none.clone()),
    ];
    let roots = clients.identity().cert.clone();
    for (name, identity, headers, expect) in cases {
        assert_eq!(over_tls(port, &roots, Some(&identity), headers).await, expect, "a certificate {name}");
    }
    assert_eq!(over_tls(port, &roots, None, front).await, none, "headers without a certificate");
}

/// A server whose key the test knows.
async fn with_key() -> (Api, String, SigningKey) {
    let pem = base::pki::new_key_pem().expect("a key");
    let config = Config {
        service_account_signing_key: Some(pem.clone()),
        issuers: vec![ISSUER.to_owned()],
        bootstrap_tokens: true,
        ..Config::default()
    };
    let key = SigningKey::from_pem(&pem).expect("usable");
    (api(config).await, pem, key)
}

/// The code that a token gets, and the user it stands for.
async fn bearer(api: &Api, token: &str) -> (u16, String) {
    let header = format!("Bearer {token}");
    let headers = [("authorization", header.as_str()), ("content-type", "application/json")];
    let answer = api.send(Method::POST, REVIEW, &headers, "{}", None).await;
    (answer.code, answer.json()["status"]["userInfo"]["username"].as_str().unwrap_or("").to_owned())
}

#[tokio::test]
async fn tokens_are_held_against_their_rules() {
    let (api, pem, key) = with_key().await;
    let now = Clock::system().now().as_second();
    let account = api.get("/api/v1/namespaces/default/serviceaccounts/default").await.json();
    let good = json!({"iss": ISSUER, "aud": [ISSUER], "sub": "system:serviceaccount:default:default",
        "iat": now, "nbf": now, "exp": now + 600,
        "kubernetes.io": {"namespace": "default", "serviceaccount": {"name": "default", "uid": account["metadata"]["uid"]}}});
    let with = |path: &str, value: Value| {
        let mut claims = good.clone();
        *claims.pointer_mut(path).expect("a claim") = value;
        key.sign(&claims)
    };
    assert_eq!(
        bearer(&api, &key.sign(&good)).await,
        (201, "system:serviceaccount:default:default".to_owned())
    );
    let encode = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let unsigned =
        |algorithm: &str| format!("{}.{}.", encode(json!({"alg": algorithm})), encode(good.clone()));
    let signed = key.sign(&good);
    let (message, _) = signed.rsplit_once('.').expect("three parts");
    let other = SigningKey::from_pem(&base::pki::new_key_pem().expect("a key")).expect("usable");
    let cases = [
        ("expired", with("/exp", json!(now - 90))),
        ("without an end", with("/exp", Value::Null)),
        ("not yet valid", with("/nbf", json!(now + 600))),
        ("for another audience", with("/aud", json!(["vault"]))),
        ("for nobody", with("/aud", json!([]))),
        ("of another issuer", with("/iss", json!("https://other.example.com"))),
        ("of an absent account", with("/kubernetes.io/serviceaccount/name", json!("none"))),
        ("of an account that was there before", with("/kubernetes.io/serviceaccount/uid", json!("old"))),
        ("signed by another key", other.sign(&good)),
        (
            "with another's signature",
            format!("{message}.{}", other.sign(&good).rsplit_once('.').expect("parts").1),
        ),
        ("without a signature", format!("{message}.")),
        ("of algorithm none", unsigned("none")),
        ("of algorithm None", unsigned("None")),
        (
            "of a symmetric algorithm",
            format!("{}{}", unsigned("HS256"), URL_SAFE_NO_PAD.encode(pem.as_bytes())),
        ),
        ("that is no token", "abc".to_owned()),
    ];
    for (name, token) in cases {
        assert_eq!(bearer(&api, &token).await.0, 401, "a token {name}");
    }
}

#[tokio::test]
async fn tokens_end_with_what_they_are_bound_to() {
    let (api, ..) = with_key().await;
    let place = |resource: &str| match resource {
        "nodes" => "/api/v1/nodes".to_owned(),
        other => format!("/api/v1/namespaces/default/{other}"),
    };
    let pod = json!({"metadata": {"name": "one"}, "spec": {"containers": [{"name": "c", "image": "i"}], "terminationGracePeriodSeconds": 0}});
    for (resource, kind, object) in [
        ("pods", "Pod", pod),
        ("secrets", "Secret", json!({"metadata": {"name": "one"}})),
        ("nodes", "Node", json!({"metadata": {"name": "one"}})),
    ] {
        let made = api.create(&place(resource), object).await;
        assert_eq!(made.code, 201, "{}", made.message());
        let bound =
            json!({"kind": kind, "apiVersion": "v1", "name": "one", "uid": made.json()["metadata"]["uid"]});
        let request = json!({"spec": {"boundObjectRef": bound}});
        let token =
            api.create("/api/v1/namespaces/default/serviceaccounts/default/token", request).await.json();
        let token = token["status"]["token"].as_str().expect("a token").to_owned();
        assert_eq!(bearer(&api, &token).await.0, 201, "{kind}");
        api.admin(Method::DELETE, &format!("{}/one", place(resource)), "application/json", "").await;
        assert_eq!(bearer(&api, &token).await.0, 401, "the token of a deleted {kind}");
    }
}

#[tokio::test]
async fn tokens_in_secrets_can_be_taken_back() {
    let (api, pem, _) = with_key().await;
    let config = Config { service_account_signing_key: Some(pem), ..Config::default() };
    let issuer = Issuer::new(&config).expect("a key");
    let account = api.get("/api/v1/namespaces/default/serviceaccounts/default").await.json();
    let token = issuer.issue_legacy(&account, "old").expect("a token");
    assert_eq!(bearer(&api, &token).await.0, 401, "no Secret holds it");
    let secrets = "/api/v1/namespaces/default/secrets";
    let secret = json!({"metadata": {"name": "old", "annotations": {"kubernetes.io/service-account.name": "default"}},
        "type": "kubernetes.io/service-account-token", "data": {"token": STANDARD.encode(&token)}});
    assert_eq!(api.create(secrets, secret).await.code, 201);
    assert_eq!(bearer(&api, &token).await.0, 201);
    let one = format!("{secrets}/old");
    for (what, on, off) in [
        (
            "marked invalid",
            json!({"metadata": {"labels": {"kubernetes.io/legacy-token-invalid-since": "2026-01-01"}}}),
            json!({"metadata": {"labels": {"kubernetes.io/legacy-token-invalid-since": null}}}),
        ),
        (
            "replaced",
            json!({"data": {"token": "b3RoZXI="}}),
            json!({"data": {"token": STANDARD.encode(&token)}}),
        ),
    ] {
        assert_eq!(api.patch(&one, on).await.code, 200);
        assert_eq!(bearer(&api, &token).await.0, 401, "{what}");
        assert_eq!(api.patch(&one, off).await.code, 200);
        assert_eq!(bearer(&api, &token).await.0, 201, "no longer {what}");
    }
    api.admin(Method::DELETE, &one, "application/json", "").await;
    assert_eq!(bearer(&api, &token).await.0, 401, "its Secret is deleted");
}

#[tokio::test]
async fn bootstrap_tokens_are_held_against_their_rules() {
    let (api, ..) = with_key().await;
    let secrets = "/api/v1/namespaces/kube-system/secrets";
    let cases: [(&str, &str, Value, &str, u16); 8] = [
        ("aaaaaa", "good", json!({}), "bootstrap.kubernetes.io/token", 201),
        (
            "bbbbbb",
            "expired",
            json!({"expiration": "2020-01-01T00:00:00Z"}),
            "bootstrap.kubernetes.io/token",
            401,
        ),
        (
            "cccccc",
            "with an end that is none",
            json!({"expiration": "soon"}),
            "bootstrap.kubernetes.io/token",
            401,
        ),
        (
            "dddddd",
            "not for authentication",
            json!({"usage-bootstrap-authentication": "false"}),
            "bootstrap.kubernetes.io/token",
            401,
        ),
        (
            "eeeeee",
            "for signing only",
            json!({"usage-bootstrap-authentication": null}),
            "bootstrap.kubernetes.io/token",
            401,
        ),
        ("ffffff", "of another id", json!({"token-id": "zzzzzz"}), "bootstrap.kubernetes.io/token", 401),
        (
            "gggggg",
            "with another secret",
            json!({"token-secret": "1111111111111111"}),
            "bootstrap.kubernetes.io/token",
            401,
        ),
        ("hhhhhh", "in a Secret of another type", json!({}), "Opaque", 401),
    ];
    for (id, name, change, kind, code) in cases {
        let mut data = json!({"token-id": id, "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true",
            "usage-bootstrap-signing": "true"});
        for (key, value) in change.as_object().expect("a map") {
            match value {
                Value::Null => drop(data.as_object_mut().expect("a map").remove(key)),
                value => data[key] = value.clone(),
            }
        }
        let secret =
            json!({"metadata": {"name": format!("bootstrap-token-{id}")}, "type": kind, "stringData": data});
        let made = api.create(secrets, secret).await;
        assert_eq!(made.code, 201, "{}", made.message());
        assert_eq!(bearer(&api, &format!("{id}.0123456789abcdef")).await.0, code, "a bootstrap token {name}");
    }
    for token in ["aaaaaa.0123456789abcdeF", "aaaaaa.", "AAAAAA.0123456789abcdef", "nonono.0123456789abcdef"]
    {
        assert_eq!(bearer(&api, token).await.0, 401, "{token}");
    }
}

#[tokio::test]
async fn whoever_has_no_name_sees_only_health() {
    let (api, ..) = with_key().await;
    for (path, code) in [
        ("/livez", 200),
        ("/readyz", 200),
        ("/healthz", 200),
        ("/version", 200),
        ("/api", 403),
        ("/apis", 403),
        ("/api/v1", 403),
        ("/openapi/v2", 403),
        ("/openapi/v3", 403),
        ("/metrics", 403),
        ("/debug/pprof/", 403),
        ("/logs", 403),
        ("/openid/v1/jwks", 403),
        ("/api/v1/namespaces/default/pods", 403),
        ("/api/v1/namespaces/kube-public/configmaps/cluster-info", 403),
    ] {
        assert_eq!(api.send(Method::GET, path, &[], "", None).await.code, code, "{path}");
    }
    let closed = self::api(Config { anonymous: false, ..Config::default() }).await;
    assert_eq!(closed.send(Method::GET, "/livez", &[], "", None).await.code, 401);
}
