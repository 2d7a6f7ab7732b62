//! Machines within this machine: network namespaces on two networks with a router between them, and the nodes in
//! them. Everything begins with `nvt-`.

use std::path::PathBuf;
use std::process::Command;

use super::{Cluster, binary, spawn};

/// The networks of the machines: the first 16 bits.
const NET: &str = "10.249";
/// The namespace with the router.
const ROUTER: &str = "nvt-lan";

/// Where a Navarch process runs.
#[derive(Clone, Debug)]
pub struct Place {
    /// The network namespace; the machine's own when absent.
    namespace: Option<String>,
    /// The name of the node.
    pub node: &'static str,
    /// Its address, as seen from here.
    pub address: String,
    /// More flags.
    pub flags: Vec<String>,
}

impl Place {
    /// This machine, beside a cluster that may run on it.
    pub fn machine() -> Place {
        let flags = "--secure-port 16499 --kubelet-port 16498 --cluster-cidr 10.251.0.0/16 \
                     --service-cluster-ip-range 10.252.0.0/16";
        Place { namespace: None, node: "test-node", address: "127.0.0.1".to_owned(), flags: words(flags) }
    }

    /// A command of our binary there.
    pub fn command(&self) -> Command {
        let Some(namespace) = &self.namespace else { return Command::new(binary()) };
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{namespace}")).arg(binary());
        command
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn ip(line: &str) {
    let output = Command::new("ip").args(words(line)).output().expect("iproute2 is installed (./test does)");
    assert!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Two networks, a router between them, and the way there from here.
pub struct Links {
    namespaces: Vec<String>,
}

impl Links {
    /// Makes the router and the networks.
    pub fn make() -> Links {
        ip(&format!("netns add {ROUTER}"));
        let links = Links { namespaces: vec![ROUTER.to_owned()] };
        ip(&format!("link add nvt-up type veth peer name out netns {ROUTER}"));
        ip(&format!("addr add {NET}.0.1/24 dev nvt-up"));
        ip("link set nvt-up up");
        ip(&format!("-n {ROUTER} addr add {NET}.0.2/24 dev out"));
        ip(&format!("-n {ROUTER} link set out up"));
        for net in [1, 2] {
            ip(&format!("-n {ROUTER} link add br{net} type bridge"));
            ip(&format!("-n {ROUTER} addr add {NET}.{net}.1/24 dev br{net}"));
            ip(&format!("-n {ROUTER} link set br{net} up"));
            ip(&format!("route add {NET}.{net}.0/24 via {NET}.0.2"));
        }
        let forward = ["netns", "exec", ROUTER, "sysctl", "-qw", "net.ipv4.ip_forward=1"];
        assert!(Command::new("ip").args(forward).status().expect("it runs").success());
        links
    }

    /// A machine on network 1 or 2.
    pub fn machine(&mut self, node: &'static str, net: u8, host: u8) -> Place {
        let namespace = format!("nvt-{node}");
        ip(&format!("netns add {namespace}"));
        self.namespaces.push(namespace.clone());
        ip(&format!("-n {ROUTER} link add {node} type veth peer name eth0 netns {namespace}"));
        ip(&format!("-n {ROUTER} link set {node} master br{net} up"));
        ip(&format!("-n {namespace} link set lo up"));
        ip(&format!("-n {namespace} addr add {NET}.{net}.{host}/24 dev eth0"));
        ip(&format!("-n {namespace} link set eth0 up"));
        ip(&format!("-n {namespace} route add default via {NET}.{net}.1"));
        let address = format!("{NET}.{net}.{host}");
        Place { namespace: Some(namespace), node, address, flags: Vec::new() }
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        // With it go its peer and the routes; a namespace alone takes the kernel a moment.
        let _ = Command::new("ip").args(["link", "del", "nvt-up"]).status();
        for namespace in &self.namespaces {
            let _ = Command::new("ip").args(["netns", "del", namespace]).status();
        }
    }
}

/// A node that joined a cluster.
pub struct Joined {
    dir: tempfile::TempDir,
    place: Place,
    process: std::process::Child,
}

impl Joined {
    /// Joins with a token and waits until the node is ready.
    pub async fn join(cluster: &Cluster, place: Place, server: &str, token: &str) -> Joined {
        let dir = tempfile::tempdir().expect("a directory");
        let process = spawn(dir.path(), &place, "agent", &["--server", server, "--token", token]);
        let joined = Joined { dir, place, process };
        cluster.node_ready(joined.place.node).await;
        joined
    }

    /// Imports an archive of images.
    pub fn import(&self, archive: &str) {
        let mut command = self.place.command();
        command.args(["image", "import", "--data-dir"]).arg(self.data()).arg(archive);
        let output = command.output().expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Ends the agent as a crash would; its containers keep running.
    pub fn kill(&mut self) {
        self.process.kill().expect("it runs");
        self.process.wait().expect("it ends");
    }

    /// Starts the agent again, with what it kept.
    pub fn start_again(&mut self) {
        self.process = spawn(self.dir.path(), &self.place, "agent", &[]);
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        let removed = self.place.command().args(["down", "--data-dir"]).arg(self.data()).output();
        if let Ok(removed) = removed
            && !removed.status.success()
        {
            eprintln!("{}", String::from_utf8_lossy(&removed.stderr));
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
