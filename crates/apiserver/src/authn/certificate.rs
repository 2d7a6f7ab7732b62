//! Users from client certificates: common name and organisations; and front proxies, which name the user in
//! headers. TLS has verified the chain; which authority it ends in is checked here.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::user::UserInfo;
use http::HeaderMap;
use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, UnixTime};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::authenticated;
use crate::listen::Peer;
use crate::server::Server;

/// What a user's extra fact about the credential is called.
const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

/// What a connection's certificate says.
pub fn peer(server: &Server, chain: &[CertificateDer<'_>]) -> Peer {
    let Some((leaf, above)) = chain.split_first() else { return Peer(None, None) };
    let Ok((_, certificate)) = X509Certificate::from_der(leaf) else { return Peer(None, None) };
    let subject = certificate.subject();
    let text = |value: &x509_parser::x509::AttributeTypeAndValue<'_>| value.as_str().unwrap_or("").to_owned();
    let name = subject.iter_common_name().next().map(text).unwrap_or_default();
    let groups: Vec<String> = subject.iter_organization().map(text).collect();
    let signed_by = |pem: &Option<String>| pem.as_deref().is_some_and(|pem| signed(pem, leaf, above, server));
    let config = &server.config;
    // With one authority configured TLS has settled it.
    let only_clients = config.requestheader_ca.is_none();
    let user = (only_clients || signed_by(&config.client_ca)).then(|| {
        let extra = BTreeMap::from([(CREDENTIAL_ID.to_owned(), vec![credential_id(leaf)])]);
        Arc::new(authenticated(UserInfo { name: name.clone(), groups, extra, ..UserInfo::default() }))
    });
    let fronts = signed_by(&config.requestheader_ca)
        && (config.requestheader_names.is_empty() || config.requestheader_names.contains(&name));
    Peer(user.filter(|user| !user.name.is_empty()), fronts.then(|| name.into()))
}

/// The certificate's fingerprint, as audit logs and requests for certificates tell it.
fn credential_id(leaf: &CertificateDer<'_>) -> String {
    Sha256::digest(leaf).iter().fold("X509SHA256=".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

fn signed(pem: &str, leaf: &CertificateDer<'_>, above: &[CertificateDer<'_>], server: &Server) -> bool {
    let Ok(roots) = base::pki::roots(pem) else { return false };
    let roots: Arc<RootCertStore> = Arc::new(roots);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let Ok(verifier) = rustls::server::WebPkiClientVerifier::builder_with_provider(roots, provider).build()
    else {
        return false;
    };
    let seconds = u64::try_from(server.clock.now().as_second()).unwrap_or(0);
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
    verifier.verify_client_cert(leaf, above, now).is_ok()
}

/// The user that a front proxy names.
pub fn fronted(server: &Server, headers: &HeaderMap, _proxy: &str) -> Option<UserInfo> {
    let [users, groups, extras] = &server.config.requestheaders;
    let text =
        |name: &String| headers.get(name.as_str()).and_then(|v| v.to_str().ok()).filter(|v| !v.is_empty());
    let name = users.iter().find_map(text)?.to_owned();
    let all = groups.iter().flat_map(|name| headers.get_all(name.as_str()));
    let groups = all.filter_map(|v| v.to_str().ok().map(str::to_owned)).collect();
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (header, value) in headers {
        let strip =
            |prefix: &String| header.as_str().strip_prefix(&prefix.to_ascii_lowercase()).map(str::to_owned);
        if let (Some(key), Ok(value)) = (extras.iter().find_map(strip), value.to_str()) {
            extra.entry(crate::request::percent_decode(&key)).or_default().push(value.to_owned());
        }
    }
    Some(authenticated(UserInfo { name, uid: String::new(), groups, extra }))
}
