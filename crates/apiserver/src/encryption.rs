//! Encryption at rest, as an EncryptionConfiguration describes it: which resources are sealed, with which keys.
//! The first key of the first provider seals; all keys open, so that keys can be changed one after another.
//!
//! Every kind of keyed provider seals with AES-256-GCM under a key derived from the configured secret: only this
//! server reads what it wrote. It must not know objects.

use std::collections::HashSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use registry::tree::Tree;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde_json::Value;
use sha2::{Digest, Sha256};
use store::{Key, Seal};

/// What sealed objects begin with; no JSON does.
const MARK: &[u8] = b"navarch:sealed:1:";
/// Bytes of a key's name in what it sealed.
const ID: usize = 8;

struct Cipher {
    id: [u8; ID],
    key: LessSafeKey,
}

/// One entry: resources, and what seals them (`None` keeps in the clear).
struct Entry {
    resources: Vec<String>,
    ciphers: Vec<Option<usize>>,
}

/// The configured ciphers.
pub struct Sealer {
    entries: Vec<Entry>,
    ciphers: Vec<Cipher>,
    random: SystemRandom,
    /// Objects that are not sealed as they would be now: a write without a change seals them anew.
    stale: Mutex<HashSet<Key>>,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sealer({} keys)", self.ciphers.len())
    }
}

impl Cipher {
    fn new(provider: &str, secret: &[u8]) -> Option<Cipher> {
        let derived = Sha256::new().chain_update(provider).chain_update([0]).chain_update(secret).finalize();
        let name = Sha256::digest(derived);
        let mut id = [0; ID];
        id.copy_from_slice(name.get(..ID)?);
        let key = UnboundKey::new(&AES_256_GCM, &derived).ok()?;
        Some(Cipher { id, key: LessSafeKey::new(key) })
    }
}

/// `plural.group` as the configuration writes resources, from the store's `group/plural`.
fn qualified(resource: &str) -> String {
    match resource.split_once('/') {
        Some((group, plural)) => format!("{plural}.{group}"),
        None => resource.to_owned(),
    }
}

fn covers(wanted: &str, resource: &str) -> bool {
    let group = resource.split_once('.').map_or("", |(_, group)| group);
    match wanted.strip_prefix("*.") {
        Some("*") => true,
        Some(own) => own == group,
        None => wanted == resource,
    }
}

impl Sealer {
    /// Reads a configuration; what is wrong with it.
    pub fn parse(text: &str) -> Result<Sealer, String> {
        let document = machinery::codec::yaml::decode_first(text.as_bytes()).map_err(|e| e.to_string())?;
        let tree = document.value;
        if tree.text("kind") != "EncryptionConfiguration" {
            return Err("it must be an EncryptionConfiguration of apiserver.config.k8s.io/v1".to_owned());
        }
        let mut sealer = Sealer {
            entries: Vec::new(),
            ciphers: Vec::new(),
            random: SystemRandom::new(),
            stale: Mutex::default(),
        };
        for (at, entry) in tree.list("resources").iter().enumerate() {
            let resources = entry.list("resources").iter().filter_map(|r| r.as_str().map(str::to_owned));
            let mut ciphers = Vec::new();
            for (number, provider) in entry.list("providers").iter().enumerate() {
                let place = format!("resources[{at}].providers[{number}]");
                sealer.provider(provider, &mut ciphers).map_err(|why| format!("{place}: {why}"))?;
            }
            if ciphers.is_empty() {
                return Err(format!("resources[{at}].providers: Required value"));
            }
            sealer.entries.push(Entry { resources: resources.collect(), ciphers });
        }
        if sealer.entries.is_empty() {
            return Err("resources: Required value".to_owned());
        }
        Ok(sealer)
    }

    fn provider(&mut self, provider: &Value, ciphers: &mut Vec<Option<usize>>) -> Result<(), String> {
        let Some((name, settings)) = provider.as_object().and_then(|map| map.iter().next()) else {
            return Err("provider does not contain any of the expected providers".to_owned());
        };
        match name.as_str() {
            "identity" => ciphers.push(None),
            "aesgcm" | "aescbc" | "secretbox" => {
                for key in settings.list("keys") {
                    let named = key.text("name");
                    let secret = STANDARD.decode(key.text("secret"));
                    let secret =
                        secret.map_err(|_| format!("secret of key {named:?}: must be base64 encoded"))?;
                    if !matches!(secret.len(), 16 | 24 | 32) {
                        let length = secret.len();
                        return Err(format!(
                            "secret of key {named:?}: expected length 16, 24 or 32, got {length}"
                        ));
                    }
                    let cipher = Cipher::new(name, &secret).ok_or("the key cannot be used")?;
                    ciphers.push(Some(self.ciphers.len()));
                    self.ciphers.push(cipher);
                }
            }
            other => return Err(format!("provider {other:?} is not offered")),
        }
        Ok(())
    }

    /// What seals a resource; `None` keeps it in the clear.
    fn current(&self, resource: &str) -> Option<&Cipher> {
        let resource = qualified(resource);
        let covering = |entry: &&Entry| entry.resources.iter().any(|wanted| covers(wanted, &resource));
        let first = self.entries.iter().find(covering)?.ciphers.first()?;
        first.and_then(|at| self.ciphers.get(at))
    }

    /// Whether an object is kept in another way than it would be now.
    pub fn is_stale(&self, key: &Key) -> bool {
        self.stale.lock().contains(key)
    }
}

/// What ties a sealed text to its place.
fn bound(key: &Key) -> Vec<u8> {
    format!("{}\0{}\0{}", key.resource, key.namespace, key.name).into_bytes()
}

impl Seal for Sealer {
    fn seal(&self, key: &Key, text: &[u8]) -> Option<Vec<u8>> {
        self.stale.lock().remove(key);
        let cipher = self.current(&key.resource)?;
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).expect("the system's randomness does not fail");
        let mut body = text.to_vec();
        cipher
            .key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(bound(key)), &mut body)
            .expect("an object is far below the cipher's limit");
        Some([MARK, &cipher.id, &nonce, &body].concat())
    }

    fn open(&self, key: &Key, kept: &[u8]) -> Result<Option<Vec<u8>>, String> {
        let current = self.current(&key.resource).map(|cipher| cipher.id);
        let Some(rest) = kept.strip_prefix(MARK) else {
            if current.is_some() {
                self.stale.lock().insert(key.clone());
            }
            return Ok(None);
        };
        let (id, rest) = rest.split_first_chunk::<ID>().ok_or("it is cut short")?;
        let (nonce, body) = rest.split_first_chunk::<NONCE_LEN>().ok_or("it is cut short")?;
        let cipher = self.ciphers.iter().find(|cipher| cipher.id == *id);
        let cipher = cipher.ok_or("no configured key sealed it")?;
        let mut body = body.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let text = cipher.key.open_in_place(nonce, Aad::from(bound(key)), &mut body);
        let text = text.map_err(|_| "it was changed on disk")?.to_vec();
        match current == Some(*id) {
            true => self.stale.lock().remove(key),
            false => self.stale.lock().insert(key.clone()),
        };
        Ok(Some(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(keys: &[&str], identity_first: bool) -> String {
        let keys: Vec<String> = keys
            .iter()
            .map(|key| format!("{{name: k, secret: {}}}", STANDARD.encode(key.repeat(32))))
            .collect();
        let keyed = format!("{{aescbc: {{keys: [{}]}}}}", keys.join(", "));
        let providers = if identity_first {
            format!("{{identity: {{}}}}, {keyed}")
        } else {
            format!("{keyed}, {{identity: {{}}}}")
        };
        format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources: [{{resources: [secrets, '*.apps'], providers: [{providers}]}}]\n"
        )
    }

    #[test]
    fn keys_seal_open_and_are_changed() {
        let key = Key::new("secrets", "default", "s");
        let first = Sealer::parse(&config(&["a"], false)).expect("sound");
        let kept = first.seal(&key, b"text").expect("sealed");
        assert!(!kept.windows(4).any(|w| w == b"text"));
        assert_eq!(first.open(&key, &kept), Ok(Some(b"text".to_vec())));
        assert!(!first.is_stale(&key));
        assert!(first.open(&Key::new("secrets", "default", "t"), &kept).is_err(), "bound to its place");
        assert!(first.seal(&Key::new("pods", "default", "p"), b"text").is_none());
        assert!(first.seal(&Key::new("apps/deployments", "default", "d"), b"text").is_some());
        let second = Sealer::parse(&config(&["b", "a"], false)).expect("sound");
        assert_eq!(second.open(&key, &kept), Ok(Some(b"text".to_vec())));
        assert!(second.is_stale(&key), "sealed with the older key");
        let anew = second.seal(&key, b"text").expect("sealed");
        assert!(!second.is_stale(&key));
        assert!(
            Sealer::parse(&config(&["a"], false)).expect("sound").open(&key, &anew).is_err(),
            "the key is not known"
        );
        let leaving = Sealer::parse(&config(&["b"], true)).expect("sound");
        assert_eq!(leaving.open(&key, &anew), Ok(Some(b"text".to_vec())));
        assert!(leaving.is_stale(&key) && leaving.seal(&key, b"text").is_none());
        assert!(
            Sealer::parse(
                "kind: EncryptionConfiguration\nresources: [{resources: [secrets], providers: [{kms: {}}]}]"
            )
            .is_err()
        );
    }
}
