//! Clears what connection tracking remembers of UDP endpoints that are gone.
//!
//! Must not know Services: it gets front doors and who may still answer behind them. A UDP "connection" lives
//! as long as its client keeps sending, so without this a client would talk to a dead pod for ever.
//!
//! Speaks nfnetlink directly; message layouts as in Linux' `nfnetlink_conntrack.h`.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, netlink, recv, send, socket};

use super::choice::Target;
use super::plan::Door;
use crate::nft::Family;

const IPPROTO_UDP: u8 = 17;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
/// The connection tracking subsystem, in the high byte of a message's type.
const CTNETLINK: u16 = 1 << 8;
const CT_GET: u16 = 1;
const CT_DELETE: u16 = 2;
const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ATTR_ID: u16 = 12;
const ATTR_ZONE: u16 = 18;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const PROTO_NUM: u16 = 1;
const PROTO_SRC_PORT: u16 = 2;
const PROTO_DST_PORT: u16 = 3;
/// The upper bits of an attribute's type say how it is nested.
const ATTR_TYPE_MASK: u16 = 0x3fff;
/// What one read may bring; the kernel fills at most this much.
const BUFFER_BYTES: usize = 64 * 1024;
/// `-ENOENT`, the answer when an entry has just expired by itself.
const GONE: i32 = -2;

/// One end's view of a tracked connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tuple {
    source: Option<(IpAddr, u16)>,
    target: Option<(IpAddr, u16)>,
    protocol: u8,
}

/// A tracked connection, with the attributes that identify it to the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    original: Tuple,
    reply: Tuple,
    identity: Vec<u8>,
}

/// Who may answer behind each front door.
pub type Doors = BTreeMap<Door, BTreeSet<Target>>;

/// Forgets UDP connections through `doors` that lead elsewhere than where they may. Returns how many.
///
/// Blocks for as long as the kernel takes to list its connections.
pub fn clear(family: Family, doors: &Doors) -> io::Result<usize> {
    if doors.is_empty() {
        return Ok(0);
    }
    let socket = open()?;
    let mut cleared = 0;
    for entry in list(&socket, family)? {
        if is_stale(&entry, doors) && delete(&socket, family, &entry)? {
            cleared += 1;
        }
    }
    Ok(cleared)
}

fn is_stale(entry: &Entry, doors: &Doors) -> bool {
    let (Some(target), Some(source)) = (entry.original.target, entry.reply.source) else { return false };
    if entry.original.protocol != IPPROTO_UDP {
        return false;
    }
    let behind = doors.get(&Door::Address(target.0, target.1)).or_else(|| doors.get(&Door::Port(target.1)));
    behind.is_some_and(|allowed| !allowed.contains(&source))
}

fn open() -> io::Result<OwnedFd> {
    let socket = socket(AddressFamily::NETLINK, SocketType::RAW, Some(netlink::NETFILTER))?;
    // The kernel answers at once; this bounds a surprise.
    set_socket_timeout(&socket, Timeout::Recv, Some(Duration::from_secs(5)))?;
    Ok(socket)
}

fn message(family: Family, kind: u16, flags: u16, attributes: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(20 + attributes.len());
    let length = u32::try_from(20 + attributes.len()).expect("a few attributes fit");
    bytes.extend(length.to_ne_bytes());
    bytes.extend((CTNETLINK | kind).to_ne_bytes());
    bytes.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    // Sequence and port: the socket has one request at a time.
    bytes.extend([0; 8]);
    bytes.extend([if family == Family::V4 { AF_INET } else { AF_INET6 }, 0, 0, 0]);
    bytes.extend(attributes);
    bytes
}

fn list(socket: &OwnedFd, family: Family) -> io::Result<Vec<Entry>> {
    send(socket, &message(family, CT_GET, NLM_F_DUMP, &[]), SendFlags::empty())?;
    let mut entries = Vec::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let (_, length) = recv(socket, buffer.as_mut_slice(), RecvFlags::empty())?;
        for (kind, body) in messages(&buffer[..length.min(BUFFER_BYTES)]) {
            match kind {
                NLMSG_DONE => return Ok(entries),
                NLMSG_ERROR => return Err(io::Error::from_raw_os_error(-error_code(body))),
                _ => entries.extend(parse_entry(body.get(4..).unwrap_or_default())),
            }
        }
    }
}

/// True when the entry was there.
fn delete(socket: &OwnedFd, family: Family, entry: &Entry) -> io::Result<bool> {
    send(socket, &message(family, CT_DELETE, NLM_F_ACK, &entry.identity), SendFlags::empty())?;
    let mut buffer = vec![0; BUFFER_BYTES];
    let (_, length) = recv(socket, buffer.as_mut_slice(), RecvFlags::empty())?;
    let answer = messages(&buffer[..length.min(BUFFER_BYTES)]).next();
    match answer.map(|(kind, body)| if kind == NLMSG_ERROR { error_code(body) } else { 0 }) {
        Some(0) => Ok(true),
        Some(GONE) | None => Ok(false),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
    }
}

fn error_code(body: &[u8]) -> i32 {
    body.first_chunk::<4>().map_or(0, |bytes| i32::from_ne_bytes(*bytes))
}

/// Splits what one read brought into message types and bodies.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*bytes.first_chunk::<4>()?) as usize;
        let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk::<2>()?);
        let body = bytes.get(16..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// Splits attributes into types, bodies and whole (padded) bytes.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8], &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk::<2>()?));
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk::<2>()?) & ATTR_TYPE_MASK;
        let body = bytes.get(4..length)?;
        let whole = bytes.get(..length.next_multiple_of(4)).unwrap_or(bytes);
        bytes = bytes.get(whole.len()..).unwrap_or_default();
        Some((kind, body, whole))
    })
}

fn parse_entry(bytes: &[u8]) -> Option<Entry> {
    let mut entry = Entry { original: Tuple::default(), reply: Tuple::default(), identity: Vec::new() };
    for (kind, body, whole) in attributes(bytes) {
        match kind {
            TUPLE_ORIG => entry.original = parse_tuple(body),
            TUPLE_REPLY => entry.reply = parse_tuple(body),
            ATTR_ID | ATTR_ZONE => {}
            _ => continue,
        }
        if kind != TUPLE_REPLY {
            entry.identity.extend(whole);
        }
    }
    (entry.original.protocol == IPPROTO_UDP).then_some(entry)
}

fn parse_tuple(bytes: &[u8]) -> Tuple {
    let (mut addresses, mut ports, mut protocol) = ([None; 2], [None; 2], 0);
    let port = |body: &[u8]| body.first_chunk::<2>().map(|bytes| u16::from_be_bytes(*bytes));
    for (kind, body, _) in attributes(bytes) {
        for (inner, value, _) in attributes(body) {
            match (kind, inner) {
                (TUPLE_IP, 1 | 3) => addresses[0] = parse_address(value),
                (TUPLE_IP, 2 | 4) => addresses[1] = parse_address(value),
                (TUPLE_PROTO, PROTO_NUM) => protocol = value.first().copied().unwrap_or(0),
                (TUPLE_PROTO, PROTO_SRC_PORT) => ports[0] = port(value),
                (TUPLE_PROTO, PROTO_DST_PORT) => ports[1] = port(value),
                _ => {}
            }
        }
    }
    Tuple { source: addresses[0].zip(ports[0]), target: addresses[1].zip(ports[1]), protocol }
}

fn parse_address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => bytes.first_chunk::<4>().map(|bytes| IpAddr::from(*bytes)),
        16 => bytes.first_chunk::<16>().map(|bytes| IpAddr::from(*bytes)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = u16::try_from(body.len() + 4).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn tuple(kind: u16, from: ([u8; 4], u16), to: ([u8; 4], u16), protocol: u8) -> Vec<u8> {
        let ip = [attribute(1, &from.0), attribute(2, &to.0)].concat();
        let ports = [
            attribute(1, &[protocol]),
            attribute(2, &from.1.to_be_bytes()),
            attribute(3, &to.1.to_be_bytes()),
        ];
        let nested = 0x8000;
        attribute(
            nested | kind,
            &[attribute(nested | 1, &ip), attribute(nested | 2, &ports.concat())].concat(),
        )
    }

    #[test]
    fn a_connection_to_an_endpoint_that_left_is_stale() {
        let (client, vip, old, new) = ([10, 0, 0, 9], [10, 96, 0, 5], [10, 0, 0, 1], [10, 0, 0, 2]);
        let original = tuple(TUPLE_ORIG, (client, 999), (vip, 53), IPPROTO_UDP);
        let bytes = [original.clone(), tuple(TUPLE_REPLY, (old, 5353), (client, 999), IPPROTO_UDP)].concat();
        let entry = parse_entry(&bytes).unwrap();
        assert_eq!(entry.identity, original);
        let allow = |door, target: [u8; 4]| Doors::from([(door, BTreeSet::from([(target.into(), 5353)]))]);
        let door = Door::Address(vip.into(), 53);
        assert!(is_stale(&entry, &allow(door, new)));
        assert!(!is_stale(&entry, &allow(door, old)));
        assert!(is_stale(&entry, &allow(Door::Port(53), new)));
        assert!(!is_stale(&entry, &allow(Door::Port(54), new)));
        assert_eq!(parse_entry(&tuple(TUPLE_ORIG, (client, 999), (vip, 53), 6)), None);
    }

    #[test]
    fn broken_messages_end_the_walk() {
        assert_eq!(messages(&[1, 2, 3]).count(), 0);
        assert_eq!(messages(&[0; 16]).count(), 0);
        assert_eq!(attributes(&[0, 0, 0, 0]).count(), 0);
        assert_eq!(attributes(&[200, 0, 1, 0, 5]).count(), 0);
    }
}
