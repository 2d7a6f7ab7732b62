//! Cluster DNS: one server on every node, at the address that pods have in their `resolv.conf`.
//!
//! `zone` is the table of names, `answer` turns questions into answers, `forward` asks other servers; here they
//! are joined to sockets and to the cluster.

mod answer;
mod forward;
#[cfg(test)]
mod tests;
mod zone;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api::k8s::api::core::v1::Service;
use api::k8s::api::discovery::v1::EndpointSlice;
use base::{Clock, Rng, Tasks};
use client::Meta;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::Name;
use ipnet::IpNet;
use parking_lot::RwLock;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;

use self::answer::{Rules, Step, answer, complete, encode_tcp, encode_udp, failure, relay};
use self::forward::Forwarder;
pub use self::zone::{EndpointNames, Found, Port, ServiceNames, SliceNames, Target, Zone};
use crate::exec::{self, ExecError};
use crate::node::NodeDeps;
use crate::proxy::{key_of, present};

/// TCP connections at one time.
const CONNECTION_LIMIT: usize = 256;
/// How long a TCP client may be silent.
const IDLE: Duration = Duration::from_secs(10);
/// Between tries to open the server's sockets.
const LISTEN_RETRY: Duration = Duration::from_secs(2);
/// UDP questions that wait for another server at one time.
const WAITING_LIMIT: usize = 2000;

/// Where the server answers and what it knows besides the cluster.
#[derive(Clone, Debug)]
pub struct DnsConfig {
    /// The address of the cluster's DNS Service; put on the loopback link.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// More addresses to answer at; these must exist already.
    pub more: Vec<SocketAddr>,
    /// The cluster's domain.
    pub domain: String,
    /// Names the servers for everything else.
    pub resolv_conf: PathBuf,
    /// Servers for everything else, instead of those of `resolv_conf`.
    pub upstreams: Vec<SocketAddr>,
    /// Networks of Services and pods: an unknown address there has no name, and nobody else is asked.
    pub cluster_nets: Vec<IpNet>,
    /// Put `address` on the loopback link; false when it is already somewhere.
    pub set_address: bool,
}

impl DnsConfig {
    /// A server at `address` for `cluster.local`.
    pub fn new(address: IpAddr) -> DnsConfig {
        DnsConfig {
            address,
            port: 53,
            more: Vec::new(),
            domain: "cluster.local".to_owned(),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            upstreams: Vec::new(),
            cluster_nets: Vec::new(),
            set_address: true,
        }
    }
}

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// The address could not be put on the loopback link.
    #[error("the DNS address: {0}")]
    Address(#[from] ExecError),
    /// The address is taken.
    #[error("listening on {address} for DNS: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The domain is no domain.
    #[error("the cluster's domain {domain:?}: {message}")]
    Domain {
        /// As configured.
        domain: String,
        /// What is wrong.
        message: String,
    },
}

/// Answers questions; one a node.
pub struct Server {
    zone: RwLock<Zone>,
    rules: Rules,
    forwarder: Forwarder,
    clock: Clock,
    /// False until the cluster's objects are known: "no such name" would be a lie.
    complete: std::sync::atomic::AtomicBool,
    waiting: Arc<Semaphore>,
}

/// What to do with a request's bytes.
enum Reaction {
    Send(Message, Message),
    Wait(Message, Step),
    Nothing,
}

impl Server {
    /// A server that knows nothing yet.
    pub fn new(config: &DnsConfig, clock: Clock, rng: Rng) -> Result<Server, DnsError> {
        let domain =
            Name::from_ascii(format!("{}.", config.domain.trim_end_matches('.'))).map_err(|error| {
                DnsError::Domain { domain: config.domain.clone(), message: error.to_string() }
            })?;
        let mut ours = vec![config.address];
        ours.extend(config.more.iter().map(SocketAddr::ip));
        let upstreams = config.upstreams.clone();
        let forwarder = Forwarder::new(clock.clone(), rng, &config.resolv_conf, upstreams, ours);
        let serial = u32::try_from(clock.now().as_second()).unwrap_or(1);
        let mut zone = Zone::default();
        zone.server = Some(config.address);
        Ok(Server {
            zone: RwLock::new(zone),
            rules: Rules { domain, nets: config.cluster_nets.clone(), serial },
            forwarder,
            clock,
            complete: std::sync::atomic::AtomicBool::new(false),
            waiting: Arc::new(Semaphore::new(WAITING_LIMIT)),
        })
    }

    /// Puts the address on the loopback link, if so configured, and answers there until the tasks are cancelled.
    pub async fn listen(self: &Arc<Self>, config: &DnsConfig, tasks: &Tasks) -> Result<(), DnsError> {
        if config.set_address {
            put_address(config.address).await?;
        }
        let mut addresses = vec![SocketAddr::new(config.address, config.port)];
        addresses.extend(&config.more);
        let mut sockets = Vec::new();
        for address in addresses {
            let failed = |source| DnsError::Listen { address, source };
            let udp = UdpSocket::bind(address).await.map_err(failed)?;
            sockets.push((udp, TcpListener::bind(address).await.map_err(failed)?));
        }
        for (udp, tcp) in sockets {
            tasks.spawn("DNS over UDP", Arc::clone(self).serve_udp(udp, tasks.clone()));
            tasks.spawn("DNS over TCP", Arc::clone(self).serve_tcp(tcp, tasks.clone()));
        }
        Ok(())
    }

    /// Changes names.
    pub fn update(&self, change: impl FnOnce(&mut Zone)) {
        change(&mut self.zone.write());
    }

    /// All names are in: from now on, a name that is not known does not exist.
    pub fn complete(&self) {
        self.complete.store(true, std::sync::atomic::Ordering::Release);
    }

    fn react(&self, bytes: &[u8]) -> Reaction {
        let Ok(request) = Message::from_vec(bytes) else { return malformed(bytes) };
        let step = answer(&request, &self.zone.read(), &self.rules);
        match step {
            Step::Ignore => Reaction::Nothing,
            Step::Reply(message) => {
                let known = self.complete.load(std::sync::atomic::Ordering::Acquire);
                if !known && message.answers.is_empty() {
                    let failed = failure(&request, ResponseCode::ServFail);
                    return Reaction::Send(request, failed);
                }
                Reaction::Send(request, message)
            }
            Step::Forward(query) if self.forwarder.is_own_probe(&query.name) => {
                let failed = failure(&request, ResponseCode::NXDomain);
                Reaction::Send(request, failed)
            }
            step => Reaction::Wait(request, step),
        }
    }

    /// The answer to a UDP question that can be given at once; `None` when others must be asked first, or for
    /// what deserves none.
    pub fn answer_at_once(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        match self.react(bytes) {
            Reaction::Send(request, message) => encode_udp(&request, message),
            Reaction::Wait(..) | Reaction::Nothing => None,
        }
    }

    async fn elsewhere(&self, request: &Message, step: Step) -> Message {
        let dnssec = request.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok);
        match step {
            Step::Forward(query) => relay(request, self.forwarder.ask(&query, dnssec).await.as_deref()),
            Step::Chase(begun, query) => complete(begun, self.forwarder.ask(&query, dnssec).await.as_deref()),
            Step::Reply(message) => message,
            Step::Ignore => failure(request, ResponseCode::ServFail),
        }
    }

    /// Answers UDP questions on `socket` until dropped.
    pub async fn serve_udp(self: Arc<Self>, socket: UdpSocket, tasks: Tasks) {
        let socket = Arc::new(socket);
        let mut buffer = vec![0; 4096];
        loop {
            let (length, peer) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) => {
                    // An earlier answer could not be delivered, for instance.
                    tracing::trace!(%error, "DNS socket");
                    tokio::task::yield_now().await;
                    continue;
                }
            };
            match self.react(&buffer[..length]) {
                Reaction::Nothing => {}
                Reaction::Send(request, message) => {
                    if let Some(bytes) = encode_udp(&request, message) {
                        let _ = socket.send_to(&bytes, peer).await;
                    }
                }
                Reaction::Wait(request, step) => {
                    // Too many wait: the asker tries again.
                    let Ok(permit) = Arc::clone(&self.waiting).try_acquire_owned() else { continue };
                    let (server, socket) = (Arc::clone(&self), Arc::clone(&socket));
                    tasks.spawn("forwarded DNS question", async move {
                        let message = server.elsewhere(&request, step).await;
                        if let Some(bytes) = encode_udp(&request, message) {
                            let _ = socket.send_to(&bytes, peer).await;
                        }
                        drop(permit);
                    });
                }
            }
        }
    }

    /// Answers TCP questions on `listener` until dropped.
    pub async fn serve_tcp(self: Arc<Self>, listener: TcpListener, tasks: Tasks) {
        let room = Arc::new(Semaphore::new(CONNECTION_LIMIT));
        loop {
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
            let Ok((stream, _)) = listener.accept().await else {
                self.clock.sleep(Duration::from_millis(100)).await;
                continue;
            };
            let server = Arc::clone(&self);
            tasks.spawn("DNS connection", async move {
                let _ = server.serve_connection(stream).await;
                drop(permit);
            });
        }
    }

    async fn serve_connection(&self, mut stream: TcpStream) -> std::io::Result<()> {
        loop {
            let Some(length) = self.clock.timeout(IDLE, stream.read_u16()).await else { return Ok(()) };
            let mut bytes = vec![0; usize::from(length?)];
            let Some(read) = self.clock.timeout(IDLE, stream.read_exact(&mut bytes)).await else {
                return Ok(());
            };
            read?;
            let message = match self.react(&bytes) {
                Reaction::Nothing => return Ok(()),
                Reaction::Send(_, message) => message,
                Reaction::Wait(request, step) => self.elsewhere(&request, step).await,
            };
            let Some(answer) = encode_tcp(&message) else { return Ok(()) };
            let length = u16::try_from(answer.len()).map_err(std::io::Error::other)?;
            let bytes = [&length.to_be_bytes(), answer.as_slice()].concat();
            let Some(sent) = self.clock.timeout(IDLE, stream.write_all(&bytes)).await else { return Ok(()) };
            sent?;
        }
    }
}

/// Something that is not a DNS message, but begins like a question, is told so.
fn malformed(bytes: &[u8]) -> Reaction {
    let (Some(id), Some(flags)) = (bytes.first_chunk::<2>(), bytes.get(2)) else { return Reaction::Nothing };
    if bytes.len() < 12 || flags & 0x80 != 0 {
        return Reaction::Nothing;
    }
    let op_code = hickory_proto::op::OpCode::Query;
    let message = Message::error_msg(u16::from_be_bytes(*id), op_code, ResponseCode::FormErr);
    Reaction::Send(message.clone(), message)
}

/// Runs the server until the tasks are cancelled. Fails only for a configuration that can never work.
pub async fn run(deps: NodeDeps, config: DnsConfig, rng: Rng) -> Result<(), DnsError> {
    let server = Arc::new(Server::new(&config, deps.clock.clone(), rng)?);
    // An earlier process may still be going.
    while let Err(error) = server.listen(&config, &deps.tasks).await {
        tracing::error!(%error, "cluster DNS does not answer yet");
        deps.clock.sleep(LISTEN_RETRY).await;
    }
    follow(&deps, &server).await;
    server.complete();
    server.forwarder.look_for_loop().await;
    deps.tasks.cancel_token().cancelled().await;
    Ok(())
}

/// Fills the zone from the cluster, and waits for the first lists.
async fn follow(deps: &NodeDeps, server: &Arc<Server>) {
    let services = deps.informers.of::<Service>();
    let slices = deps.informers.of::<EndpointSlice>();
    let to = Arc::clone(server);
    services.on_change(move |change| {
        let names = present(change).map(|service| ServiceNames::parse(service));
        let object = change.object();
        to.update(|zone| zone.set_service(object.namespace(), object.name(), names));
    });
    let to = Arc::clone(server);
    slices.on_change(move |change| {
        let names = present(change).and_then(|slice| SliceNames::parse(slice));
        to.update(|zone| zone.set_slice(&key_of(&**change.object()), names));
    });
    services.synced().await;
    slices.synced().await;
}

/// An address with the length of its network, all of it.
fn host_net(address: IpAddr) -> String {
    IpNet::from(address).to_string()
}

/// Puts the address on the loopback link: packets for it from pods and from the node itself end here. Its scope
/// keeps the kernel from taking it for an address of the machine's own.
async fn put_address(address: IpAddr) -> Result<(), ExecError> {
    let net = host_net(address);
    exec::run("ip", &["link", "set", "lo", "up"], "").await?;
    exec::run("ip", &["address", "replace", &net, "dev", "lo", "scope", "host"], "").await.map(drop)
}

/// Takes the address away again.
pub(crate) async fn remove_address(address: IpAddr) {
    if let Err(error) = exec::run("ip", &["address", "del", &host_net(address), "dev", "lo"], "").await {
        tracing::debug!(%error, "no DNS address to remove");
    }
}
