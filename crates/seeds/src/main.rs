//! `seeds`: runs seeds of the simulation, remembers how far it came, shows how a failing one ended.

use std::io::Write as _;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Parser;
use parking_lot::Mutex;
use seeds::{Options, Outcome};

/// Runs seeds of the deterministic simulation; ends non-zero when a law is broken.
#[derive(Parser)]
struct Args {
    /// Which seeds: A..B.
    #[arg(long, default_value = "0..100")]
    seeds: String,
    /// Only this one.
    #[arg(long)]
    seed: Option<u64>,
    /// Print every commit.
    #[arg(long)]
    trace: bool,
    /// Run each seed twice and compare.
    #[arg(long)]
    twice: bool,
    /// Build in this fault and expect to find it: `all` tries each, `list` names them.
    #[arg(long, value_name = "FAULT")]
    mutation: Option<String>,
    /// Keep the next seed in this file, and go on from there.
    #[arg(long, value_name = "FILE")]
    resume: Option<PathBuf>,
    /// Seeds at a time.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Failing seeds after which to stop.
    #[arg(long, default_value_t = 10)]
    failures: usize,
}

fn range(args: &Args) -> Option<Range<u64>> {
    if let Some(seed) = args.seed {
        return Some(seed..seed + 1);
    }
    let (from, to) = args.seeds.split_once("..")?;
    let (from, to): (u64, u64) = (from.parse().ok()?, to.parse().ok()?);
    let known = args.resume.as_ref().and_then(|path| std::fs::read_to_string(path).ok());
    let next = known.and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(from);
    Some(from.max(next)..to)
}

fn show(outcome: &Outcome) {
    println!("seed {} broke:", outcome.seed);
    outcome.broken.iter().take(20).for_each(|what| println!("    {what}"));
    println!("  last commits:");
    outcome.last.iter().rev().take(25).rev().for_each(|line| println!("    {line}"));
    println!("  replay: cargo xtask sim --seed {} --trace", outcome.seed);
}

/// Which seeds are done.
struct Progress {
    next: AtomicU64,
    /// Seeds under way.
    open: Mutex<std::collections::BTreeSet<u64>>,
    failed: Mutex<Vec<u64>>,
    commits: AtomicU64,
    done: AtomicU64,
}

impl Progress {
    /// Remembers before which seed all are done.
    fn save(&self, path: Option<&Path>) {
        let next = self.next.load(Ordering::Relaxed);
        let low = self.open.lock().first().copied().unwrap_or(next);
        if let Some(path) = path
            && let Err(error) = std::fs::write(path, format!("{low}\n"))
        {
            eprintln!("cannot keep the progress: {error}");
        }
    }
}

fn one(seed: u64, args: &Args, options: &Options) -> Outcome {
    let mut outcome = seeds::run(seed, options);
    if args.twice {
        let again = seeds::run(seed, options);
        if (again.digest, again.commits) != (outcome.digest, outcome.commits) {
            outcome.broken.push(format!("not repeatable: {} and {} commits", outcome.commits, again.commits));
        }
    }
    outcome
}

fn work(progress: &Progress, to: u64, args: &Args) {
    let options = Options { trace: args.trace };
    loop {
        let seed = {
            let mut open = progress.open.lock();
            let seed = progress.next.load(Ordering::Relaxed);
            if seed >= to || progress.failed.lock().len() >= args.failures {
                return;
            }
            progress.next.store(seed + 1, Ordering::Relaxed);
            open.insert(seed);
            seed
        };
        let outcome = one(seed, args, &options);
        progress.open.lock().remove(&seed);
        progress.commits.fetch_add(outcome.commits, Ordering::Relaxed);
        let done = 1 + progress.done.fetch_add(1, Ordering::Relaxed);
        if !outcome.broken.is_empty() {
            show(&outcome);
            progress.failed.lock().push(seed);
        }
        if done % 100 == 0 {
            println!("{done} seeds, {} failed", progress.failed.lock().len());
            let _ = std::io::stdout().flush();
        }
        progress.save(args.resume.as_deref());
    }
}

/// Runs itself once for each fault: which seed finds it, and by which law.
fn mutations(seeds: &str) -> ExitCode {
    let mut missed = 0;
    for (name, what) in base::mutation::FAULTS {
        let own = std::env::current_exe().unwrap_or_else(|_| "seeds".into());
        let mut run = std::process::Command::new(own);
        let output = run.args(["--seeds", seeds, "--failures", "1", "--mutation", name]).output();
        let text =
            output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        let mut lines = text.lines().skip_while(|line| !line.starts_with("seed "));
        match (lines.next(), lines.next()) {
            (Some(seed), Some(law)) => {
                println!("{name:<26} {} {}", seed.trim_end_matches(" broke:"), law.trim())
            }
            _ => {
                missed += 1;
                println!("{name:<26} NOT FOUND: {what}");
            }
        }
    }
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.trace {
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        tracing_subscriber::fmt().with_env_filter(filter).without_time().with_writer(std::io::stdout).init();
    }
    let Some(range) = range(&args) else {
        println!("--seeds takes A..B");
        return ExitCode::FAILURE;
    };
    if let Some(name) = &args.mutation {
        if name == "list" {
            base::mutation::FAULTS.iter().for_each(|(name, what)| println!("{name:<28} {what}"));
            return ExitCode::SUCCESS;
        }
        if name == "all" {
            return mutations(&args.seeds);
        }
        base::mutation::mutate(name);
    }
    seeds::catch_panics();
    let clock = base::Clock::system();
    let progress = Progress {
        next: AtomicU64::new(range.start),
        open: Mutex::default(),
        failed: Mutex::default(),
        commits: AtomicU64::new(0),
        done: AtomicU64::new(0),
    };
    std::thread::scope(|scope| {
        for _ in 0..args.jobs.max(1) {
            scope.spawn(|| work(&progress, range.end, &args));
        }
    });
    let (done, failed) = (progress.done.load(Ordering::Relaxed), progress.failed.lock().clone());
    let (commits, seconds) = (progress.commits.load(Ordering::Relaxed), clock.monotonic().as_secs_f64());
    println!("{done} seeds in {seconds:.1} s, {commits} commits, failed: {failed:?}");
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
