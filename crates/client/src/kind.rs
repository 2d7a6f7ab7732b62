//! How a Rust type maps to a resource of the API: built-in types, metadata-only objects, untyped objects.

use std::fmt::Debug;

use api::k8s::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use api::k8s::{ClusterResourceScope, Metadata, NamespaceResourceScope, Resource};
use api::wire::Wire;
use api::{Gvk, Gvr};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Where a resource lives: named by its group, version, plural, and kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceRef {
    /// Group, version and plural.
    pub gvr: Gvr,
    /// The kind, such as `Pod`.
    pub kind: String,
    /// False for cluster-scoped resources.
    pub namespaced: bool,
}

impl ResourceRef {
    /// From its parts.
    pub fn new(group: &str, version: &str, resource: &str, kind: &str, namespaced: bool) -> Self {
        ResourceRef { gvr: Gvr::new(group, version, resource), kind: kind.to_owned(), namespaced }
    }

    /// The resource of a built-in type.
    pub fn of<K: Kind>() -> Self {
        ResourceRef::new(K::GROUP, K::VERSION, K::URL_PATH_SEGMENT, K::KIND, K::NAMESPACED)
    }

    /// Group, version and kind.
    pub fn gvk(&self) -> Gvk {
        Gvk::new(&self.gvr.group, &self.gvr.version, &self.kind)
    }

    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        self.gvr.api_version()
    }
}

/// Tells namespaced from cluster-scoped types.
pub trait ScopeOf {
    /// True for namespaced types.
    const NAMESPACED: bool;
}

impl ScopeOf for NamespaceResourceScope {
    const NAMESPACED: bool = true;
}

impl ScopeOf for ClusterResourceScope {
    const NAMESPACED: bool = false;
}

/// What a cache holds: anything with object metadata that can be read from JSON.
pub trait Meta: Wire + Send + Sync + 'static {
    /// The object's metadata.
    fn meta(&self) -> &ObjectMeta;
    /// The object's metadata, to change it.
    fn meta_mut(&mut self) -> &mut ObjectMeta;
    /// `metadata.name`, empty when absent.
    fn name(&self) -> &str {
        self.meta().name.as_deref().unwrap_or("")
    }
    /// `metadata.namespace`, empty when absent.
    fn namespace(&self) -> &str {
        self.meta().namespace.as_deref().unwrap_or("")
    }
    /// `metadata.uid`, empty when absent.
    fn uid(&self) -> &str {
        self.meta().uid.as_deref().unwrap_or("")
    }
    /// `metadata.resourceVersion` as a number; 0 when absent or no number.
    fn revision(&self) -> u64 {
        self.meta().resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0)
    }
    /// True when `metadata.deletionTimestamp` is set.
    fn is_deleting(&self) -> bool {
        self.meta().deletion_timestamp.is_some()
    }
    /// The value of a label.
    fn label(&self, key: &str) -> Option<&str> {
        self.meta().labels.as_ref()?.get(key).map(String::as_str)
    }
    /// The value of an annotation.
    fn annotation(&self, key: &str) -> Option<&str> {
        self.meta().annotations.as_ref()?.get(key).map(String::as_str)
    }
}

/// A built-in type with a path of its own.
pub trait Kind:
    Resource<Scope: ScopeOf> + Metadata<Ty = ObjectMeta> + Wire + Clone + Debug + Send + Sync + 'static
{
    /// True for namespaced types.
    const NAMESPACED: bool = <Self::Scope as ScopeOf>::NAMESPACED;
}

impl<K> Kind for K where
    K: Resource<Scope: ScopeOf> + Metadata<Ty = ObjectMeta> + Wire + Clone + Debug + Send + Sync + 'static
{
}

impl<K: Kind> Meta for K {
    fn meta(&self) -> &ObjectMeta {
        self.metadata()
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.metadata_mut()
    }
}

macro_rules! untyped {
    ($name:ident) => {
        // `Meta` is blanket-implemented for k8s-openapi's types, whose traits these can carry too.
        impl Resource for $name {
            const API_VERSION: &'static str = "";
            const GROUP: &'static str = "";
            const KIND: &'static str = "";
            const VERSION: &'static str = "";
            const URL_PATH_SEGMENT: &'static str = "";
            type Scope = NamespaceResourceScope;
        }

        impl Metadata for $name {
            type Ty = ObjectMeta;

            fn metadata(&self) -> &ObjectMeta {
                &self.metadata
            }

            fn metadata_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

/// Type and metadata of an object, without the rest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Partial {
    /// `apiVersion` (of the answer: `meta.k8s.io/v1`).
    pub api_version: String,
    /// `kind` (of the answer: `PartialObjectMetadata`).
    pub kind: String,
    /// The metadata.
    pub metadata: ObjectMeta,
}

untyped!(Partial);

/// An object of any kind: metadata typed, the rest as JSON.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Dynamic {
    /// `apiVersion`.
    pub api_version: String,
    /// `kind`.
    pub kind: String,
    /// The metadata.
    pub metadata: ObjectMeta,
    /// Every other field.
    #[serde(flatten)]
    pub data: serde_json::Map<String, Value>,
}

untyped!(Dynamic);

api::wire!(Partial, Dynamic);
