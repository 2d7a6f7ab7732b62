//! Lets pods through a host firewall that drops what it does not know: Docker's and ufw's `FORWARD` policy does.
//!
//! Must not know why packets travel. Touches nothing on a machine without iptables rules, and never a policy.

use std::path::Path;

use ipnet::IpNet;

use crate::exec;

/// Marks our rules, for whoever reads them and for their removal.
const COMMENT: &str = "navarch pods";
/// Chains whose policy may stand in the way: between pods and others, and from pods to this node.
const CHAINS: [(&str, &[&str]); 2] = [("FORWARD", &["-s", "-d"]), ("INPUT", &["-s"])];

/// Makes sure that packets from and to these networks pass, where a firewall would drop them.
pub(crate) async fn open(nets: &[IpNet]) {
    if !in_use().await {
        return;
    }
    for (chain, directions) in CHAINS {
        let Ok(listed) = exec::run("iptables", &["-w", "-S", chain], "").await else { continue };
        for line in missing(&listed, chain, directions, nets) {
            let words: Vec<&str> = line.iter().map(String::as_str).collect();
            match exec::run("iptables", &words, "").await {
                Ok(_) => tracing::info!(chain, ?nets, "the host's firewall lets pods through"),
                Err(error) => tracing::warn!(%error, chain, "the host's firewall drops packets of pods"),
            }
        }
    }
}

/// Takes the rules away again.
pub(crate) async fn close() {
    if !in_use().await {
        return;
    }
    for (chain, _) in CHAINS {
        let Ok(listed) = exec::run("iptables", &["-w", "-S", chain], "").await else { continue };
        for net in ours(&listed) {
            let (direction, net) = net;
            let rule = rule("-D", chain, &direction, &net);
            let words: Vec<&str> = rule.iter().map(String::as_str).collect();
            if let Err(error) = exec::run("iptables", &words, "").await {
                tracing::warn!(%error, chain, "a firewall rule could not be removed");
            }
        }
    }
}

/// Somebody uses iptables here. Asking iptables itself might make tables.
async fn in_use() -> bool {
    let legacy =
        std::fs::read_to_string("/proc/net/ip_tables_names").is_ok_and(|text| text.contains("filter"));
    let installed = || ["/usr/sbin/iptables", "/sbin/iptables"].iter().any(|path| Path::new(path).exists());
    installed()
        && (legacy || exec::run("nft", &["list", "chain", "ip", "filter", "FORWARD"], "").await.is_ok())
}

fn rule(verb: &str, chain: &str, direction: &str, net: &str) -> Vec<String> {
    ["-w", verb, chain, direction, net, "-m", "comment", "--comment", COMMENT, "-j", "ACCEPT"]
        .map(str::to_owned)
        .to_vec()
}

/// Direction and network of each rule of ours in a listing.
fn ours(listed: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for line in listed.lines().filter(|line| line.contains(COMMENT)) {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let Some([direction, net]) = words.get(2..4) {
            found.push(((*direction).to_owned(), (*net).to_owned()));
        }
    }
    found
}

/// The arguments of each call that has to be made.
fn missing(listed: &str, chain: &str, directions: &[&str], nets: &[IpNet]) -> Vec<Vec<String>> {
    let drops = listed.lines().any(|line| line == format!("-P {chain} DROP"));
    if !drops {
        return Vec::new();
    }
    let known = ours(listed);
    let mut calls = Vec::new();
    for net in nets.iter().filter(|net| net.addr().is_ipv4()) {
        for direction in directions {
            let net = net.trunc().to_string();
            if !known.contains(&((*direction).to_owned(), net.clone())) {
                calls.push(rule("-I", chain, direction, &net));
            }
        }
    }
    calls
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_policy_that_drops_is_met() {
        let nets = ["10.244.0.0/24".parse().unwrap()];
        let calls = |listed: &str| missing(listed, "FORWARD", &["-s", "-d"], &nets).len();
        assert_eq!(calls("-P FORWARD ACCEPT\n"), 0);
        assert_eq!(calls("-P FORWARD DROP\n"), 2);
        let there =
            "-P FORWARD DROP\n-A FORWARD -s 10.244.0.0/24 -m comment --comment \"navarch pods\" -j ACCEPT\n";
        assert_eq!(calls(there), 1);
        assert_eq!(ours(there), [("-s".to_owned(), "10.244.0.0/24".to_owned())]);
        let line = missing("-P INPUT DROP\n", "INPUT", &["-s"], &nets).concat().join(" ");
        assert_eq!(line, "-w -I INPUT -s 10.244.0.0/24 -m comment --comment navarch pods -j ACCEPT");
    }
}
