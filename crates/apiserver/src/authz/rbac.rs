//! RBAC: rules of roles reached through bindings. Roles are parsed once per version and kept by subject.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use api::user::UserInfo;
use api::validation::aggregate;
use parking_lot::RwLock;
use serde::Deserialize;
use serde_json::{Value, json};
use store::Object;

use super::Attributes;
use crate::server::Server;

const ROLES: &str = "rbac.authorization.k8s.io/roles";
const CLUSTER_ROLES: &str = "rbac.authorization.k8s.io/clusterroles";
const BINDINGS: &str = "rbac.authorization.k8s.io/rolebindings";
const CLUSTER_BINDINGS: &str = "rbac.authorization.k8s.io/clusterrolebindings";

/// One policy rule.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Rule {
    /// Verbs, `*` for all.
    #[serde(deserialize_with = "list")]
    pub verbs: Vec<String>,
    /// API groups, `*` for all.
    #[serde(deserialize_with = "list")]
    pub api_groups: Vec<String>,
    /// Resources, `*` for all, `*/sub` for a subresource of any.
    #[serde(deserialize_with = "list")]
    pub resources: Vec<String>,
    /// Names; none means all.
    #[serde(deserialize_with = "list")]
    pub resource_names: Vec<String>,
    /// Paths, a trailing `*` stands for anything.
    #[serde(deserialize_with = "list", rename = "nonResourceURLs")]
    pub urls: Vec<String>,
}

fn list<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::<Vec<String>>::deserialize(deserializer)?.unwrap_or_default())
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == "*" || item == wanted)
}

impl Rule {
    /// Whether the rule allows it.
    pub fn allows(&self, what: &Attributes) -> bool {
        if !has(&self.verbs, &what.verb) {
            return false;
        }
        if !what.is_resource {
            return self.urls.iter().any(|url| url_covers(url, &what.path));
        }
        has(&self.api_groups, &what.group)
            && self.resources.iter().any(|rule| resource_covers(rule, &what.resource, &what.subresource))
            && (self.resource_names.is_empty() || self.resource_names.contains(&what.name))
    }

    /// As the API writes it.
    pub fn to_value(&self) -> Value {
        let mut out = json!({"verbs": self.verbs});
        let lists = [
            ("apiGroups", &self.api_groups),
            ("resources", &self.resources),
            ("resourceNames", &self.resource_names),
            ("nonResourceURLs", &self.urls),
        ];
        for (key, list) in lists {
            if !list.is_empty() {
                out[key] = json!(list);
            }
        }
        out
    }

    /// One rule for each combination, as escalation checks compare them.
    fn split(&self) -> Vec<Rule> {
        let one = |text: &String| vec![text.clone()];
        let mut out = Vec::new();
        for verb in &self.verbs {
            for url in &self.urls {
                out.push(Rule { verbs: one(verb), urls: one(url), ..Rule::default() });
            }
            for group in &self.api_groups {
                for resource in &self.resources {
                    let base = Rule {
                        verbs: one(verb),
                        api_groups: one(group),
                        resources: one(resource),
                        ..Rule::default()
                    };
                    if self.resource_names.is_empty() {
                        out.push(base);
                        continue;
                    }
                    out.extend(
                        self.resource_names.iter().map(|n| Rule { resource_names: one(n), ..base.clone() }),
                    );
                }
            }
        }
        out
    }

    /// Whether this rule allows all that a split rule does.
    fn covers(&self, part: &Rule) -> bool {
        let all = |mine: &[String], wanted: &[String]| wanted.iter().all(|w| has(mine, w));
        if !all(&self.verbs, &part.verbs) {
            return false;
        }
        if !part.urls.is_empty() {
            return part
                .urls
                .iter()
                .all(|wanted| self.urls.iter().any(|own| own == wanted || url_covers(own, wanted)));
        }
        let resource = |wanted: &String| {
            let (base, sub) = wanted.split_once('/').unwrap_or((wanted, ""));
            self.resources.iter().any(|own| own == wanted || resource_covers(own, base, sub))
        };
        let names = self.resource_names.is_empty()
            || (!part.resource_names.is_empty()
                && part.resource_names.iter().all(|n| self.resource_names.contains(n)));
        all(&self.api_groups, &part.api_groups) && part.resources.iter().all(resource) && names
    }
}

fn url_covers(rule: &str, path: &str) -> bool {
    rule == "*" || rule == path || rule.strip_suffix('*').is_some_and(|start| path.starts_with(start))
}

fn resource_covers(rule: &str, resource: &str, subresource: &str) -> bool {
    if rule == "*" {
        return true;
    }
    if subresource.is_empty() {
        return rule == resource;
    }
    match rule.split_once('/') {
        Some(("*", sub)) => sub == subresource,
        Some((base, sub)) => base == resource && sub == subresource,
        None => false,
    }
}

/// Rules in `rules` that `owned` does not cover, in upstream's compact text.
pub fn uncovered(owned: &[Rule], rules: &[Rule]) -> Vec<Rule> {
    let parts = rules.iter().flat_map(Rule::split);
    parts.filter(|part| !owned.iter().any(|own| own.covers(part))).collect()
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct RoleText {
    rules: Option<Vec<Rule>>,
    aggregation_rule: Option<Aggregation>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Aggregation {
    cluster_role_selectors: Option<Vec<api::k8s::apimachinery::pkg::apis::meta::v1::LabelSelector>>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct BindingText {
    subjects: Option<Vec<Subject>>,
    role_ref: RoleRef,
}

/// Who a binding is for.
#[derive(Clone, Debug, Deserialize, Default, PartialEq, Eq)]
#[serde(default)]
pub struct Subject {
    kind: String,
    name: String,
    namespace: String,
}

#[derive(Clone, Debug, Deserialize, Default)]
#[serde(default)]
struct RoleRef {
    kind: String,
    name: String,
}

struct Role {
    revision: u64,
    rules: Arc<[Rule]>,
}

/// Rules that a subject has, in one namespace or (empty) everywhere.
#[derive(Clone)]
struct Grant {
    namespace: Arc<str>,
    /// Told as the reason: `ClusterRoleBinding "x" of ClusterRole "y" to User "z"`.
    origin: Arc<str>,
    rules: Arc<[Rule]>,
    /// The role that the binding names and that is not there; then there are no rules.
    missing: Option<Arc<str>>,
}

impl Grant {
    fn reaches(&self, namespace: &str) -> bool {
        self.namespace.is_empty() || *self.namespace == *namespace
    }
}

#[derive(Default)]
struct Index {
    users: HashMap<String, Vec<Grant>>,
    groups: HashMap<String, Vec<Grant>>,
}

/// The index, rebuilt when a role or binding has changed.
#[derive(Default)]
pub struct Cache {
    wanted: AtomicU64,
    built: RwLock<(u64, u64, Arc<Index>)>,
    roles: RwLock<HashMap<store::Key, Arc<Role>>>,
}

impl Cache {
    /// The next decision looks at the store again.
    pub fn stale(&self) {
        self.wanted.fetch_add(1, Ordering::AcqRel);
    }

    fn index(&self, server: &Server) -> Arc<Index> {
        let wanted = self.wanted.load(Ordering::Acquire);
        {
            let built = self.built.read();
            if built.0 == 1 && built.1 == wanted {
                return built.2.clone();
            }
        }
        let index = Arc::new(self.build(server));
        *self.built.write() = (1, wanted, index.clone());
        index
    }

    fn role(&self, object: &Object) -> Arc<Role> {
        if let Some(role) = self.roles.read().get(&object.key)
            && role.revision == object.revision
        {
            return role.clone();
        }
        let text: RoleText = serde_json::from_slice(&object.json).unwrap_or_default();
        let role = Arc::new(Role { revision: object.revision, rules: text.rules.unwrap_or_default().into() });
        self.roles.write().insert(object.key.clone(), role.clone());
        role
    }

    /// Rules of a cluster role, those it aggregates included.
    fn cluster_rules(&self, server: &Server, name: &str) -> Option<Arc<[Rule]>> {
        let snapshot = server.store.snapshot(CLUSTER_ROLES);
        let object = snapshot.get("", name)?;
        let own = self.role(object);
        if !memmem(&object.json, b"\"aggregationRule\"") {
            return Some(own.rules.clone());
        }
        let text: RoleText = serde_json::from_slice(&object.json).unwrap_or_default();
        let selectors = text.aggregation_rule.and_then(|a| a.cluster_role_selectors).unwrap_or_default();
        let selectors: Vec<_> =
            selectors.iter().filter_map(|s| api::labels::Selector::from_object(Some(s)).ok()).collect();
        let mut rules: Vec<Rule> = Vec::new();
        for other in snapshot.range(None, None).filter(|o| &*o.key.name != name) {
            let labels = |key: &str| other.attrs.label(key).map(|v| &**v);
            if selectors.iter().any(|selector| selector.matches_with(labels)) {
                let found = if memmem(&other.json, b"\"aggregationRule\"") {
                    self.nested(server, other, 0)
                } else {
                    self.role(other).rules.to_vec()
                };
                rules.extend(found.into_iter().filter(|r| !rules.contains(r)).collect::<Vec<_>>());
            }
        }
        Some(rules.into())
    }

    /// Aggregates of aggregates, a few levels deep.
    fn nested(&self, server: &Server, object: &Object, depth: u32) -> Vec<Rule> {
        let text: RoleText = serde_json::from_slice(&object.json).unwrap_or_default();
        let selectors = text.aggregation_rule.and_then(|a| a.cluster_role_selectors).unwrap_or_default();
        let selectors: Vec<_> =
            selectors.iter().filter_map(|s| api::labels::Selector::from_object(Some(s)).ok()).collect();
        let snapshot = server.store.snapshot(CLUSTER_ROLES);
        let mut rules = Vec::new();
        for other in snapshot.range(None, None).filter(|o| o.key.name != object.key.name) {
            let labels = |key: &str| other.attrs.label(key).map(|v| &**v);
            if !selectors.iter().any(|selector| selector.matches_with(labels)) {
                continue;
            }
            if memmem(&other.json, b"\"aggregationRule\"") && depth < 3 {
                rules.extend(self.nested(server, other, depth + 1));
            } else {
                rules.extend(self.role(other).rules.iter().cloned());
            }
        }
        rules
    }

    fn build(&self, server: &Server) -> Index {
        let mut index = Index::default();
        let mut aggregated: HashMap<String, Option<Arc<[Rule]>>> = HashMap::new();
        let roles = server.store.snapshot(ROLES);
        for (resource, word) in [(CLUSTER_BINDINGS, "ClusterRoleBinding"), (BINDINGS, "RoleBinding")] {
            for object in server.store.snapshot(resource).range(None, None) {
                let binding: BindingText = serde_json::from_slice(&object.json).unwrap_or_default();
                let rules = match binding.role_ref.kind.as_str() {
                    "ClusterRole" => aggregated
                        .entry(binding.role_ref.name.clone())
                        .or_insert_with(|| self.cluster_rules(server, &binding.role_ref.name))
                        .clone(),
                    _ => roles
                        .get(&object.key.namespace, &binding.role_ref.name)
                        .map(|o| self.role(o).rules.clone()),
                };
                let missing = rules.is_none().then(|| not_found(&binding.role_ref));
                let rules = rules.unwrap_or_default();
                for subject in binding.subjects.unwrap_or_default() {
                    let place = if word == "RoleBinding" {
                        format!("{}/{}", object.key.name, object.key.namespace)
                    } else {
                        object.key.name.to_string()
                    };
                    let origin = format!(
                        "{word} {place:?} of {} {:?} to {} {:?}",
                        binding.role_ref.kind,
                        binding.role_ref.name,
                        subject.kind,
                        shown(&subject)
                    );
                    let grant = Grant {
                        namespace: object.key.namespace.clone(),
                        origin: format!("RBAC: allowed by {origin}").into(),
                        rules: rules.clone(),
                        missing: missing.clone(),
                    };
                    add(&mut index, subject, grant);
                }
            }
        }
        index
    }

    /// Allowed with a reason, or refused; the refusal names roles that bindings name and that are not there.
    pub fn decide(&self, server: &Server, user: &UserInfo, what: &Attributes) -> Result<String, String> {
        let index = self.index(server);
        let mut missing = BTreeSet::new();
        // Rules of a role binding never reach other paths or cluster-scoped requests.
        let reaching = grants(&index, user).filter(|grant| {
            grant.reaches(&what.namespace) && (grant.namespace.is_empty() || what.is_resource)
        });
        for grant in reaching {
            if grant.rules.iter().any(|rule| rule.allows(what)) {
                return Ok(grant.origin.to_string());
            }
            missing.extend(grant.missing.as_deref());
        }
        Err(told(missing).map(|roles| format!("RBAC: {roles}")).unwrap_or_default())
    }

    /// Every rule that a user has in a namespace, and what is to be said of roles that are not there.
    pub fn rules_for(
        &self,
        server: &Server,
        user: &UserInfo,
        namespace: &str,
    ) -> (Vec<Rule>, Option<String>) {
        let index = self.index(server);
        let (mut rules, mut missing) = (Vec::new(), BTreeSet::new());
        for grant in grants(&index, user).filter(|grant| grant.reaches(namespace)) {
            rules.extend(grant.rules.iter().cloned());
            missing.extend(grant.missing.as_deref());
        }
        (rules, told(missing))
    }

    /// Rules of a role that a binding in `namespace` names.
    pub fn rules_of(&self, server: &Server, namespace: &str, kind: &str, name: &str) -> Option<Arc<[Rule]>> {
        match kind {
            "ClusterRole" => self.cluster_rules(server, name),
            _ => server
                .store
                .snapshot(ROLES)
                .get(namespace, name)
                .map(|object| self.role(object).rules.clone()),
        }
    }
}

fn grants<'a>(index: &'a Index, user: &'a UserInfo) -> impl Iterator<Item = &'a Grant> {
    let own = index.users.get(&user.name).into_iter().flatten();
    own.chain(user.groups.iter().filter_map(|group| index.groups.get(group)).flatten())
}

fn not_found(role: &RoleRef) -> Arc<str> {
    let resource = if role.kind == "ClusterRole" { "clusterrole" } else { "role" };
    format!("{resource}.rbac.authorization.k8s.io {:?} not found", role.name).into()
}

fn told(missing: BTreeSet<&str>) -> Option<String> {
    (!missing.is_empty()).then(|| aggregate(missing.into_iter().map(str::to_owned)))
}

fn shown(subject: &Subject) -> String {
    if subject.kind == "ServiceAccount" {
        format!("{}/{}", subject.name, subject.namespace)
    } else {
        subject.name.clone()
    }
}

fn add(index: &mut Index, subject: Subject, grant: Grant) {
    match subject.kind.as_str() {
        "User" => index.users.entry(subject.name).or_default().push(grant),
        "Group" => index.groups.entry(subject.name).or_default().push(grant),
        "ServiceAccount" => {
            let namespace =
                if subject.namespace.is_empty() { grant.namespace.to_string() } else { subject.namespace };
            let name = format!("system:serviceaccount:{namespace}:{}", subject.name);
            index.users.entry(name).or_default().push(grant);
        }
        _ => {}
    }
}

fn memmem(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(verbs: &str, groups: &str, resources: &str) -> Rule {
        let list = |text: &str| text.split(',').filter(|t| *t != "-").map(str::to_owned).collect();
        Rule { verbs: list(verbs), api_groups: list(groups), resources: list(resources), ..Rule::default() }
    }

    #[test]
    fn rules_match() {
        let mut what = Attributes::resource("get", "", "pods", "a", "x");
        assert!(rule("get", "", "pods").allows(&what));
        assert!(!rule("list", "", "pods").allows(&what));
        what.subresource = "log".into();
        assert!(!rule("get", "", "pods").allows(&what));
        assert!(rule("get", "", "pods/log").allows(&what));
        assert!(rule("get", "", "*/log").allows(&what));
        assert!(rule("get", "", "*").allows(&what));
    }

    #[test]
    fn escalation_finds_what_is_missing() {
        let owned = [rule("get,list", "", "pods")];
        assert!(uncovered(&owned, &[rule("get", "", "pods")]).is_empty());
        assert_eq!(uncovered(&owned, &[rule("get,delete", "", "pods")]).len(), 1);
        assert_eq!(uncovered(&owned, &[rule("*", "", "pods")]).len(), 1);
    }
}
