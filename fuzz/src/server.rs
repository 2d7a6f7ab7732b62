//! The API server's edge: paths and parameters, media types, the configuration files.

use apiserver::audit::Policy;
use apiserver::authn::oidc::Issuers;
use apiserver::encryption::Sealer;
use apiserver::negotiate::{Offer, accept, body_format};
use apiserver::request::{Query, RequestInfo};
use client::Kubeconfig;
use http::{HeaderMap, HeaderValue, Method, header};

use crate::{Target, join, parts};

/// See [`Target`].
pub const TARGETS: &[Target] = &[
    Target { name: "request", run: run_request, seeds: request_seeds, words: request_words },
    Target { name: "config", run: run_config, seeds: config_seeds, words: config_words },
];

fn run_request(data: &[u8]) {
    let [target, accepted] = parts::<2>(data);
    let Ok(target) = std::str::from_utf8(target) else { return };
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    let query = Query::parse(query);
    for method in [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
        let info = RequestInfo::parse(&method, path, &query);
        let _ = info.read_only();
    }
    for name in ["limit", "resourceVersion", "watch", "timeoutSeconds"] {
        let _ = (query.get(name), query.flag(name), query.optional_flag(name), query.integer(name));
        let _ = query.all(name).count();
    }
    let Ok(value) = HeaderValue::from_bytes(accepted) else { return };
    let headers = HeaderMap::from_iter([(header::ACCEPT, value.clone()), (header::CONTENT_TYPE, value)]);
    for (tables, protobuf, watch) in [(true, true, false), (false, true, false), (true, false, true)] {
        let _ = accept(&headers, query.optional_flag("pretty"), Offer { tables, protobuf, watch });
    }
    let _ = (body_format(&headers, true), body_format(&headers, false));
}

fn run_config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = Policy::parse(text);
    let _ = Sealer::parse(text);
    let _ = Kubeconfig::parse(text);
    let config = apiserver::Config { authentication: Some(text.to_owned()), ..apiserver::Config::default() };
    let _ = Issuers::new(&config);
}

fn request_seeds() -> Vec<Vec<u8>> {
    let targets = [
        "/api/v1/namespaces/default/pods/a/log?container=b&follow=true&limit=5",
        "/apis/apps/v1/namespaces/a%2fb/deployments?labelSelector=a%3Db%2Cc+in+%28d%29&watch=1",
        "/api/v1/watch/namespaces/default/pods",
        "/api/v1/namespaces/default/services/https:a:80/proxy/x//y?z=%zz",
        "/api/v1/nodes/n/proxy/",
        "/apis/metrics.k8s.io/v1beta1/nodes",
        "/api",
        "//api//v1//pods",
        "/healthz?verbose",
    ];
    let accepted = [
        "application/json;as=Table;g=meta.k8s.io;v=v1,application/json",
        "application/vnd.kubernetes.protobuf;stream=watch, */*;q=0.8",
        "application/yaml;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
        "application/json; charset=utf-8",
    ];
    let pair = |(target, accepted): (&&str, &&str)| join(&[target.as_bytes(), accepted.as_bytes()]);
    targets.iter().zip(accepted.iter().cycle()).map(pair).collect()
}

fn request_words() -> Vec<String> {
    "/api/v1/ /apis/ namespaces/ /proxy/ watch/ status finalize labelSelector= fieldSelector= limit= resourceVersion= \
     resourceVersionMatch=NotOlderThan continue= watch=true pretty= %2F %00 %zz + & ;as=Table ;q=0 ;g=meta.k8s.io ;v=v1 \
     application/json application/yaml application/vnd.kubernetes.protobuf application/apply-patch+yaml */*"
        .split_whitespace()
        .map(String::from)
        .collect()
}

const CONFIGS: &[&str] = &[
    "apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules:\n- level: Metadata\n  users: [a]\n  \
     resources: [{group: '', resources: [pods/log], resourceNames: [x]}]\n- level: None\n  nonResourceURLs: ['/healthz*']\n",
    "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets, '*.apps']\n  \
     providers:\n  - aescbc: {keys: [{name: k, secret: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=}]}\n  - aesgcm: {keys: [{name: k, secret: MDEyMzQ1Njc4OWFiY2RlZg==}]}\n  - secretbox: {keys: []}\n  - identity: {}\n",
    "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\nanonymous: {enabled: true, conditions: [{path: /livez}]}\njwt:\n\
     - issuer: {url: 'https://a', audiences: [b], certificateAuthority: |\n      -----BEGIN CERTIFICATE-----\n      MA==\n      -----END CERTIFICATE-----\n  }\n  \
     claimMappings: {username: {claim: sub, prefix: ''}, groups: {expression: 'claims.groups'}}\n  claimValidationRules: [{expression: 'claims.a == 1', message: m}]\n  \
     userValidationRules: [{expression: '!user.username.startsWith(\"system:\")'}]\n",
    "apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: 'https://a:1', certificate-authority-data: MA==, insecure-skip-tls-verify: true}}]\n\
     users: [{name: u, user: {token: t, exec: {apiVersion: client.authentication.k8s.io/v1, command: x, args: [a], interactiveMode: Never}}}]\n\
     contexts: [{name: d, context: {cluster: c, user: u, namespace: n}}]\ncurrent-context: d\n",
];

fn config_seeds() -> Vec<Vec<u8>> {
    CONFIGS.iter().map(|text| text.as_bytes().to_vec()).collect()
}

fn config_words() -> Vec<String> {
    let words = CONFIGS.iter().flat_map(|text| text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-'));
    let mut words: Vec<String> = words.filter(|word| word.len() > 2).map(String::from).collect();
    words.sort();
    words.dedup();
    words
}
