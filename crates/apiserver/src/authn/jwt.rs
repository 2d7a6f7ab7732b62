//! JSON web tokens: ES256 and RS256, signed and verified with ring. It must not know what claims mean.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, KeyPair, RsaKeyPair};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivateKeyDer, SubjectPublicKeyInfoDer};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("unusable service-account key: {0}")]
pub struct KeyError(String);

/// A key that signs.
pub struct SigningKey {
    pair: Pair,
    /// Its public half.
    pub public: PublicKey,
}

enum Pair {
    Ec(EcdsaKeyPair),
    Rsa(Box<RsaKeyPair>),
}

/// A key that verifies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    algorithm: Algorithm,
    /// The point, or the PKCS#1 key.
    raw: Vec<u8>,
    /// Key id, as upstream derives it: SHA-256 over the SubjectPublicKeyInfo.
    pub id: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algorithm {
    Es256,
    Rs256,
}

/// DER of a P-256 SubjectPublicKeyInfo up to the point.
const P256_SPKI: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// The AlgorithmIdentifier of rsaEncryption.
const RSA_ALGORITHM: [u8; 15] =
    [0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];

impl SigningKey {
    /// From PEM: PKCS#8, PKCS#1 (RSA) or SEC1 (EC P-256).
    pub fn from_pem(pem: &str) -> Result<SigningKey, KeyError> {
        let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|e| KeyError(e.to_string()))?;
        let rng = SystemRandom::new();
        let ec = &signature::ECDSA_P256_SHA256_FIXED_SIGNING;
        let bad = |e: ring::error::KeyRejected| KeyError(e.to_string());
        let pair = match &key {
            PrivateKeyDer::Pkcs8(der) => match EcdsaKeyPair::from_pkcs8(ec, der.secret_pkcs8_der(), &rng) {
                Ok(pair) => Pair::Ec(pair),
                Err(_) => Pair::Rsa(Box::new(RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).map_err(bad)?)),
            },
            PrivateKeyDer::Pkcs1(der) => {
                Pair::Rsa(Box::new(RsaKeyPair::from_der(der.secret_pkcs1_der()).map_err(bad)?))
            }
            PrivateKeyDer::Sec1(der) => Pair::Ec(sec1(der.secret_sec1_der(), &rng)?),
            _ => return Err(KeyError("unknown kind of key".to_owned())),
        };
        let public = match &pair {
            Pair::Ec(pair) => PublicKey::new(Algorithm::Es256, pair.public_key().as_ref().to_vec()),
            Pair::Rsa(pair) => PublicKey::new(Algorithm::Rs256, pair.public_key().as_ref().to_vec()),
        };
        Ok(SigningKey { pair, public })
    }

    /// A signed token with these claims.
    pub fn sign(&self, claims: &Value) -> String {
        let header = json!({"alg": self.public.algorithm_name(), "kid": self.public.id});
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", encode(&header), encode(claims));
        let rng = SystemRandom::new();
        let signature = match &self.pair {
            Pair::Ec(pair) => pair.sign(&rng, message.as_bytes()).map(|s| s.as_ref().to_vec()),
            Pair::Rsa(pair) => {
                let mut out = vec![0; pair.public().modulus_len()];
                pair.sign(&signature::RSA_PKCS1_SHA256, &rng, message.as_bytes(), &mut out).map(|()| out)
            }
        };
        let signature = signature.expect("the system's randomness does not fail");
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// A bare SEC1 key: its scalar and point are taken from the DER.
fn sec1(der: &[u8], rng: &SystemRandom) -> Result<EcdsaKeyPair, KeyError> {
    let bad = || KeyError("not a P-256 key".to_owned());
    let at = der.windows(2).position(|w| w == [0x04, 0x20]).ok_or_else(bad)? + 2;
    let scalar = der.get(at..at + 32).ok_or_else(bad)?;
    let point = der.len().checked_sub(65).map(|at| &der[at..]).filter(|p| p[0] == 4).ok_or_else(bad)?;
    let ec = &signature::ECDSA_P256_SHA256_FIXED_SIGNING;
    EcdsaKeyPair::from_private_key_and_public_key(ec, scalar, point, rng).map_err(|e| KeyError(e.to_string()))
}

impl PublicKey {
    fn new(algorithm: Algorithm, raw: Vec<u8>) -> PublicKey {
        let mut key = PublicKey { algorithm, raw, id: String::new() };
        key.id = URL_SAFE_NO_PAD.encode(Sha256::digest(key.spki()));
        key
    }

    /// Keys of a PEM text: public keys, and the public halves of private keys.
    pub fn all_from_pem(pem: &str) -> Result<Vec<PublicKey>, KeyError> {
        let mut keys = Vec::new();
        for spki in SubjectPublicKeyInfoDer::pem_slice_iter(pem.as_bytes()).flatten() {
            keys.push(PublicKey::from_spki(&spki)?);
        }
        if keys.is_empty() && pem.contains("PRIVATE KEY") {
            keys.push(SigningKey::from_pem(pem)?.public);
        }
        if keys.is_empty() && pem.contains("RSA PUBLIC KEY") {
            let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
            let raw = base64::engine::general_purpose::STANDARD
                .decode(body)
                .map_err(|e| KeyError(e.to_string()))?;
            keys.push(PublicKey::new(Algorithm::Rs256, raw));
        }
        Ok(keys)
    }

    fn from_spki(spki: &[u8]) -> Result<PublicKey, KeyError> {
        if let Some(point) = spki.strip_prefix(&P256_SPKI) {
            return Ok(PublicKey::new(Algorithm::Es256, point.to_vec()));
        }
        let at = spki.windows(RSA_ALGORITHM.len()).position(|w| w == RSA_ALGORITHM);
        let at = at.ok_or_else(|| KeyError("neither P-256 nor RSA".to_owned()))? + RSA_ALGORITHM.len();
        // BIT STRING, length, no unused bits, then the PKCS#1 key.
        let start = spki[at..].windows(3).position(|w| w[0] == 0 && w[1] == 0x30 && w[2] & 0x80 != 0);
        let start = start.ok_or_else(|| KeyError("broken RSA key".to_owned()))? + at + 1;
        Ok(PublicKey::new(Algorithm::Rs256, spki[start..].to_vec()))
    }

    fn spki(&self) -> Vec<u8> {
        match self.algorithm {
            Algorithm::Es256 => [&P256_SPKI[..], &self.raw].concat(),
            Algorithm::Rs256 => {
                let bits = der(0x03, &[&[0][..], &self.raw].concat());
                der(0x30, &[&RSA_ALGORITHM[..], &bits].concat())
            }
        }
    }

    fn algorithm_name(&self) -> &'static str {
        match self.algorithm {
            Algorithm::Es256 => "ES256",
            Algorithm::Rs256 => "RS256",
        }
    }

    fn verifies(&self, message: &[u8], signed: &[u8]) -> bool {
        let algorithm: &dyn signature::VerificationAlgorithm = match self.algorithm {
            Algorithm::Es256 => &signature::ECDSA_P256_SHA256_FIXED,
            Algorithm::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
        };
        signature::UnparsedPublicKey::new(algorithm, &self.raw).verify(message, signed).is_ok()
    }

    /// From an entry of a JSON web key set; `None` for kinds of keys that are not spoken here.
    pub fn from_jwk(entry: &Value) -> Option<PublicKey> {
        let number = |name: &str| URL_SAFE_NO_PAD.decode(entry[name].as_str()?.trim_end_matches('=')).ok();
        let (algorithm, raw) = match (entry["kty"].as_str()?, entry["crv"].as_str()) {
            ("EC", Some("P-256")) => {
                (Algorithm::Es256, [&[4][..], &number("x")?[..], &number("y")?[..]].concat())
            }
            ("RSA", _) => {
                let integer = |bytes: Vec<u8>| {
                    let sign: &[u8] = if bytes.first().is_some_and(|b| b & 0x80 != 0) { &[0] } else { &[] };
                    der(0x02, &[sign, &bytes[..]].concat())
                };
                (Algorithm::Rs256, der(0x30, &[integer(number("n")?), integer(number("e")?)].concat()))
            }
            _ => return None,
        };
        Some(PublicKey { algorithm, raw, id: entry["kid"].as_str().unwrap_or("").to_owned() })
    }

    /// As an entry of a JSON web key set.
    pub fn jwk(&self) -> Value {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match self.algorithm {
            Algorithm::Es256 => {
                json!({"use": "sig", "kty": "EC", "kid": self.id, "crv": "P-256", "alg": "ES256",
                "x": encode(&self.raw[1..33]), "y": encode(&self.raw[33..65])})
            }
            Algorithm::Rs256 => {
                let (n, e) = integers(&self.raw).unwrap_or_default();
                json!({"use": "sig", "kty": "RSA", "kid": self.id, "alg": "RS256", "n": encode(&n), "e": encode(&e)})
            }
        }
    }
}

fn der(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match body.len() {
        length @ 0..=0x7f => out.push(length as u8),
        length @ 0x80..=0xff => out.extend([0x81, length as u8]),
        length => out.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    out.extend_from_slice(body);
    out
}

/// Modulus and exponent of a PKCS#1 public key, without leading zeros.
fn integers(raw: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    fn element(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
        let (first, length_bytes) = match *bytes.get(1)? {
            n @ 0..=0x7f => (2, usize::from(n)),
            n => {
                let count = usize::from(n & 0x7f);
                let length = bytes.get(2..2 + count)?.iter().fold(0, |acc, b| acc << 8 | usize::from(*b));
                (2 + count, length)
            }
        };
        Some((bytes.get(first..first + length_bytes)?, bytes.get(first + length_bytes..)?))
    }
    let (body, _) = element(raw)?;
    let (n, rest) = element(body)?;
    let (e, _) = element(rest)?;
    let trim = |bytes: &[u8]| bytes.iter().copied().skip_while(|b| *b == 0).collect();
    Some((trim(n), trim(e)))
}

/// The claims of a token signed by one of the keys.
pub fn verify(token: &str, keys: &[PublicKey]) -> Option<Value> {
    let (message, signed) = token.rsplit_once('.')?;
    let (header, claims) = message.split_once('.')?;
    let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).ok();
    let header: Value = serde_json::from_slice(&decode(header)?).ok()?;
    let signed = decode(signed)?;
    let kid = header["kid"].as_str();
    let mut keys = keys.iter().filter(|key| {
        header["alg"] == key.algorithm_name()
            && kid.is_none_or(|kid| kid.is_empty() || key.id.is_empty() || kid == key.id)
    });
    keys.find(|key| key.verifies(message.as_bytes(), &signed))?;
    serde_json::from_slice(&decode(claims)?).ok()
}

/// The claims of a token, unverified: only to decide who might have issued it.
pub fn peek(token: &str) -> Option<Value> {
    let claims = token.split('.').nth(1)?;
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_and_verifies() {
        let pem = base::pki::new_key_pem().expect("a key");
        let key = SigningKey::from_pem(&pem).expect("usable");
        let token = key.sign(&json!({"sub": "x"}));
        let keys = PublicKey::all_from_pem(&pem).expect("usable");
        assert_eq!(verify(&token, &keys), Some(json!({"sub": "x"})));
        let mut forged = token.clone().into_bytes();
        let last = forged.len() - 3;
        forged[last] = if forged[last] == b'A' { b'B' } else { b'A' };
        assert_eq!(verify(&String::from_utf8(forged).expect("ASCII"), &keys), None);
        assert_eq!(verify(&token, &[]), None);
        let told = PublicKey::from_jwk(&keys[0].jwk()).expect("a key");
        assert_eq!(verify(&token, &[told]), Some(json!({"sub": "x"})));
    }
}
