//! The catalog: every served row, looked up by path, kind or storage. Built once from the
//! built-in rows; rows of custom resources are added and removed at run time by making a new one.
//! It must not know HTTP or the store.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::resource::Resource;
use crate::rows;

/// One API group as discovery lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Group name; empty for core.
    pub name: String,
    /// Versions, preferred first.
    pub versions: Vec<String>,
}

/// An immutable set of rows.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    rows: Vec<Arc<Resource>>,
    by_path: BTreeMap<(String, String, String), usize>,
    by_kind: BTreeMap<(String, String, String), usize>,
}

impl Catalog {
    /// Every built-in kind of the GA group versions.
    pub fn builtin() -> Catalog {
        Catalog::from_rows(rows::all().into_iter().map(Arc::new))
    }

    /// A catalog of the given rows; a later row replaces an earlier one of the same path.
    pub fn from_rows(rows: impl IntoIterator<Item = Arc<Resource>>) -> Catalog {
        let mut catalog = Catalog::default();
        for row in rows {
            let path = (row.group.clone(), row.version.clone(), row.plural.clone());
            let kind = (row.group.clone(), row.version.clone(), row.kind.clone());
            if let Some(at) = catalog.by_path.get(&path) {
                catalog.rows[*at] = row;
                continue;
            }
            let at = catalog.rows.len();
            catalog.by_path.insert(path, at);
            catalog.by_kind.entry(kind).or_insert(at);
            catalog.rows.push(row);
        }
        catalog
    }

    /// This catalog with more rows.
    pub fn with(&self, more: impl IntoIterator<Item = Arc<Resource>>) -> Catalog {
        Catalog::from_rows(self.rows.iter().cloned().chain(more))
    }

    /// Every row, in discovery order.
    pub fn rows(&self) -> &[Arc<Resource>] {
        &self.rows
    }

    /// The row at `/apis/GROUP/VERSION/PLURAL`.
    pub fn get(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.by_path.get(&(group.into(), version.into(), plural.into())).map(|at| &self.rows[*at])
    }

    /// The row of a kind.
    pub fn by_kind(&self, group: &str, version: &str, kind: &str) -> Option<&Arc<Resource>> {
        self.by_kind.get(&(group.into(), version.into(), kind.into())).map(|at| &self.rows[*at])
    }

    /// The row whose version is the stored one, for a storage prefix such as `apps/deployments`.
    pub fn by_storage(&self, storage: &str) -> Option<&Arc<Resource>> {
        self.rows
            .iter()
            .filter(|r| r.storage.as_deref() == Some(storage))
            .min_by_key(|r| r.conversion.is_some())
    }

    /// The rows of one group version.
    pub fn version_rows<'a>(
        &'a self,
        group: &'a str,
        version: &'a str,
    ) -> impl Iterator<Item = &'a Arc<Resource>> {
        self.rows.iter().filter(move |r| r.group == group && r.version == version)
    }

    /// Every group, built-in ones in upstream's order, then the others by name.
    pub fn groups(&self) -> Vec<Group> {
        let mut names: Vec<&str> = Vec::new();
        for row in &self.rows {
            if !names.contains(&row.group.as_str()) {
                names.push(&row.group);
            }
        }
        let builtin = |name: &str| rows::GROUP_ORDER.iter().position(|g| *g == name);
        names.sort_by_key(|name| (builtin(name).unwrap_or(usize::MAX), *name));
        names.into_iter().map(|name| self.group(name)).collect()
    }

    fn group(&self, name: &str) -> Group {
        let mut versions: Vec<String> = Vec::new();
        for row in self.rows.iter().filter(|r| r.group == name) {
            if !versions.contains(&row.version) {
                versions.push(row.version.clone());
            }
        }
        versions.sort_by_key(|v| std::cmp::Reverse(version_priority(v)));
        Group { name: name.to_string(), versions }
    }
}

/// Orders versions as upstream does: GA before beta before alpha, higher numbers first, anything
/// else last (by name). Greater means preferred.
pub fn version_priority(version: &str) -> (u8, u32, u32, std::cmp::Reverse<String>) {
    let name = std::cmp::Reverse(version.to_string());
    let parse = || -> Option<(u8, u32, u32)> {
        let rest = version.strip_prefix('v')?;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let major: u32 = rest[..digits].parse().ok()?;
        let rest = &rest[digits..];
        if rest.is_empty() {
            return Some((3, major, 0));
        }
        let (stage, number) = match rest.strip_prefix("beta") {
            Some(n) => (2, n),
            None => (1, rest.strip_prefix("alpha")?),
        };
        Some((stage, major, number.parse().ok()?))
    };
    let (stage, major, minor) = parse().unwrap_or((0, 0, 0));
    (stage, major, minor, name)
}
