//! A small network of namespaces for tests with the real kernel.
//!
//! ```text
//! outside 192.0.2.2 ── 192.0.2.1 node 10.244.0.1 ── bridge cni0 ── pod1 10.244.0.2, pod2 10.244.0.3, …
//! ```

#![allow(dead_code, reason = "each test binary uses a part")]

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// How long a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// The namespaces of one test; gone with it.
pub struct Lab {
    prefix: String,
    places: Vec<String>,
}

/// What a client saw.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Seen {
    /// `server's name|source address that the server saw`
    Answer(String, IpAddr),
    Refused,
    Silence,
}

/// False, with a message, when the kernel cannot be used here.
pub fn possible() -> bool {
    let has = |tool: &str| Command::new(tool).arg("-V").output().is_ok_and(|output| output.status.success());
    let able = rustix::process::geteuid().is_root() && has("nft") && has("ip");
    if !able {
        eprintln!("skipped: needs root, nft and ip");
    }
    able
}

pub fn sh(command: &str) {
    let output = Command::new("sh").args(["-ec", command]).output().unwrap();
    assert!(output.status.success(), "{command}\n{}", String::from_utf8_lossy(&output.stderr));
}

impl Lab {
    /// Empty namespaces with their loopback up.
    pub fn bare(places: &[&str]) -> Lab {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("nv{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let lab = Lab { prefix, places: places.iter().map(|place| (*place).to_owned()).collect() };
        for place in &lab.places {
            let name = lab.name(place);
            sh(&format!("ip netns add {name}; ip -n {name} link set lo up"));
        }
        lab
    }

    /// The picture above with this many pods.
    pub fn new(pods: usize) -> Lab {
        let names: Vec<String> = (1..=pods).map(|pod| format!("pod{pod}")).collect();
        let places: Vec<&str> =
            ["node", "outside"].into_iter().chain(names.iter().map(String::as_str)).collect();
        let lab = Lab::bare(&places);
        let p = &lab.prefix;
        sh(&format!(
            "ip -n {p}-node link add eth0 type veth peer name eth0 netns {p}-outside
             ip -n {p}-node addr add 192.0.2.1/24 dev eth0; ip -n {p}-node link set eth0 up
             ip -n {p}-outside addr add 192.0.2.2/24 dev eth0; ip -n {p}-outside link set eth0 up
             ip -n {p}-outside route add default via 192.0.2.1
             ip -n {p}-node link add cni0 type bridge; ip -n {p}-node addr add 10.244.0.1/24 dev cni0
             ip -n {p}-node link set cni0 up
             ip -n {p}-node route add 10.96.0.0/12 dev lo
             ip netns exec {p}-node sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.route_localnet=1"
        ));
        for pod in 1..=pods {
            sh(&format!(
                "ip -n {p}-node link add v{pod} type veth peer name eth0 netns {p}-pod{pod}
                 ip -n {p}-node link set v{pod} master cni0 up
                 ip -n {p}-node link set v{pod} type bridge_slave hairpin on
                 ip -n {p}-pod{pod} addr add 10.244.0.{}/24 dev eth0; ip -n {p}-pod{pod} link set eth0 up
                 ip -n {p}-pod{pod} route add default via 10.244.0.1",
                pod + 1
            ));
        }
        lab
    }

    /// The full name of the namespace `place`.
    pub fn name(&self, place: &str) -> String {
        format!("{}-{place}", self.prefix)
    }

    pub fn pod(number: usize) -> IpAddr {
        format!("10.244.0.{}", number + 1).parse().unwrap()
    }

    /// Runs `work` on a thread inside the namespace `place`: `node`, `outside`, `pod1`…
    pub fn inside<T: Send + 'static>(&self, place: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
        let path = format!("/run/netns/{}-{place}", self.prefix);
        let run = move || {
            let space = File::open(&path).unwrap();
            move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        };
        match thread::spawn(run).join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Runs `work` in a runtime inside the namespace.
    pub fn block_on<T, F>(&self, place: &str, work: impl FnOnce() -> F + Send + 'static) -> T
    where
        T: Send + 'static,
        F: Future<Output = T>,
    {
        self.inside(place, move || {
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work())
        })
    }

    pub fn nft(&self, arguments: &str) -> String {
        let arguments: Vec<String> = arguments.split_whitespace().map(Into::into).collect();
        self.inside("node", move || {
            let output = Command::new("nft").args(arguments).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        })
    }

    /// Answers each TCP connection and UDP packet with the server's name and the client's address.
    pub fn serve(&self, place: &str, port: u16) {
        let (tcp, udp) = self.inside(place, move || {
            (TcpListener::bind(("0.0.0.0", port)).unwrap(), UdpSocket::bind(("0.0.0.0", port)).unwrap())
        });
        let name = place.to_owned();
        thread::spawn(move || {
            for stream in tcp.incoming() {
                let Ok(mut stream) = stream else { return };
                let peer = stream.peer_addr().map_or(String::new(), |peer| peer.ip().to_string());
                let _ = stream.write_all(format!("{name}|{peer}").as_bytes());
            }
        });
        let name = place.to_owned();
        thread::spawn(move || {
            let mut buffer = [0; 2000];
            while let Ok((_, peer)) = udp.recv_from(&mut buffer) {
                let _ = udp.send_to(format!("{name}|{}", peer.ip()).as_bytes(), peer);
            }
        });
    }

    pub fn tcp(&self, place: &str, to: &str) -> Seen {
        let to: SocketAddr = to.parse().unwrap();
        self.inside(place, move || match TcpStream::connect_timeout(&to, PATIENCE) {
            Ok(mut stream) => {
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).map_or_else(|error| seen_error(&error), |_| seen(&answer))
            }
            Err(error) => seen_error(&error),
        })
    }

    pub fn udp(&self, place: &str, to: &str) -> Seen {
        let socket = self.udp_client(place, to);
        ask(&socket)
    }

    /// A connected socket, for several questions from one port.
    pub fn udp_client(&self, place: &str, to: &str) -> UdpSocket {
        let to: SocketAddr = to.parse().unwrap();
        self.inside(place, move || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.connect(to).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket
        })
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for place in &self.places {
            let _ = Command::new("ip").args(["netns", "del", &self.name(place)]).output();
        }
    }
}

pub fn ask(socket: &UdpSocket) -> Seen {
    let mut buffer = [0; 2000];
    match socket.send(b"?").and_then(|_| socket.recv(&mut buffer)) {
        Ok(length) => seen(&String::from_utf8_lossy(&buffer[..length])),
        Err(error) => seen_error(&error),
    }
}

fn seen(answer: &str) -> Seen {
    let (name, address) = answer.split_once('|').unwrap_or_else(|| panic!("odd answer {answer:?}"));
    Seen::Answer(name.to_owned(), address.parse().unwrap())
}

fn seen_error(error: &std::io::Error) -> Seen {
    match error.kind() {
        // What `send` says on the node itself, where the packet is dropped before it leaves.
        std::io::ErrorKind::PermissionDenied => Seen::Refused,
        std::io::ErrorKind::ConnectionRefused
        | std::io::ErrorKind::ConnectionReset
        | std::io::ErrorKind::HostUnreachable => Seen::Refused,
        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => Seen::Silence,
        _ => panic!("unexpected: {error}"),
    }
}
