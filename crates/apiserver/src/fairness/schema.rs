//! A FlowSchema made ready to be matched. It must not know levels beyond their names.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use api::user::UserInfo;
use base::metrics::Metrics;
use registry::tree::Tree;
use serde_json::Value;

use super::subject_of;
use crate::measure::Flow;
use crate::request::RequestInfo;

/// A flow schema.
pub struct Schema {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: Arc<str>,
    /// Lower ones are asked first.
    pub precedence: i64,
    /// The level of its requests.
    pub level: Arc<str>,
    /// What its requests count.
    pub counts: Flow,
    distinguisher: String,
    rules: Vec<Rule>,
}

struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<Resources>,
    paths: Vec<(Vec<String>, Vec<String>)>,
}

enum Subject {
    User(String),
    Group(String),
    Account(String, String),
}

struct Resources {
    verbs: Vec<String>,
    groups: Vec<String>,
    resources: Vec<String>,
    namespaces: Vec<String>,
    cluster: bool,
}

fn texts(tree: &Value, field: &str) -> Vec<String> {
    tree.list(field).iter().filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == "*" || item == wanted)
}

impl Subject {
    fn new(tree: &Value) -> Subject {
        match tree.text("kind") {
            "User" => Subject::User(tree.text("user.name").to_owned()),
            "ServiceAccount" => Subject::Account(
                tree.text("serviceAccount.namespace").to_owned(),
                tree.text("serviceAccount.name").to_owned(),
            ),
            _ => Subject::Group(tree.text("group.name").to_owned()),
        }
    }

    fn matches(&self, user: &UserInfo) -> bool {
        match self {
            Subject::User(name) => name == "*" || *name == user.name,
            Subject::Group(name) => name == "*" || user.in_group(name),
            Subject::Account(namespace, name) => user
                .as_service_account()
                .is_some_and(|(place, account)| place == namespace && (name == "*" || account == name)),
        }
    }
}

impl Resources {
    fn matches(&self, info: &RequestInfo) -> bool {
        let place = match info.namespace.as_str() {
            "" => self.cluster,
            namespace => has(&self.namespaces, namespace),
        };
        let named = |wanted: &String| match wanted.split_once('/') {
            _ if wanted == "*" => true,
            Some((resource, sub)) => resource == info.resource && sub == info.subresource,
            None => *wanted == info.resource && info.subresource.is_empty(),
        };
        place
            && has(&self.verbs, &info.verb)
            && has(&self.groups, &info.group)
            && self.resources.iter().any(named)
    }
}

fn path_matches(wanted: &str, path: &str) -> bool {
    match wanted.strip_suffix('*') {
        Some(start) => path.starts_with(start),
        None => wanted == path,
    }
}

impl Schema {
    /// Of a stored object.
    pub fn new(tree: &Value, metrics: &Metrics) -> Schema {
        let rule = |rule: &Value| Rule {
            subjects: rule.list("subjects").iter().map(Subject::new).collect(),
            resources: rule
                .list("resourceRules")
                .iter()
                .map(|r| Resources {
                    verbs: texts(r, "verbs"),
                    groups: texts(r, "apiGroups"),
                    resources: texts(r, "resources"),
                    namespaces: texts(r, "namespaces"),
                    cluster: r.flag("clusterScope"),
                })
                .collect(),
            paths: rule
                .list("nonResourceRules")
                .iter()
                .map(|r| (texts(r, "verbs"), texts(r, "nonResourceURLs")))
                .collect(),
        };
        let (name, level) = (tree.text("metadata.name"), tree.text("spec.priorityLevelConfiguration.name"));
        Schema {
            name: name.to_owned(),
            uid: tree.text("metadata.uid").into(),
            precedence: tree.int("spec.matchingPrecedence"),
            level: level.into(),
            counts: Flow::new(metrics, name, level),
            distinguisher: tree.text("spec.distinguisherMethod.type").to_owned(),
            rules: tree.list("spec.rules").iter().map(rule).collect(),
        }
    }

    /// Whether a request belongs here.
    pub fn matches(&self, user: &UserInfo, info: &RequestInfo) -> bool {
        self.rules.iter().any(|rule| {
            rule.subjects.iter().any(|subject| subject.matches(user))
                && match info.is_resource {
                    true => rule.resources.iter().any(|resources| resources.matches(info)),
                    false => rule.paths.iter().any(|(verbs, paths)| {
                        has(verbs, &info.verb) && paths.iter().any(|wanted| path_matches(wanted, &info.path))
                    }),
                }
        })
    }

    /// The flow of a request, as a number.
    pub fn flow(&self, user: &UserInfo, info: &RequestInfo) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.name.hash(&mut hasher);
        subject_of(&self.distinguisher, user, info).hash(&mut hasher);
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Query;

    #[test]
    fn the_default_flows_are_found() {
        let mut schemas: Vec<Schema> = super::super::objects()
            .iter()
            .filter(|object| object["kind"] == "FlowSchema")
            .map(|object| Schema::new(object, &Metrics::new()))
            .collect();
        schemas.sort_by_key(|schema| schema.precedence);
        for (user, path, expect) in [
            (UserInfo::component("admin", &["system:masters"]), "/api/v1/pods", "exempt"),
            (UserInfo::component("jane", &[]), "/readyz", "probes"),
            (UserInfo::component("jane", &[]), "/api/v1/pods", "global-default"),
            (
                UserInfo::component("system:node:a", &["system:nodes"]),
                "/api/v1/nodes/a/status",
                "system-node-high",
            ),
            (UserInfo::component("system:node:a", &["system:nodes"]), "/api/v1/pods", "system-nodes"),
            (
                UserInfo::component("system:kube-scheduler", &[]),
                "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/x",
                "system-leader-election",
            ),
            (UserInfo::service_account("kube-system", "x"), "/api/v1/pods", "kube-system-service-accounts"),
            (
                UserInfo::service_account("default", "x"),
                "/api/v1/namespaces/default/pods",
                "service-accounts",
            ),
        ] {
            let info = RequestInfo::parse(&http::Method::GET, path, &Query::parse(None));
            let found = schemas.iter().find(|schema| schema.matches(&user, &info));
            assert_eq!(found.map(|schema| schema.name.as_str()), Some(expect), "{} {path}", user.name);
        }
    }
}
