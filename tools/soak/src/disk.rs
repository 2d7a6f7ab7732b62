//! A disk that can be slow and can lose its power: a file system of one flat directory, served through FUSE, that
//! remembers what was waited for (`fsync`, `fdatasync`, `fsync` of the directory) and what was merely written.
//!
//! It must not know what the files mean. The process that writes to it is unmodified.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base::Rng;
use parking_lot::Mutex;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// How long operations take.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    /// Longest usual wait for a write, in milliseconds.
    pub write_ms: u64,
    /// Longest usual wait for a sync, in milliseconds.
    pub sync_ms: u64,
    /// One sync in this many stalls for up to [`STALL_MS`]; 0 is never.
    pub stall_every: u64,
}

/// Longest stall.
const STALL_MS: u64 = 1_500;
/// Pages are kept or lost one by one when the power goes.
const PAGE: usize = 4096;
/// Largest write that the kernel hands over at once.
const WRITE_MAX: u32 = 1 << 20;
const ROOT: u64 = 1;

#[derive(Default)]
struct Inode {
    /// What a reader finds.
    now: Vec<u8>,
    /// What a power cut leaves for sure.
    sure: Vec<u8>,
    /// What was done since, in order.
    since: Vec<Step>,
    opened: u64,
}

enum Step {
    Write(usize, Vec<u8>),
    Length(usize),
}

impl Step {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Step::Length(length) => bytes.resize(*length, 0),
            Step::Write(at, new) => {
                bytes.resize(bytes.len().max(at + new.len()), 0);
                bytes[*at..at + new.len()].copy_from_slice(new);
            }
        }
    }
}

type Names = BTreeMap<String, u64>;

#[derive(Default)]
struct State {
    inodes: BTreeMap<u64, Inode>,
    next: u64,
    names: Names,
    sure_names: Names,
    /// The names after each change since the last sync of the directory.
    since: Vec<Names>,
    /// Writes that a power cut took or tore.
    torn: u64,
}

/// The disk.
pub struct Disk {
    dir: PathBuf,
    state: Arc<Mutex<State>>,
    rng: Rng,
}

impl Disk {
    /// Mounts an empty disk at a directory. Needs root.
    ///
    /// # Errors
    /// FUSE is not to be had.
    pub fn mount(dir: &Path, pace: Pace, rng: Rng) -> io::Result<Disk> {
        let device = OpenOptions::new().read(true).write(true).open("/dev/fuse")?;
        let options =
            format!("fd={},rootmode=40000,user_id=0,group_id=0,default_permissions", device.as_raw_fd());
        let options = std::ffi::CString::new(options)?;
        mount("soak", dir, "fuse", MountFlags::NOSUID | MountFlags::NODEV, Some(options.as_c_str()))?;
        let state = Arc::new(Mutex::new(State { next: ROOT + 1, ..State::default() }));
        let mut serving = Serving { device, state: Arc::clone(&state), pace, rng: rng.clone() };
        std::thread::Builder::new().name("disk".into()).spawn(move || serving.run())?;
        Ok(Disk { dir: dir.to_owned(), state, rng })
    }

    /// Writes that power cuts took or tore so far.
    pub fn torn(&self) -> u64 {
        self.state.lock().torn
    }

    /// The power goes: what was waited for stays, of the rest some, in parts, or as rubbish. Nobody may have a
    /// file open.
    pub fn cut_power(&self) {
        let mut state = self.state.lock();
        let kept = self.rng.below(state.since.len() as u64 + 1) as usize;
        let names = match kept.checked_sub(1) {
            Some(at) => state.since[at].clone(),
            None => state.sure_names.clone(),
        };
        state.names = names;
        let mut torn = 0;
        for inode in state.inodes.values_mut() {
            torn += inode.since.len() as u64;
            inode.now = tear(inode, &self.rng);
            inode.sure = inode.now.clone();
            inode.since.clear();
        }
        state.torn += torn;
        let names = state.names.clone();
        state.inodes.retain(|number, _| names.values().any(|known| known == number));
        state.sure_names = names;
        state.since.clear();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A failure leaves an empty mount behind; there is nobody to tell.
        let _ = unmount(&self.dir, UnmountFlags::DETACH);
    }
}

/// A file after the power went.
fn tear(inode: &Inode, rng: &Rng) -> Vec<u8> {
    let mut bytes = inode.sure.clone();
    if inode.since.is_empty() || rng.below(5) == 0 {
        return bytes;
    }
    let whole = rng.below(inode.since.len() as u64 + 1) as usize;
    inode.since[..whole].iter().for_each(|step| step.apply(&mut bytes));
    match inode.since.get(whole) {
        Some(Step::Write(at, new)) => {
            let mut torn = new.clone();
            match rng.below(4) {
                0 => torn.truncate(rng.below(new.len() as u64) as usize),
                // The length is there, pages are not.
                1 => torn.fill(0),
                2 => pages(&mut torn, *at, rng, |page, _| page.fill(0)),
                _ => pages(&mut torn, *at, rng, |page, rng| rng.fill(page)),
            }
            Step::Write(*at, torn).apply(&mut bytes);
        }
        Some(step) if rng.below(2) == 0 => step.apply(&mut bytes),
        _ => {}
    }
    bytes
}

/// Spoils about half of the pages of a write that began at `at`.
fn pages(bytes: &mut [u8], at: usize, rng: &Rng, spoil: impl Fn(&mut [u8], &Rng)) {
    let mut rest = bytes;
    let mut size = PAGE - at % PAGE;
    while !rest.is_empty() {
        let (page, after) = rest.split_at_mut(size.min(rest.len()));
        if rng.below(2) == 0 {
            spoil(page, rng);
        }
        (rest, size) = (after, PAGE);
    }
}

/// Requests of the kernel, as its FUSE protocol numbers them.
mod op {
    pub const LOOKUP: u32 = 1;
    pub const FORGET: u32 = 2;
    pub const GETATTR: u32 = 3;
    pub const SETATTR: u32 = 4;
    pub const UNLINK: u32 = 10;
    pub const RENAME: u32 = 12;
    pub const OPEN: u32 = 14;
    pub const READ: u32 = 15;
    pub const WRITE: u32 = 16;
    pub const STATFS: u32 = 17;
    pub const RELEASE: u32 = 18;
    pub const FSYNC: u32 = 20;
    pub const FLUSH: u32 = 25;
    pub const INIT: u32 = 26;
    pub const OPENDIR: u32 = 27;
    pub const READDIR: u32 = 28;
    pub const RELEASEDIR: u32 = 29;
    pub const FSYNCDIR: u32 = 30;
    pub const CREATE: u32 = 35;
    pub const INTERRUPT: u32 = 36;
    pub const BATCH_FORGET: u32 = 42;
    pub const RENAME2: u32 = 45;
}

const ENOENT: i32 = 2;
const ENOSYS: i32 = 38;
/// Reads and writes of the file go past the page cache, straight to us.
const DIRECT_IO: u32 = 1;
const HEAD: usize = 40;

struct Serving {
    device: File,
    state: Arc<Mutex<State>>,
    pace: Pace,
    rng: Rng,
}

/// One request: its node and what follows the header.
struct Request<'a> {
    node: u64,
    body: &'a [u8],
}

impl Request<'_> {
    fn u32(&self, at: usize) -> u32 {
        self.body.get(at..at + 4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from(self.u32(at)) | u64::from(self.u32(at + 4)) << 32
    }

    /// Names from an offset on, each ended by a zero.
    fn names(&self, at: usize) -> Vec<String> {
        let parts = self.body.get(at..).unwrap_or_default().split(|byte| *byte == 0);
        parts.map(|name| String::from_utf8_lossy(name).into_owned()).collect()
    }
}

/// Little-endian words of an answer.
#[derive(Default)]
struct Answer(Vec<u8>);

impl Answer {
    fn u16(mut self, value: u16) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn attributes(self, node: u64, size: u64) -> Self {
        let mode = if node == ROOT { 0o040_700 } else { 0o100_600 };
        let times = (0..3).fold(self.u64(node).u64(size).u64(size.div_ceil(512)), |answer, _| answer.u64(0));
        let parts = (0..3).fold(times, |answer, _| answer.u32(0));
        parts.u32(mode).u32(1).u32(0).u32(0).u32(0).u32(PAGE as u32).u32(0)
    }

    fn entry(self, node: u64, size: u64) -> Self {
        self.u64(node).u64(0).u64(0).u64(0).u32(0).u32(0).attributes(node, size)
    }
}

impl Serving {
    fn run(&mut self) {
        let mut buffer = vec![0; WRITE_MAX as usize + PAGE];
        loop {
            // The end of the mount ends this, too.
            let length = match self.device.read(&mut buffer) {
                Ok(length) if length >= HEAD => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                _ => return,
            };
            let head = Request { node: 0, body: &buffer[..HEAD] };
            let (code, unique) = (head.u32(4), head.u64(8));
            let request = Request { node: head.u64(16), body: &buffer[HEAD..length] };
            if matches!(code, op::FORGET | op::BATCH_FORGET | op::INTERRUPT) {
                continue;
            }
            self.wait(code);
            let (error, body) = match self.serve(code, &request) {
                Ok(answer) => (0, answer.0),
                Err(error) => (-error, Vec::new()),
            };
            let mut out = Answer::default().u32(16 + body.len() as u32).u32(error as u32).u64(unique).0;
            out.extend(body);
            // A process killed meanwhile takes no answer.
            let _ = self.device.write(&out);
        }
    }

    fn wait(&self, code: u32) {
        let longest = match code {
            op::WRITE => self.pace.write_ms,
            op::FSYNC | op::FSYNCDIR if self.stalls() => STALL_MS,
            op::FSYNC | op::FSYNCDIR => self.pace.sync_ms,
            _ => 0,
        };
        if longest > 0 {
            std::thread::sleep(Duration::from_micros(self.rng.below(longest * 1000)));
        }
    }

    fn stalls(&self) -> bool {
        self.pace.stall_every > 0 && self.rng.below(self.pace.stall_every) == 0
    }

    fn serve(&self, code: u32, request: &Request<'_>) -> Result<Answer, i32> {
        let state = &mut *self.state.lock();
        let ok = Answer::default();
        match code {
            op::INIT => Ok(init()),
            op::LOOKUP => {
                let node = *state.names.get(&request.names(0)[0]).ok_or(ENOENT)?;
                Ok(ok.entry(node, state.size(node)?))
            }
            op::GETATTR => Ok(ok.u64(0).u64(0).attributes(request.node, state.size(request.node)?)),
            op::SETATTR => {
                const SIZE: u32 = 1 << 3;
                if request.u32(0) & SIZE != 0 {
                    state.step(request.node, Step::Length(request.u64(16) as usize))?;
                }
                Ok(ok.u64(0).u64(0).attributes(request.node, state.size(request.node)?))
            }
            op::OPEN => {
                state.inodes.get_mut(&request.node).ok_or(ENOENT)?.opened += 1;
                Ok(ok.u64(0).u32(DIRECT_IO).u32(0))
            }
            op::OPENDIR => Ok(ok.u64(0).u64(0)),
            op::CREATE => {
                let node = state.create(request.names(16)[0].clone());
                state.inodes.get_mut(&node).ok_or(ENOENT)?.opened += 1;
                Ok(ok.entry(node, 0).u64(0).u32(DIRECT_IO).u32(0))
            }
            op::READ => {
                let bytes = &state.inodes.get(&request.node).ok_or(ENOENT)?.now;
                let from = bytes.len().min(request.u64(8) as usize);
                let to = bytes.len().min(from + request.u32(16) as usize);
                Ok(Answer(bytes[from..to].to_vec()))
            }
            op::WRITE => {
                let size = request.u32(16);
                let new = request.body.get(HEAD..HEAD + size as usize).ok_or(ENOENT)?;
                state.step(request.node, Step::Write(request.u64(8) as usize, new.to_vec()))?;
                Ok(ok.u32(size).u32(0))
            }
            op::FSYNC => state.sync(request.node).map(|()| ok),
            op::FSYNCDIR => {
                state.sure_names = state.names.clone();
                state.since.clear();
                state.forget();
                Ok(ok)
            }
            op::RELEASE => {
                state.inodes.get_mut(&request.node).ok_or(ENOENT)?.opened -= 1;
                state.forget();
                Ok(ok)
            }
            op::UNLINK => state.rename(&request.names(0)[0], None).map(|()| ok),
            op::RENAME | op::RENAME2 => {
                let names = request.names(if code == op::RENAME { 8 } else { 16 });
                state.rename(&names[0], names.get(1)).map(|()| ok)
            }
            op::READDIR => Ok(Answer(listing(&state.names, request.u64(8), request.u32(16) as usize))),
            op::STATFS => Ok(statfs()),
            op::RELEASEDIR | op::FLUSH => Ok(ok),
            _ => Err(ENOSYS),
        }
    }
}

fn init() -> Answer {
    const BIG_WRITES: u32 = 1 << 5;
    const MAX_PAGES: u32 = 1 << 22;
    let pages = (WRITE_MAX as usize / PAGE) as u16;
    let head = Answer::default().u32(7).u32(31).u32(0).u32(BIG_WRITES | MAX_PAGES).u16(16).u16(12);
    let rest = head.u32(WRITE_MAX).u32(1).u16(pages).u16(0).u32(0).u32(0);
    (0..6).fold(rest, |answer, _| answer.u32(0))
}

fn statfs() -> Answer {
    let blocks = 1 << 24;
    let counts = (0..5).fold(Answer::default(), |answer, _| answer.u64(blocks));
    let sizes = counts.u32(PAGE as u32).u32(255).u32(PAGE as u32);
    (0..7).fold(sizes, |answer, _| answer.u32(0))
}

/// Directory entries from an offset on, as many as fit.
fn listing(names: &Names, from: u64, room: usize) -> Vec<u8> {
    const REGULAR: u32 = 8;
    let mut out = Vec::new();
    for (at, (name, node)) in names.iter().enumerate().skip(from as usize) {
        let entry = Answer::default().u64(*node).u64(at as u64 + 1).u32(name.len() as u32).u32(REGULAR).0;
        let size = (entry.len() + name.len()).next_multiple_of(8);
        if out.len() + size > room {
            break;
        }
        let end = out.len() + size;
        out.extend(entry);
        out.extend(name.bytes());
        out.resize(end, 0);
    }
    out
}

impl State {
    fn size(&self, node: u64) -> Result<u64, i32> {
        match node {
            ROOT => Ok(0),
            node => self.inodes.get(&node).map(|inode| inode.now.len() as u64).ok_or(ENOENT),
        }
    }

    fn step(&mut self, node: u64, step: Step) -> Result<(), i32> {
        let inode = self.inodes.get_mut(&node).ok_or(ENOENT)?;
        step.apply(&mut inode.now);
        inode.since.push(step);
        Ok(())
    }

    fn sync(&mut self, node: u64) -> Result<(), i32> {
        let inode = self.inodes.get_mut(&node).ok_or(ENOENT)?;
        for step in std::mem::take(&mut inode.since) {
            step.apply(&mut inode.sure);
        }
        Ok(())
    }

    fn create(&mut self, name: String) -> u64 {
        let node = self.next;
        self.next += 1;
        self.inodes.insert(node, Inode::default());
        self.names.insert(name, node);
        self.since.push(self.names.clone());
        node
    }

    /// Lets files go that can never be found again.
    fn forget(&mut self) {
        let (names, sure, since) = (&self.names, &self.sure_names, &self.since);
        let named = |node: &u64| names.values().chain(sure.values()).any(|known| known == node);
        self.inodes.retain(|node, inode| inode.opened > 0 || named(node) || !since.is_empty());
    }

    /// Gives a file another name, or none.
    fn rename(&mut self, from: &str, to: Option<&String>) -> Result<(), i32> {
        let node = self.names.remove(from).ok_or(ENOENT)?;
        if let Some(to) = to {
            self.names.insert(to.clone(), node);
        }
        self.since.push(self.names.clone());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_synced_survives_and_the_rest_may_not() {
        let rng = Rng::seeded(3);
        let mut lost = 0;
        for _ in 0..200 {
            let mut state = State { next: 2, ..State::default() };
            let node = state.create("a".into());
            state.step(node, Step::Write(0, b"sure".to_vec())).expect("there");
            state.sync(node).expect("there");
            state.step(node, Step::Write(4, vec![7; 9000])).expect("there");
            let torn = tear(&state.inodes[&node], &rng);
            assert!(torn.starts_with(b"sure"));
            lost += usize::from(torn != state.inodes[&node].now);
        }
        assert!((100..200).contains(&lost), "{lost}");
    }
}
