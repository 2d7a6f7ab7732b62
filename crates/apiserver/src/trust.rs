//! Whom this server trusts when it is the client: webhooks, issuers, aggregated servers. As Go does, and unlike our
//! TLS library, a certificate that is itself among the trusted ones may serve, authority or not.

use std::sync::Arc;

use base::pki::{self, LiveIdentity};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

/// TLS to servers whose certificates are from, or among, the certificates of a PEM text.
pub fn client_config(ca: &str, identity: Option<&LiveIdentity>) -> Result<rustls::ClientConfig, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let roots = Arc::new(pki::roots(ca).map_err(|error| text(&error))?);
    let inner = WebPkiServerVerifier::builder_with_provider(roots, provider.clone())
        .build()
        .map_err(|error| text(&error))?;
    let trusted = pki::certificates(ca).map_err(|error| text(&error))?;
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| text(&error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier { inner, trusted }));
    Ok(match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => builder.with_client_cert_resolver(Arc::new(identity.clone())),
    })
}

#[derive(Debug)]
struct Verifier {
    inner: Arc<WebPkiServerVerifier>,
    trusted: Vec<CertificateDer<'static>>,
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

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let error = match self.inner.verify_server_cert(leaf, above, name, ocsp, now) {
            Ok(verified) => return Ok(verified),
            Err(error) => error,
        };
        if !self.trusted.iter().any(|trusted| trusted == leaf) {
            return Err(error);
        }
        current(leaf, now)?;
        verify_server_name(&ParsedCertificate::try_from(leaf)?, name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, cert, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, cert, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
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
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let roots = Arc::new(pki::roots(&made.pem()).expect("roots"));
        let inner = WebPkiServerVerifier::builder_with_provider(roots, provider).build().expect("a verifier");
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let name = |text: &'static str| ServerName::try_from(text).expect("a name");
        let (within, after) = (1_780_000_000, 1_900_000_000);
        for (trusted, who, when, fine) in [
            (true, "hook.svc", within, true),
            (true, "other.svc", within, false),
            (true, "hook.svc", after, false),
            (false, "hook.svc", within, false),
        ] {
            let trusted = if trusted { vec![made.der().clone()] } else { Vec::new() };
            let verifier = Verifier { inner: inner.clone(), trusted };
            let verdict = verifier.verify_server_cert(made.der(), &[], &name(who), &[], at(when));
            assert_eq!(verdict.is_ok(), fine, "{who} {when}: {verdict:?}");
        }
    }
}
