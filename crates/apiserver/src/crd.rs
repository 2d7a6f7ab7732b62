//! Custom resources: definitions become rows while the server runs. Names are accepted, versions served,
//! instances removed with their definition. Also the APIService objects of everything served here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use machinery::cel::RuleSet;
use machinery::schema::structural::Node;
use registry::Resource;
use registry::lifecycle::Deletion;
use registry::tree::Tree;
use serde_json::{Value, json};
use store::{Expect, Interest, Object, WatchFrom, Write};

use crate::convert::Webhook;
use crate::object::{self, CustomKind};
use crate::server::Server;
use crate::write;

const STORAGE: &str = "apiextensions.k8s.io/customresourcedefinitions";
const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";
/// How long to wait before trying again after a failure.
const RETRY: Duration = Duration::from_secs(1);

/// Priorities of built-in groups in APIServices (`groupPriorityMinimum`).
const GROUP_PRIORITY: &[(&str, i64)] = &[
    ("", 18_000),
    ("apps", 17_800),
    ("events.k8s.io", 17_750),
    ("authentication.k8s.io", 17_700),
    ("authorization.k8s.io", 17_600),
    ("autoscaling", 17_500),
    ("batch", 17_400),
    ("certificates.k8s.io", 17_300),
    ("networking.k8s.io", 17_200),
    ("policy", 17_100),
    ("rbac.authorization.k8s.io", 17_000),
    ("storage.k8s.io", 16_800),
    ("apiextensions.k8s.io", 16_700),
    ("admissionregistration.k8s.io", 16_700),
    ("scheduling.k8s.io", 16_600),
    ("coordination.k8s.io", 16_500),
    ("node.k8s.io", 16_300),
    ("discovery.k8s.io", 16_200),
    ("flowcontrol.apiserver.k8s.io", 16_100),
    ("resource.k8s.io", 15_900),
    ("metrics.k8s.io", 100),
];

/// The priority of groups of custom resources.
const CUSTOM_PRIORITY: i64 = 1000;

/// The priority of a group served here.
pub fn group_priority(group: &str) -> i64 {
    GROUP_PRIORITY.iter().find(|row| row.0 == group).map_or(CUSTOM_PRIORITY, |row| row.1)
}

/// A definition goes only after its instances: the first deletion marks it and keeps it by a finalizer, whatever is to
/// become of dependents. `object` comes as other kinds are marked.
pub fn before_delete(now: jiff::Timestamp, old: &Value, object: &mut Value, deletion: Deletion) -> Deletion {
    if deletion == Deletion::Pending || old.has("metadata.deletionTimestamp") {
        return deletion;
    }
    *object = old.clone();
    let mut finalizers = object.list("metadata.finalizers").to_vec();
    if !finalizers.iter().any(|f| f == FINALIZER) {
        finalizers.push(FINALIZER.into());
        object.set("metadata.finalizers", finalizers);
    }
    object.set("metadata.deletionTimestamp", api::time::format(now));
    set_condition(
        object,
        "Terminating",
        "True",
        "InstanceDeletionPending",
        "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
        now,
    );
    Deletion::Marked
}

fn set_condition(
    crd: &mut Value,
    kind: &str,
    status: &str,
    reason: &str,
    message: &str,
    now: jiff::Timestamp,
) -> bool {
    let mut all = crd.list("status.conditions").to_vec();
    let mut condition = json!({"type": kind, "status": status, "reason": reason, "message": message,
        "lastTransitionTime": api::time::format(now)});
    match all.iter_mut().find(|c| c.text("type") == kind) {
        Some(own)
            if own.text("status") == status
                && own.text("reason") == reason
                && own.text("message") == message =>
        {
            return false;
        }
        Some(own) => {
            if own.text("status") == status {
                condition["lastTransitionTime"] = own.at("lastTransitionTime").clone();
            }
            *own = condition;
        }
        None => all.push(condition),
    }
    crd.set("status.conditions", all);
    true
}

impl Server {
    /// Serves the stored definitions now, and follows their changes from now on.
    pub(crate) async fn follow_definitions(&self) {
        let Ok(mut watch) = self.store.watch(STORAGE, Interest::All, WatchFrom::Now) else { return };
        let mut settled = self.settle_definitions().await;
        let server = self.clone();
        self.tasks.spawn("custom resources", async move {
            let mut batch = Vec::new();
            loop {
                batch.clear();
                let next = watch.next_batch(&mut batch);
                let result = if settled { Some(next.await) } else { server.clock.timeout(RETRY, next).await };
                match result {
                    None | Some(Ok(())) => {}
                    Some(Err(store::HistoryError::Closed)) => return,
                    Some(Err(_)) => match server.store.watch(STORAGE, Interest::All, WatchFrom::Now) {
                        Ok(new) => watch = new,
                        Err(_) => server.clock.sleep(RETRY).await,
                    },
                }
                settled = server.settle_definitions().await;
            }
        });
    }

    /// Brings statuses, rows and leftovers in line with the definitions. False when instances of a deleted one
    /// are still held by finalizers.
    async fn settle_definitions(&self) -> bool {
        let snapshot = self.store.snapshot(STORAGE);
        let stored: Vec<Arc<Object>> = snapshot.range(None, None).cloned().collect();
        let mut crds: Vec<(Arc<Object>, Value)> =
            stored.into_iter().map(|o| (o.clone(), object::tree(&o))).collect();
        crds.sort_by(|a, b| established(&b.1).cmp(&established(&a.1)));
        let mut taken: BTreeMap<(String, String), String> = BTreeMap::new();
        for (stored, crd) in &mut crds {
            self.settle_status(stored, crd, &mut taken).await;
        }
        self.serve_definitions(&crds);
        self.register_services().await;
        let mut settled = true;
        for (_, crd) in crds.iter().filter(|(_, crd)| crd.has("metadata.deletionTimestamp")) {
            settled &= self.remove_instances(crd).await;
        }
        settled
    }

    /// Accepts names that are free and marks the definition established.
    async fn settle_status(
        &self,
        stored: &mut Arc<Object>,
        crd: &mut Value,
        taken: &mut BTreeMap<(String, String), String>,
    ) {
        let before = crd.clone();
        let (now, name) = (self.clock.now(), crd.text("metadata.name").to_owned());
        let group = crd.text("spec.group").to_owned();
        let conflict = clash(crd, &group, &name, taken);
        match &conflict {
            None => {
                crd.set("status.acceptedNames", crd.at("spec.names").clone());
                set_condition(crd, "NamesAccepted", "True", "NoConflicts", "no conflicts found", now);
                if !crd.has("metadata.deletionTimestamp") {
                    set_condition(
                        crd,
                        "Established",
                        "True",
                        "InitialNamesAccepted",
                        "the initial names have been accepted",
                        now,
                    );
                }
            }
            Some((reason, message)) => {
                set_condition(crd, "NamesAccepted", "False", reason, message, now);
                if !established(crd) {
                    set_condition(
                        crd,
                        "Established",
                        "False",
                        "NotAccepted",
                        "not all names are accepted",
                        now,
                    );
                }
            }
        }
        store_versions(crd);
        if *crd == before {
            return;
        }
        let catalog = self.rows.now();
        let Some(row) = catalog.get("apiextensions.k8s.io", "v1", "customresourcedefinitions") else {
            return;
        };
        let noted = machinery::apply::Write {
            schema: write::Target::of(row).schema(),
            api_version: &row.api_version(),
            manager: "kube-apiserver",
            subresource: "status",
            now,
            reset: &["spec"],
        };
        machinery::apply::update(noted, Some(&before), crd);
        let write = write::put(row, stored.key.clone(), Expect::Revision(stored.revision), crd.clone());
        match self.commit(write).await {
            Ok(committed) => {
                *stored = committed.object;
                *crd = object::tree(stored);
            }
            // Somebody wrote in between: its event brings us back.
            Err(error) => {
                tracing::debug!(%error, %name, "status of a definition");
                *crd = before;
            }
        }
    }

    fn serve_definitions(&self, crds: &[(Arc<Object>, Value)]) {
        let serving = self.rows.serving();
        let mut customs = Vec::new();
        for (stored, crd) in crds.iter().filter(|(_, crd)| established(crd)) {
            for row in Resource::from_crd(crd) {
                let version = crd.list("spec.versions").iter().find(|v| v.text("name") == row.version);
                let schema = version.map(|v| v.at("schema.openAPIV3Schema").clone()).filter(|s| !s.is_null());
                let storage = crd.list("spec.versions").iter().find(|v| v.flag("storage"));
                let storage_version = storage.map(|v| v.text("name").to_owned()).unwrap_or_default();
                let conversion = (crd.text("spec.conversion.strategy") == "Webhook")
                    .then(|| Arc::new(Webhook(crd.at("spec.conversion.webhook").clone())));
                let deprecation = deprecation(crd, &row.version);
                let same = |old: &&Arc<CustomKind>| {
                    old.deprecation == deprecation
                        && old.schema == schema
                        && old.storage_version == storage_version
                        && old.conversion == conversion
                };
                let old = serving.custom(&row).filter(same);
                let kind = match old {
                    Some(old) => old.clone(),
                    None => {
                        let node = schema.as_ref().map_or_else(Node::any, Node::resource);
                        Arc::new(CustomKind {
                            rules: RuleSet::compile(&node).0,
                            node,
                            preserve_unknown: crd.flag("spec.preserveUnknownFields"),
                            since: stored.revision,
                            storage_version,
                            conversion,
                            deprecation,
                            schema,
                        })
                    }
                };
                customs.push((Arc::new(row), kind));
            }
        }
        self.rows.replace_customs(customs);
    }

    /// Deletes what is left of a terminating definition, then lets it go.
    async fn remove_instances(&self, crd: &Value) -> bool {
        let (group, plural) = (crd.text("spec.group"), crd.text("spec.names.plural"));
        let version =
            crd.list("spec.versions").iter().find(|v| v.flag("served")).map(|v| v.text("name").to_owned());
        let storage = format!("{group}/{plural}");
        let snapshot = self.store.snapshot(&storage);
        let left: Vec<Arc<Object>> = snapshot.range(None, None).cloned().collect();
        for instance in &left {
            let key = &instance.key;
            match &version {
                Some(version) if established(crd) => {
                    let place = if key.namespace.is_empty() {
                        String::new()
                    } else {
                        format!("namespaces/{}/", key.namespace)
                    };
                    let path = format!("/apis/{group}/{version}/{place}{plural}/{}", key.name);
                    self.internal(Method::DELETE, &path, None).await;
                }
                // Nothing serves them any more: they go as they are.
                _ => {
                    let _ = self.commit(Write::delete(key.clone(), Expect::Any)).await;
                }
            }
        }
        if !self.store.snapshot(&storage).is_empty() {
            // Finalizers hold some: looked at again by the loop that called.
            return false;
        }
        let name = crd.text("metadata.name");
        let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}");
        let kept: Vec<Value> =
            crd.list("metadata.finalizers").iter().filter(|f| *f != FINALIZER).cloned().collect();
        let body = json!({"metadata": {"finalizers": kept}});
        self.internal_patch(&path, body).await;
        true
    }

    /// One APIService for each group version served here.
    pub(crate) async fn register_services(&self) {
        let catalog = self.rows.now();
        let mut wanted: BTreeMap<String, (String, String, bool, i64)> = BTreeMap::new();
        for group in catalog.groups() {
            for (at, version) in group.versions.iter().enumerate() {
                let custom = catalog.version_rows(&group.name, version).all(|row| row.custom);
                let order = i64::try_from(at).unwrap_or(0);
                let name = format!("{version}.{}", group.name);
                wanted.insert(name, (group.name.clone(), version.clone(), custom, order));
            }
        }
        let Some(row) = catalog.get("apiregistration.k8s.io", "v1", "apiservices") else { return };
        let snapshot = self.store.snapshot("apiregistration.k8s.io/apiservices");
        for (name, (group, version, custom, order)) in &wanted {
            let key = store::Key::new("apiregistration.k8s.io/apiservices", "", name.as_str());
            if snapshot.get("", name).is_none() {
                let object = self.local_service(name, group, version, *custom, *order);
                let _ = self.commit(write::put(row, key, Expect::Absent, object)).await;
            }
        }
        for stored in snapshot.range(None, None) {
            let managed = stored.attrs.label("kube-aggregator.kubernetes.io/automanaged").is_some();
            if managed && !wanted.contains_key(&*stored.key.name) {
                let _ =
                    self.commit(Write::delete(stored.key.clone(), Expect::Revision(stored.revision))).await;
            }
        }
    }

    fn local_service(&self, name: &str, group: &str, version: &str, custom: bool, order: i64) -> Value {
        let now = api::time::format(self.clock.now());
        let minimum = if custom { CUSTOM_PRIORITY } else { group_priority(group) };
        let priority = if custom {
            100 - order
        } else if group.is_empty() {
            1
        } else {
            15 - order
        };
        json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": name,
            "uid": self.rng.uuid(), "creationTimestamp": now,
            "labels": {"kube-aggregator.kubernetes.io/automanaged": if custom { "true" } else { "onstart" }}},
            "spec": {"group": group, "version": version, "groupPriorityMinimum": minimum, "versionPriority": priority},
            "status": {"conditions": [{"type": "Available", "status": "True", "lastTransitionTime": now,
                "reason": "Local", "message": "Local APIServices are always available"}]}})
    }
}

fn established(crd: &Value) -> bool {
    crd.list("status.conditions")
        .iter()
        .any(|c| c.text("type") == "Established" && c.text("status") == "True")
}

/// What clients of a version are told when it is deprecated: the definition's own words, or what to use instead.
fn deprecation(crd: &Value, version: &str) -> Option<String> {
    let versions = crd.list("spec.versions");
    let own = versions.iter().find(|v| v.text("name") == version).filter(|v| v.flag("deprecated"))?;
    if let Some(text) = own.at("deprecationWarning").as_str() {
        return Some(text.to_owned());
    }
    let (group, kind) = (crd.text("spec.group"), crd.text("spec.names.kind"));
    let served = versions.iter().filter(|v| v.flag("served") && !v.flag("deprecated"));
    let mut better: Vec<&str> = served.map(|v| v.text("name")).collect();
    better.retain(|name| {
        registry::catalog::version_priority(name) > registry::catalog::version_priority(version)
    });
    better.sort_by_key(|name| registry::catalog::version_priority(name));
    let told = format!("{group}/{version} {kind} is deprecated");
    Some(better.last().map_or(told.clone(), |name| format!("{told}; use {group}/{name} {kind}")))
}

/// The first name that another definition of the group has; notes this one's names as taken.
fn clash(
    crd: &Value,
    group: &str,
    name: &str,
    taken: &mut BTreeMap<(String, String), String>,
) -> Option<(&'static str, String)> {
    let names = crd.at("spec.names");
    let mut all: Vec<(&'static str, String)> = vec![
        ("PluralConflict", names.text("plural").to_owned()),
        ("SingularConflict", names.text("singular").to_owned()),
    ];
    all.extend(
        names.list("shortNames").iter().filter_map(|n| Some(("ShortNamesConflict", n.as_str()?.to_owned()))),
    );
    all.push(("KindConflict", format!("kind:{}", names.text("kind"))));
    all.push(("ListKindConflict", format!("kind:{}", names.text("listKind"))));
    all.retain(|(_, text)| !text.is_empty() && text != "kind:");
    for (reason, text) in &all {
        let shown = text.trim_start_matches("kind:");
        if taken.get(&(group.to_owned(), text.clone())).is_some_and(|owner| owner != name) {
            return Some((reason, format!("{shown:?} is already in use")));
        }
    }
    for (_, text) in all {
        taken.insert((group.to_owned(), text), name.to_owned());
    }
    None
}

/// Every version that objects may be stored in is remembered.
fn store_versions(crd: &mut Value) {
    let storage =
        crd.list("spec.versions").iter().find(|v| v.flag("storage")).map(|v| v.text("name").to_owned());
    let mut all = crd.list("status.storedVersions").to_vec();
    if let Some(storage) = storage.filter(|storage| !all.iter().any(|v| v == storage.as_str())) {
        all.push(storage.into());
        crd.set("status.storedVersions", all);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deprecated_versions_name_a_better_one() {
        let crd = json!({"spec": {"group": "example.com", "names": {"kind": "Thing"}, "versions": [
            {"name": "v1alpha1", "served": true, "deprecated": true, "deprecationWarning": "gone soon"},
            {"name": "v1beta1", "served": true, "deprecated": true},
            {"name": "v1", "served": true},
            {"name": "v2", "served": false},
        ]}});
        for (version, expect) in [
            ("v1alpha1", Some("gone soon")),
            ("v1beta1", Some("example.com/v1beta1 Thing is deprecated; use example.com/v1 Thing")),
            ("v1", None),
        ] {
            assert_eq!(deprecation(&crd, version).as_deref(), expect, "{version}");
        }
    }

    #[test]
    fn the_first_deletion_only_marks_a_definition() {
        let old = json!({"metadata": {"name": "a", "generation": 1}});
        let mut marked = json!({"metadata": {"name": "a", "generation": 2, "deletionGracePeriodSeconds": 0,
            "finalizers": ["orphan"]}});
        let now = jiff::Timestamp::UNIX_EPOCH;
        assert_eq!(before_delete(now, &old, &mut marked, Deletion::Now), Deletion::Marked);
        assert_eq!(marked.int("metadata.generation"), 1);
        assert_eq!(marked.at("metadata.finalizers"), &json!([FINALIZER]));
        assert_eq!(before_delete(now, &marked.clone(), &mut marked, Deletion::Now), Deletion::Now);
    }
}
