//! Cluster addresses and node ports of services: handed out, kept unique, taken back.
//!
//! What is in use is in the store: an IPAddress object for each address, a small object for each node port, committed
//! together with the service, so that several servers never give the same twice and a crash leaves nothing behind. It
//! must not know HTTP.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use api::ApiError;
use api::validation::{ErrorList, FieldError, Path};
use ipnet::IpNet;
use parking_lot::Mutex;
use registry::Resource;
use registry::tree::Tree;
use serde_json::{Value, json};
use store::{
    Attrs, CommitError, Committed, EventKind, Expect, HistoryError, Interest, Key, Op, Store, WatchFrom,
    Write,
};

use crate::config::Config;
use crate::object;
use crate::server::Server;

/// Tries at random before the range is walked.
const RANDOM_TRIES: u32 = 8;
/// Addresses walked when the random tries met used ones; a fuller range is called full.
const WALK_LIMIT: u64 = 1 << 20;

/// What is being handed out and not stored yet.
#[derive(Default)]
struct Pending {
    addresses: BTreeSet<IpAddr>,
    ports: BTreeSet<u16>,
}

/// The allocators.
pub struct Allocators {
    ranges: Vec<IpNet>,
    ports: (u16, u16),
    pending: Arc<Mutex<Pending>>,
}

/// What a write takes and what it gives up, which is to be stored with it: see [`Holds::claims`]. Lives until then.
#[must_use]
pub struct Holds {
    store: Store,
    pending: Arc<Mutex<Pending>>,
    addresses: Vec<IpAddr>,
    ports: Vec<u16>,
    released_addresses: Vec<IpAddr>,
    released_ports: Vec<u16>,
}

impl Holds {
    fn take_port(&mut self, port: u16) -> bool {
        let free = self.pending.lock().ports.insert(port);
        if free && self.store.get(&port_key(port)).is_none() {
            self.ports.push(port);
            return true;
        }
        if free {
            self.pending.lock().ports.remove(&port);
        }
        false
    }

    fn take_address(&mut self, ip: IpAddr) -> bool {
        let free = self.pending.lock().addresses.insert(ip);
        if free && self.store.get(&address_key(ip)).is_none() {
            self.addresses.push(ip);
            return true;
        }
        if free {
            self.pending.lock().addresses.remove(&ip);
        }
        false
    }

    /// The writes to commit together with the service's own: they hold only if nobody else, through whichever
    /// server, was given the same.
    pub fn claims(&self, server: &Server, service: &Value) -> Vec<Write> {
        let mut claims: Vec<Write> =
            self.addresses.iter().filter_map(|ip| claim_address(server, service, *ip)).collect();
        claims.extend(self.ports.iter().map(|port| claim_port(service, *port)));
        claims.extend(releases(server, service, &self.released_addresses, &self.released_ports));
        claims
    }
}

impl Drop for Holds {
    fn drop(&mut self) {
        let mut pending = self.pending.lock();
        self.addresses.iter().for_each(|ip| {
            pending.addresses.remove(ip);
        });
        self.ports.iter().for_each(|port| {
            pending.ports.remove(port);
        });
    }
}

/// Where IPAddress objects are kept.
const ADDRESSES: &str = "networking.k8s.io/ipaddresses";
/// Where node ports that are taken are kept: one small object each, which no API shows.
const PORTS: &str = "navarch/nodeports";
/// Who made an IPAddress object.
const MANAGED_BY: &str = "ipallocator.k8s.io";

fn address_key(ip: IpAddr) -> Key {
    Key::new(ADDRESSES, "", ip.to_string().as_str())
}

fn port_key(port: u16) -> Key {
    Key::new(PORTS, "", port.to_string().as_str())
}

/// The IPAddress object that makes an address a service's own.
fn claim_address(server: &Server, service: &Value, ip: IpAddr) -> Option<Write> {
    let catalog = server.rows.now();
    let row = catalog.get("networking.k8s.io", "v1", "ipaddresses")?;
    let object = json!({"apiVersion": "networking.k8s.io/v1", "kind": "IPAddress", "metadata": {
        "name": ip.to_string(), "uid": server.rng.uuid(), "creationTimestamp": api::time::format(server.clock.now()),
        "labels": {"ipaddress.kubernetes.io/ip-family": family(ip), "ipaddress.kubernetes.io/managed-by": MANAGED_BY}},
        "spec": {"parentRef": {"resource": "services",
            "namespace": service.text("metadata.namespace"), "name": service.text("metadata.name")}}});
    Some(crate::write::put(row, address_key(ip), Expect::Absent, object))
}

fn claim_port(service: &Value, port: u16) -> Write {
    let object = json!({"metadata": {"name": port.to_string()}, "service": owner(service)});
    Write {
        key: port_key(port),
        expect: Expect::Absent,
        op: Op::Put(object::draft(&object), Attrs::default()),
    }
}

fn owner(service: &Value) -> String {
    format!("{}/{}", service.text("metadata.namespace"), service.text("metadata.name"))
}

/// The service that a claim is for.
fn claimant(claim: &Value) -> String {
    match claim.text("service") {
        "" => format!("{}/{}", claim.text("spec.parentRef.namespace"), claim.text("spec.parentRef.name")),
        owner => owner.to_owned(),
    }
}

/// Deletes the claims that a service has on these.
fn releases(server: &Server, service: &Value, addresses: &[IpAddr], ports: &[u16]) -> Vec<Write> {
    let keys = addresses.iter().map(|ip| address_key(*ip)).chain(ports.iter().map(|port| port_key(*port)));
    let found = keys.filter_map(|key| server.store.get(&key));
    let own = found.filter(|claim| claimant(&object::tree(claim)) == owner(service));
    own.map(|claim| Write::delete(claim.key.clone(), Expect::Revision(claim.revision))).collect()
}

/// How a commit with claims failed.
pub enum Failed {
    /// Because of the object itself.
    Own(CommitError),
    /// Because of a claim: what was to be taken or given up is not as it was. It is seen here by now.
    Claim,
}

impl Server {
    /// Commits a write and the claims that go with it, all or none.
    ///
    /// # Errors
    /// Says whose condition did not hold.
    pub async fn commit_claiming(&self, write: Write, claims: Vec<Write>) -> Result<Committed, Failed> {
        if claims.is_empty() {
            return self.commit(write).await.map_err(Failed::Own);
        }
        let key = write.key.clone();
        let error = match self.store.commit_all(std::iter::once(write).chain(claims).collect()).await {
            Ok(mut all) => {
                self.authorizer.note(&key.resource);
                return Ok(all.swap_remove(0));
            }
            Err(error) => error,
        };
        match error {
            CommitError::Exists(other) | CommitError::Conflict(other) if other.key != key => {
                // Another server's change may not have come here yet.
                match self.store.wait_for(other.revision).await {
                    Ok(()) => Err(Failed::Claim),
                    Err(_) => Err(Failed::Own(CommitError::Closed)),
                }
            }
            CommitError::NotFound(other) if other != key => {
                self.store.latest().await.map_err(Failed::Own)?;
                Err(Failed::Claim)
            }
            error => Err(Failed::Own(error)),
        }
    }

    /// Gives every service its claims and takes back those of services that are gone: data of older versions has
    /// none for node ports, and anybody may delete an IPAddress.
    pub(crate) async fn mend_claims(&self) {
        let ports = self.store.snapshot(PORTS);
        let addresses = self.store.snapshot(ADDRESSES);
        // Read last: a claim whose service is not there any more is nobody's.
        let services = self.store.snapshot("services");
        let mut owners = BTreeMap::new();
        for service in services.range(None, None).map(|stored| object::tree(stored)) {
            let shown = addresses_of(&service).into_iter().filter(|_| !external_name(&service));
            for ip in shown {
                owners.insert(address_key(ip), owner(&service));
                if self.store.get(&address_key(ip)).is_none() {
                    self.mend(claim_address(self, &service, ip)).await;
                }
            }
            for port in ports_of(&service) {
                owners.insert(port_key(port), owner(&service));
                if self.store.get(&port_key(port)).is_none() {
                    self.mend(Some(claim_port(&service, port))).await;
                }
            }
        }
        for claim in ports.range(None, None).chain(addresses.range(None, None)) {
            let tree = object::tree(claim);
            let ours = &*claim.key.resource == PORTS
                || tree["metadata"]["labels"]["ipaddress.kubernetes.io/managed-by"] == MANAGED_BY;
            if ours && owners.get(&claim.key) != Some(&claimant(&tree)) {
                self.mend(Some(Write::delete(claim.key.clone(), Expect::Revision(claim.revision)))).await;
            }
        }
    }

    async fn mend(&self, write: Option<Write>) {
        let Some(write) = write else { return };
        let key = write.key.clone();
        match self.commit(write).await {
            Ok(_) => tracing::info!(%key, "a service's claim was mended"),
            // Somebody else did, or the service has changed.
            Err(error) => tracing::debug!(%error, %key, "a service's claim was not mended"),
        }
    }

    /// Mends claims when somebody deletes an IPAddress.
    pub(crate) fn keep_claims(&self) {
        self.follow("addresses of services", |server| async move {
            let mut watch = match server.store.watch(ADDRESSES, Interest::All, WatchFrom::Now) {
                Ok(watch) => watch,
                Err(error) => return error,
            };
            loop {
                let event = tokio::select! {
                    () = server.tasks.cancel_token().cancelled() => return HistoryError::Closed,
                    event = watch.next() => event,
                };
                match event {
                    Ok(event) if event.kind == EventKind::Deleted => server.mend_address(&event.object).await,
                    Ok(_) => {}
                    Err(error) => return error,
                }
            }
        });
    }

    /// Claims an address again for the service that still has it.
    async fn mend_address(&self, gone: &store::Object) {
        let (parent, ip) = (object::tree(gone), gone.key.name.parse::<IpAddr>());
        let (namespace, name) = (parent.text("spec.parentRef.namespace"), parent.text("spec.parentRef.name"));
        let Some(stored) = self.store.get(&Key::new("services", namespace, name)) else { return };
        let service = object::tree(&stored);
        if let Some(ip) = ip.ok().filter(|ip| !external_name(&service) && addresses_of(&service).contains(ip))
        {
            self.mend(claim_address(self, &service, ip)).await;
        }
    }
}

/// Deletes what a service that goes had.
pub fn all_releases(server: &Server, row: &Resource, old: &Value) -> Vec<Write> {
    if !is_service(row) {
        return Vec::new();
    }
    releases(server, old, &addresses_of(old), &ports_of(old))
}

/// Whether a row is that of services, which have addresses and ports.
pub fn is_service(row: &Resource) -> bool {
    row.group.is_empty() && row.plural == "services"
}

fn invalid(service: &Value, error: FieldError) -> ApiError {
    ApiError::invalid("", "Service", service.text("metadata.name"), &ErrorList(vec![error]))
}

fn family(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn headless(service: &Value) -> bool {
    service.text("spec.clusterIP") == "None"
}

fn external_name(service: &Value) -> bool {
    service.text("spec.type") == "ExternalName"
}

fn wants_node_ports(service: &Value) -> bool {
    match service.text("spec.type") {
        "NodePort" => true,
        "LoadBalancer" => service.at("spec.allocateLoadBalancerNodePorts") != &Value::Bool(false),
        _ => false,
    }
}

fn has_node_ports(service: &Value) -> bool {
    matches!(service.text("spec.type"), "NodePort" | "LoadBalancer")
}

fn needs_health_port(service: &Value) -> bool {
    service.text("spec.type") == "LoadBalancer" && service.text("spec.externalTrafficPolicy") == "Local"
}

fn port_at(value: &Value) -> u16 {
    value.as_u64().and_then(|n| u16::try_from(n).ok()).unwrap_or(0)
}

fn ports_of(service: &Value) -> Vec<u16> {
    let mut ports: Vec<u16> = service
        .list("spec.ports")
        .iter()
        .map(|port| port_at(&port["nodePort"]))
        .filter(|port| *port != 0)
        .collect();
    ports.extend(Some(port_at(service.at("spec.healthCheckNodePort"))).filter(|port| *port != 0));
    ports.sort_unstable();
    ports.dedup();
    ports
}

fn addresses_of(service: &Value) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> =
        service.list("spec.clusterIPs").iter().filter_map(|ip| ip.as_str()?.parse().ok()).collect();
    if found.is_empty() {
        found.extend(service.text("spec.clusterIP").parse::<IpAddr>().ok());
    }
    found
}

impl Allocators {
    /// Nothing handed out yet.
    pub fn new(config: &Config) -> Allocators {
        Allocators {
            ranges: config.service_ranges.clone(),
            ports: config.node_ports,
            pending: Arc::default(),
        }
    }

    fn holds(&self, server: &Server) -> Holds {
        Holds {
            store: server.store.clone(),
            pending: self.pending.clone(),
            addresses: Vec::new(),
            ports: Vec::new(),
            released_addresses: Vec::new(),
            released_ports: Vec::new(),
        }
    }

    /// Ranges to allocate from: the configured ones and those of ready ServiceCIDR objects.
    fn ranges(&self, server: &Server) -> Vec<IpNet> {
        let mut ranges = self.ranges.clone();
        for stored in server.store.snapshot("networking.k8s.io/servicecidrs").range(None, None) {
            let tree = object::tree(stored);
            if tree.has("metadata.deletionTimestamp") {
                continue;
            }
            for cidr in tree.list("spec.cidrs").iter().filter_map(|c| c.as_str()?.parse().ok()) {
                if !ranges.contains(&cidr) {
                    ranges.push(cidr);
                }
            }
        }
        ranges
    }

    fn families(&self) -> Vec<&'static str> {
        let mut out: Vec<&'static str> = Vec::new();
        for range in &self.ranges {
            let name = family(range.addr());
            if !out.contains(&name) {
                out.push(name);
            }
        }
        out
    }

    /// Fills in what a new object needs.
    pub async fn on_create(
        &self,
        server: &Server,
        row: &Resource,
        object: &mut Value,
        dry: bool,
    ) -> Result<Holds, ApiError> {
        let mut holds = self.holds(server);
        if !is_service(row) {
            return Ok(holds);
        }
        normalize(object, None);
        self.init_families(object, None)?;
        self.allocate_addresses(server, &mut holds, object)?;
        if has_node_ports(object) {
            self.allocate_ports(server, &mut holds, object, &[])?;
        }
        if needs_health_port(object) {
            self.health_port(server, &mut holds, object)?;
        }
        let _ = dry;
        Ok(holds)
    }

    /// Fills in what a changed object needs, and gives up what it no longer needs once stored.
    pub async fn on_update(
        &self,
        server: &Server,
        row: &Resource,
        new: &mut Value,
        old: &Value,
        dry: bool,
    ) -> Result<Holds, ApiError> {
        let mut holds = self.holds(server);
        if !is_service(row) {
            return Ok(holds);
        }
        let _ = dry;
        keep_allocated(new, old);
        normalize(new, Some(old));
        if new.at("spec") == old.at("spec") {
            return Ok(holds);
        }
        self.init_families(new, Some(old))?;
        match (external_name(old), external_name(new)) {
            (true, false) => self.allocate_addresses(server, &mut holds, new)?,
            (false, true) => holds.released_addresses = addresses_of(old),
            (true, true) => {}
            _ if headless(old) => {}
            _ => self.change_families(server, &mut holds, new, old)?,
        }
        let before = ports_of(old);
        if has_node_ports(new) {
            self.allocate_ports(server, &mut holds, new, &before)?;
        }
        if needs_health_port(new) && !needs_health_port(old) {
            self.health_port(server, &mut holds, new)?;
        }
        let after = ports_of(new);
        holds.released_ports = before.into_iter().filter(|port| !after.contains(port)).collect();
        Ok(holds)
    }

    fn change_families(
        &self,
        server: &Server,
        holds: &mut Holds,
        new: &mut Value,
        old: &Value,
    ) -> Result<(), ApiError> {
        let count = |service: &Value| service.list("spec.ipFamilies").len();
        match (count(old), count(new)) {
            (1, 2) => self.allocate_addresses(server, holds, new),
            (2, 1) => {
                holds.released_addresses = addresses_of(old).into_iter().skip(1).collect();
                let first = new.list("spec.clusterIPs").first().cloned().unwrap_or_default();
                new.set("spec.clusterIPs", json!([first]));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn init_families(&self, service: &mut Value, old: Option<&Value>) -> Result<(), ApiError> {
        if external_name(service) {
            return Ok(());
        }
        let selectorless = service.map("spec.selector").is_empty();
        if !service.has("spec.ipFamilyPolicy") {
            let before =
                old.map(|old| old.at("spec.ipFamilyPolicy").clone()).filter(|policy| !policy.is_null());
            let policy = before.unwrap_or_else(|| {
                if headless(service) && selectorless {
                    "RequireDualStack".into()
                } else {
                    "SingleStack".into()
                }
            });
            service.set("spec.ipFamilyPolicy", policy);
        }
        let errors = registry::validation::service::addresses(service, old);
        if !errors.is_empty() {
            return Err(ApiError::invalid("", "Service", service.text("metadata.name"), &errors));
        }
        let policy = service.text("spec.ipFamilyPolicy").to_owned();
        if old.is_some() && policy == "SingleStack" {
            self.downgrade(service, old.unwrap_or(&Value::Null));
        }
        self.infer_families(service)?;
        self.check_policy(service, &policy)?;
        let families = self.families();
        if service.list("spec.ipFamilies").is_empty() {
            service.set("spec.ipFamilies", json!([families.first().unwrap_or(&"IPv4")]));
        }
        let (dual, all) = (policy != "SingleStack", headless(service) && selectorless);
        if dual && service.list("spec.ipFamilies").len() == 1 && (all || families.len() == 2) {
            let first = service.list("spec.ipFamilies")[0].clone();
            let second = if first == "IPv4" { "IPv6" } else { "IPv4" };
            service.set("spec.ipFamilies", json!([first, second]));
        }
        Ok(())
    }

    /// Going back to one family drops the second of each list, when the client left them alone.
    fn downgrade(&self, service: &mut Value, old: &Value) {
        for list in ["spec.clusterIPs", "spec.ipFamilies"] {
            if service.list(list).len() > 1 && service.list(list) == old.list(list) {
                let first = service.list(list)[0].clone();
                service.set(list, json!([first]));
            }
        }
    }

    fn infer_families(&self, service: &mut Value) -> Result<(), ApiError> {
        let families = self.families();
        let mut own: Vec<Value> = service.list("spec.ipFamilies").to_vec();
        for (index, ip) in service.list("spec.clusterIPs").iter().enumerate() {
            let Some(ip) = ip.as_str().and_then(|text| text.parse::<IpAddr>().ok()) else { break };
            if index < own.len() {
                continue;
            }
            if !families.contains(&family(ip)) {
                let path = Path::new("spec").child("clusterIPs").index(index);
                let detail = format!("{} is not configured on this cluster", family(ip));
                return Err(invalid(
                    service,
                    FieldError::invalid(&path, service.at("spec.clusterIPs").clone(), detail),
                ));
            }
            own.push(family(ip).into());
        }
        if !own.is_empty() {
            service.set("spec.ipFamilies", own);
        }
        Ok(())
    }

    fn check_policy(&self, service: &Value, policy: &str) -> Result<(), ApiError> {
        let path = Path::new("spec").child("ipFamilyPolicy");
        let error = |detail: &str| Err(invalid(service, FieldError::invalid(&path, policy, detail)));
        if policy == "SingleStack" {
            if service.list("spec.clusterIPs").len() == 2 {
                return error(
                    "must be 'RequireDualStack' or 'PreferDualStack' when multiple cluster IPs are specified",
                );
            }
            if service.list("spec.ipFamilies").len() == 2 {
                return error(
                    "must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified",
                );
            }
        }
        if headless(service) && service.map("spec.selector").is_empty() {
            return Ok(());
        }
        let families = self.families();
        if policy == "RequireDualStack" && families.len() < 2 {
            return error("this cluster is not configured for dual-stack services");
        }
        for (index, own) in service.list("spec.ipFamilies").iter().enumerate() {
            if !families.iter().any(|f| own == f) {
                let path = Path::new("spec").child("ipFamilies").index(index);
                return Err(invalid(
                    service,
                    FieldError::invalid(&path, own.clone(), "not configured on this cluster"),
                ));
            }
        }
        Ok(())
    }

    fn allocate_addresses(
        &self,
        server: &Server,
        holds: &mut Holds,
        service: &mut Value,
    ) -> Result<(), ApiError> {
        if external_name(service) || headless(service) {
            return Ok(());
        }
        let mut ips: Vec<Value> = service.list("spec.clusterIPs").to_vec();
        if ips.is_empty() && !service.text("spec.clusterIP").is_empty() {
            ips.push(service.at("spec.clusterIP").clone());
        }
        for (index, wanted) in service.list("spec.ipFamilies").iter().enumerate() {
            let given = ips.get(index).and_then(Value::as_str).filter(|text| !text.is_empty());
            if given.is_some_and(|text| text.parse::<IpAddr>().is_err()) {
                // Validation will say what is wrong with it.
                return Ok(());
            }
            let ip = match given {
                Some(text) => self.take(server, holds, service, text)?,
                None => self.next(server, holds, wanted.as_str().unwrap_or("IPv4")).ok_or_else(|| {
                    let name = api::validation::go_quote(service.text("metadata.name"));
                    ApiError::internal(format!(
                        "failed to allocate a serviceIP for Service {name}: range is full"
                    ))
                })?,
            };
            let text = Value::from(ip.to_string());
            if index < ips.len() { ips[index] = text } else { ips.push(text) }
        }
        if let Some(first) = ips.first() {
            service.set("spec.clusterIP", first.clone());
        }
        service.set("spec.clusterIPs", ips);
        Ok(())
    }

    fn take(
        &self,
        server: &Server,
        holds: &mut Holds,
        service: &Value,
        text: &str,
    ) -> Result<IpAddr, ApiError> {
        let refuse = |why: String| {
            let path = Path::new("spec").child("clusterIPs");
            let shown = json!([text]);
            Err(invalid(
                service,
                FieldError::invalid(&path, shown, format!("failed to allocate IP {text}: {why}")),
            ))
        };
        let Ok(ip) = text.parse::<IpAddr>() else {
            return Err(ApiError::internal(format!(
                "failed to parse service IP {}",
                api::validation::go_quote(text)
            )));
        };
        let ranges = self.ranges(server);
        let Some(range) = ranges.iter().find(|range| range.contains(&ip)) else {
            let shown: Vec<String> = ranges.iter().map(ToString::to_string).collect();
            return refuse(format!(
                "the provided network does not match the current range: {}",
                shown.join(",")
            ));
        };
        if ip == range.network() || ip == range.broadcast() && ip.is_ipv4() {
            return refuse("the provided IP is not in the valid range".to_owned());
        }
        // An upgrade to two families keeps the first address: it is this service's own.
        let own = service.has("metadata.resourceVersion") && service.text("spec.clusterIP") == text;
        // The same service, made by another server just now: the commit will say that it exists.
        let claimed = server.store.get(&address_key(ip));
        let own = own || claimed.is_some_and(|claim| claimant(&object::tree(&claim)) == owner(service));
        if !own && !holds.take_address(ip) {
            return refuse("provided IP is already allocated".to_owned());
        }
        Ok(ip)
    }

    fn next(&self, server: &Server, holds: &mut Holds, wanted: &str) -> Option<IpAddr> {
        for range in self.ranges(server).into_iter().filter(|range| family(range.addr()) == wanted) {
            let size = usable(&range);
            // The lower part is left for fixed addresses, as upstream does: min(max(16, size/16), 256).
            let reserved = (size / 16).clamp(16, 256).min(size.saturating_sub(1));
            let upper = size - reserved;
            for _ in 0..RANDOM_TRIES {
                let ip = nth(&range, reserved + 1 + server.rng.below(upper.max(1)));
                if range.contains(&ip) && holds.take_address(ip) {
                    return Some(ip);
                }
            }
            let order = (reserved + 1..=size.min(WALK_LIMIT)).chain(2..=reserved);
            for at in order {
                if holds.take_address(nth(&range, at)) {
                    return Some(nth(&range, at));
                }
            }
        }
        None
    }

    fn allocate_ports(
        &self,
        server: &Server,
        holds: &mut Holds,
        service: &mut Value,
        own: &[u16],
    ) -> Result<(), ApiError> {
        let asks = wants_node_ports(service);
        let name = service.text("metadata.name").to_owned();
        let asked: Vec<(i64, u16)> =
            service.list("spec.ports").iter().map(|p| (p.int("port"), port_at(&p["nodePort"]))).collect();
        let mut given: Vec<(i64, u16)> = Vec::new();
        let mut taken: Vec<u16> = own.to_vec();
        for (index, port) in service.list_mut("spec.ports").iter_mut().enumerate() {
            let (number, wanted) = asked[index];
            if wanted == 0 && !asks {
                continue;
            }
            // The same port over another protocol shares the node port.
            let shared = given.iter().find(|g| g.0 == number).map(|g| g.1);
            let requested = asked.iter().find(|a| a.0 == number && a.1 != 0).map(|a| a.1);
            let chosen = match (wanted, shared, requested) {
                (0, Some(shared), _) => shared,
                (0, None, Some(requested)) if own.is_empty() => {
                    self.take_port(holds, &mut taken, &name, index, requested)?
                }
                (0, ..) => self
                    .next_port(server, holds)
                    .ok_or_else(|| ApiError::internal("failed to allocate a nodePort: range is full"))?,
                (wanted, ..) => self.take_port(holds, &mut taken, &name, index, wanted)?,
            };
            given.push((number, chosen));
            port["nodePort"] = chosen.into();
        }
        Ok(())
    }

    fn take_port(
        &self,
        holds: &mut Holds,
        taken: &mut Vec<u16>,
        name: &str,
        index: usize,
        port: u16,
    ) -> Result<u16, ApiError> {
        if taken.contains(&port) {
            return Ok(port);
        }
        let refuse = |why: String| {
            let path = Path::new("spec").child("ports").index(index).child("nodePort");
            Err(ApiError::invalid(
                "",
                "Service",
                name,
                &ErrorList(vec![FieldError::invalid(&path, port, why)]),
            ))
        };
        let (low, high) = self.ports;
        if !(low..=high).contains(&port) {
            return refuse(format!(
                "provided port is not in the valid range. The range of valid ports is {low}-{high}"
            ));
        }
        if !holds.take_port(port) {
            return refuse("provided port is already allocated".to_owned());
        }
        taken.push(port);
        Ok(port)
    }

    fn next_port(&self, server: &Server, holds: &mut Holds) -> Option<u16> {
        let (low, high) = self.ports;
        let size = u64::from(high - low) + 1;
        // The lower part is left for fixed ports: min(max(16, size/32), 128).
        let reserved = (size / 32).clamp(16, 128).min(size - 1);
        for _ in 0..RANDOM_TRIES {
            let port = low + u16::try_from(reserved + server.rng.below(size - reserved)).unwrap_or(0);
            if holds.take_port(port) {
                return Some(port);
            }
        }
        let start = low + u16::try_from(reserved).unwrap_or(0);
        (start..=high).chain(low..start).find(|port| holds.take_port(*port))
    }

    fn health_port(&self, server: &Server, holds: &mut Holds, service: &mut Value) -> Result<(), ApiError> {
        let asked = port_at(service.at("spec.healthCheckNodePort"));
        let port = if asked == 0 {
            self.next_port(server, holds).ok_or_else(|| {
                ApiError::internal("failed to allocate a HealthCheck NodePort 0: range is full")
            })?
        } else if holds.take_port(asked) {
            asked
        } else {
            let why = format!(
                "failed to allocate requested HealthCheck NodePort {asked}: provided port is already allocated"
            );
            return Err(ApiError::internal(why));
        };
        service.set("spec.healthCheckNodePort", port);
        Ok(())
    }
}

/// Old clients write only the singular field: the plural one follows it.
fn normalize(new: &mut Value, old: Option<&Value>) {
    let single = new.text("spec.clusterIP").to_owned();
    let Some(old) = old else {
        if !single.is_empty() && new.list("spec.clusterIPs").is_empty() {
            new.set("spec.clusterIPs", json!([single]));
        }
        return;
    };
    let before = old.text("spec.clusterIP");
    if new.list("spec.clusterIPs").is_empty() && before == single && !old.list("spec.clusterIPs").is_empty() {
        new.set("spec.clusterIPs", old.at("spec.clusterIPs").clone());
    }
    if before == single || new.list("spec.clusterIPs") != old.list("spec.clusterIPs") {
        return;
    }
    if !before.is_empty() && single.is_empty() {
        new.unset("spec.clusterIPs");
    } else {
        new.set("spec.clusterIPs", json!([single]));
    }
}

/// What was allocated stays when a client sends the object without it.
fn keep_allocated(new: &mut Value, old: &Value) {
    let needs_ip = |service: &Value| !external_name(service);
    if needs_ip(old) && needs_ip(new) {
        if new.text("spec.clusterIP").is_empty() && old.has("spec.clusterIP") {
            new.set("spec.clusterIP", old.at("spec.clusterIP").clone());
        }
        if new.list("spec.clusterIPs").is_empty() && !old.list("spec.clusterIPs").is_empty() {
            new.set("spec.clusterIPs", old.at("spec.clusterIPs").clone());
        }
    }
    if has_node_ports(old) && has_node_ports(new) {
        let now = ports_of(new);
        let used: Vec<u16> = ports_of(old).into_iter().filter(|port| now.contains(port)).collect();
        let named = |name: &str| {
            old.list("spec.ports")
                .iter()
                .find(|p| p.text("name") == name)
                .map_or(0, |p| port_at(&p["nodePort"]))
        };
        for port in new.list_mut("spec.ports") {
            let before = named(port.text("name"));
            if port_at(&port["nodePort"]) == 0 && before != 0 && !used.contains(&before) {
                port["nodePort"] = before.into();
            }
        }
    }
    if needs_health_port(old) && needs_health_port(new) && new.int("spec.healthCheckNodePort") == 0 {
        new.set("spec.healthCheckNodePort", old.at("spec.healthCheckNodePort").clone());
    }
}

/// Addresses of a range that may be given: not the network's own, nor IPv4's broadcast.
fn usable(range: &IpNet) -> u64 {
    let bits = u32::from(range.max_prefix_len() - range.prefix_len()).min(32);
    let size = (1_u64 << bits) - 1;
    if range.addr().is_ipv4() { size.saturating_sub(1) } else { size }
}

fn nth(range: &IpNet, at: u64) -> IpAddr {
    match range.network() {
        IpAddr::V4(ip) => Ipv4Addr::from(u32::from(ip).wrapping_add(u32::try_from(at).unwrap_or(0))).into(),
        IpAddr::V6(ip) => Ipv6Addr::from(u128::from(ip).wrapping_add(u128::from(at))).into(),
    }
}

/// The address of the service default/kubernetes: the first of the first range.
pub fn first_address(config: &Config) -> Option<IpAddr> {
    config.service_ranges.first().map(|range| nth(range, 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_count_what_may_be_given() {
        let range: IpNet = "10.0.0.0/24".parse().expect("a network");
        assert_eq!(usable(&range), 254);
        assert_eq!(nth(&range, 10).to_string(), "10.0.0.10");
        assert_eq!(usable(&"fd00::/112".parse().expect("a network")), 65_535);
    }
}
