//! Keys and certificates: a CA that issues, PEM in and out, rustls configurations.
//!
//! Must not know which component a certificate is for: names, groups and addresses come from the caller.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::RwLock;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls::RootCertStore;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::Rng;

/// Clocks of machines differ: a certificate is valid from this long before it was made.
const BACKDATE: Duration = Duration::from_secs(300);

/// Why a key or certificate could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// Making or signing failed.
    #[error("cannot issue a certificate for {subject}: {source}")]
    Issue {
        /// The common name asked for.
        subject: String,
        /// rcgen's error.
        source: rcgen::Error,
    },
    /// Not a usable PEM text.
    #[error("cannot read {what}: {detail}")]
    Pem {
        /// What was read.
        what: &'static str,
        /// Why it failed.
        detail: String,
    },
    /// rustls refused the configuration.
    #[error("TLS configuration refused: {0}")]
    Tls(#[from] rustls::Error),
}

/// A certificate and its private key, both PEM.
#[derive(Clone)]
pub struct Identity {
    /// The certificate, PEM.
    pub cert: String,
    /// The private key, PEM (PKCS#8).
    pub key: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The key never reaches a log.
        f.debug_struct("Identity").field("cert", &self.cert).finish_non_exhaustive()
    }
}

/// An identity that can be replaced while connections are served or made with it; cheap to clone, and all clones
/// change together.
#[derive(Clone)]
pub struct LiveIdentity(Arc<RwLock<(Identity, Arc<CertifiedKey>)>>);

impl LiveIdentity {
    /// Starts with `identity`.
    pub fn new(identity: &Identity) -> Result<LiveIdentity, PkiError> {
        Ok(LiveIdentity(Arc::new(RwLock::new((identity.clone(), certified(identity)?)))))
    }

    /// Connections made from now on show `identity`; those that exist keep the earlier one.
    pub fn replace(&self, identity: &Identity) -> Result<(), PkiError> {
        let key = certified(identity)?;
        *self.0.write() = (identity.clone(), key);
        Ok(())
    }

    /// The identity shown now.
    pub fn now(&self) -> Identity {
        self.0.read().0.clone()
    }
}

fn certified(identity: &Identity) -> Result<Arc<CertifiedKey>, PkiError> {
    let chain = certificates(&identity.cert)?;
    Ok(Arc::new(CertifiedKey::from_der(chain, private_key(&identity.key)?, &provider())?))
}

impl std::fmt::Debug for LiveIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.read().0.fmt(f)
    }
}

impl ResolvesServerCert for LiveIdentity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().1.clone())
    }
}

impl ResolvesClientCert for LiveIdentity {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().1.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// What a certificate is for.
#[derive(Clone, Debug, Default)]
pub struct Subject {
    /// The common name: Kubernetes' user name.
    pub common_name: String,
    /// The organisation: Kubernetes' group.
    pub organization: Option<String>,
    /// DNS names it serves.
    pub dns_names: Vec<String>,
    /// Addresses it serves.
    pub addresses: Vec<IpAddr>,
    /// Fit for a server.
    pub server: bool,
    /// Fit for a client.
    pub client: bool,
}

/// A certificate authority.
pub struct Ca {
    identity: Identity,
    issuer: Issuer<'static, KeyPair>,
}

impl Ca {
    /// A new self-signed authority (ECDSA P-256) valid for `lifetime`.
    pub fn new(name: &str, now: Timestamp, lifetime: Duration, rng: &Rng) -> Result<Ca, PkiError> {
        let issue = |source| PkiError::Issue { subject: name.to_owned(), source };
        let key = KeyPair::generate().map_err(issue)?;
        let params = authority(name, now, lifetime, rng).map_err(issue)?;
        let cert = params.self_signed(&key).map_err(issue)?.pem();
        Ca::from_pem(Identity { cert, key: key.serialize_pem() })
    }

    /// An authority from its PEM certificate and key.
    pub fn from_pem(identity: Identity) -> Result<Ca, PkiError> {
        let pem = |error: rcgen::Error| PkiError::Pem { what: "the CA", detail: error.to_string() };
        let key = KeyPair::from_pem(&identity.key).map_err(pem)?;
        let issuer = Issuer::from_ca_cert_pem(&identity.cert, key).map_err(pem)?;
        Ok(Ca { identity, issuer })
    }

    /// The authority's own certificate and key.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Vouches for another authority: a certificate of its name and key, signed by this one. Who trusts this
    /// authority then believes what the other signed.
    pub fn cross_sign(
        &self,
        other: &Ca,
        now: Timestamp,
        lifetime: Duration,
        rng: &Rng,
    ) -> Result<String, PkiError> {
        let name = describe(&other.identity.cert)?.common_name;
        let issue = |source| PkiError::Issue { subject: name.clone(), source };
        let params = authority(&name, now, lifetime, rng).map_err(issue)?;
        let key = KeyPair::from_pem(&other.identity.key).map_err(issue)?;
        Ok(params.signed_by(&key, &self.issuer).map_err(issue)?.pem())
    }

    /// Issues a certificate with a new key.
    pub fn issue(
        &self,
        subject: &Subject,
        now: Timestamp,
        lifetime: Duration,
        rng: &Rng,
    ) -> Result<Identity, PkiError> {
        let issue = |source| PkiError::Issue { subject: subject.common_name.clone(), source };
        let key = KeyPair::generate().map_err(issue)?;
        let mut params = CertificateParams::new(subject.dns_names.clone()).map_err(issue)?;
        params.distinguished_name = distinguished_name(&subject.common_name, subject.organization.as_deref());
        params.subject_alt_names.extend(subject.addresses.iter().map(|ip| SanType::IpAddress(*ip)));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        if subject.server {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        if subject.client {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        }
        set_validity(&mut params, now, lifetime, rng);
        let cert = params.signed_by(&key, &self.issuer).map_err(issue)?;
        Ok(Identity { cert: cert.pem(), key: key.serialize_pem() })
    }

    /// Signs a PEM certificate signing request with these usages; returns the certificate, PEM.
    pub fn sign_request(
        &self,
        request_pem: &str,
        server: bool,
        client: bool,
        now: Timestamp,
        lifetime: Duration,
        rng: &Rng,
    ) -> Result<String, PkiError> {
        let bad =
            |error: rcgen::Error| PkiError::Pem { what: "the signing request", detail: error.to_string() };
        let mut request = rcgen::CertificateSigningRequestParams::from_pem(request_pem).map_err(bad)?;
        request.params.extended_key_usages.clear();
        if server {
            request.params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        if client {
            request.params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        }
        request.params.is_ca = IsCa::ExplicitNoCa;
        set_validity(&mut request.params, now, lifetime, rng);
        Ok(request.signed_by(&self.issuer).map_err(bad)?.pem())
    }
}

fn authority(
    name: &str,
    now: Timestamp,
    lifetime: Duration,
    rng: &Rng,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished_name(name, None);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
        KeyUsagePurpose::KeyCertSign,
    ];
    params.subject_alt_names = vec![SanType::DnsName(name.to_owned().try_into()?)];
    set_validity(&mut params, now, lifetime, rng);
    Ok(params)
}

/// A new key and a request for a certificate of it, both PEM. Whoever signs decides on its uses.
pub fn request(subject: &Subject) -> Result<(String, String), PkiError> {
    let issue = |source| PkiError::Issue { subject: subject.common_name.clone(), source };
    let key = KeyPair::generate().map_err(issue)?;
    let mut params = CertificateParams::new(subject.dns_names.clone()).map_err(issue)?;
    params.distinguished_name = distinguished_name(&subject.common_name, subject.organization.as_deref());
    params.subject_alt_names.extend(subject.addresses.iter().map(|ip| SanType::IpAddress(*ip)));
    let request = params.serialize_request(&key).map_err(issue)?.pem().map_err(issue)?;
    Ok((key.serialize_pem(), request))
}

fn distinguished_name(common_name: &str, organization: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if let Some(organization) = organization {
        name.push(DnType::OrganizationName, organization);
    }
    name.push(DnType::CommonName, common_name);
    name
}

fn set_validity(params: &mut CertificateParams, now: Timestamp, lifetime: Duration, rng: &Rng) {
    let at = |timestamp: Timestamp| {
        let date = timestamp.to_zoned(jiff::tz::TimeZone::UTC).date();
        rcgen::date_time_ymd(i32::from(date.year()), date.month() as u8, date.day() as u8)
    };
    // rcgen takes whole days here: begin on the day of (now - BACKDATE), end on the day after the last.
    params.not_before = at(now - BACKDATE);
    params.not_after = at(now + lifetime + Duration::from_secs(86_400));
    let mut serial = [0; 16];
    rng.fill(&mut serial);
    serial[0] &= 0x7f;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
}

/// What a certificate says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The common name.
    pub common_name: String,
    /// The organisations.
    pub organizations: Vec<String>,
    /// The common name of who signed it.
    pub issuer: String,
    /// First second of validity, Unix time.
    pub not_before: i64,
    /// Last second of validity, Unix time.
    pub not_after: i64,
    /// DNS names it serves.
    pub dns_names: Vec<String>,
    /// Addresses it serves.
    pub addresses: Vec<IpAddr>,
}

/// Reads the first certificate of a PEM text.
pub fn describe(pem: &str) -> Result<Facts, PkiError> {
    let missing = || PkiError::Pem { what: "a certificate", detail: "there is none".to_owned() };
    describe_all(pem)?.into_iter().next().ok_or_else(missing)
}

/// Reads every certificate of a PEM text.
pub fn describe_all(pem: &str) -> Result<Vec<Facts>, PkiError> {
    certificates(pem)?.iter().map(facts).collect()
}

fn facts(certificate: &CertificateDer<'_>) -> Result<Facts, PkiError> {
    let parsed = x509_parser::parse_x509_certificate(certificate.as_ref());
    let (_, cert) =
        parsed.map_err(|error| PkiError::Pem { what: "a certificate", detail: error.to_string() })?;
    let mut facts = Facts {
        not_before: cert.validity().not_before.timestamp(),
        not_after: cert.validity().not_after.timestamp(),
        ..Facts::default()
    };
    let text =
        |value: &x509_parser::x509::AttributeTypeAndValue<'_>| value.as_str().unwrap_or_default().to_owned();
    facts.common_name = cert.subject().iter_common_name().next().map(text).unwrap_or_default();
    facts.issuer = cert.issuer().iter_common_name().next().map(text).unwrap_or_default();
    facts.organizations = cert.subject().iter_organization().map(text).collect();
    let names = cert.subject_alternative_name().ok().flatten();
    for name in names.iter().flat_map(|names| &names.value.general_names) {
        use x509_parser::extensions::GeneralName;
        match name {
            GeneralName::DNSName(name) => facts.dns_names.push((*name).to_owned()),
            GeneralName::IPAddress(bytes) => {
                let four = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
                let sixteen = <[u8; 16]>::try_from(*bytes).map(IpAddr::from);
                facts.addresses.extend(four.or(sixteen).ok());
            }
            _ => {}
        }
    }
    Ok(facts)
}

/// The public key of a certificate as DER (`SubjectPublicKeyInfo`): what pins are digests of, for it stays when an
/// authority's certificate is renewed.
pub fn public_key(certificate: &CertificateDer<'_>) -> Result<Vec<u8>, PkiError> {
    let parsed = x509_parser::parse_x509_certificate(certificate.as_ref());
    let (_, certificate) =
        parsed.map_err(|error| PkiError::Pem { what: "a certificate", detail: error.to_string() })?;
    Ok(certificate.public_key().raw.to_vec())
}

/// A new RSA-free signing key (ECDSA P-256, PKCS#8 PEM), for service-account tokens.
pub fn new_key_pem() -> Result<String, PkiError> {
    let key = KeyPair::generate()
        .map_err(|source| PkiError::Issue { subject: "a signing key".to_owned(), source })?;
    Ok(key.serialize_pem())
}

/// Certificates of a PEM text, in order.
pub fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| PkiError::Pem { what: "certificates", detail: error.to_string() })
}

/// The first private key of a PEM text.
pub fn private_key(pem: &str) -> Result<PrivateKeyDer<'static>, PkiError> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| PkiError::Pem { what: "a private key", detail: error.to_string() })
}

/// Trust anchors from a PEM bundle.
pub fn roots(pem: &str) -> Result<RootCertStore, PkiError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem)? {
        roots.add(certificate)?;
    }
    Ok(roots)
}

/// AES-128 first, as Go has it: lists and watches are many megabytes, and it is the quickest.
pub(crate) fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    let mut provider = rustls::crypto::ring::default_provider();
    let quickest = rustls::CipherSuite::TLS13_AES_128_GCM_SHA256;
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != quickest);
    Arc::new(provider)
}

/// A server's TLS: presents `identity`; when `client_cas` is given, asks for a client certificate of one of
/// them (optional: other ways to authenticate remain). Offers HTTP/2 and HTTP/1.1.
pub fn server_config(
    identity: &LiveIdentity,
    client_cas: Option<&str>,
) -> Result<rustls::ServerConfig, PkiError> {
    let builder =
        rustls::ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let builder = match client_cas {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(pem)?), provider())
                .allow_unauthenticated()
                .build()
                .map_err(|error| PkiError::Pem { what: "client CAs", detail: error.to_string() })?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(identity.clone()));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR: Duration = Duration::from_secs(365 * 86_400);

    #[test]
    fn a_ca_issues_what_rustls_accepts() {
        let (now, rng) = (crate::Clock::system().now(), Rng::seeded(1));
        let ca = Ca::new("kubernetes-ca", now, 10 * YEAR, &rng).expect("a CA");
        let ca = Ca::from_pem(ca.identity().clone()).expect("reloads");
        let subject = Subject {
            common_name: "kube-apiserver".into(),
            organization: Some("system:masters".into()),
            dns_names: vec!["localhost".into()],
            addresses: vec![[127, 0, 0, 1].into()],
            server: true,
            client: true,
        };
        let identity = ca.issue(&subject, now, YEAR, &rng).expect("issued");
        let live = LiveIdentity::new(&identity).expect("an identity");
        server_config(&live, Some(&ca.identity().cert)).expect("server");
        let trust = crate::trust::Trust::From(&ca.identity().cert);
        crate::trust::client_config(trust, Some(&live)).expect("client");
        let (_, pem) = x509_parser::pem::parse_x509_pem(identity.cert.as_bytes()).expect("PEM");
        let cert = pem.parse_x509().expect("X.509");
        let organization = cert.subject().iter_organization().next().expect("an organisation");
        assert_eq!(organization.as_str().expect("text"), "system:masters");
        assert!(!format!("{identity:?}").contains("PRIVATE"));
        let (key, request) = request(&subject).expect("a request");
        let signed = ca.sign_request(&request, true, false, now, YEAR, &rng).expect("signed");
        assert_eq!(describe(&signed).expect("readable").dns_names, subject.dns_names);
        let pin = |pem: &str| public_key(&certificates(pem).expect("PEM")[0]).expect("a key");
        assert_ne!(pin(&signed), pin(&identity.cert));
        live.replace(&Identity { cert: signed.clone(), key }).expect("replaced");
        assert_eq!(live.clone().now().cert, signed);
    }

    #[test]
    fn an_authority_vouches_for_its_successor() {
        let (now, rng) = (crate::Clock::system().now(), Rng::seeded(1));
        let old = Ca::new("old", now, YEAR, &rng).expect("a CA");
        let new = Ca::new("new", now, YEAR, &rng).expect("a CA");
        let cross = old.cross_sign(&new, now, YEAR, &rng).expect("signed");
        let facts = describe(&cross).expect("readable");
        assert_eq!((facts.common_name.as_str(), facts.issuer.as_str()), ("new", "old"));
        let subject = Subject { dns_names: vec!["a".into()], server: true, ..Subject::default() };
        let leaf = new.issue(&subject, now, YEAR, &rng).expect("issued").cert;
        // Whoever knows the old authority only believes the leaf with the cross certificate beside it.
        let roots = Arc::new(roots(&old.identity().cert).expect("a root"));
        let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(roots, provider());
        let verifier = verifier.build().expect("a verifier");
        let check = |between: &str| {
            let (leaf, between) = (certificates(&leaf).expect("PEM"), certificates(between).expect("PEM"));
            let name = rustls_pki_types::ServerName::try_from("a").expect("a name");
            let at =
                rustls_pki_types::UnixTime::since_unix_epoch(Duration::from_secs(now.as_second() as u64));
            use rustls::client::danger::ServerCertVerifier as _;
            verifier.verify_server_cert(&leaf[0], &between, &name, &[], at).is_ok()
        };
        assert!(check(&cross) && !check(""));
    }
}
