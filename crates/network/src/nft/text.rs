//! The table as nft's language: one command a line.
//!
//! Must not know what changed or why; it only writes down.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::model::{Change, Key, Map, Model, Shape, Value};
use super::{Family, Protocol};

/// Elements in one command: keeps lines (and nft's memory for one) small.
const ELEMENTS_A_COMMAND: usize = 1000;

/// An address as part of a name.
fn address_word(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("{:032x}", u128::from(address)),
    }
}

/// The name of the set of clients that stick to one endpoint of one service port.
pub(crate) fn affinity_set_word(
    service: &str,
    protocol: Protocol,
    port: &str,
    to: IpAddr,
    to_port: u16,
) -> String {
    format!("affinity/{service}/{}/{port}/{}/{to_port}", protocol.word(), address_word(to))
}

impl Map {
    fn name(self) -> &'static str {
        match self {
            Map::ServiceAddresses => "service-addresses",
            Map::ServicePorts => "service-ports",
            Map::Endpoints => "endpoints",
            Map::LocalEndpoints => "local-endpoints",
            Map::PortEndpoints => "port-endpoints",
            Map::LocalPortEndpoints => "local-port-endpoints",
            Map::ClosedAddresses => "closed-addresses",
            Map::ClosedPorts => "closed-ports",
            Map::RestrictedAddresses => "restricted-addresses",
            Map::ClusterAddresses => "cluster-addresses",
            Map::Hairpin => "hairpin",
        }
    }

    /// Its elements send packets to chains that come and go.
    fn leads_to_chains(self) -> bool {
        matches!(self, Map::ServiceAddresses | Map::ServicePorts | Map::RestrictedAddresses)
    }

    /// `map NAME { TYPE }` or `set NAME { TYPE }` behind the table's name.
    fn declaration(self, family: Family, table: &str) -> String {
        let (ip, address) = (family.word(), family.address_type());
        // A slot is a queueing priority; see `Base::pick`.
        let (port, to) = ("inet_proto . inet_service", format!("{address} . inet_service"));
        let (kind, of) = match self {
            Map::ServiceAddresses | Map::ClosedAddresses | Map::RestrictedAddresses => {
                ("map", format!("type {address} . {port} : verdict"))
            }
            Map::ServicePorts | Map::ClosedPorts => ("map", format!("type {port} : verdict")),
            Map::Endpoints | Map::LocalEndpoints => {
                ("map", format!("type {address} . {port} . classid : {to}"))
            }
            Map::PortEndpoints | Map::LocalPortEndpoints => ("map", format!("type {port} . classid : {to}")),
            Map::ClusterAddresses => ("set", format!("type {address}")),
            Map::Hairpin => ("set", format!("type {address} . {address}")),
        };
        format!("add {kind} {ip} {table} {} {{ {of}; }}\n", self.name())
    }
}

impl Shape {
    /// The name of the chain.
    fn name(self) -> String {
        match self {
            Shape::Cluster(all) => format!("cluster/{all}"),
            Shape::External(all) => format!("external/{all}"),
            Shape::ExternalLocal(all, local) => format!("external-local/{all}/{local}"),
            Shape::Port(all) => format!("port/{all}"),
            Shape::PortInside(all) => format!("port-inside/{all}"),
            Shape::PortLocal(all, local) => format!("port-local/{all}/{local}"),
            Shape::HostAddress => "host-address".to_owned(),
            Shape::HostPort => "host-port".to_owned(),
        }
    }
}

fn key(key: &Key) -> String {
    match key {
        Key::Address(address, protocol, port) => format!("{address} . {} . {port}", protocol.word()),
        Key::Port(protocol, port) => format!("{} . {port}", protocol.word()),
        Key::AddressSlot(address, protocol, port, slot) => {
            format!("{address} . {} . {port} . {}", protocol.word(), slot_word(*slot))
        }
        Key::PortSlot(protocol, port, slot) => format!("{} . {port} . {}", protocol.word(), slot_word(*slot)),
        Key::Plain(address) => address.to_string(),
        Key::Twice(address) => format!("{address} . {address}"),
    }
}

/// A number as nft writes a queueing priority.
fn slot_word(slot: u32) -> String {
    format!("{:x}:{:x}", slot >> 16, slot & 0xffff)
}

fn value(value: &Value) -> String {
    match value {
        Value::Present => String::new(),
        Value::Shape(shape) => format!(" : goto {}", shape.name()),
        Value::Chain(name) => format!(" : goto {name}"),
        Value::Reject => " : goto refuse".to_owned(),
        Value::Drop => " : drop".to_owned(),
        Value::Target(address, port) => format!(" : {address} . {port}"),
    }
}

/// Writes commands for one table.
struct Writer<'a> {
    model: &'a Model,
    /// `ip navarch`
    table: String,
    out: String,
}

impl<'a> Writer<'a> {
    fn new(model: &'a Model) -> Writer<'a> {
        let table = format!("{} {}", model.base.family.word(), model.base.table);
        Writer { model, table, out: String::new() }
    }

    fn line(&mut self, verb: &str, rest: &str) {
        let Writer { table, out, .. } = self;
        let _ = writeln!(out, "{verb} {table}{}{rest}", if rest.is_empty() { "" } else { " " });
    }

    fn rules<T: AsRef<str>>(&mut self, chain: &str, rules: &[T]) {
        for rule in rules {
            self.line("add rule", &format!("{chain} {}", rule.as_ref()));
        }
    }

    fn shape(&mut self, shape: Shape) {
        let rules = self.model.base.shape_rules(shape);
        self.rules(&shape.name(), &rules);
    }

    fn own_chain(&mut self, name: &str) {
        let model = self.model;
        self.rules(name, model.chains.get(name).map_or(&[][..], Vec::as_slice));
    }

    fn set(&mut self, name: &str) {
        let kind = self.model.base.family.address_type();
        self.line("add set", &format!("{name} {{ type {kind}; flags dynamic,timeout; }}"));
    }

    /// Elements, grouped by map, which `keys` must be sorted by.
    fn elements<'k>(&mut self, verb: &str, full: bool, keys: impl Iterator<Item = &'k (Map, Key)>) {
        let mut group: Vec<String> = Vec::new();
        let mut of: Option<Map> = None;
        for at in keys {
            if of != Some(at.0) || group.len() == ELEMENTS_A_COMMAND {
                self.element_line(verb, of, &mut group);
                of = Some(at.0);
            }
            group.push(self.element(full, at));
        }
        self.element_line(verb, of, &mut group);
    }

    fn element_line(&mut self, verb: &str, map: Option<Map>, group: &mut Vec<String>) {
        if let Some(map) = map.filter(|_| !group.is_empty()) {
            self.line(verb, &format!("{} {{ {} }}", map.name(), group.join(", ")));
            group.clear();
        }
    }

    fn element(&self, full: bool, at: &(Map, Key)) -> String {
        let mut text = key(&at.1);
        if let Some((owner, to)) = self.model.element(at).filter(|_| full) {
            if matches!(at.0, Map::ServiceAddresses | Map::ServicePorts) {
                // For whoever reads the table with `nft list`. The kernel takes 127 bytes.
                let owner = owner.trim_start_matches('~');
                let end = owner.len().min(127);
                let _ = write!(text, " comment \"{}\"", owner.get(..end).unwrap_or_default());
            }
            text.push_str(&value(to));
        }
        text
    }
}

/// Commands that make the table anew.
pub(super) fn whole(model: &Model) -> String {
    let mut to = Writer::new(model);
    // `delete` fails on a table that is not there, so it is added first; all of this is one transaction.
    for verb in ["add table", "delete table", "add table"] {
        to.line(verb, "");
    }
    for map in Map::ALL {
        to.out.push_str(&map.declaration(model.base.family, &model.base.table));
    }
    for name in &model.sets {
        to.set(name);
    }
    for chain in model.base.chains() {
        let hook = if chain.hook.is_empty() { String::new() } else { format!(" {{ {}; }}", chain.hook) };
        to.line("add chain", &format!("{}{hook}", chain.name));
    }
    for shape in model.shapes.keys() {
        to.line("add chain", &shape.name());
    }
    for name in model.chains.keys() {
        to.line("add chain", name);
    }
    for chain in model.base.chains() {
        to.rules(chain.name, &chain.rules);
    }
    for shape in model.shapes.keys() {
        to.shape(*shape);
    }
    for name in model.chains.keys() {
        to.own_chain(name);
    }
    to.elements("add element", true, model.keys());
    to.out
}

/// Transactions that take the table from one state to the next.
///
/// A packet that entered before a transaction's end may look up an element after it, and then would find a new
/// chain still empty. So when an element is turned to another chain, new chains come a transaction earlier.
pub(super) fn change(model: &Model, change: &Change) -> Vec<String> {
    let mut to = Writer::new(model);
    change.new_sets.iter().for_each(|name| to.set(name));
    change.new_shapes.iter().for_each(|shape| to.line("add chain", &shape.name()));
    change.new_chains.iter().for_each(|name| to.line("add chain", name));
    change.new_shapes.iter().for_each(|shape| to.shape(*shape));
    change.new_chains.iter().for_each(|name| to.own_chain(name));
    let turned = |at: &(Map, Key)| at.0.leads_to_chains() && change.new_elements.binary_search(at).is_ok();
    let mut transactions = Vec::new();
    if !to.out.is_empty() && change.old_elements.iter().any(turned) {
        transactions.push(std::mem::take(&mut to.out));
    }
    for name in &change.changed_chains {
        to.line("flush chain", name);
        to.own_chain(name);
    }
    to.elements("delete element", false, change.old_elements.iter());
    to.elements("add element", true, change.new_elements.iter());
    // A chain that another one leads to cannot go before that one is empty.
    let old: Vec<String> = change
        .old_shapes
        .iter()
        .map(|shape| shape.name())
        .chain(change.old_chains.iter().map(ToString::to_string))
        .collect();
    old.iter().for_each(|name| to.line("flush chain", name));
    old.iter().for_each(|name| to.line("delete chain", name));
    change.old_sets.iter().for_each(|name| to.line("delete set", name));
    transactions.push(to.out);
    transactions
}
