//! The run itself: begins everything, kills at random moments, and has the history checked in between.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base::{Clock, Rng, Tasks};
use http::Method;
use serde_json::{Value, json};

use crate::call::{Answer, Caller, NAMESPACE};
use crate::disk::{Disk, Pace};
use crate::history::Tally;
use crate::plane::{Keys, Process, etcd_members, free_ports, server_words};
use crate::watch::{PLANS, compare, watch};
use crate::work::{fence, write};
use crate::world::World;

/// What to do.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// How often to kill.
    #[arg(long, default_value_t = 200)]
    pub kills: u64,
    /// Writers at one time.
    #[arg(long, default_value_t = 64)]
    pub writers: u64,
    /// Longest time under load before a kill, in milliseconds.
    #[arg(long, default_value_t = 1500)]
    pub load_ms: u64,
    /// The disk takes its time, and stalls now and then. Needs root and FUSE.
    #[arg(long)]
    pub slow: bool,
    /// The power goes with each kill: what was not waited for is lost, in parts. Needs root and FUSE.
    #[arg(long)]
    pub torn: bool,
    /// Two API servers on three etcd members, one of the five killed at a time.
    #[arg(long)]
    pub etcd: bool,
    /// The same seed makes the same choices; threads and sockets still have their own ways.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// The binary to run; the one beside this program when absent.
    #[arg(long, value_name = "FILE")]
    pub binary: Option<PathBuf>,
    /// Where to keep data and logs, which then stay; a directory that goes at the end when absent.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

impl Options {
    /// A short run of 64 writers.
    pub fn short(binary: &Path, kills: u64) -> Options {
        let binary = Some(binary.to_owned());
        Options {
            kills,
            writers: 64,
            load_ms: 400,
            slow: false,
            torn: false,
            etcd: false,
            seed: 1,
            binary,
            dir: None,
        }
    }
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Report {
    /// Processes killed.
    pub kills: u64,
    /// Of these, before the API server was ready.
    pub starting: u64,
    /// Of these, when the store had just begun or dropped a file.
    pub aimed: u64,
    /// Writes that power cuts took or tore.
    pub torn: u64,
    /// Longest time from start to ready, in milliseconds.
    pub ready_ms: u64,
    /// Numbers of the history.
    pub tally: Tally,
    /// Objects at the end.
    pub objects: usize,
    /// Answers that should be rare.
    pub odd: Vec<String>,
    /// How long it took, in seconds.
    pub seconds: f64,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Report { kills, starting, aimed, torn, ready_ms, tally, objects, odd, seconds } = self;
        let Tally { acknowledged, unknown_done, refused, events, told, reads, lists, relists } = tally;
        writeln!(
            f,
            "{kills} kills in {seconds:.0} s ({starting} while starting, {aimed} as a file came or went)"
        )?;
        writeln!(
            f,
            "{acknowledged} acknowledged writes, all there; {unknown_done} done though nobody was told"
        )?;
        writeln!(f, "{refused} refused; {events} commits, told {told} times, each once and in order")?;
        writeln!(
            f,
            "{reads} reads and {lists} lists fit; {relists} lists anew; {objects} objects at the end"
        )?;
        write!(f, "{torn} writes taken or torn by power cuts; ready after {ready_ms} ms at most")?;
        odd.iter().try_for_each(|line| write!(f, "\nodd: {line}"))
    }
}

/// Longest wait for anything that should come.
const LIMIT: Duration = Duration::from_secs(120);
/// One kill in this many comes while the server starts.
const WHILE_STARTING: u64 = 6;
/// One kill in this many comes when a file of the store has come or gone.
const AIMED: u64 = 4;
/// Connections of the writers.
const CONNECTIONS: u64 = 8;

struct Run {
    world: Arc<World>,
    options: Options,
    servers: Vec<Process>,
    members: Vec<Process>,
    disk: Option<Disk>,
    /// Where the store keeps its files.
    data: PathBuf,
    callers: Vec<Caller>,
    report: Report,
}

/// Does all of it.
///
/// # Errors
/// What was acknowledged, read or told does not fit together, or something does not start.
pub async fn run(options: Options) -> Result<Report, String> {
    let temporary = tempfile::tempdir().map_err(|error| error.to_string())?;
    let dir = options.dir.clone().unwrap_or_else(|| temporary.path().to_owned());
    let clock = Clock::system();
    let mut run = Run::prepare(options, &dir, &clock).map_err(|error| format!("preparing: {error}"))?;
    let done = run.all().await;
    run.world.stop();
    run.world.tasks.cancel_token().cancel();
    run.report.seconds = clock.monotonic().as_secs_f64();
    let log = run.servers.iter().map(Process::log_end).collect::<Vec<_>>().join("\n--\n");
    match run.world.broken().map_or(done, Err) {
        Ok(()) => Ok(run.report),
        Err(why) => Err(format!("after {} kills: {why}\n{log}", run.report.kills)),
    }
}

impl Run {
    fn prepare(options: Options, dir: &Path, clock: &Clock) -> std::io::Result<Run> {
        let rng = Rng::seeded(options.seed);
        let data = dir.join("data");
        std::fs::create_dir_all(&data)?;
        let keys = Keys::make(dir, clock, &rng)?;
        let ports = free_ports(if options.etcd { 2 } else { 1 })?;
        let (members, urls) = etcd_members(dir, if options.etcd { 3 } else { 0 })?;
        let store = match options.etcd {
            true => format!("--etcd-servers={}", urls.join(",")),
            false => format!("--data-dir={}", data.display()),
        };
        let binary = match &options.binary {
            Some(binary) => binary.clone(),
            None => std::env::current_exe()?.with_file_name("navarch"),
        };
        let server = |port: &u16| {
            let words = server_words(&keys, *port, std::slice::from_ref(&store));
            Process::new(&binary, words, dir.join(format!("server-{port}.log")))
        };
        let servers = ports.iter().map(server).collect();
        let disk = (options.slow || options.torn).then(|| {
            let pace = if options.slow {
                Pace { write_ms: 4, sync_ms: 60, stall_every: 60 }
            } else {
                Pace::default()
            };
            Disk::mount(&data, pace, rng.clone())
        });
        let disk = disk.transpose()?;
        let world = World::new(clock.clone(), rng, Tasks::new(), keys, ports);
        let callers = world.callers();
        let report = Report {
            kills: 0,
            starting: 0,
            aimed: 0,
            torn: 0,
            ready_ms: 0,
            tally: Tally::default(),
            objects: 0,
            odd: Vec::new(),
            seconds: 0.0,
        };
        Ok(Run { world, options, servers, members, disk, data, callers, report })
    }

    async fn all(&mut self) -> Result<(), String> {
        for process in self.members.iter_mut().chain(&mut self.servers) {
            process.start().map_err(|error| error.to_string())?;
        }
        self.ready().await?;
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
        let made = self.callers[0].call(Method::POST, "/api/v1/namespaces", Some(&namespace)).await;
        if !matches!(made, Answer::Told(201, _)) {
            return Err(format!("the namespace: {made:?}"));
        }
        let mut work = Vec::new();
        for plan in PLANS {
            work.push(self.world.tasks.spawn("watcher", watch(self.world.clone(), plan)));
        }
        self.until("the watchers' first lists", |run| {
            run.world
                .ask(|history| history.behind("configmaps", 1).or(history.behind("services", 1)).is_none())
        })
        .await?;
        let mut callers = Vec::new();
        let mut writers = Vec::new();
        for number in 0..self.options.writers {
            if number % self.options.writers.div_ceil(CONNECTIONS) == 0 {
                callers = self.world.callers();
            }
            let writing = write(self.world.clone(), callers.clone(), number);
            writers.push(self.world.tasks.spawn("writer", writing));
        }
        self.kills().await?;
        self.finish(writers).await?;
        drop(work);
        Ok(())
    }

    async fn kills(&mut self) -> Result<(), String> {
        while self.report.kills < self.options.kills && !self.world.stopping() {
            if self.options.etcd {
                self.kill_one_of_many().await?
            } else {
                self.kill_the_one().await?
            }
            if self.report.kills.is_multiple_of(10) {
                println!(
                    "{:6.0} s: {} kills, {:?}",
                    self.world.clock.monotonic().as_secs_f64(),
                    self.report.kills,
                    self.world.ask(|history| history.tally.clone())
                );
            }
        }
        Ok(())
    }

    fn below(&self, bound: u64) -> u64 {
        self.world.rng.below(bound)
    }

    async fn sleep_below(&self, ms: u64) {
        let wait = Duration::from_micros(self.below(ms * 1000));
        self.world.clock.sleep(wait).await;
    }

    /// The only server, under load, then perhaps once more while it starts.
    async fn kill_the_one(&mut self) -> Result<(), String> {
        if self.below(3) > 0 {
            self.check(false).await?;
        }
        if self.below(AIMED) == 0 {
            self.report.aimed += u64::from(self.file_changed().await);
            self.sleep_below(15).await;
        } else {
            self.sleep_below(self.options.load_ms).await;
        }
        self.restart().await?;
        while self.below(WHILE_STARTING) == 0 && self.report.kills < self.options.kills {
            self.sleep_below(self.report.ready_ms.clamp(50, 500)).await;
            self.report.starting += 1;
            self.restart().await?;
        }
        self.ready().await
    }

    async fn restart(&mut self) -> Result<(), String> {
        let server = &mut self.servers[0];
        if let Some(ended) = server.ended() {
            return Err(format!("the server ended by itself: {ended}"));
        }
        server.kill().map_err(|error| error.to_string())?;
        self.report.kills += 1;
        if let Some(disk) = self.disk.as_ref().filter(|_| self.options.torn) {
            disk.cut_power();
            self.report.torn = disk.torn();
        }
        self.servers[0].start().map_err(|error| error.to_string())
    }

    /// Waits until the store begins or drops a file; false if it does not for a while.
    async fn file_changed(&self) -> bool {
        let names = || -> BTreeSet<_> {
            let entries = std::fs::read_dir(&self.data).into_iter().flatten().flatten();
            entries.map(|entry| entry.file_name()).collect()
        };
        let before = names();
        for _ in 0..self.options.load_ms / 2 {
            self.world.clock.sleep(Duration::from_millis(2)).await;
            if names() != before {
                return true;
            }
        }
        false
    }

    /// One server or one member, under load; it comes back after a while.
    async fn kill_one_of_many(&mut self) -> Result<(), String> {
        self.check(false).await?;
        self.sleep_below(self.options.load_ms).await;
        let at = self.below((self.servers.len() + self.members.len()) as u64) as usize;
        let process = self.servers.iter_mut().chain(&mut self.members).nth(at).ok_or("no process")?;
        process.kill().map_err(|error| error.to_string())?;
        self.report.kills += 1;
        self.sleep_below(2 * self.options.load_ms).await;
        let process = self.servers.iter_mut().chain(&mut self.members).nth(at).ok_or("no process")?;
        process.start().map_err(|error| error.to_string())?;
        self.ready().await
    }

    /// Waits until every server is ready.
    async fn ready(&mut self) -> Result<(), String> {
        let started = self.world.clock.monotonic();
        for at in 0..self.servers.len() {
            loop {
                // A connection of its own: those of others may not yet know that they are broken.
                let caller = self.world.callers().swap_remove(at);
                if let Ok(response) = caller.open(Method::GET, "/readyz", None).await {
                    if response.status() == 200 {
                        break;
                    }
                }
                if let Some(ended) = self.servers[at].ended() {
                    return Err(format!("the server does not start: {ended}"));
                }
                if self.world.clock.monotonic() - started > LIMIT {
                    return Err("the server does not become ready".to_owned());
                }
                self.world.clock.sleep(Duration::from_millis(10)).await;
            }
        }
        let took = (self.world.clock.monotonic() - started).as_millis() as u64;
        self.report.ready_ms = self.report.ready_ms.max(took);
        Ok(())
    }

    async fn until(&self, what: &str, holds: impl Fn(&Run) -> bool) -> Result<(), String> {
        let started = self.world.clock.monotonic();
        while !holds(self) {
            if let Some(why) = self.world.broken() {
                return Err(why);
            }
            if self.world.clock.monotonic() - started > LIMIT {
                let state = self.world.ask(|history| {
                    format!(
                        "{:?}, {:?}",
                        history.behind("configmaps", u64::MAX),
                        history.behind("services", u64::MAX)
                    )
                });
                return Err(format!("waited in vain for {what}: {state}"));
            }
            self.world.pause().await;
        }
        Ok(())
    }

    /// Waits until every watcher has seen a write made now, and holds everything against each other.
    async fn check(&mut self, last: bool) -> Result<(), String> {
        let number = self.world.ask(|history| history.fence());
        let missing = || "a fence was not written".to_owned();
        let services = fence(&self.world, self.callers.clone(), "services").await.ok_or_else(missing)?;
        let maps = fence(&self.world, self.callers.clone(), "configmaps").await.ok_or_else(missing)?;
        self.until("the watchers", |run| {
            run.world.ask(|history| {
                history.behind("configmaps", maps).or(history.behind("services", services)).is_none()
            })
        })
        .await?;
        self.world.note(|history| {
            history.over = last;
            history.check(services, number)
        });
        self.world.broken().map_or(Ok(()), Err)
    }

    async fn finish(&mut self, writers: Vec<tokio::task::JoinHandle<()>>) -> Result<(), String> {
        self.check(false).await?;
        // Watchers go on until everything has been seen; writers have stopped by then.
        self.world.hush();
        for writer in writers {
            writer.await.map_err(|error| error.to_string())?;
        }
        self.check(true).await?;
        for caller in &self.callers {
            self.report.objects = compare(caller, "configmaps").await? + compare(caller, "services").await?;
        }
        self.addresses().await?;
        self.report.tally = self.world.ask(|history| history.close());
        self.report.odd = self.world.odd().iter().map(|(what, times)| format!("{times} × {what}")).collect();
        Ok(())
    }

    /// Every Service has its address shown as an IPAddress, and no address is kept by nobody.
    async fn addresses(&self) -> Result<(), String> {
        let list = async |path: &str| match self.callers[0].call(Method::GET, path, None).await {
            Answer::Told(200, list) => Ok(list["items"].as_array().cloned().unwrap_or_default()),
            other => Err(format!("{path}: {other:?}")),
        };
        let started = self.world.clock.monotonic();
        loop {
            let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let services = list("/api/v1/services").await?;
            let used: BTreeSet<String> =
                services.iter().map(|service| word(&service["spec"]["clusterIP"])).collect();
            let shown = list("/apis/networking.k8s.io/v1/ipaddresses").await?;
            let shown: BTreeSet<String> =
                shown.iter().map(|address| word(&address["metadata"]["name"])).collect();
            if used == shown {
                return Ok(());
            }
            if self.world.clock.monotonic() - started > Duration::from_secs(15) {
                let (lost, hidden) = (shown.difference(&used), used.difference(&shown));
                return Err(format!(
                    "addresses of nobody: {:?}; services without theirs: {:?}",
                    lost.collect::<Vec<_>>(),
                    hidden.collect::<Vec<_>>()
                ));
            }
            self.world.clock.sleep(Duration::from_millis(200)).await;
        }
    }
}
