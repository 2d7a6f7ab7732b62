//! Which resource a word on the command line or a type in a manifest means: by plural, singular or short name,
//! with or without group and version; categories such as `all`.
//!
//! Must not know how the server was asked.

use client::{Discovered, Discovery};

use crate::Error;

/// The resources of a server.
#[derive(Clone, Debug, Default)]
pub struct Kinds {
    discovery: Discovery,
}

/// Kubernetes orders versions by stability, then by number.
fn parts_of(word: &str) -> (&str, &str) {
    word.split_once('.').unwrap_or((word, ""))
}

impl Kinds {
    /// From what the server told.
    pub fn new(discovery: Discovery) -> Self {
        Kinds { discovery }
    }

    /// All resources of all versions.
    pub fn all(&self) -> &[Discovered] {
        &self.discovery.resources
    }

    /// Group versions that did not answer, and why.
    pub fn failed(&self) -> impl Iterator<Item = (&String, &String)> {
        self.discovery.failed.iter()
    }

    /// The resource of a word such as `po`, `deployments.apps`, `deployments.v1.apps`.
    pub fn resource(&self, word: &str) -> Result<Discovered, Error> {
        let word = word.to_lowercase();
        let (name, rest) = parts_of(&word);
        if let Some((version, group)) = rest.split_once('.')
            && let Some(found) = self.find(name, |row| row.0 == group && row.1 == version)
        {
            return Ok(found.clone());
        }
        if rest.is_empty() {
            let preferred = self.find_preferred(name, |_| true);
            return preferred.cloned().ok_or_else(|| missing(&word));
        }
        // `deployments.v1` is no group; a version alone is not accepted either.
        let exact = self.find_preferred(name, |group| group == rest);
        let found = exact.or_else(|| self.find_preferred(name, |group| group.starts_with(rest)));
        found.cloned().ok_or_else(|| missing(&word))
    }

    /// The resources of a word that may be a category.
    pub fn expand(&self, word: &str) -> Result<Vec<Discovered>, Error> {
        let lower = word.to_lowercase();
        let in_category = |row: &&Discovered| row.categories.contains(&lower) && row.can(&["list"]);
        let members: Vec<Discovered> = self.discovery.preferred().filter(in_category).cloned().collect();
        // A category hides a resource of its name, as `all` does.
        if members.is_empty() { Ok(vec![self.resource(word)?]) } else { Ok(members) }
    }

    /// The resource of a type in a manifest.
    pub fn of_type(&self, api_version: &str, kind: &str) -> Option<&Discovered> {
        let fits = |row: &&Discovered| row.resource.kind == kind && row.resource.api_version() == api_version;
        // `pods/binding` and the like share kinds with nothing; the first is the resource itself.
        self.discovery.resources.iter().find(fits)
    }

    fn find(&self, name: &str, fits: impl Fn((&str, &str)) -> bool) -> Option<&Discovered> {
        let rows = || self.discovery.resources.iter();
        let scoped = |row: &&Discovered| fits((&row.resource.gvr.group, &row.resource.gvr.version));
        let short = rows().filter(scoped).find(|row| row.short_names.iter().any(|short| short == name));
        rows().filter(scoped).find(|row| is_called(row, name)).or(short)
    }

    fn find_preferred(&self, name: &str, fits: impl Fn(&str) -> bool) -> Option<&Discovered> {
        let rows = || self.discovery.preferred().filter(|row| fits(&row.resource.gvr.group));
        let short = || rows().find(|row| row.short_names.iter().any(|short| short == name));
        rows().find(|row| is_called(row, name)).or_else(short)
    }
}

fn is_called(row: &Discovered, name: &str) -> bool {
    let singular =
        if row.singular.is_empty() { row.resource.kind.to_lowercase() } else { row.singular.clone() };
    row.resource.gvr.resource == name || singular == name
}

fn missing(word: &str) -> Error {
    let (name, rest) = parts_of(word);
    // The message speaks of the first part, as kubectl's does for a plain word.
    let shown = if rest.is_empty() { name } else { word };
    Error::usage(format!("the server doesn't have a resource type {shown:?}"))
}

/// `deployment.apps` or `pod`: how a kind is named before a slash in messages.
pub fn singular_of(row: &Discovered) -> String {
    let kind = row.resource.kind.to_lowercase();
    api::meta::group_resource(&row.resource.gvr.group, &kind)
}

#[cfg(test)]
mod tests {
    use client::ResourceRef;

    use super::*;

    pub(crate) fn kinds() -> Kinds {
        let row = |group: &str, plural: &str, kind: &str, short: &[&str], preferred: bool| Discovered {
            resource: ResourceRef::new(group, "v1", plural, kind, true),
            verbs: vec!["list".into(), "get".into()],
            singular: kind.to_lowercase(),
            short_names: short.iter().map(|text| (*text).to_owned()).collect(),
            categories: vec!["all".into()],
            subresources: Vec::new(),
            preferred,
        };
        let resources = vec![
            row("", "pods", "Pod", &["po"], true),
            row("", "events", "Event", &["ev"], true),
            row("apps", "deployments", "Deployment", &["deploy"], true),
            row("events.k8s.io", "events", "Event", &["ev"], true),
        ];
        Kinds::new(Discovery { resources, ..Discovery::default() })
    }

    #[test]
    fn words() {
        let kinds = kinds();
        for (word, expect) in [
            ("po", "pods"),
            ("Pod", "pods"),
            ("deploy", "deployments.apps"),
            ("deployments.apps", "deployments.apps"),
            ("deployments.v1.apps", "deployments.apps"),
            ("deploy.apps", "deployments.apps"),
            ("events", "events"),
            ("ev.events.k8s.io", "events.events.k8s.io"),
        ] {
            assert_eq!(kinds.resource(word).expect(word).resource.gvr.group_resource(), expect, "{word}");
        }
        let error = kinds.resource("nope").expect_err("unknown").to_string();
        assert_eq!(error, "the server doesn't have a resource type \"nope\"");
        assert_eq!(kinds.expand("all").expect("a category").len(), 4);
    }
}
