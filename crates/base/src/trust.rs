//! Whom we trust when we are the client of a TLS server, as client configurations.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::pki::{self, LiveIdentity, PkiError};

/// Whose certificates are believed. In every case the server must hold the key of what it shows.
#[derive(Clone, Copy, Debug)]
pub enum Trust<'a> {
    /// Anyone's: where upstream checks none, and where a user asks for that.
    Anyone,
    /// Those from the authorities of a PEM text.
    From(&'a str),
    /// Those from, or among, the certificates of a PEM text: as Go does, and unlike our TLS library, a certificate
    /// that is itself trusted may serve, authority or not.
    Among(&'a str),
}

/// A client's TLS, which presents `identity` when given. No ALPN is set: the caller chooses.
pub fn client_config(
    trust: Trust<'_>,
    identity: Option<&LiveIdentity>,
) -> Result<rustls::ClientConfig, PkiError> {
    let verifier = verifier(trust)?;
    let builder = rustls::ClientConfig::builder_with_provider(pki::provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    Ok(match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => builder.with_client_cert_resolver(Arc::new(identity.clone())),
    })
}

fn verifier(trust: Trust<'_>) -> Result<Arc<dyn ServerCertVerifier>, PkiError> {
    Ok(match trust {
        Trust::From(authorities) => from(authorities)?,
        Trust::Among(pem) => {
            Arc::new(Checked::new(Among { authorities: from(pem)?, listed: pki::certificates(pem)? }))
        }
        Trust::Anyone => Arc::new(Checked::new(Anyone)),
    })
}

fn from(authorities: &str) -> Result<Arc<WebPkiServerVerifier>, PkiError> {
    let roots = Arc::new(pki::roots(authorities)?);
    WebPkiServerVerifier::builder_with_provider(roots, pki::provider())
        .build()
        .map_err(|error| PkiError::Pem { what: "certificate authorities", detail: error.to_string() })
}

/// What a server showed, and when.
struct Shown<'a> {
    leaf: &'a CertificateDer<'a>,
    above: &'a [CertificateDer<'a>],
    name: &'a ServerName<'a>,
    ocsp: &'a [u8],
    now: UnixTime,
}

/// A rule about certificates; signatures are not its business.
trait Rule: std::fmt::Debug + Send + Sync {
    fn accepts(&self, shown: &Shown<'_>) -> Result<(), rustls::Error>;
}

/// A rule about certificates with the usual check of signatures.
#[derive(Debug)]
struct Checked<R> {
    rule: R,
    provider: Arc<CryptoProvider>,
}

impl<R> Checked<R> {
    fn new(rule: R) -> Self {
        Checked { rule, provider: pki::provider() }
    }
}

impl<R: Rule> ServerCertVerifier for Checked<R> {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.rule.accepts(&Shown { leaf, above, name, ocsp, now })?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, leaf, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, leaf, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[derive(Debug)]
struct Anyone;

impl Rule for Anyone {
    fn accepts(&self, _: &Shown<'_>) -> Result<(), rustls::Error> {
        Ok(())
    }
}

#[derive(Debug)]
struct Among {
    authorities: Arc<WebPkiServerVerifier>,
    listed: Vec<CertificateDer<'static>>,
}

impl Rule for Among {
    fn accepts(&self, shown: &Shown<'_>) -> Result<(), rustls::Error> {
        let Shown { leaf, above, name, ocsp, now } = *shown;
        let Err(error) = self.authorities.verify_server_cert(leaf, above, name, ocsp, now) else {
            return Ok(());
        };
        if !self.listed.iter().any(|listed| listed == leaf) {
            return Err(error);
        }
        current(leaf, now)?;
        verify_server_name(&ParsedCertificate::try_from(leaf)?, name)
    }
}

/// Whether a certificate is valid at a time.
fn current(leaf: &CertificateDer<'_>, now: UnixTime) -> Result<(), rustls::Error> {
    let broken = |_| rustls::Error::InvalidCertificate(CertificateError::BadEncoding);
    let (_, certificate) = X509Certificate::from_der(leaf).map_err(broken)?;
    let (validity, now) = (certificate.validity(), i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    if now < validity.not_before.timestamp() {
        return Err(rustls::Error::InvalidCertificate(CertificateError::NotValidYet));
    }
    if now > validity.not_after.timestamp() {
        return Err(rustls::Error::InvalidCertificate(CertificateError::Expired));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_trusted_certificate_may_serve_for_its_name_while_it_is_valid() {
        let mut params = rcgen::CertificateParams::new(vec!["hook.svc".to_owned()]).expect("a name");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2027, 1, 1);
        let key = rcgen::KeyPair::generate().expect("a key");
        let made = params.self_signed(&key).expect("a certificate");
        let authorities = from(&made.pem()).expect("roots");
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let name = |text: &'static str| ServerName::try_from(text).expect("a name");
        let (within, after) = (1_780_000_000, 1_900_000_000);
        for (trusted, who, when, fine) in [
            (true, "hook.svc", within, true),
            (true, "other.svc", within, false),
            (true, "hook.svc", after, false),
            (false, "hook.svc", within, false),
        ] {
            let listed = if trusted { vec![made.der().clone()] } else { Vec::new() };
            let verifier = Checked::new(Among { authorities: authorities.clone(), listed });
            let verdict = verifier.verify_server_cert(made.der(), &[], &name(who), &[], at(when));
            assert_eq!(verdict.is_ok(), fine, "{who} {when}: {verdict:?}");
        }
    }
}
