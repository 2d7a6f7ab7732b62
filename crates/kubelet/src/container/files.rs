//! Files that the agent writes for a pod: its hosts file, and the name resolution that the runtime writes.
//!
//! Must not know where they are mounted.

use api::k8s::api::core::v1::{HostAlias, Pod};
use runtime::cri::messages as m;

use crate::pods::pod::PodExt;

/// The resolver reads no more name servers than this.
const MAX_NAMESERVERS: usize = 3;
/// The most search domains that upstream passes on.
const MAX_SEARCHES: usize = 32;

/// A pod's `/etc/hosts`.
pub fn hosts(ips: &[String], hostname: &str, domain: &str, aliases: &[HostAlias]) -> String {
    let mut out = String::from(
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
    );
    for ip in ips {
        if domain.is_empty() {
            out.push_str(&format!("{ip}\t{hostname}\n"));
        } else {
            out.push_str(&format!("{ip}\t{hostname}.{domain}\t{hostname}\n"));
        }
    }
    out + &alias_lines(aliases)
}

/// `/etc/hosts` of a pod in the node's network: the node's own, and aliases.
pub fn node_hosts(node_file: &str, aliases: &[HostAlias]) -> String {
    format!("# Kubernetes-managed hosts file (host network).\n{node_file}{}", alias_lines(aliases))
}

fn alias_lines(aliases: &[HostAlias]) -> String {
    if aliases.is_empty() {
        return String::new();
    }
    let mut out = String::from("\n# Entries added by HostAliases.\n");
    for alias in aliases {
        let names = alias.hostnames.clone().unwrap_or_default().join("\t");
        out.push_str(&format!("{}\t{names}\n", alias.ip));
    }
    out
}

/// What a resolv.conf says.
pub fn parse_resolv_conf(text: &str) -> m::DnsConfig {
    let mut config = m::DnsConfig::default();
    for line in text.lines() {
        let line = line.split(['#', ';']).next().unwrap_or("");
        let mut words = line.split_whitespace().map(str::to_owned);
        match words.next().as_deref() {
            Some("nameserver") => config.servers.extend(words.next()),
            Some("search") => config.searches = words.filter(|word| word != ".").collect(),
            Some("domain") if config.searches.is_empty() => config.searches = words.take(1).collect(),
            Some("options") => config.options = words.collect(),
            _ => {}
        }
    }
    config
}

/// A pod's name resolution. `node` is the node's own resolv.conf; `servers` the cluster's DNS.
pub fn dns(pod: &Pod, node: &m::DnsConfig, servers: &[String], cluster_domain: &str) -> m::DnsConfig {
    let spec = pod.spec();
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let cluster = match policy {
        "ClusterFirst" => !pod.host_network(),
        "ClusterFirstWithHostNet" => true,
        _ => false,
    };
    let mut config = match (policy, cluster && !servers.is_empty()) {
        ("None", _) => m::DnsConfig::default(),
        (_, false) => node.clone(),
        (_, true) => {
            let mut searches = Vec::new();
            if !cluster_domain.is_empty() {
                searches.push(format!("{}.svc.{cluster_domain}", pod.namespace()));
                searches.push(format!("svc.{cluster_domain}"));
                searches.push(cluster_domain.to_owned());
            }
            searches.extend(node.searches.iter().cloned());
            m::DnsConfig { servers: servers.to_vec(), searches, options: vec!["ndots:5".into()] }
        }
    };
    if let Some(own) = &spec.dns_config {
        config.servers.extend(own.nameservers.iter().flatten().cloned());
        config.searches.extend(own.searches.iter().flatten().cloned());
        for option in own.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            config.options.retain(|known| known.split(':').next() != Some(&name));
            config
                .options
                .push(option.value.as_ref().map_or(name.clone(), |value| format!("{name}:{value}")));
        }
    }
    unique(&mut config.servers);
    unique(&mut config.searches);
    config.servers.truncate(MAX_NAMESERVERS);
    config.searches.truncate(MAX_SEARCHES);
    config
}

fn unique(list: &mut Vec<String>) {
    let mut seen = std::collections::BTreeSet::new();
    list.retain(|item| seen.insert(item.clone()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn hosts_files() {
        let alias = HostAlias { ip: "192.0.2.7".into(), hostnames: Some(vec!["a".into(), "b".into()]) };
        let text = hosts(&["10.0.0.1".into()], "web", "sub.n.svc.cluster.local", &[alias]);
        assert!(text.starts_with("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n"));
        assert!(text.ends_with(
            "10.0.0.1\tweb.sub.n.svc.cluster.local\tweb\n\n# Entries added by HostAliases.\n192.0.2.7\ta\tb\n"
        ));
    }

    #[test]
    fn name_resolution() {
        let node = parse_resolv_conf("# x\nnameserver 192.0.2.53\nsearch corp.example .\noptions rotate\n");
        let pod = |spec: serde_json::Value| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"}, "spec": spec}))
                .expect("a pod")
        };
        let cluster = ["10.96.0.10".to_owned()];
        for (spec, servers, searches, options) in [
            (
                json!({"containers": []}),
                "10.96.0.10",
                "n.svc.cluster.local svc.cluster.local cluster.local corp.example",
                "ndots:5",
            ),
            (json!({"containers": [], "dnsPolicy": "Default"}), "192.0.2.53", "corp.example", "rotate"),
            (json!({"containers": [], "hostNetwork": true}), "192.0.2.53", "corp.example", "rotate"),
            (
                json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": ["s"], "options": [{"name": "ndots", "value": "2"}]}}),
                "1.1.1.1",
                "s",
                "ndots:2",
            ),
        ] {
            let config = dns(&pod(spec), &node, &cluster, "cluster.local");
            assert_eq!(
                (config.servers.join(" "), config.searches.join(" "), config.options.join(" ")),
                (servers.to_owned(), searches.to_owned(), options.to_owned())
            );
        }
    }
}
