//! Routes to the pods of other nodes: straight to the node on one link, through VXLAN elsewhere.
//!
//! Must not know pods or Services: a Node object says where its pods live. Nothing has to be agreed on between
//! nodes, for the hardware address of a tunnel's end follows from its node's pod network.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use api::k8s::api::core::v1::Node;
use client::Meta;
use ipnet::IpNet;
use serde::Deserialize;

use crate::exec::{self, ExecError};
use crate::firewall;
use crate::node::NodeDeps;
use crate::proxy::{node_addresses, pod_nets};

/// Marks our routes in the kernel (`ip route show proto 158`); in the range that is free for anybody.
pub(crate) const ROUTE_PROTOCOL: &str = "158";
/// Several nodes joining at once make one run of the tool.
const COALESCE: Duration = Duration::from_millis(50);
/// After a failure, and to notice that somebody took a route away.
const AGAIN: Duration = Duration::from_secs(60);

/// How packets travel between nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Between {
    /// Straight where the other node is on one of our links, else VXLAN.
    #[default]
    Auto,
    /// Always straight.
    Direct,
    /// Always VXLAN.
    Vxlan,
}

/// What the routes follow besides the nodes.
#[derive(Clone, Debug)]
pub struct RouteConfig {
    /// How packets travel between nodes.
    pub between: Between,
    /// The tunnel's link; also its name must be free.
    pub vxlan_link: String,
    /// The tunnel's network number.
    pub vxlan_id: u32,
    /// The tunnel's UDP port.
    pub vxlan_port: u16,
    /// Networks of Services. A machine without a default route needs a route for them, or its own programs get
    /// "network is unreachable" before the service table sees the packet.
    pub service_nets: Vec<IpNet>,
    /// Networks of the cluster's pods: routes elsewhere belong to another cluster of this machine. Empty: all are
    /// ours.
    pub pod_nets: Vec<IpNet>,
}

impl RouteConfig {
    fn is_ours(&self, net: &IpNet) -> bool {
        let mut nets = self.pod_nets.iter().chain(&self.service_nets);
        self.pod_nets.is_empty() || nets.any(|ours| ours.contains(net))
    }
}

impl Default for RouteConfig {
    fn default() -> Self {
        RouteConfig {
            between: Between::Auto,
            vxlan_link: "navarch-vx".to_owned(),
            vxlan_id: 20_054,
            vxlan_port: 8472,
            service_nets: Vec::new(),
            pod_nets: Vec::new(),
        }
    }
}

/// What matters of a Node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeNet {
    /// Its name.
    pub name: String,
    /// Its internal addresses.
    pub addresses: Vec<IpAddr>,
    /// Where its pods live.
    pub pod_nets: Vec<IpNet>,
}

impl NodeNet {
    /// Reads a Node.
    pub fn of(node: &Node) -> NodeNet {
        NodeNet { name: node.name().to_owned(), addresses: node_addresses(node), pod_nets: pod_nets(node) }
    }
}

/// The way to one pod network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// Over the link that the node is on.
    Direct(IpAddr),
    /// Through the tunnel to the node.
    Tunnel(IpAddr),
    /// To this machine itself; see [`RouteConfig::service_nets`].
    Here,
}

/// Every wanted route.
pub type Routes = BTreeMap<IpNet, Way>;

/// The routes of `me` to the pods of `nodes`. `links` are the networks of this machine's links. Pure.
pub fn plan(nodes: &[NodeNet], me: &str, links: &[IpNet], between: Between) -> Routes {
    let mine: Vec<IpNet> =
        nodes.iter().filter(|node| node.name == me).flat_map(|node| node.pod_nets.clone()).collect();
    let mut routes = Routes::new();
    for node in nodes.iter().filter(|node| node.name != me) {
        for net in &node.pod_nets {
            let same_family = |address: &&IpAddr| address.is_ipv4() == net.addr().is_ipv4();
            let Some(address) = node.addresses.iter().find(same_family) else { continue };
            // A mistake in a Node object must not take away our own pods.
            if mine.iter().any(|own| own.contains(&net.addr()) || net.contains(&own.addr())) {
                tracing::warn!(node = node.name, %net, "another node claims our pod network");
                continue;
            }
            let near = links.iter().any(|link| link.contains(address));
            // The tunnel is for IPv4 only.
            let tunnel =
                net.addr().is_ipv4() && (between == Between::Vxlan || (between == Between::Auto && !near));
            let way = if tunnel { Way::Tunnel(*address) } else { Way::Direct(*address) };
            routes.entry(net.trunc()).or_insert(way);
        }
    }
    routes
}

/// The hardware address of the tunnel's end on the node of this pod network; locally administered.
fn tunnel_mac(net: &IpNet) -> String {
    let IpAddr::V4(address) = net.network() else { return "0e:4e:00:00:00:00".to_owned() };
    let [a, b, c, d] = address.octets();
    format!("0e:4e:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

/// Commands for `ip -batch` that take the kernel from `old` to `new`.
fn commands(old: &Routes, new: &Routes, link: &str) -> String {
    let mut out = String::new();
    for (net, way) in old.iter().filter(|(net, way)| new.get(net) != Some(way)) {
        if let Way::Tunnel(_) = way {
            let _ = writeln!(out, "neigh del {} dev {link}", net.network());
        }
        if !new.contains_key(net) {
            let _ = writeln!(out, "route del {net} proto {ROUTE_PROTOCOL}");
        }
    }
    for (net, way) in new.iter().filter(|(net, way)| old.get(net) != Some(way)) {
        let hop = net.network();
        let to = match way {
            Way::Direct(node) => format!("via {node}"),
            Way::Here => "dev lo".to_owned(),
            Way::Tunnel(_) => {
                let mac = tunnel_mac(net);
                let _ = writeln!(out, "neigh replace {hop} lladdr {mac} dev {link} nud permanent");
                format!("via {hop} dev {link} onlink")
            }
        };
        let _ = writeln!(out, "route replace {net} {to} proto {ROUTE_PROTOCOL}");
    }
    out
}

/// Commands for `bridge -batch`: at which node each tunnel end is.
fn bridge_commands(old: &Routes, new: &Routes, link: &str) -> String {
    let ends = |routes: &Routes| -> BTreeSet<(String, IpAddr)> {
        let end = |(net, way): (&IpNet, &Way)| match way {
            Way::Tunnel(node) => Some((tunnel_mac(net), *node)),
            _ => None,
        };
        routes.iter().filter_map(end).collect()
    };
    let (old, new) = (ends(old), ends(new));
    let mut out = String::new();
    for (mac, node) in old.difference(&new) {
        let _ = writeln!(out, "fdb del {mac} dev {link} dst {node}");
    }
    for (mac, node) in new.difference(&old) {
        let _ = writeln!(out, "fdb replace {mac} dev {link} dst {node} self permanent");
    }
    out
}

/// A link as `ip -json address` shows it, in parts.
#[derive(Debug, Deserialize)]
struct Link {
    #[serde(default)]
    ifname: String,
    #[serde(default)]
    flags: Vec<String>,
    #[serde(default)]
    addr_info: Vec<Address>,
}

#[derive(Debug, Deserialize)]
struct Address {
    local: Option<IpAddr>,
    #[serde(default)]
    prefixlen: u8,
    #[serde(default)]
    scope: String,
}

/// The networks of this machine's links, and which link has `address`.
fn link_nets(json: &str, address: Option<IpAddr>) -> (Vec<IpNet>, Option<String>) {
    let links: Vec<Link> = serde_json::from_str(json).unwrap_or_default();
    let (mut nets, mut owner) = (Vec::new(), None);
    for link in links.iter().filter(|link| !link.flags.iter().any(|flag| flag == "LOOPBACK")) {
        for at in link.addr_info.iter().filter(|at| at.scope == "global") {
            nets.extend(
                at.local.and_then(|local| IpNet::new(local, at.prefixlen).ok()).map(|net| net.trunc()),
            );
            if at.local.is_some() && at.local == address {
                owner = Some(link.ifname.clone());
            }
        }
    }
    (nets, owner)
}

#[derive(Debug, Deserialize)]
struct KernelRoute {
    #[serde(default)]
    dst: String,
    gateway: Option<IpAddr>,
    #[serde(default)]
    dev: String,
}

/// Our routes that the kernel has. One that is not understood is left out, and so replaced.
fn kernel_routes(json: &str, link: &str) -> Routes {
    let listed: Vec<KernelRoute> = serde_json::from_str(json).unwrap_or_default();
    let mut routes = Routes::new();
    for route in listed {
        let host = || route.dst.parse::<IpAddr>().map(IpNet::from);
        let Ok(net) = route.dst.parse::<IpNet>().or_else(|_| host()) else { continue };
        let way = match route.gateway {
            // The tunnel's neighbours are not listed here: seen as a change, they are set again.
            Some(gateway) if route.dev == link => Way::Tunnel(gateway),
            Some(gateway) => Way::Direct(gateway),
            None => Way::Here,
        };
        routes.insert(net, way);
    }
    routes
}

/// Keeps routes as the nodes say until cancelled.
pub async fn run(deps: NodeDeps, config: RouteConfig) {
    let nodes = deps.informers.of::<Node>();
    nodes.synced().await;
    let mut ticks = nodes.ticks();
    let mut router = Router::new(&deps.node_name, config);
    let mut known: Vec<NodeNet> = Vec::new();
    let mut good = false;
    loop {
        let all: Vec<NodeNet> = nodes.cache().list().iter().map(|node| NodeNet::of(node)).collect();
        // Node objects change with every heartbeat; routes seldom.
        if all != known || !good {
            let outcome = router.apply(&all).await;
            good = outcome.is_ok();
            if let Err(error) = outcome {
                tracing::error!(%error, "routes to other nodes");
            }
            known = all;
        }
        match deps.clock.timeout(AGAIN, ticks.changed()).await {
            Some(Ok(())) => deps.clock.sleep(COALESCE).await,
            Some(Err(_)) => return,
            None => good = false,
        }
    }
}

/// Brings the kernel's routes to what the nodes say.
#[derive(Debug)]
pub struct Router {
    me: String,
    config: RouteConfig,
    tunnel_up: bool,
    applied: Routes,
}

impl Router {
    /// A router on the node `me` that has done nothing yet.
    pub fn new(me: &str, config: RouteConfig) -> Router {
        Router { me: me.to_owned(), config, tunnel_up: false, applied: Routes::new() }
    }

    /// Makes the routes to the pods of all `nodes`, this one among them, and takes away those of nodes that left.
    pub async fn apply(&mut self, nodes: &[NodeNet]) -> Result<(), ExecError> {
        let me = nodes.iter().find(|node| node.name == self.me);
        let my_address = me.and_then(|me| me.addresses.iter().copied().find(IpAddr::is_ipv4));
        let (links, my_link) = link_nets(&exec::run("ip", &["-json", "address"], "").await?, my_address);
        firewall::open(me.map_or(&[][..], |me| &me.pod_nets)).await;
        let mut new = plan(nodes, &self.me, &links, self.config.between);
        new.extend(self.service_routes().await?);
        if new.values().any(|way| matches!(way, Way::Tunnel(_))) && !self.tunnel_up {
            let net = me.and_then(|me| me.pod_nets.iter().find(|net| net.addr().is_ipv4()));
            // Without an address of our own there is no end for a tunnel yet; the Node will change.
            let (Some(address), Some(net)) = (my_address, net) else { return Ok(()) };
            make_tunnel(&self.config, address, net, my_link.as_deref()).await?;
            self.tunnel_up = true;
            self.applied.clear();
        }
        self.bring(new).await
    }

    async fn service_routes(&self) -> Result<Routes, ExecError> {
        let nets = self.config.service_nets.iter().filter(|net| net.addr().is_ipv4());
        let routes: Routes = nets.map(|net| (net.trunc(), Way::Here)).collect();
        if routes.is_empty() {
            return Ok(routes);
        }
        let default = exec::run("ip", &["-json", "route", "show", "default"], "").await?;
        let has_default = default.contains("dst");
        Ok(if has_default { Routes::new() } else { routes })
    }

    async fn bring(&mut self, new: Routes) -> Result<(), ExecError> {
        let link = self.config.vxlan_link.as_str();
        let show = ["-json", "route", "show", "proto", ROUTE_PROTOCOL];
        let mut old = kernel_routes(&exec::run("ip", &show, "").await?, link);
        old.retain(|net, _| self.config.is_ours(net));
        // The kernel's list does not say at which node a tunnel ends.
        for (net, way) in old.iter_mut().filter(|(_, way)| matches!(way, Way::Tunnel(_))) {
            if let Some(applied) = self.applied.get(net) {
                *way = *applied;
            }
        }
        let batch = commands(&old, &new, link);
        if !batch.is_empty() {
            exec::run("ip", &["-force", "-batch", "-"], &batch).await?;
            tracing::info!(routes = new.len(), "routes to other nodes");
        }
        let batch = bridge_commands(&self.applied, &new, link);
        if !batch.is_empty() {
            exec::run("bridge", &["-force", "-batch", "-"], &batch).await?;
        }
        self.applied = new;
        Ok(())
    }
}

async fn make_tunnel(
    config: &RouteConfig,
    address: IpAddr,
    net: &IpNet,
    device: Option<&str>,
) -> Result<(), ExecError> {
    let RouteConfig { vxlan_link: link, vxlan_id, vxlan_port, .. } = config;
    // One left by an earlier run may have another address.
    let _ = exec::run("ip", &["link", "del", link], "").await;
    let device = device.map_or(String::new(), |device| format!("dev {device}"));
    let batch = format!(
        "link add {link} address {} type vxlan id {vxlan_id} {device} local {address} dstport {vxlan_port} nolearning\n\
         address add {}/32 dev {link}\nlink set {link} up\n",
        tunnel_mac(net),
        net.network(),
    );
    exec::run("ip", &["-batch", "-"], &batch).await.map(drop)
}

/// Removes every route and link that this module makes.
pub async fn remove(config: &RouteConfig) {
    for family in ["-4", "-6"] {
        let shown = exec::run("ip", &[family, "-json", "route", "show", "proto", ROUTE_PROTOCOL], "").await;
        let mut old = kernel_routes(&shown.unwrap_or_default(), &config.vxlan_link);
        old.retain(|net, _| config.is_ours(net));
        let batch = commands(&old, &Routes::new(), &config.vxlan_link);
        if batch.is_empty() {
            continue;
        }
        // What is gone already fails; the rest is removed all the same.
        if let Err(error) = exec::run("ip", &["-force", "-batch", "-"], &batch).await {
            tracing::debug!(%error, "removing routes");
        }
    }
    if let Err(error) = exec::run("ip", &["link", "del", &config.vxlan_link], "").await {
        tracing::debug!(%error, "no tunnel to remove");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, address: &str, net: &str) -> NodeNet {
        let address = address.parse().unwrap();
        NodeNet { name: name.into(), addresses: vec![address], pod_nets: vec![net.parse().unwrap()] }
    }

    #[test]
    fn near_nodes_are_reached_straight_and_far_ones_through_the_tunnel() {
        let nodes = [
            node("me", "192.0.2.1", "10.244.0.0/24"),
            node("near", "192.0.2.7", "10.244.1.0/24"),
            node("far", "198.51.100.9", "10.244.2.0/24"),
            node("thief", "192.0.2.8", "10.244.0.0/16"),
            NodeNet { name: "new".into(), ..NodeNet::default() },
        ];
        let links = ["192.0.2.0/24".parse().unwrap()];
        let routes = plan(&nodes, "me", &links, Between::Auto);
        assert_eq!(
            commands(&Routes::new(), &routes, "vx"),
            "route replace 10.244.1.0/24 via 192.0.2.7 proto 158\n\
             neigh replace 10.244.2.0 lladdr 0e:4e:0a:f4:02:00 dev vx nud permanent\n\
             route replace 10.244.2.0/24 via 10.244.2.0 dev vx onlink proto 158\n"
        );
        assert_eq!(
            bridge_commands(&Routes::new(), &routes, "vx"),
            "fdb replace 0e:4e:0a:f4:02:00 dev vx dst 198.51.100.9 self permanent\n"
        );
        let straight = plan(&nodes, "me", &links, Between::Direct);
        assert!(straight.values().all(|way| matches!(way, Way::Direct(_))));
        assert_eq!(
            commands(&routes, &Routes::new(), "vx"),
            "route del 10.244.1.0/24 proto 158\nneigh del 10.244.2.0 dev vx\nroute del 10.244.2.0/24 proto 158\n"
        );
        assert_eq!(commands(&routes, &routes, "vx"), "");
    }

    #[test]
    fn what_the_kernel_shows() {
        let json = r#"[{"dst":"10.244.1.0/24","gateway":"192.0.2.7","dev":"eth0","flags":[]},
            {"dst":"10.244.2.0/24","gateway":"10.244.2.0","dev":"vx","flags":["onlink"]},
            {"dst":"10.96.0.0/12","dev":"lo","scope":"link"},{"dst":"what"}]"#;
        let routes = kernel_routes(json, "vx");
        let show: Vec<String> = routes.iter().map(|(net, way)| format!("{net} {way:?}")).collect();
        assert_eq!(
            show,
            ["10.96.0.0/12 Here", "10.244.1.0/24 Direct(192.0.2.7)", "10.244.2.0/24 Tunnel(10.244.2.0)"]
        );
        let json = r#"[{"ifname":"lo","flags":["LOOPBACK"],"addr_info":[{"local":"10.96.0.10","prefixlen":32,"scope":"global"}]},
            {"ifname":"eth0","flags":["UP"],"addr_info":[{"local":"192.0.2.2","prefixlen":24,"scope":"global"},
            {"local":"fe80::1","prefixlen":64,"scope":"link"}]},{"ifname":"eth1"}]"#;
        let (nets, owner) = link_nets(json, Some("192.0.2.2".parse().unwrap()));
        assert_eq!((nets, owner.as_deref()), (vec!["192.0.2.0/24".parse().unwrap()], Some("eth0")));
    }
}
