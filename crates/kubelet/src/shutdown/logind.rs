//! logind through the system bus: a lock that delays shutdowns, and word of those that begin or are called off.
//!
//! Must not know pods.

use std::io::{IoSliceMut, Result as IoResult};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::Duration;

use base::Clock;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use tokio::io::{AsyncWriteExt as _, Interest};
use tokio::net::UnixStream;

use super::wire::{self, Arg, Kind, Malformed, Message};

const BUS: &str = "org.freedesktop.DBus";
const LOGIND: &str = "org.freedesktop.login1";
const LOGIND_PATH: &str = "/org/freedesktop/login1";
const MANAGER: &str = "org.freedesktop.login1.Manager";
const SYSTEMD: &str = "org.freedesktop.systemd1";
/// Where the longest delay of a lock is set.
const DROP_IN: &str = "99-kubelet.conf";
/// logind reads its settings again in its own time.
const RELOAD_TRIES: u32 = 6;
/// An answer takes no longer.
const ANSWER: Duration = Duration::from_secs(25);
/// File descriptors that come with one read at most.
const DESCRIPTORS: usize = 4;

/// Why logind cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// The bus does not answer.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The cause.
        source: std::io::Error,
    },
    /// The bus does not let us in.
    #[error("the system bus refuses: {0}")]
    Refused(String),
    /// A call failed.
    #[error("{call} failed: {detail}")]
    Call {
        /// The method.
        call: &'static str,
        /// Why.
        detail: String,
    },
    /// What came is no message.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// logind keeps to a shorter delay.
    #[error("logind allows a shutdown to be delayed by {allowed:?}, not by {wanted:?}")]
    Delay {
        /// What it allows.
        allowed: Duration,
        /// What was asked for.
        wanted: Duration,
    },
}

fn io(action: &'static str) -> impl Fn(std::io::Error) -> BusError {
    move |source| BusError::Io { action, source }
}

/// A connection to the system bus.
pub struct Logind {
    stream: UnixStream,
    clock: Clock,
    serial: u32,
    bytes: Vec<u8>,
    descriptors: Vec<OwnedFd>,
    /// Signals that came while an answer was awaited.
    told: Vec<bool>,
}

/// As long as it is held, a shutdown waits.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code, reason = "what is open is what counts")] OwnedFd);

impl Logind {
    /// Connects to the bus at a socket.
    pub async fn connect(socket: &Path, clock: &Clock) -> Result<Logind, BusError> {
        let stream = UnixStream::connect(socket).await.map_err(io("connect to the system bus"))?;
        let (bytes, descriptors, told) = (Vec::new(), Vec::new(), Vec::new());
        let mut bus = Logind { stream, clock: clock.clone(), serial: 0, bytes, descriptors, told };
        let uid = rustix::process::getuid().as_raw().to_string();
        let uid: String = uid.bytes().map(|byte| format!("{byte:02x}")).collect();
        bus.send(b"\0").await?;
        bus.say(&format!("AUTH EXTERNAL {uid}\r\n"), "OK ").await?;
        bus.say("NEGOTIATE_UNIX_FD\r\n", "AGREE_UNIX_FD").await?;
        bus.send(b"BEGIN\r\n").await?;
        bus.call(BUS, "/org/freedesktop/DBus", BUS, "Hello", Vec::new()).await?;
        Ok(bus)
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), BusError> {
        self.stream.write_all(bytes).await.map_err(io("write to the system bus"))
    }

    /// One line of getting in, and how the answer must begin.
    async fn say(&mut self, line: &str, expect: &str) -> Result<(), BusError> {
        self.send(line.as_bytes()).await?;
        let clock = self.clock.clone();
        let answer = clock.timeout(ANSWER, async {
            loop {
                if let Some(end) = self.bytes.windows(2).position(|pair| pair == b"\r\n") {
                    let line: Vec<u8> = self.bytes.drain(..end + 2).collect();
                    return Ok(String::from_utf8_lossy(&line).trim().to_owned());
                }
                self.receive().await?;
            }
        });
        let answer = answer.await.unwrap_or_else(|| Err(BusError::Refused("no answer".to_owned())))?;
        if answer.starts_with(expect) { Ok(()) } else { Err(BusError::Refused(answer)) }
    }

    /// Reads what is there, with the file descriptors that come along.
    async fn receive(&mut self) -> Result<(), BusError> {
        let mut part = [0; 4096];
        let mut descriptors = Vec::new();
        let read = loop {
            self.stream.readable().await.map_err(io("read from the system bus"))?;
            let receive = || receive_once(&self.stream, &mut part, &mut descriptors);
            match self.stream.try_io(Interest::READABLE, receive) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                other => break other.map_err(io("read from the system bus"))?,
            }
        };
        if read == 0 {
            return Err(io("read from the system bus")(std::io::ErrorKind::UnexpectedEof.into()));
        }
        self.bytes.extend(&part[..read]);
        self.descriptors.append(&mut descriptors);
        Ok(())
    }

    async fn message(&mut self) -> Result<Message, BusError> {
        loop {
            if let Some(length) = wire::length(&self.bytes)?.filter(|length| *length <= self.bytes.len()) {
                let whole: Vec<u8> = self.bytes.drain(..length).collect();
                return Ok(wire::decode(&whole)?);
            }
            self.receive().await?;
        }
    }

    /// Calls a method and waits for its answer.
    async fn call(
        &mut self,
        destination: &str,
        path: &str,
        interface: &str,
        member: &'static str,
        args: Vec<Arg>,
    ) -> Result<Message, BusError> {
        self.serial += 1;
        let serial = self.serial;
        let message = Message {
            kind: Kind::Call,
            serial,
            path: path.to_owned(),
            interface: interface.to_owned(),
            member: member.to_owned(),
            destination: destination.to_owned(),
            args,
            ..Message::default()
        };
        self.send(&wire::encode(&message)).await?;
        let clock = self.clock.clone();
        let answer = clock.timeout(ANSWER, async {
            loop {
                let message = self.message().await?;
                match message.kind {
                    Kind::Return | Kind::Error if message.reply_to == serial => return Ok(message),
                    _ => self.told.extend(shutdown_signal(&message)),
                }
            }
        });
        let fail = |detail: String| BusError::Call { call: member, detail };
        let answer = answer.await.unwrap_or_else(|| Err(fail("no answer in time".to_owned())))?;
        match answer.kind {
            Kind::Error => {
                let detail = match answer.args.first() {
                    Some(Arg::Text(text)) => format!("{}: {text}", answer.member),
                    _ => answer.member,
                };
                Err(fail(detail))
            }
            _ => Ok(answer),
        }
    }

    async fn allowed_delay(&mut self) -> Result<Duration, BusError> {
        const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
        let args = [MANAGER, "InhibitDelayMaxUSec"].map(|text| Arg::Text(text.to_owned())).to_vec();
        let answer = self.call(LOGIND, LOGIND_PATH, PROPERTIES, "Get", args).await?;
        match answer.args.first() {
            Some(Arg::Long(micros)) => Ok(Duration::from_micros(*micros)),
            _ => Err(BusError::Call { call: "Get", detail: "no number came".to_owned() }),
        }
    }

    /// Makes sure that a lock may delay a shutdown by `wanted`, if need be through a setting in `settings`.
    pub async fn allow(&mut self, wanted: Duration, settings: &Path) -> Result<(), BusError> {
        if self.allowed_delay().await? >= wanted {
            return Ok(());
        }
        let text = format!(
            "# The agent's pods end before this machine does.\n[Login]\nInhibitDelayMaxSec={}\n",
            wanted.as_secs()
        );
        let write = || -> IoResult<()> {
            std::fs::create_dir_all(settings)?;
            std::fs::write(settings.join(DROP_IN), text)
        };
        write().map_err(io("set the longest delay of logind"))?;
        let args = vec![
            Arg::Text("systemd-logind.service".to_owned()),
            Arg::Text("all".to_owned()),
            // SIGHUP.
            Arg::Int(1),
        ];
        let manager = "org.freedesktop.systemd1.Manager";
        self.call(SYSTEMD, "/org/freedesktop/systemd1", manager, "KillUnit", args).await?;
        let mut pause = Duration::from_millis(100);
        let mut allowed = Duration::ZERO;
        for _ in 0..RELOAD_TRIES {
            allowed = self.allowed_delay().await?;
            if allowed >= wanted {
                return Ok(());
            }
            self.clock.sleep(pause).await;
            pause *= 2;
        }
        Err(BusError::Delay { allowed, wanted })
    }

    /// Takes the lock.
    pub async fn lock(&mut self) -> Result<Lock, BusError> {
        let args = ["shutdown", "kubelet", "Kubelet needs time to handle node shutdown", "delay"];
        let args = args.map(|text| Arg::Text(text.to_owned())).to_vec();
        self.descriptors.clear();
        let answer = self.call(LOGIND, LOGIND_PATH, MANAGER, "Inhibit", args).await?;
        let fail = || BusError::Call { call: "Inhibit", detail: "no lock came".to_owned() };
        let Some(Arg::Descriptor(index)) = answer.args.first() else { return Err(fail()) };
        let index = usize::try_from(*index).unwrap_or(usize::MAX);
        if index >= self.descriptors.len() {
            return Err(fail());
        }
        Ok(Lock(self.descriptors.swap_remove(index)))
    }

    /// Asks to be told of shutdowns.
    pub async fn follow(&mut self) -> Result<(), BusError> {
        let rule =
            format!("type='signal',interface='{MANAGER}',member='PrepareForShutdown',path='{LOGIND_PATH}'");
        let args = vec![Arg::Text(rule)];
        self.call(BUS, "/org/freedesktop/DBus", BUS, "AddMatch", args).await.map(drop)
    }

    /// Waits for word: true when a shutdown begins, false when it was called off.
    pub async fn next(&mut self) -> Result<bool, BusError> {
        loop {
            if !self.told.is_empty() {
                return Ok(self.told.remove(0));
            }
            let message = self.message().await?;
            self.told.extend(shutdown_signal(&message));
        }
    }
}

fn shutdown_signal(message: &Message) -> Option<bool> {
    let about = message.kind == Kind::Signal && message.interface == MANAGER;
    match message.args.first() {
        Some(Arg::Bool(begins)) if about && message.member == "PrepareForShutdown" => Some(*begins),
        _ => None,
    }
}

fn receive_once(stream: &UnixStream, part: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> IoResult<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let read = rustix::net::recvmsg(stream.as_fd(), &mut [IoSliceMut::new(part)], &mut control, flags)?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    Ok(read.bytes)
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::sync::Arc;

    use parking_lot::Mutex;
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
    use tokio::io::{AsyncReadExt as _, BufReader};
    use tokio::net::UnixListener;

    use super::*;

    /// A bus with a logind behind it that allows five seconds until its settings are read again.
    struct FakeBus {
        settings: std::path::PathBuf,
        calls: Arc<Mutex<Vec<String>>>,
        /// The other end of the lock.
        lock: Arc<Mutex<Option<std::os::unix::net::UnixStream>>>,
    }

    impl FakeBus {
        async fn serve(self, listener: UnixListener) {
            let (stream, _) = listener.accept().await.expect("a client");
            let mut stream = BufReader::new(stream);
            assert_eq!(stream.read_u8().await.expect("a byte"), 0);
            for answer in ["OK 0123\r\n", "AGREE_UNIX_FD\r\n", ""] {
                let mut line = String::new();
                tokio::io::AsyncBufReadExt::read_line(&mut stream, &mut line).await.expect("a line");
                stream.write_all(answer.as_bytes()).await.expect("written");
            }
            let mut bytes = Vec::new();
            loop {
                while let Some(length) =
                    wire::length(&bytes).expect("good").filter(|length| *length <= bytes.len())
                {
                    let whole: Vec<u8> = bytes.drain(..length).collect();
                    self.answer(stream.get_mut(), &wire::decode(&whole).expect("good")).await;
                }
                if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                    return;
                }
            }
        }

        async fn answer(&self, stream: &mut UnixStream, call: &Message) {
            self.calls.lock().push(call.member.clone());
            let mut answer =
                Message { kind: Kind::Return, serial: 1, reply_to: call.serial, ..Message::default() };
            let signal = |begins| Message {
                kind: Kind::Signal,
                serial: 2,
                path: LOGIND_PATH.into(),
                interface: MANAGER.into(),
                member: "PrepareForShutdown".into(),
                args: vec![Arg::Bool(begins)],
                ..Message::default()
            };
            match call.member.as_str() {
                "Get" => {
                    let text = std::fs::read_to_string(self.settings.join(DROP_IN)).unwrap_or_default();
                    let seconds =
                        text.split("InhibitDelayMaxSec=").nth(1).and_then(|text| text.trim().parse().ok());
                    answer.args = vec![Arg::Long(seconds.unwrap_or(5) * 1_000_000)];
                }
                "Inhibit" => {
                    let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
                    *self.lock.lock() = Some(ours);
                    (answer.args, answer.descriptors) = (vec![Arg::Descriptor(0)], 1);
                    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
                    let mut control = SendAncillaryBuffer::new(&mut space);
                    let fds = [theirs.as_fd()];
                    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
                    let bytes = wire::encode(&answer);
                    let parts = [IoSlice::new(&bytes)];
                    rustix::net::sendmsg(stream.as_fd(), &parts, &mut control, SendFlags::empty())
                        .expect("sent");
                    return;
                }
                "AddMatch" => {
                    // Word may come before the answer.
                    stream.write_all(&wire::encode(&signal(true))).await.expect("written");
                    stream.write_all(&wire::encode(&answer)).await.expect("written");
                    stream.write_all(&wire::encode(&signal(false))).await.expect("written");
                    return;
                }
                _ => {}
            }
            stream.write_all(&wire::encode(&answer)).await.expect("written");
        }
    }

    #[tokio::test]
    async fn a_lock_is_taken_and_shutdowns_are_heard_of() {
        let dir = tempfile::tempdir().expect("a directory");
        let (socket, settings) = (dir.path().join("bus"), dir.path().join("logind.conf.d"));
        let listener = UnixListener::bind(&socket).expect("bound");
        let (calls, lock) = (Arc::<Mutex<Vec<String>>>::default(), Arc::default());
        let bus = FakeBus { settings: settings.clone(), calls: calls.clone(), lock: Arc::clone(&lock) };
        let tasks = base::Tasks::new();
        tasks.spawn("bus", bus.serve(listener));
        let clock = Clock::system();
        let mut logind = Logind::connect(&socket, &clock).await.expect("connected");
        logind.allow(Duration::from_secs(3), &settings).await.expect("allowed");
        assert!(!settings.exists(), "nothing needs to be set");
        logind.allow(Duration::from_secs(30), &settings).await.expect("allowed");
        let held = logind.lock().await.expect("locked");
        logind.follow().await.expect("followed");
        assert_eq!((logind.next().await.expect("word"), logind.next().await.expect("word")), (true, false));
        let expect = ["Hello", "Get", "Get", "KillUnit", "Get", "Inhibit", "AddMatch"];
        assert_eq!(*calls.lock(), expect);
        let mut other = lock.lock().take().expect("a lock");
        other.set_nonblocking(true).expect("set");
        let mut byte = [0];
        let open = std::io::Read::read(&mut other, &mut byte).expect_err("still held");
        assert_eq!(open.kind(), std::io::ErrorKind::WouldBlock);
        drop(held);
        assert_eq!(std::io::Read::read(&mut other, &mut byte).expect("let go"), 0);
        tasks.drain(Duration::from_secs(1)).await;
    }
}
