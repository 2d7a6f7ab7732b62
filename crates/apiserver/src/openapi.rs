//! OpenAPI documents of a catalog, made when first asked for. It must not know HTTP.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use machinery::openapi::{self, CustomDoc, ResourceDoc, SubresourceDoc};
use registry::Resource;
use sha2::{Digest, Sha512};

use crate::object::{CustomKind, Serving};

/// One group and version, such as `apps/v1`, or one document about what is served.
struct Version {
    /// `None` for what is no group and version.
    gv: Option<(String, String)>,
    /// Follows from what is served: known before the document is made.
    hash: String,
    document: OnceLock<Bytes>,
}

/// The documents of one catalog.
pub struct Documents {
    serving: Arc<Serving>,
    v2: OnceLock<(Bytes, String)>,
    /// By path below `/openapi/v3/`.
    v3: BTreeMap<String, Version>,
}

impl Documents {
    /// Nothing made yet.
    pub fn new(serving: Arc<Serving>) -> Documents {
        let mut v3: BTreeMap<String, Version> = BTreeMap::new();
        let groups = serving.catalog.groups();
        for path in openapi::v3_surface_names(groups.iter().map(|group| group.name.as_str())) {
            let hash = hash(format!("{} {path}", env!("CARGO_PKG_VERSION")).as_bytes());
            v3.insert(path, Version { gv: None, hash, document: OnceLock::new() });
        }
        for group in groups {
            for version in group.versions {
                let path = match group.name.as_str() {
                    "" => format!("api/{version}"),
                    name => format!("apis/{name}/{version}"),
                };
                let hash = hash(described(&serving, &group.name, &version).as_bytes());
                let gv = Some((group.name.clone(), version));
                let entry = Version { gv, hash, document: OnceLock::new() };
                v3.insert(path, entry);
            }
        }
        Documents { serving, v2: OnceLock::new(), v3 }
    }

    /// The v2 document of everything served, and its hash.
    pub fn v2(&self) -> &(Bytes, String) {
        self.v2.get_or_init(|| {
            let rows = self.serving.catalog.rows().iter();
            let docs: Vec<ResourceDoc<'_>> = rows.map(|row| doc(row, self.serving.custom(row))).collect();
            let bytes = Bytes::from(openapi::v2(&docs));
            let hash = hash(&bytes);
            (bytes, hash)
        })
    }

    /// The list of v3 documents, with those from elsewhere (path and hash).
    pub fn v3_index(&self, elsewhere: BTreeMap<String, String>) -> Vec<u8> {
        let mut all: BTreeMap<&str, &str> =
            self.v3.iter().map(|(path, version)| (path.as_str(), version.hash.as_str())).collect();
        all.extend(elsewhere.iter().map(|(path, hash)| (path.as_str(), hash.as_str())));
        openapi::v3_index(all.into_iter())
    }

    /// A v3 document and its hash, by its path below `/openapi/v3/`.
    pub fn v3(&self, path: &str) -> Option<(Bytes, &str)> {
        let entry = self.v3.get(path)?;
        let document = entry.document.get_or_init(|| {
            let Some((group, version)) = &entry.gv else { return Bytes::from(openapi::v3_surface(path)) };
            let rows = self.serving.catalog.version_rows(group, version);
            let docs: Vec<ResourceDoc<'_>> = rows.map(|row| doc(row, self.serving.custom(row))).collect();
            Bytes::from(openapi::v3(group, version, &docs))
        });
        Some((document.clone(), &entry.hash))
    }
}

/// Upper-case hexadecimal SHA-512, as upstream's.
fn hash(bytes: &[u8]) -> String {
    Sha512::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02X}");
        text
    })
}

/// What a document follows from, as text.
fn described(serving: &Serving, group: &str, version: &str) -> String {
    let docs: Vec<ResourceDoc<'_>> =
        serving.catalog.version_rows(group, version).map(|row| doc(row, serving.custom(row))).collect();
    format!("{} {docs:?}", env!("CARGO_PKG_VERSION"))
}

fn doc<'a>(row: &'a Resource, custom: Option<&'a Arc<CustomKind>>) -> ResourceDoc<'a> {
    ResourceDoc {
        group: &row.group,
        version: &row.version,
        kind: &row.kind,
        list_kind: &row.list_kind,
        plural: &row.plural,
        namespaced: row.namespaced,
        verbs: row.verbs.iter().map(registry::Verb::as_str).collect(),
        returns_deleted: crate::verbs::returns_deleted(row),
        subresources: row
            .subresources
            .iter()
            .map(|sub| SubresourceDoc {
                name: &sub.name,
                group: &sub.group,
                version: &sub.version,
                kind: &sub.kind,
                verbs: sub.verbs.iter().map(registry::Verb::as_str).collect(),
            })
            .collect(),
        custom: custom.map(|custom| CustomDoc {
            schema: custom.schema.as_ref(),
            preserve_unknown: custom.preserve_unknown,
            selectable_fields: row.selectable.iter().map(|field| field.label.as_str()).collect(),
        }),
    }
}
