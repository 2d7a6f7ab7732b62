//! Names of kinds and resources, and access to the metadata of untyped objects.

use std::fmt;

use serde_json::Value;

/// Group, version and kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gvk {
    /// API group; empty for core.
    pub group: String,
    /// Version, such as `v1`.
    pub version: String,
    /// Kind, such as `Pod`.
    pub kind: String,
}

/// Group, version and resource.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gvr {
    /// API group; empty for core.
    pub group: String,
    /// Version, such as `v1`.
    pub version: String,
    /// Plural, such as `pods`.
    pub resource: String,
}

impl Gvk {
    /// From its three parts.
    pub fn new(group: &str, version: &str, kind: &str) -> Self {
        Gvk { group: group.into(), version: version.into(), kind: kind.into() }
    }

    /// From `apiVersion` (`v1`, `apps/v1`) and kind.
    pub fn from_api_version(api_version: &str, kind: &str) -> Self {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        Gvk::new(group, version, kind)
    }

    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }
}

impl fmt::Display for Gvk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, Kind={}", self.api_version(), self.kind)
    }
}

impl Gvr {
    /// From its three parts.
    pub fn new(group: &str, version: &str, resource: &str) -> Self {
        Gvr { group: group.into(), version: version.into(), resource: resource.into() }
    }

    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }

    /// `pods` or `deployments.apps`, as error messages name a resource.
    pub fn group_resource(&self) -> String {
        group_resource(&self.group, &self.resource)
    }

    /// The path of the collection or object, such as `/apis/apps/v1/namespaces/a/deployments/b`.
    /// An empty namespace or name is left out.
    pub fn path(&self, namespace: &str, name: &str) -> String {
        let mut path = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        if !namespace.is_empty() {
            path.push_str("/namespaces/");
            path.push_str(namespace);
        }
        path.push('/');
        path.push_str(&self.resource);
        if !name.is_empty() {
            path.push('/');
            path.push_str(name);
        }
        path
    }
}

impl fmt::Display for Gvr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, Resource={}", self.api_version(), self.resource)
    }
}

/// `v1` or `apps/v1`.
pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// `pods` or `deployments.apps`.
pub fn group_resource(group: &str, resource: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

/// Reads `metadata` and type of an untyped object; absent text reads as empty.
pub trait ObjectExt {
    /// `apiVersion`.
    fn api_version(&self) -> &str;
    /// `kind`.
    fn kind(&self) -> &str;
    /// A text field of `metadata`.
    fn meta_str(&self, field: &str) -> &str;
    /// `metadata.name`.
    fn name(&self) -> &str {
        self.meta_str("name")
    }
    /// `metadata.namespace`.
    fn namespace(&self) -> &str {
        self.meta_str("namespace")
    }
    /// `metadata.uid`.
    fn uid(&self) -> &str {
        self.meta_str("uid")
    }
    /// `metadata.resourceVersion`.
    fn resource_version(&self) -> &str {
        self.meta_str("resourceVersion")
    }
    /// True when `metadata.deletionTimestamp` is set.
    fn is_deleting(&self) -> bool {
        !self.meta_str("deletionTimestamp").is_empty()
    }
    /// The value at a path of object keys.
    fn at(&self, path: &[&str]) -> Option<&Value>;
    /// The text at a path; empty when absent or not text.
    fn str_at(&self, path: &[&str]) -> &str {
        self.at(path).and_then(Value::as_str).unwrap_or("")
    }
    /// Sets the value at a path, making objects on the way (what is not an object there is replaced).
    fn set_at(&mut self, path: &[&str], value: Value);
    /// Removes the value at a path and returns it.
    fn remove_at(&mut self, path: &[&str]) -> Option<Value>;
}

impl ObjectExt for Value {
    fn api_version(&self) -> &str {
        self.str_at(&["apiVersion"])
    }

    fn kind(&self) -> &str {
        self.str_at(&["kind"])
    }

    fn meta_str(&self, field: &str) -> &str {
        self.str_at(&["metadata", field])
    }

    fn at(&self, path: &[&str]) -> Option<&Value> {
        path.iter().try_fold(self, |value, key| value.get(key))
    }

    fn set_at(&mut self, path: &[&str], value: Value) {
        let mut place = self;
        for key in path {
            if !place.is_object() {
                *place = Value::Object(serde_json::Map::new());
            }
            let Value::Object(map) = place else { return };
            place = map.entry(*key).or_insert(Value::Null);
        }
        *place = value;
    }

    fn remove_at(&mut self, path: &[&str]) -> Option<Value> {
        let (last, parents) = path.split_last()?;
        let parent = parents.iter().try_fold(self, |value, key| value.get_mut(key))?;
        parent.as_object_mut()?.remove(*last)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_of_resources() {
        assert_eq!(Gvr::new("", "v1", "pods").path("a", "b"), "/api/v1/namespaces/a/pods/b");
        assert_eq!(Gvr::new("apps", "v1", "deployments").path("", ""), "/apis/apps/v1/deployments");
        assert_eq!(Gvk::from_api_version("apps/v1", "Deployment").to_string(), "apps/v1, Kind=Deployment");
    }

    #[test]
    fn untyped_access() {
        let mut value = json!({"metadata": {"name": "x"}});
        assert_eq!((value.name(), value.namespace()), ("x", ""));
        value.set_at(&["metadata", "labels", "a"], json!("b"));
        assert_eq!(value.str_at(&["metadata", "labels", "a"]), "b");
        assert_eq!(value.remove_at(&["metadata", "name"]), Some(json!("x")));
        assert_eq!(value.remove_at(&["metadata", "gone", "x"]), None);
    }
}
