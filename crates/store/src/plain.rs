//! The indexer that reads only what every object has: name, namespace, labels, uid and owners.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;

use crate::{Attrs, Index, Indexer, Key};

/// Reads `metadata` and nothing else. For tests, and as a base for indexers that know fields.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlainIndexer;

#[derive(Deserialize, Default)]
struct Outline {
    #[serde(default)]
    metadata: Metadata,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Metadata {
    uid: Option<String>,
    labels: Option<BTreeMap<String, String>>,
    owner_references: Option<Vec<Owner>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Owner {
    uid: String,
}

impl Indexer for PlainIndexer {
    fn attrs(&self, key: &Key, json: &[u8]) -> Attrs {
        let metadata = serde_json::from_slice::<Outline>(json).unwrap_or_default().metadata;
        let labels = metadata.labels.unwrap_or_default();
        let owners = metadata.owner_references.unwrap_or_default();
        let mut fields = vec![(Arc::from("metadata.name"), Arc::clone(&key.name))];
        if !key.namespace.is_empty() {
            fields.push((Arc::from("metadata.namespace"), Arc::clone(&key.namespace)));
        }
        Attrs {
            labels: labels.into_iter().map(|(k, v)| (Arc::from(k), Arc::from(v))).collect(),
            fields: fields.into(),
            uid: Arc::from(metadata.uid.unwrap_or_default()),
            owners: owners.into_iter().map(|owner| Arc::from(owner.uid)).collect(),
        }
    }

    fn indexes(&self, _resource: &str) -> Vec<Index> {
        vec![Index::Owner]
    }
}
