//! The content of a PKCS#10 request.

use std::net::IpAddr;

use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

/// What a request asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// The user's name.
    pub common_name: String,
    /// The groups.
    pub organizations: Vec<String>,
    /// DNS names.
    pub dns_names: Vec<String>,
    /// Addresses.
    pub addresses: Vec<IpAddr>,
    /// E-mail addresses, URIs and what is malformed.
    pub others: usize,
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// Reads a PEM request; `None` when it is none or its signature is wrong.
pub fn parse(pem: &[u8]) -> Option<Subject> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem).ok()?;
    if !pem.label.ends_with("CERTIFICATE REQUEST") {
        return None;
    }
    let (_, request) = X509CertificationRequest::from_der(&pem.contents).ok()?;
    let info = &request.certification_request_info;
    let mut subject = Subject::default();
    let name = info.subject.iter_common_name().next();
    subject.common_name = name.and_then(|name| name.as_str().ok()).unwrap_or("").to_owned();
    let organizations = info.subject.iter_organization().filter_map(|entry| entry.as_str().ok());
    subject.organizations = organizations.map(str::to_owned).collect();
    for extension in request.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
        for name in &names.general_names {
            match name {
                GeneralName::DNSName(name) => subject.dns_names.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => match address(bytes) {
                    Some(address) => subject.addresses.push(address),
                    None => subject.others += 1,
                },
                _ => subject.others += 1,
            }
        }
    }
    Some(subject)
}
