//! Who owns whom: a graph of all objects by uid, and what follows from a change of it. Pure.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use api::k8s::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use client::{Key, Propagation, ResourceRef};

pub const FOREGROUND: &str = "foregroundDeletion";
pub const ORPHAN: &str = "orphan";
/// Uids of objects known to be gone, at most.
const MAX_ABSENT: usize = 20_000;

/// One object.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    pub resource: ResourceRef,
    pub key: Key,
    pub owners: Vec<OwnerReference>,
    pub revision: String,
    pub deleting: bool,
    pub foreground: bool,
    pub orphan: bool,
}

impl Node {
    fn new(resource: &ResourceRef, meta: &ObjectMeta) -> Self {
        let has = |name: &str| meta.finalizers.iter().flatten().any(|finalizer| finalizer == name);
        Node {
            resource: resource.clone(),
            key: Key::new(meta.namespace.as_deref().unwrap_or(""), meta.name.as_deref().unwrap_or("")),
            owners: meta.owner_references.clone().unwrap_or_default(),
            revision: meta.resource_version.clone().unwrap_or_default(),
            deleting: meta.deletion_timestamp.is_some(),
            foreground: has(FOREGROUND),
            orphan: has(ORPHAN),
        }
    }

    /// Going, and waiting for its dependents to go first.
    pub fn waits(&self) -> bool {
        self.deleting && self.foreground
    }

    fn blocks(&self, owner: &str) -> bool {
        self.owners
            .iter()
            .any(|reference| reference.uid == owner && reference.block_owner_deletion == Some(true))
    }
}

/// Something to look at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    /// This object may have to go, or its wait may be over.
    Check(String),
    /// This object's dependents are to be let go.
    Orphan(String),
}

/// What is known about an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// It is there.
    Solid,
    /// It is not.
    Absent,
    /// It is going and waits for its dependents.
    Waiting,
}

/// What to do about an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Keep,
    /// Its dependents are gone: take away the finalizer that made it wait.
    StopWaiting,
    /// It waits for these.
    CheckDependents(Vec<String>),
    /// Remove the references to these owners.
    Disown(Vec<String>),
    /// Delete it. When `unblock`, first stop blocking the owner: a cycle would never end otherwise.
    Delete { propagation: Propagation, unblock: bool },
}

/// The graph.
#[derive(Debug, Default)]
pub struct Graph {
    nodes: BTreeMap<String, Node>,
    dependents: BTreeMap<String, BTreeSet<String>>,
    absent: BTreeSet<String>,
    absent_order: VecDeque<String>,
}

impl Graph {
    pub fn node(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    pub fn dependents(&self, uid: &str) -> Vec<String> {
        self.dependents.get(uid).map(|set| set.iter().cloned().collect()).unwrap_or_default()
    }

    pub fn is_absent(&self, uid: &str) -> bool {
        self.absent.contains(uid)
    }

    pub fn note_absent(&mut self, uid: &str) {
        if self.absent.insert(uid.to_owned()) {
            self.absent_order.push_back(uid.to_owned());
            if self.absent_order.len() > MAX_ABSENT
                && let Some(oldest) = self.absent_order.pop_front()
            {
                self.absent.remove(&oldest);
            }
        }
    }

    /// An object appeared or changed.
    pub fn observe(&mut self, resource: &ResourceRef, meta: &ObjectMeta) -> Vec<Work> {
        let Some(uid) = meta.uid.clone() else { return Vec::new() };
        let new = Node::new(resource, meta);
        let old = self.nodes.insert(uid.clone(), new.clone());
        let mut work = Vec::new();
        for owner in old.iter().flat_map(|old| &old.owners) {
            let still = new.owners.iter().any(|reference| reference.uid == owner.uid);
            if !still && let Some(set) = self.dependents.get_mut(&owner.uid) {
                set.remove(&uid);
                if set.is_empty() {
                    self.dependents.remove(&owner.uid);
                }
            }
            let unblocked = owner.block_owner_deletion == Some(true) && !new.blocks(&owner.uid);
            if (!still || unblocked) && self.nodes.get(&owner.uid).is_some_and(Node::waits) {
                work.push(Work::Check(owner.uid.clone()));
            }
        }
        for owner in &new.owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(uid.clone());
        }
        let owners_changed = old.as_ref().is_none_or(|old| old.owners != new.owners);
        let doubtful = |owner: &OwnerReference| self.nodes.get(&owner.uid).is_none_or(Node::waits);
        if owners_changed && new.owners.iter().any(doubtful) {
            work.push(Work::Check(uid.clone()));
        }
        let orphaning = new.deleting && new.orphan;
        if orphaning && !old.as_ref().is_some_and(|old| old.deleting && old.orphan) {
            work.push(Work::Orphan(uid.clone()));
        }
        if new.waits() && !old.as_ref().is_some_and(Node::waits) {
            work.extend(self.dependents(&uid).into_iter().map(Work::Check));
            work.push(Work::Check(uid));
        }
        work
    }

    /// An object is gone.
    pub fn forget(&mut self, uid: &str) -> Vec<Work> {
        self.note_absent(uid);
        let mut work: Vec<Work> = self.dependents(uid).into_iter().map(Work::Check).collect();
        let Some(node) = self.nodes.remove(uid) else { return work };
        for owner in &node.owners {
            if let Some(set) = self.dependents.get_mut(&owner.uid) {
                set.remove(uid);
                if set.is_empty() {
                    self.dependents.remove(&owner.uid);
                }
            }
            if self.nodes.get(&owner.uid).is_some_and(Node::waits) {
                work.push(Work::Check(owner.uid.clone()));
            }
        }
        work
    }

    /// What the graph alone knows about an owner; `None` when the server must be asked.
    pub fn owner_state(&self, node: &Node, reference: &OwnerReference) -> Option<Owner> {
        if self.is_absent(&reference.uid) {
            return Some(Owner::Absent);
        }
        let owner = self.nodes.get(&reference.uid)?;
        // A reference that names another object than the one of that uid is settled by the server.
        let same_place = owner.key.namespace.is_empty() || owner.key.namespace == node.key.namespace;
        if &*owner.key.name != reference.name.as_str() || owner.resource.kind != reference.kind || !same_place
        {
            return None;
        }
        Some(if owner.waits() { Owner::Waiting } else { Owner::Solid })
    }

    /// What to do about an object, given the state of each owner.
    pub fn judge(&self, uid: &str, owners: &[(OwnerReference, Owner)]) -> Verdict {
        let Some(node) = self.nodes.get(uid) else { return Verdict::Keep };
        if node.deleting && !node.foreground {
            return Verdict::Keep;
        }
        if node.waits() {
            let dependents = self.dependents(uid);
            let blocks =
                |uid_of: &&String| self.nodes.get(*uid_of).is_some_and(|dependent| dependent.blocks(uid));
            let blocking: Vec<String> = dependents.iter().filter(blocks).cloned().collect();
            return match blocking.is_empty() {
                true => Verdict::StopWaiting,
                false => Verdict::CheckDependents(blocking),
            };
        }
        if owners.is_empty() {
            return Verdict::Keep;
        }
        let gone = owners.iter().filter(|(_, state)| *state != Owner::Solid);
        let gone: Vec<String> = gone.map(|(reference, _)| reference.uid.clone()).collect();
        if gone.is_empty() {
            return Verdict::Keep;
        }
        if gone.len() < owners.len() {
            return Verdict::Disown(gone);
        }
        let dependents = self.dependents(uid);
        let waiting = owners.iter().any(|(_, state)| *state == Owner::Waiting);
        if waiting && !dependents.is_empty() {
            let unblock = dependents.iter().any(|one| self.nodes.get(one).is_some_and(Node::waits));
            return Verdict::Delete { propagation: Propagation::Foreground, unblock };
        }
        let propagation = match (node.orphan, node.foreground) {
            (true, _) => Propagation::Orphan,
            (_, true) => Propagation::Foreground,
            _ => Propagation::Background,
        };
        Verdict::Delete { propagation, unblock: false }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pods() -> ResourceRef {
        ResourceRef::new("", "v1", "pods", "Pod", true)
    }

    fn meta(name: &str, more: Value) -> ObjectMeta {
        let mut meta = json!({"name": name, "namespace": "n", "uid": name, "resourceVersion": "1"});
        for (key, value) in more.as_object().into_iter().flatten() {
            meta[key] = value.clone();
        }
        serde_json::from_value(meta).expect("metadata")
    }

    fn owned(owners: &[&str]) -> Value {
        let reference = |uid: &&str| json!({"apiVersion": "v1", "kind": "Pod", "name": uid, "uid": uid, "blockOwnerDeletion": true});
        json!({"ownerReferences": owners.iter().map(reference).collect::<Vec<_>>()})
    }

    fn going(finalizer: &str) -> Value {
        json!({"deletionTimestamp": "2030-01-01T00:00:00Z", "finalizers": [finalizer]})
    }

    fn judge(graph: &Graph, uid: &str) -> Verdict {
        let node = graph.node(uid).expect("known");
        let state = |reference: &OwnerReference| {
            (reference.clone(), graph.owner_state(node, reference).unwrap_or(Owner::Absent))
        };
        graph.judge(uid, &node.owners.iter().map(state).collect::<Vec<_>>())
    }

    fn check(name: &str) -> Work {
        Work::Check(name.into())
    }

    #[test]
    fn background() {
        let mut graph = Graph::default();
        assert_eq!(graph.observe(&pods(), &meta("dep", owned(&["own"]))), [check("dep")]);
        assert_eq!(graph.observe(&pods(), &meta("own", json!({}))), []);
        assert_eq!(judge(&graph, "dep"), Verdict::Keep);
        assert_eq!(graph.forget("own"), [check("dep")]);
        let delete = Verdict::Delete { propagation: Propagation::Background, unblock: false };
        assert_eq!(judge(&graph, "dep"), delete);
        graph.observe(&pods(), &meta("two", owned(&["own", "dep"])));
        assert_eq!(judge(&graph, "two"), Verdict::Disown(vec!["own".into()]));
    }

    #[test]
    fn foreground() {
        let mut graph = Graph::default();
        graph.observe(&pods(), &meta("own", json!({})));
        graph.observe(&pods(), &meta("dep", owned(&["own"])));
        let work = graph.observe(&pods(), &meta("own", going(FOREGROUND)));
        assert_eq!(work, [check("dep"), check("own")]);
        assert_eq!(judge(&graph, "own"), Verdict::CheckDependents(vec!["dep".into()]));
        assert!(matches!(judge(&graph, "dep"), Verdict::Delete { .. }));
        assert_eq!(graph.forget("dep"), [check("own")]);
        assert_eq!(judge(&graph, "own"), Verdict::StopWaiting);
    }

    #[test]
    fn orphan_and_cycles() {
        let mut graph = Graph::default();
        assert_eq!(graph.observe(&pods(), &meta("own", going(ORPHAN))), [Work::Orphan("own".into())]);
        let mut a = owned(&["b"]);
        graph.observe(&pods(), &meta("a", a.clone()));
        graph.observe(&pods(), &meta("b", owned(&["a"])));
        for (key, value) in going(FOREGROUND).as_object().expect("an object") {
            a[key] = value.clone();
        }
        graph.observe(&pods(), &meta("a", a));
        let broken = Verdict::Delete { propagation: Propagation::Foreground, unblock: true };
        assert_eq!(judge(&graph, "b"), broken);
    }
}
