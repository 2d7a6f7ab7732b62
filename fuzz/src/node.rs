//! What nodes answer by themselves: DNS.

use std::net::IpAddr;
use std::sync::OnceLock;

use base::{Clock, Rng};
use network::dns::{DnsConfig, Port, Server, ServiceNames};
use network::nft::Protocol;

use crate::Target;

/// See [`Target`].
pub const TARGETS: &[Target] = &[Target { name: "dns", run: run_dns, seeds: dns_seeds, words: dns_words }];

/// The largest answer by UDP, as the server has it.
const UDP_BYTES: usize = 1232;

fn server() -> Server {
    let address: IpAddr = [10, 96, 0, 10].into();
    let nets = vec!["10.96.0.0/12".parse().expect("a network")];
    let config = DnsConfig { cluster_nets: nets, ..DnsConfig::new(address) };
    let server = Server::new(&config, Clock::system(), Rng::seeded(1)).expect("a plain configuration");
    server.update(|zone| {
        for at in 0..200u8 {
            let port = Port { name: "http".to_owned(), protocol: Protocol::Tcp, number: 80 };
            let names = ServiceNames {
                addresses: vec![[10, 96, 1, at].into()],
                ports: vec![port],
                ..ServiceNames::default()
            };
            zone.set_service("default", &format!("web-{at}"), Some(names));
        }
        let alias = Some("web-1.default.svc.cluster.local".to_owned());
        zone.set_service("default", "alias", Some(ServiceNames { alias, ..ServiceNames::default() }));
    });
    server.complete();
    server
}

fn run_dns(data: &[u8]) {
    static SERVER: OnceLock<Server> = OnceLock::new();
    let Some(answer) = SERVER.get_or_init(server).answer_at_once(data) else { return };
    assert!(answer.len() <= UDP_BYTES, "{} bytes", answer.len());
    assert_eq!(answer[..2], data[..2], "the answer has the question's number");
    assert!(answer[2] & 0x80 != 0, "it is an answer: servers do not answer each other's");
}

fn dns_seeds() -> Vec<Vec<u8>> {
    let question = |name: &str, kind: u8, extra: &[u8]| {
        let mut out = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(!extra.is_empty())];
        for label in name.split('.') {
            out.push(u8::try_from(label.len()).expect("a short label"));
            out.extend_from_slice(label.as_bytes());
        }
        out.extend_from_slice(&[0, 0, kind, 0, 1]);
        out.extend_from_slice(extra);
        out
    };
    let edns = [0, 0, 41, 4, 208, 0, 0, 0x80, 0, 0, 0];
    vec![
        question("web-1.default.svc.cluster.local", 1, &[]),
        question("_http._tcp.web-1.default.svc.cluster.local", 33, &edns),
        question("alias.default.svc.cluster.local", 5, &[]),
        question("5.1.96.10.in-addr.arpa", 12, &edns),
        question("10-1-2-3.default.pod.cluster.local", 28, &[]),
        question("nobody.svc.cluster.local", 255, &[]),
    ]
}

fn dns_words() -> Vec<String> {
    [
        "\u{7}default",
        "\u{3}svc",
        "\u{7}cluster\u{5}local\0",
        "\u{5}_http",
        "\u{4}_tcp",
        "\u{7}in-addr\u{4}arpa\0",
        "\u{3}ip6",
        "\u{3}pod",
    ]
    .map(String::from)
    .to_vec()
}
