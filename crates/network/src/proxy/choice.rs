//! Which endpoints of a service port this node may use.
//!
//! Must not know nftables. The rules are upstream's `CategorizeEndpoints`: ready ones; if none is ready, those
//! that terminate but still serve; hints narrow the choice only when every ready endpoint carries one and one
//! of them is meant for us.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::service::Endpoint;

/// What the choice depends on besides the endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// This node's name.
    pub node: String,
    /// Its `topology.kubernetes.io/zone`.
    pub zone: Option<String>,
}

/// An address and port that packets are sent to.
pub type Target = (IpAddr, u16);

/// The chosen endpoints, each list sorted and without doubles.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// For traffic that may go to any node.
    pub everywhere: Vec<Target>,
    /// For traffic that must stay on this node.
    pub here: Vec<Target>,
    /// Addresses of those of both lists that are on this node.
    pub on_this_node: Vec<IpAddr>,
}

/// Whose hints are followed.
enum Hints {
    Ignored,
    Node,
    Zone,
}

/// Chooses among the endpoints of one port, possibly from several slices.
pub fn choose<'a>(endpoints: impl Iterator<Item = &'a Endpoint>, place: &Place) -> Choice {
    // While an endpoint moves from one slice to another it is in both: the better report wins.
    let mut by_target: BTreeMap<Target, &Endpoint> = BTreeMap::new();
    for endpoint in endpoints {
        let known = by_target.entry((endpoint.address, endpoint.port)).or_insert(endpoint);
        if (endpoint.ready, endpoint.serving) > (known.ready, known.serving) {
            *known = endpoint;
        }
    }
    let hints = hints_in_force(&by_target, place);
    let hinted = |endpoint: &Endpoint| match hints {
        Hints::Ignored => true,
        Hints::Node => endpoint.nodes.contains(&place.node),
        Hints::Zone => place.zone.as_ref().is_some_and(|zone| endpoint.zones.contains(zone)),
    };
    let here = |endpoint: &Endpoint| endpoint.node.as_deref() == Some(place.node.as_str());
    let pick = |wanted: &dyn Fn(&Endpoint) -> bool| -> Vec<Target> {
        by_target.iter().filter(|(_, endpoint)| wanted(endpoint)).map(|(target, _)| *target).collect()
    };
    let leaving = |endpoint: &Endpoint| endpoint.serving && endpoint.terminating;
    let or = |first: Vec<Target>, second: &dyn Fn(&Endpoint) -> bool| {
        if first.is_empty() { pick(second) } else { first }
    };
    let everywhere = or(pick(&|e| e.ready && hinted(e)), &leaving);
    let local = or(pick(&|e| e.ready && here(e)), &|e| leaving(e) && here(e));
    let mut on_this_node: Vec<IpAddr> = everywhere
        .iter()
        .chain(&local)
        .filter(|target| by_target.get(target).is_some_and(|endpoint| here(endpoint)))
        .map(|(address, _)| *address)
        .collect();
    on_this_node.sort_unstable();
    on_this_node.dedup();
    Choice { everywhere, here: local, on_this_node }
}

fn hints_in_force(endpoints: &BTreeMap<Target, &Endpoint>, place: &Place) -> Hints {
    let ready: Vec<&&Endpoint> = endpoints.values().filter(|endpoint| endpoint.ready).collect();
    let zone = |e: &Endpoint| place.zone.as_ref().is_some_and(|zone| e.zones.contains(zone));
    if ready.iter().all(|e| !e.nodes.is_empty()) && ready.iter().any(|e| e.nodes.contains(&place.node)) {
        Hints::Node
    } else if ready.iter().all(|e| !e.zones.is_empty()) && ready.iter().any(|e| zone(e)) {
        Hints::Zone
    } else {
        Hints::Ignored
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `address state node`, state of letters r(eady), s(erving), t(erminating); then zone and node hints.
    fn endpoint(text: &str) -> Endpoint {
        let words: Vec<&str> = text.split_whitespace().collect();
        let hint = |mark: &str| words.iter().filter_map(|w| w.strip_prefix(mark)).map(Into::into).collect();
        Endpoint {
            address: words[0].parse().unwrap(),
            port: 80,
            ready: words[1].contains('r'),
            serving: words[1].contains('s'),
            terminating: words[1].contains('t'),
            node: Some(words[2].to_owned()),
            zones: hint("zone="),
            nodes: hint("node="),
        }
    }

    #[track_caller]
    fn check(endpoints: &[&str], everywhere: &str, here: &str) {
        let endpoints: Vec<Endpoint> = endpoints.iter().map(|text| endpoint(text)).collect();
        let place = Place { node: "n1".into(), zone: Some("z1".into()) };
        let choice = choose(endpoints.iter(), &place);
        let show = |list: &[Target]| {
            list.iter().map(|(address, _)| address.to_string()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!((show(&choice.everywhere), show(&choice.here)), (everywhere.to_owned(), here.to_owned()));
    }

    #[test]
    fn ready_first_then_those_that_leave_but_serve() {
        check(&[], "", "");
        check(&["10.0.0.1 rs n1", "10.0.0.2 rs n2", "10.0.0.3 - n1"], "10.0.0.1 10.0.0.2", "10.0.0.1");
        check(&["10.0.0.1 st n1", "10.0.0.2 rs n2"], "10.0.0.2", "10.0.0.1");
        check(&["10.0.0.1 st n1", "10.0.0.2 t n2"], "10.0.0.1", "10.0.0.1");
        check(&["10.0.0.1 - n1", "10.0.0.1 rs n1"], "10.0.0.1", "10.0.0.1");
    }

    #[test]
    fn hints_narrow_only_when_all_carry_them_and_one_is_ours() {
        check(&["10.0.0.1 rs n2 zone=z1", "10.0.0.2 rs n2 zone=z2"], "10.0.0.1", "");
        check(&["10.0.0.1 rs n2 zone=z1", "10.0.0.2 rs n2"], "10.0.0.1 10.0.0.2", "");
        check(&["10.0.0.1 rs n2 zone=z3", "10.0.0.2 rs n2 zone=z2"], "10.0.0.1 10.0.0.2", "");
        check(&["10.0.0.1 rs n1 zone=z1 node=n1", "10.0.0.2 rs n2 zone=z1 node=n2"], "10.0.0.1", "10.0.0.1");
        check(&["10.0.0.1 - n1", "10.0.0.2 rs n2 zone=z1"], "10.0.0.2", "");
    }
}
