//! From a question to an answer, or to what has to be asked elsewhere first. Sans-IO.
//!
//! Must not know sockets, time or the cluster's objects.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use ipnet::IpNet;

use super::zone::{Found, Target, Zone};

/// How long clients may keep an answer about the cluster, in seconds: as short as CoreDNS has it.
const TTL_S: u32 = 5;
/// How long they may keep that there is nothing; the SOA record's last number.
const NEGATIVE_TTL_S: u32 = 5;
/// The largest UDP answer that we let a client ask for: passes every common link in one piece.
const UDP_LIMIT: u16 = 1232;
/// The largest UDP answer for a client that does not say.
const PLAIN_UDP_LIMIT: u16 = 512;
/// Aliases of aliases: more is a circle.
const ALIAS_LIMIT: usize = 8;

/// What to do with a message.
#[derive(Debug)]
pub enum Step {
    /// Send this.
    Reply(Message),
    /// Ask elsewhere, then hand the outcome to [`relay`].
    Forward(Query),
    /// Ask elsewhere for what an alias in the cluster points at, and put it behind what is already there.
    Chase(Message, Query),
    /// Say nothing: it is not a question.
    Ignore,
}

/// What the answers follow besides the zone.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The cluster's domain.
    pub domain: Name,
    /// Networks whose reverse names are ours: an unknown address there does not exist.
    pub nets: Vec<IpNet>,
    /// A number for the SOA record.
    pub serial: u32,
}

/// An answer to `request` without content yet.
fn response(request: &Message) -> Message {
    let mut message = Message::response(request.metadata.id, request.metadata.op_code);
    message.metadata.recursion_desired = request.metadata.recursion_desired;
    message.metadata.checking_disabled = request.metadata.checking_disabled;
    message.metadata.recursion_available = true;
    message.queries = request.queries.clone();
    if request.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_LIMIT);
        message.edns = Some(edns);
    }
    message
}

/// An answer that only says what went wrong.
pub fn failure(request: &Message, code: ResponseCode) -> Message {
    let mut message = response(request);
    message.metadata.response_code = code;
    message
}

/// Answers a request from the zone, or says what else is needed.
pub fn answer(request: &Message, zone: &Zone, rules: &Rules) -> Step {
    if request.metadata.message_type != MessageType::Query {
        return Step::Ignore;
    }
    if request.metadata.op_code != OpCode::Query {
        return Step::Reply(failure(request, ResponseCode::NotImp));
    }
    let [query] = request.queries.as_slice() else {
        return Step::Reply(failure(request, ResponseCode::FormErr));
    };
    if query.query_class != DNSClass::IN {
        return Step::Reply(failure(request, ResponseCode::Refused));
    }
    if matches!(query.query_type, RecordType::AXFR | RecordType::IXFR) {
        return Step::Reply(failure(request, ResponseCode::Refused));
    }
    if let Some(labels) = below(&query.name, &rules.domain) {
        return Answering { zone, rules, query, message: response(request) }.forward(labels);
    }
    match reverse_address(&query.name) {
        Some(address) => Answering { zone, rules, query, message: response(request) }.reverse(address),
        None => Step::Forward(query.clone()),
    }
}

/// The labels of `name` below `domain`, in lower case; `None` when it is elsewhere.
fn below(name: &Name, domain: &Name) -> Option<Vec<String>> {
    if !domain.zone_of(name) {
        return None;
    }
    let count = usize::from(name.num_labels()).checked_sub(usize::from(domain.num_labels()))?;
    // A label that is not text is of no name in the cluster; the replacement character makes sure of it.
    Some(name.iter().take(count).map(|label| String::from_utf8_lossy(label).to_lowercase()).collect())
}

fn reverse_address(name: &Name) -> Option<IpAddr> {
    let net = name.parse_arpa_name().ok()?;
    (net.prefix_len() == net.max_prefix_len()).then(|| net.addr())
}

struct Answering<'a> {
    zone: &'a Zone,
    rules: &'a Rules,
    query: &'a Query,
    message: Message,
}

impl Answering<'_> {
    fn name(&self, labels: &[String]) -> Option<Name> {
        let name = Name::from_labels(labels.iter().map(|label| label.as_bytes())).ok()?;
        name.append_name(&self.rules.domain).ok()
    }

    fn add(&mut self, name: &Name, data: RData) {
        self.message.answers.push(Record::from_rdata(name.clone(), TTL_S, data));
    }

    fn forward(mut self, labels: Vec<String>) -> Step {
        self.message.metadata.authoritative = true;
        let mut labels = labels;
        // What was asked, in the asker's spelling; then the names that aliases lead to.
        let mut name = self.query.name.clone();
        for _ in 0..ALIAS_LIMIT {
            let words: Vec<&str> = labels.iter().map(String::as_str).collect();
            match self.zone.find(&words) {
                Found::Alias(alias) => {
                    let Some(target) = absolute(&alias) else { return self.fail(ResponseCode::ServFail) };
                    self.add(&name, RData::CNAME(CNAME(target.clone())));
                    if self.query.query_type == RecordType::CNAME {
                        return Step::Reply(self.message);
                    }
                    name = target;
                    match below(&name, &self.rules.domain) {
                        Some(next) => labels = next,
                        None => return Step::Chase(self.message, Query::query(name, self.query.query_type)),
                    }
                }
                Found::Nothing => {
                    self.message.metadata.response_code = ResponseCode::NXDomain;
                    return self.negative();
                }
                found => return self.found(&name, found),
            }
        }
        self.fail(ResponseCode::ServFail)
    }

    fn fail(mut self, code: ResponseCode) -> Step {
        self.message.answers.clear();
        self.message.metadata.response_code = code;
        Step::Reply(self.message)
    }

    fn found(mut self, name: &Name, found: Found) -> Step {
        let kind = self.query.query_type;
        let before = self.message.answers.len();
        match found {
            Found::Addresses { addresses, targets } => {
                if kind == RecordType::SRV {
                    self.services(name, &targets);
                } else {
                    self.addresses(name, &addresses);
                }
            }
            Found::Targets(targets) if matches!(kind, RecordType::SRV | RecordType::ANY) => {
                self.services(name, &targets);
            }
            Found::Text(text) if matches!(kind, RecordType::TXT | RecordType::ANY) => {
                self.add(name, RData::TXT(TXT::new(vec![text.to_owned()])));
            }
            Found::Apex => self.apex(name),
            _ => {}
        }
        if self.message.answers.len() == before { self.negative() } else { Step::Reply(self.message) }
    }

    fn addresses(&mut self, name: &Name, addresses: &[IpAddr]) {
        let kind = self.query.query_type;
        let any = kind == RecordType::ANY;
        let mut records: Vec<Record> = Vec::new();
        for address in addresses {
            if kind == (if address.is_ipv4() { RecordType::A } else { RecordType::AAAA }) || any {
                records.push(address_record(name, *address));
            }
        }
        // Clients that take the first one spread over all: the question's number is as good as a die.
        if !records.is_empty() {
            let turn = usize::from(self.message.metadata.id) % records.len();
            records.rotate_left(turn);
        }
        self.message.answers.extend(records);
    }

    fn services(&mut self, name: &Name, targets: &[Target]) {
        let weight = u16::try_from(100 / targets.len().max(1)).unwrap_or(1).max(1);
        for target in targets {
            let Some(host) = self.name(&target.labels) else { continue };
            self.add(name, RData::SRV(SRV::new(0, weight, target.port, host.clone())));
            for address in &target.addresses {
                let record = address_record(&host, *address);
                if !self.message.additionals.contains(&record) {
                    self.message.additionals.push(record);
                }
            }
        }
    }

    fn apex(&mut self, name: &Name) {
        let server = self.name(&["ns".to_owned(), "dns".to_owned()]);
        match (self.query.query_type, server) {
            (RecordType::SOA, _) => {
                let record = self.soa();
                self.message.answers.push(record);
            }
            (RecordType::NS, Some(server)) => self.add(name, RData::NS(NS(server))),
            _ => {}
        }
    }

    fn soa(&self) -> Record {
        let of = |label: &str| self.name(&[label.to_owned()]).unwrap_or_default();
        let server = self.name(&["ns".to_owned(), "dns".to_owned()]).unwrap_or_default();
        let soa = SOA::new(server, of("hostmaster"), self.rules.serial, 7200, 1800, 86_400, NEGATIVE_TTL_S);
        Record::from_rdata(self.rules.domain.clone(), NEGATIVE_TTL_S, RData::SOA(soa))
    }

    fn negative(mut self) -> Step {
        let record = self.soa();
        self.message.authorities.push(record);
        Step::Reply(self.message)
    }

    fn reverse(mut self, address: IpAddr) -> Step {
        let names = self.zone.names_of(address);
        let ours = self.rules.nets.iter().any(|net| net.contains(&address));
        if names.is_empty() && !ours {
            return Step::Forward(self.query.clone());
        }
        self.message.metadata.authoritative = true;
        let owner = self.query.name.clone();
        if names.is_empty() {
            self.message.metadata.response_code = ResponseCode::NXDomain;
        } else if matches!(self.query.query_type, RecordType::PTR | RecordType::ANY) {
            for labels in names {
                if let Some(name) = self.name(&labels) {
                    self.add(&owner, RData::PTR(PTR(name)));
                }
            }
        }
        if self.message.answers.is_empty() { self.negative() } else { Step::Reply(self.message) }
    }
}

/// A name from an object, which needs no dot at its end.
fn absolute(text: &str) -> Option<Name> {
    Name::from_labels(text.split('.').map(str::as_bytes)).ok()
}

fn address_record(name: &Name, address: IpAddr) -> Record {
    let data = match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    };
    Record::from_rdata(name.clone(), TTL_S, data)
}

/// An answer to `request` with what another server said; `None` when it said nothing.
pub fn relay(request: &Message, upstream: Option<&Message>) -> Message {
    let Some(upstream) = upstream else { return failure(request, ResponseCode::ServFail) };
    let mut message = failure(request, upstream.metadata.response_code);
    message.metadata.authentic_data = upstream.metadata.authentic_data;
    message.answers.clone_from(&upstream.answers);
    message.authorities.clone_from(&upstream.authorities);
    message.additionals.clone_from(&upstream.additionals);
    if let (Some(edns), Some(theirs)) = (&mut message.edns, &upstream.edns) {
        edns.set_dnssec_ok(theirs.flags().dnssec_ok);
    }
    message
}

/// The answer begun for an alias, ended with what another server said of its target.
pub fn complete(mut begun: Message, upstream: Option<&Message>) -> Message {
    begun.metadata.authoritative = false;
    match upstream {
        Some(upstream) => {
            begun.metadata.response_code = upstream.metadata.response_code;
            begun.answers.extend(upstream.answers.iter().cloned());
            begun.authorities.extend(upstream.authorities.iter().cloned());
        }
        // The alias itself is known and helps who asks for it; its target may be found later.
        None => begun.metadata.response_code = ResponseCode::ServFail,
    }
    begun
}

/// The bytes of a message, for TCP.
pub fn encode_tcp(message: &Message) -> Option<Vec<u8>> {
    message.to_vec().ok().filter(|bytes| bytes.len() <= usize::from(u16::MAX))
}

/// The bytes of a message that the asker can take by UDP; what does not fit is left out, and marked so.
pub fn encode_udp(request: &Message, mut message: Message) -> Option<Vec<u8>> {
    let asked = request.edns.as_ref().map_or(PLAIN_UDP_LIMIT, Edns::max_payload);
    let limit = usize::from(asked.clamp(PLAIN_UDP_LIMIT, UDP_LIMIT));
    let bytes = message.to_vec().ok()?;
    if bytes.len() <= limit {
        return Some(bytes);
    }
    // Nobody needs the extra records, so leaving them out is not a truncation.
    message.additionals.clear();
    let mut bytes = message.to_vec().ok()?;
    while bytes.len() > limit {
        message.metadata.truncation = true;
        if message.answers.pop().is_none() {
            message.authorities.clear();
            let last = message.to_vec().ok()?;
            return (last.len() <= limit).then_some(last);
        }
        // Halves while far too long, since each try encodes all.
        if bytes.len() > 2 * limit {
            message.answers.truncate(message.answers.len() / 2);
        }
        bytes = message.to_vec().ok()?;
    }
    Some(bytes)
}
