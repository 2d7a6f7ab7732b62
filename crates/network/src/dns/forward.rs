//! Asks other servers, and remembers what they said for a while.
//!
//! Must not know the cluster's names.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use base::{Clock, Rng};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;

/// Questions under way at one time; each holds a socket. More are answered with a failure at once.
const UNDER_WAY_LIMIT: usize = 1000;
/// How long one server may take.
const ATTEMPT: Duration = Duration::from_secs(2);
/// Rounds over all servers.
const ROUNDS: usize = 2;
/// A server that failed is asked last for this long.
const REST: Duration = Duration::from_secs(5);
/// Answers kept.
const CACHE_LIMIT: usize = 10_000;
/// No answer is kept longer, in seconds, as in kubeadm's CoreDNS.
const CACHE_TTL_S: u32 = 30;
/// How often the list of servers is looked at.
const RELOAD: Duration = Duration::from_secs(5);
/// At most this many servers are used, as in glibc.
const SERVER_LIMIT: usize = 3;
/// The largest answer that we take by UDP.
const PAYLOAD: u16 = 1232;
/// Where systemd-resolved lists the real servers, when `resolv.conf` names only itself.
const RESOLVED_LIST: &str = "/run/systemd/resolve/resolv.conf";
/// Ends the names by which we notice that we ask ourselves; never a real domain.
const LOOP_DOMAIN: &str = "loop-check.navarch.invalid.";

/// What is asked, as the cache's key.
type Question = (Name, RecordType, bool);

#[derive(Debug)]
struct Kept {
    message: Arc<Message>,
    at: Duration,
    until: Duration,
}

#[derive(Debug, Default)]
struct Servers {
    list: Vec<SocketAddr>,
    /// By position: not before this time.
    resting: Vec<Duration>,
    looked: Option<Duration>,
    seen: Option<SystemTime>,
}

/// Asks the host's servers.
#[derive(Debug)]
pub struct Forwarder {
    clock: Clock,
    rng: Rng,
    resolv_conf: PathBuf,
    /// Servers given by configuration; else those of `resolv_conf`.
    fixed: Vec<SocketAddr>,
    /// Addresses where we answer ourselves.
    ours: Vec<IpAddr>,
    servers: Mutex<Servers>,
    cache: Mutex<HashMap<Question, Kept>>,
    under_way: Semaphore,
    /// The name of the last question that must not come back to us.
    probe: Mutex<Option<Name>>,
    looped: AtomicBool,
}

impl Forwarder {
    /// A forwarder to the servers that `resolv_conf` names, or to `fixed` if that is not empty. `ours` are
    /// addresses where this server answers.
    pub fn new(
        clock: Clock,
        rng: Rng,
        resolv_conf: &Path,
        fixed: Vec<SocketAddr>,
        ours: Vec<IpAddr>,
    ) -> Forwarder {
        Forwarder {
            clock,
            rng,
            resolv_conf: resolv_conf.to_owned(),
            fixed,
            ours,
            servers: Mutex::default(),
            cache: Mutex::default(),
            under_way: Semaphore::new(UNDER_WAY_LIMIT),
            probe: Mutex::default(),
            looped: AtomicBool::new(false),
        }
    }

    /// The servers, those that rest last.
    fn servers(&self) -> Vec<(usize, SocketAddr)> {
        let now = self.clock.monotonic();
        let mut servers = self.servers.lock();
        if servers.looked.is_none_or(|looked| now.saturating_sub(looked) >= RELOAD) {
            servers.looked = Some(now);
            self.reload(&mut servers);
        }
        let mut order: Vec<usize> = (0..servers.list.len()).collect();
        order.sort_by_key(|index| servers.resting[*index] > now);
        order.into_iter().map(|index| (index, servers.list[index])).collect()
    }

    fn reload(&self, servers: &mut Servers) {
        let list = if self.fixed.is_empty() {
            let seen = std::fs::metadata(&self.resolv_conf).and_then(|metadata| metadata.modified()).ok();
            if seen.is_some() && seen == servers.seen {
                return;
            }
            servers.seen = seen;
            let read = |path: &Path| std::fs::read_to_string(path).map(|text| name_servers(&text));
            let mut list = read(&self.resolv_conf).unwrap_or_default();
            if list.iter().all(|server| server.ip().is_loopback())
                && let Ok(better) = read(Path::new(RESOLVED_LIST))
                && !better.is_empty()
            {
                list = better;
            }
            list
        } else {
            self.fixed.clone()
        };
        let list: Vec<SocketAddr> =
            list.into_iter().filter(|server| !self.ours.contains(&server.ip())).take(SERVER_LIMIT).collect();
        if list != servers.list {
            tracing::info!(servers = ?list, "DNS questions from outside the cluster go to");
            servers.resting = vec![Duration::ZERO; list.len()];
            servers.list = list;
            self.looped.store(false, Ordering::Relaxed);
            self.cache.lock().clear();
        }
    }

    /// True when `name` is our own probe come back: the servers that we ask, ask us.
    pub fn is_own_probe(&self, name: &Name) -> bool {
        let came_back = self.probe.lock().as_ref().is_some_and(|probe| probe == name);
        if came_back && !self.looped.swap(true, Ordering::Relaxed) {
            tracing::error!(
                resolv_conf = %self.resolv_conf.display(),
                "the host's DNS servers ask this one: a loop; questions from outside the cluster fail until \
                 the host has other servers"
            );
        }
        came_back
    }

    /// Sends a question that would come back in a loop.
    pub async fn look_for_loop(&self) {
        let Ok(name) = Name::from_ascii(format!("{}.{LOOP_DOMAIN}", self.rng.suffix(16))) else { return };
        *self.probe.lock() = Some(name.clone());
        let query = Query::query(name, RecordType::HINFO);
        for (_, server) in self.servers() {
            let _ = self.clock.timeout(ATTEMPT, self.exchange(server, &query, false)).await;
        }
    }

    /// Asks for `query`; `None` when nobody answers.
    pub async fn ask(&self, query: &Query, dnssec: bool) -> Option<Arc<Message>> {
        let question = (query.name.to_lowercase(), query.query_type, dnssec);
        if let Some(kept) = self.kept(&question) {
            return Some(kept);
        }
        if self.looped.load(Ordering::Relaxed) {
            return None;
        }
        let _permit = self.under_way.try_acquire().ok()?;
        for _ in 0..ROUNDS {
            for (index, server) in self.servers() {
                match self.clock.timeout(ATTEMPT, self.exchange(server, query, dnssec)).await {
                    Some(Ok(message)) if usable(&message) => {
                        let message = Arc::new(message);
                        self.keep(question, &message);
                        return Some(message);
                    }
                    other => tracing::debug!(%server, name = %query.name, ?other, "no use of a DNS server"),
                }
                let until = self.clock.monotonic() + REST;
                if let Some(resting) = self.servers.lock().resting.get_mut(index) {
                    *resting = until;
                }
            }
        }
        None
    }

    async fn exchange(&self, server: SocketAddr, query: &Query, dnssec: bool) -> std::io::Result<Message> {
        let id = u16::try_from(self.rng.below(65_536)).unwrap_or(0);
        let mut request = Message::new(id, MessageType::Query, OpCode::Query);
        request.metadata.recursion_desired = true;
        request.queries.push(query.clone());
        let mut edns = Edns::new();
        edns.set_max_payload(PAYLOAD);
        edns.set_dnssec_ok(dnssec);
        request.edns = Some(edns);
        let bytes = request.to_vec().map_err(std::io::Error::other)?;
        let local: SocketAddr =
            if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
        // A fresh socket each time: its random port is half of what keeps a stranger from answering.
        let socket = UdpSocket::bind(local).await?;
        socket.connect(server).await?;
        socket.send(&bytes).await?;
        let mut buffer = vec![0; 4096];
        loop {
            let length = socket.recv(&mut buffer).await?;
            let Ok(message) = Message::from_vec(&buffer[..length]) else { continue };
            if !answers(&message, id, query) {
                continue;
            }
            return if message.metadata.truncation {
                exchange_tcp(server, &bytes, id, query).await
            } else {
                Ok(message)
            };
        }
    }

    fn kept(&self, question: &Question) -> Option<Arc<Message>> {
        let now = self.clock.monotonic();
        let cache = self.cache.lock();
        let kept = cache.get(question).filter(|kept| kept.until > now)?;
        let age = u32::try_from(now.saturating_sub(kept.at).as_secs()).unwrap_or(u32::MAX);
        if age == 0 {
            return Some(Arc::clone(&kept.message));
        }
        let mut message = (*kept.message).clone();
        drop(cache);
        let Message { answers, authorities, additionals, .. } = &mut message;
        for record in answers.iter_mut().chain(authorities).chain(additionals) {
            record.decrement_ttl(age);
        }
        Some(Arc::new(message))
    }

    fn keep(&self, question: Question, message: &Arc<Message>) {
        let ttl = keep_s(message);
        if ttl == 0 {
            return;
        }
        let now = self.clock.monotonic();
        let mut cache = self.cache.lock();
        if cache.len() >= CACHE_LIMIT {
            cache.retain(|_, kept| kept.until > now);
            if cache.len() >= CACHE_LIMIT {
                cache.clear();
            }
        }
        let until = now + Duration::from_secs(ttl.into());
        cache.insert(question, Kept { message: Arc::clone(message), at: now, until });
    }
}

/// The server said something about the name, be it that there is none.
fn usable(message: &Message) -> bool {
    matches!(message.metadata.response_code, ResponseCode::NoError | ResponseCode::NXDomain)
}

fn answers(message: &Message, id: u16, query: &Query) -> bool {
    message.metadata.id == id
        && message.metadata.message_type == MessageType::Response
        && message.queries.first().is_some_and(|asked| {
            asked.name == query.name
                && asked.query_type == query.query_type
                && asked.query_class == query.query_class
        })
}

async fn exchange_tcp(server: SocketAddr, bytes: &[u8], id: u16, query: &Query) -> std::io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(bytes.len()).map_err(std::io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), bytes].concat()).await?;
    let length = usize::from(stream.read_u16().await?);
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer).await?;
    let message = Message::from_vec(&answer).map_err(std::io::Error::other)?;
    if answers(&message, id, query) {
        Ok(message)
    } else {
        Err(std::io::Error::other("an answer to another question"))
    }
}

/// For how long an answer may be kept, in seconds.
fn keep_s(message: &Message) -> u32 {
    let negative = message.answers.is_empty() || message.metadata.response_code == ResponseCode::NXDomain;
    let ttl = if negative {
        let soa = message.authorities.iter().find_map(|record| match &record.data {
            RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
            _ => None,
        });
        soa.unwrap_or(0)
    } else {
        message.answers.iter().map(|record| record.ttl).min().unwrap_or(0)
    };
    ttl.min(CACHE_TTL_S)
}

/// The servers that a `resolv.conf` names.
fn name_servers(text: &str) -> Vec<SocketAddr> {
    let mut servers = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() == Some("nameserver")
            && let Some(word) = words.next()
            // `fe80::1%eth0`: the zone is not for us to know.
            && let Ok(address) = word.split('%').next().unwrap_or_default().parse::<IpAddr>()
        {
            servers.push(SocketAddr::new(address, 53));
        }
    }
    servers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_of_a_resolv_conf() {
        let text = "# nameserver 1.1.1.1\nsearch a b\nnameserver 192.0.2.53\nnameserver  fe80::1%eth0\nnameserver x\n";
        let show: Vec<String> = name_servers(text).iter().map(ToString::to_string).collect();
        assert_eq!(show, ["192.0.2.53:53", "[fe80::1]:53"]);
    }
}
