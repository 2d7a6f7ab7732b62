//! The table as data: who wants which chains, sets and elements, and what changed since the last transaction.
//!
//! Must not know how it is written down (see `text`) or why an element is wanted.
//!
//! Services are data, not chains: a verdict map sends an address to a *shape*, a chain that fits every service
//! with the same number of endpoints, and the shape finds the endpoint in one large map. 10,000 services are
//! 30,000 hash elements and a handful of chains; a chain and an anonymous map for each would make the kernel
//! walk lists of all of them on every change.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::{Base, Protocol, text};

/// The maps and sets that every table has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Map {
    /// address . protocol . port → verdict: cluster, external and load balancer addresses.
    ServiceAddresses,
    /// protocol . port → verdict: ports open on the node's own addresses.
    ServicePorts,
    /// address . protocol . port . slot → endpoint.
    Endpoints,
    /// The same for traffic that must stay on this node.
    LocalEndpoints,
    /// protocol . port . slot → endpoint.
    PortEndpoints,
    /// The same for traffic that must stay on this node.
    LocalPortEndpoints,
    /// address . protocol . port → reject or drop: nothing answers there.
    ClosedAddresses,
    /// protocol . port → reject or drop.
    ClosedPorts,
    /// address . protocol . port → verdict: only some sources may come in.
    RestrictedAddresses,
    /// Every cluster address, so that ports that no service has are refused.
    ClusterAddresses,
    /// address . address of each pod here that may reach itself through a service.
    Hairpin,
}

impl Map {
    /// All of them, in the order in which they are declared.
    pub const ALL: [Map; 11] = [
        Map::ServiceAddresses,
        Map::ServicePorts,
        Map::Endpoints,
        Map::LocalEndpoints,
        Map::PortEndpoints,
        Map::LocalPortEndpoints,
        Map::ClosedAddresses,
        Map::ClosedPorts,
        Map::RestrictedAddresses,
        Map::ClusterAddresses,
        Map::Hairpin,
    ];
}

/// The left side of an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// address . protocol . port
    Address(IpAddr, Protocol, u16),
    /// protocol . port
    Port(Protocol, u16),
    /// address . protocol . port . slot
    AddressSlot(IpAddr, Protocol, u16, u32),
    /// protocol . port . slot
    PortSlot(Protocol, u16, u32),
    /// One address.
    Plain(IpAddr),
    /// One address, twice.
    Twice(IpAddr),
}

/// The right side of an element.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    /// A set has no right side.
    Present,
    /// Go on in a shared chain.
    Shape(Shape),
    /// Go on in a chain of the fragment's own.
    Chain(Arc<str>),
    /// Refuse, so that the sender learns of it.
    Reject,
    /// Drop.
    Drop,
    /// An endpoint.
    Target(IpAddr, u16),
}

/// A chain shared by all services of one form; the numbers count endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Shape {
    /// A cluster address.
    Cluster(u32),
    /// An address from outside: the source is hidden, since any node may have been asked.
    External(u32),
    /// An address from outside that keeps the source: all endpoints, then those on this node.
    ExternalLocal(u32, u32),
    /// A node port.
    Port(u32),
    /// A node port as pods use it: their source is kept.
    PortInside(u32),
    /// A node port that keeps the source: all endpoints, then those on this node.
    PortLocal(u32, u32),
    /// A pod's port on one address of this node.
    HostAddress,
    /// A pod's port on every address of this node.
    HostPort,
}

/// What one owner wants in the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fragment {
    /// Shared chains that must exist.
    pub shapes: BTreeSet<Shape>,
    /// Chains of the owner's own; their names must be unique to the owner.
    pub chains: BTreeMap<Arc<str>, Vec<String>>,
    /// Sets of client addresses that the kernel fills itself; their names must be unique to the owner.
    pub sets: BTreeSet<Arc<str>>,
    /// Elements. Two owners may want one key: the first by name has it.
    pub elements: BTreeMap<(Map, Key), Value>,
}

impl Fragment {
    /// Adds an element and, when it leads to a shared chain, that chain.
    pub fn put(&mut self, map: Map, key: Key, value: Value) {
        if let Value::Shape(shape) = &value {
            self.need(*shape);
        }
        self.elements.insert((map, key), value);
    }

    fn need(&mut self, shape: Shape) {
        self.shapes.insert(shape);
        match shape {
            Shape::ExternalLocal(all, _) if all > 0 => {
                self.need(Shape::Cluster(all));
                self.need(Shape::External(all));
            }
            Shape::PortLocal(all, _) if all > 0 => {
                self.need(Shape::Port(all));
                self.need(Shape::PortInside(all));
            }
            _ => {}
        }
    }
}

/// The element that must not be there together with this one: an address is open or closed.
fn rival(key: &(Map, Key)) -> Option<(Map, Key)> {
    let map = match key.0 {
        Map::ServiceAddresses => Map::ClosedAddresses,
        Map::ClosedAddresses => Map::ServiceAddresses,
        Map::ServicePorts => Map::ClosedPorts,
        Map::ClosedPorts => Map::ServicePorts,
        _ => return None,
    };
    Some((map, key.1))
}

/// The wishes for one element, sorted by owner; the first has it.
type Claims = Vec<(Arc<str>, Value)>;

/// The whole table, and what was touched since the last transaction.
#[derive(Debug)]
pub struct Model {
    pub(super) base: Base,
    owners: BTreeMap<Arc<str>, Arc<Fragment>>,
    pub(super) shapes: BTreeMap<Shape, usize>,
    pub(super) chains: BTreeMap<Arc<str>, Vec<String>>,
    pub(super) sets: BTreeSet<Arc<str>>,
    pub(super) elements: BTreeMap<(Map, Key), Claims>,
    touched: Touched,
}

/// The state before the first touch.
#[derive(Debug, Default)]
struct Touched {
    shapes: BTreeMap<Shape, bool>,
    chains: BTreeMap<Arc<str>, Option<Vec<String>>>,
    sets: BTreeMap<Arc<str>, bool>,
    elements: BTreeMap<(Map, Key), Option<Value>>,
}

/// A difference between two states of the table, ready to be written down.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    pub new_shapes: Vec<Shape>,
    pub old_shapes: Vec<Shape>,
    pub new_chains: Vec<Arc<str>>,
    pub changed_chains: Vec<Arc<str>>,
    pub old_chains: Vec<Arc<str>>,
    pub new_sets: Vec<Arc<str>>,
    pub old_sets: Vec<Arc<str>>,
    pub old_elements: Vec<(Map, Key)>,
    pub new_elements: Vec<(Map, Key)>,
}

impl Model {
    /// A table with its fixed chains only.
    pub fn new(base: Base) -> Model {
        Model {
            base,
            owners: BTreeMap::new(),
            shapes: BTreeMap::new(),
            chains: BTreeMap::new(),
            sets: BTreeSet::new(),
            elements: BTreeMap::new(),
            touched: Touched::default(),
        }
    }

    /// What the fixed chains follow.
    pub fn base(&self) -> &Base {
        &self.base
    }

    /// Replaces what the fixed chains follow. True when that changed: then only the whole text will do.
    pub fn set_base(&mut self, base: Base) -> bool {
        let changed = self.base != base;
        self.base = base;
        changed
    }

    /// The names of all owners.
    pub fn owners(&self) -> impl Iterator<Item = &Arc<str>> {
        self.owners.keys()
    }

    /// Replaces what `owner` wants; `None` and an empty fragment withdraw everything.
    pub fn set(&mut self, owner: &Arc<str>, fragment: Option<Fragment>) {
        let new = fragment.filter(|fragment| *fragment != Fragment::default()).map(Arc::new);
        let old = match &new {
            Some(fragment) => self.owners.insert(Arc::clone(owner), Arc::clone(fragment)),
            None => self.owners.remove(owner),
        };
        let empty = Arc::new(Fragment::default());
        let (old, new) = (old.unwrap_or_else(|| Arc::clone(&empty)), new.unwrap_or(empty));
        if old == new {
            return;
        }
        self.move_shapes(&old, &new);
        self.move_own(&old, &new);
        for (key, value) in &old.elements {
            if new.elements.get(key) != Some(value) {
                self.claim(*key, owner, new.elements.get(key).cloned());
            }
        }
        for (key, value) in &new.elements {
            if !old.elements.contains_key(key) {
                self.claim(*key, owner, Some(value.clone()));
            }
        }
    }

    fn move_shapes(&mut self, old: &Fragment, new: &Fragment) {
        for shape in new.shapes.difference(&old.shapes) {
            let count = self.shapes.entry(*shape).or_insert(0);
            self.touched.shapes.entry(*shape).or_insert(*count > 0);
            *count += 1;
        }
        for shape in old.shapes.difference(&new.shapes) {
            self.touched.shapes.entry(*shape).or_insert(true);
            if let Some(count) = self.shapes.get_mut(shape) {
                *count -= 1;
                if *count == 0 {
                    self.shapes.remove(shape);
                }
            }
        }
    }

    fn move_own(&mut self, old: &Fragment, new: &Fragment) {
        for name in old.chains.keys().chain(new.chains.keys()) {
            let before = self.chains.get(name).cloned();
            self.touched.chains.entry(Arc::clone(name)).or_insert(before);
            match new.chains.get(name) {
                Some(rules) => self.chains.insert(Arc::clone(name), rules.clone()),
                None => self.chains.remove(name),
            };
        }
        for name in old.sets.symmetric_difference(&new.sets) {
            let before = self.sets.contains(name);
            self.touched.sets.entry(Arc::clone(name)).or_insert(before);
            if new.sets.contains(name) {
                self.sets.insert(Arc::clone(name));
            } else {
                self.sets.remove(name);
            }
        }
    }

    fn claim(&mut self, key: (Map, Key), owner: &Arc<str>, value: Option<Value>) {
        for at in [Some(key), rival(&key)].into_iter().flatten() {
            if !self.touched.elements.contains_key(&at) {
                let before = self.element(&at).map(|(_, value)| value.clone());
                self.touched.elements.insert(at, before);
            }
        }
        let claims = self.elements.entry(key).or_default();
        let place = claims.binary_search_by(|(name, _)| name.cmp(owner));
        match (place, value) {
            (Ok(at), Some(value)) => claims[at].1 = value,
            (Ok(at), None) => drop(claims.remove(at)),
            (Err(at), Some(value)) => claims.insert(at, (Arc::clone(owner), value)),
            (Err(_), None) => {}
        }
        if claims.is_empty() {
            self.elements.remove(&key);
        }
    }

    /// The element that is in force, and who wants it.
    pub(super) fn element(&self, key: &(Map, Key)) -> Option<&(Arc<str>, Value)> {
        let first = self.elements.get(key)?.first()?;
        let rival = rival(key).and_then(|rival| self.elements.get(&rival)?.first());
        if rival.is_some_and(|(owner, _)| *owner < first.0) { None } else { Some(first) }
    }

    /// The keys of all elements that are in force.
    pub(super) fn keys(&self) -> impl Iterator<Item = &(Map, Key)> {
        self.elements.keys().filter(|key| self.element(key).is_some())
    }

    /// nft commands that replace the table, whatever it holds; the marks of change are forgotten.
    pub fn take_whole(&mut self) -> String {
        self.touched = Touched::default();
        text::whole(self)
    }

    /// nft commands that take the table from its last written state to this one: a few transactions, to be run
    /// in their order. Empty when nothing changed.
    pub fn take_changes(&mut self) -> Vec<String> {
        let change = self.change();
        self.touched = Touched::default();
        if change == Change::default() { Vec::new() } else { text::change(self, &change) }
    }

    fn change(&self) -> Change {
        let mut change = Change::default();
        for (shape, existed) in &self.touched.shapes {
            match (existed, self.shapes.contains_key(shape)) {
                (false, true) => change.new_shapes.push(*shape),
                (true, false) => change.old_shapes.push(*shape),
                _ => {}
            }
        }
        for (name, before) in &self.touched.chains {
            match (before, self.chains.get(name)) {
                (None, Some(_)) => change.new_chains.push(Arc::clone(name)),
                (Some(_), None) => change.old_chains.push(Arc::clone(name)),
                (Some(before), Some(now)) if before != now => change.changed_chains.push(Arc::clone(name)),
                _ => {}
            }
        }
        for (name, existed) in &self.touched.sets {
            match (existed, self.sets.contains(name)) {
                (false, true) => change.new_sets.push(Arc::clone(name)),
                (true, false) => change.old_sets.push(Arc::clone(name)),
                _ => {}
            }
        }
        for (key, before) in &self.touched.elements {
            let now = self.element(key).map(|(_, value)| value);
            if before.as_ref() == now {
                continue;
            }
            if before.is_some() {
                change.old_elements.push(*key);
            }
            if now.is_some() {
                change.new_elements.push(*key);
            }
        }
        change
    }
}
