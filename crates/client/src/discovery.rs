//! Which resources a server has: aggregated discovery, or the older documents one by one.

use std::collections::BTreeMap;

use http::Method;
use serde::Deserialize;
use serde_json::Value;

use crate::client::Call;
use crate::{Client, ClientError, ResourceRef};

const AGGREGATED: &str =
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

/// One resource a server has.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Discovered {
    /// Where it is.
    pub resource: ResourceRef,
    /// Verbs it takes.
    pub verbs: Vec<String>,
    /// The name of one object in lower case; may be empty.
    pub singular: String,
    /// Short names.
    pub short_names: Vec<String>,
    /// Categories such as `all`.
    pub categories: Vec<String>,
    /// Subresources, such as `status`.
    pub subresources: Vec<String>,
    /// True in its group's preferred version (or the first version that has it).
    pub preferred: bool,
}

impl Discovered {
    /// True when it takes all of these verbs.
    pub fn can(&self, verbs: &[&str]) -> bool {
        verbs.iter().all(|verb| self.verbs.iter().any(|own| own == verb))
    }
}

/// All resources, and what could not be asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Discovery {
    /// Resources of all versions, by group and version in the server's order.
    pub resources: Vec<Discovered>,
    /// Group versions that did not answer, with the reason.
    pub failed: BTreeMap<String, String>,
}

impl Discovery {
    /// Asks the server.
    pub async fn fetch(client: &Client) -> Result<Discovery, ClientError> {
        let mut discovery = Discovery::default();
        for root in ["/api", "/apis"] {
            let mut call = Call::new(Method::GET, root.to_owned());
            call.accept = AGGREGATED;
            let answer: Value = client.json(&call).await?;
            match answer.get("kind").and_then(Value::as_str) {
                Some("APIGroupDiscoveryList") => discovery.add_aggregated(&answer),
                _ => discovery.add_plain(client, &answer).await,
            }
        }
        discovery.mark_preferred();
        Ok(discovery)
    }

    /// Resources of the versions the server prefers, each once.
    pub fn preferred(&self) -> impl Iterator<Item = &Discovered> {
        self.resources.iter().filter(|resource| resource.preferred)
    }

    /// The preferred resource of a group and kind.
    pub fn by_kind(&self, group: &str, kind: &str) -> Option<&Discovered> {
        let fits = |found: &&Discovered| found.resource.gvr.group == group && found.resource.kind == kind;
        self.resources.iter().filter(fits).max_by_key(|found| found.preferred)
    }

    fn add_aggregated(&mut self, answer: &Value) {
        let Ok(list) = AggregatedList::deserialize(answer) else { return };
        for group in list.items {
            let name = group.metadata.name;
            for version in group.versions {
                if version.freshness == "Stale" {
                    let key =
                        if name.is_empty() { version.version } else { format!("{name}/{}", version.version) };
                    self.failed.insert(key, "stale GroupVersion discovery".to_owned());
                    continue;
                }
                for resource in version.resources {
                    let kind = resource.response_kind.kind;
                    if kind.is_empty() {
                        continue;
                    }
                    let namespaced = resource.scope == "Namespaced";
                    self.resources.push(Discovered {
                        resource: ResourceRef::new(
                            &name,
                            &version.version,
                            &resource.resource,
                            &kind,
                            namespaced,
                        ),
                        verbs: resource.verbs,
                        singular: resource.singular_resource,
                        short_names: resource.short_names,
                        categories: resource.categories,
                        subresources: resource.subresources.into_iter().map(|sub| sub.subresource).collect(),
                        preferred: false,
                    });
                }
            }
        }
    }

    async fn add_plain(&mut self, client: &Client, answer: &Value) {
        let mut versions: Vec<(String, String)> = Vec::new();
        if let Ok(core) = PlainVersions::deserialize(answer) {
            versions.extend(core.versions.into_iter().map(|version| (String::new(), version)));
        }
        if let Ok(groups) = PlainGroups::deserialize(answer) {
            for group in groups.groups {
                let preferred = group.preferred_version.version;
                let mut all: Vec<String> =
                    group.versions.into_iter().map(|version| version.version).collect();
                all.sort_by_key(|version| *version != preferred);
                versions.extend(all.into_iter().map(|version| (group.name.clone(), version)));
            }
        }
        for (group, version) in versions {
            let path =
                if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
            match client.get_path::<PlainResources>(&path).await {
                Ok(list) => self.add_resources(&group, &version, list),
                Err(error) => {
                    self.failed.insert(api::meta::api_version(&group, &version), error.to_string());
                }
            }
        }
    }

    fn add_resources(&mut self, group: &str, version: &str, list: PlainResources) {
        let mut subresources: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for resource in &list.resources {
            if let Some((name, sub)) = resource.name.split_once('/') {
                subresources.entry(name.to_owned()).or_default().push(sub.to_owned());
            }
        }
        for resource in list.resources {
            if resource.name.contains('/') {
                continue;
            }
            self.resources.push(Discovered {
                resource: ResourceRef::new(
                    group,
                    version,
                    &resource.name,
                    &resource.kind,
                    resource.namespaced,
                ),
                verbs: resource.verbs,
                singular: resource.singular_name,
                short_names: resource.short_names,
                categories: resource.categories,
                subresources: subresources.remove(&resource.name).unwrap_or_default(),
                preferred: false,
            });
        }
    }

    /// The server lists the preferred version first.
    fn mark_preferred(&mut self) {
        let mut seen = std::collections::BTreeSet::new();
        for found in &mut self.resources {
            let gvr = &found.resource.gvr;
            found.preferred = seen.insert((gvr.group.clone(), gvr.resource.clone()));
        }
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct AggregatedList {
    items: Vec<AggregatedGroup>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Named {
    name: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct AggregatedGroup {
    metadata: Named,
    versions: Vec<AggregatedVersion>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct AggregatedVersion {
    version: String,
    freshness: String,
    resources: Vec<AggregatedResource>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct KindOf {
    kind: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Sub {
    subresource: String,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct AggregatedResource {
    resource: String,
    response_kind: KindOf,
    scope: String,
    singular_resource: String,
    verbs: Vec<String>,
    short_names: Vec<String>,
    categories: Vec<String>,
    subresources: Vec<Sub>,
}

#[derive(Deserialize, Default)]
struct PlainVersions {
    versions: Vec<String>,
}

#[derive(Deserialize)]
struct PlainGroups {
    groups: Vec<PlainGroup>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct PlainVersion {
    version: String,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct PlainGroup {
    name: String,
    versions: Vec<PlainVersion>,
    preferred_version: PlainVersion,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct PlainResources {
    resources: Vec<PlainResource>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct PlainResource {
    name: String,
    kind: String,
    namespaced: bool,
    singular_name: String,
    verbs: Vec<String>,
    short_names: Vec<String>,
    categories: Vec<String>,
}
