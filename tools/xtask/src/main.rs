//! The tasks of development: `cargo xtask tidy`, and more as `cargo xtask help` lists them.

mod facts;
mod fuzz;
mod tidy;

use std::path::Path;
use std::process::ExitCode;

/// A task: name, what it does, the function.
type Task = (&'static str, &'static str, fn(&Path, &[String]) -> ExitCode);

const TASKS: &[Task] = &[
    (
        "bench",
        "measure: api, hostile, requests, store, scheduler (more arguments go to the benchmark)",
        run_bench,
    ),
    (
        "differ",
        "send one corpus to two API servers and list what differs: A=KUBECONFIG [B=KUBECONFIG]",
        run_differ,
    ),
    ("facts", "hold the schema facts against the crates that carry them (--write: update)", run_facts),
    (
        "soak",
        "run long against the real binary: crash (more arguments go to the run; --help lists them)",
        run_soak,
    ),
    ("fuzz", "run fuzz targets, all or the named ones, --seconds N each", fuzz::run),
    (
        "sim",
        "run seeds of the deterministic simulation: --seeds A..B, --seed N --trace, --mutation all, …",
        run_sim,
    ),
    ("tidy", "check the rules of the code that a compiler does not", run_tidy),
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let name = args.first().map(String::as_str).unwrap_or("help");
    match TASKS.iter().find(|task| task.0 == name) {
        Some(task) => task.2(&root, &args[1..]),
        None => {
            println!("usage: cargo xtask TASK\n");
            TASKS.iter().for_each(|task| println!("    {:<10} {}", task.0, task.1));
            if name == "help" { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
    }
}

fn run_tidy(root: &Path, _args: &[String]) -> ExitCode {
    let problems = tidy::check(root);
    problems.iter().for_each(|problem| println!("{problem}"));
    println!("{} broken rules", problems.len());
    if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The benchmarks: name, crate, example.
const BENCHES: &[(&str, &str, &str)] = &[
    ("api", "client", "bench_api"),
    ("hostile", "client", "bench_hostile"),
    ("requests", "apiserver", "api_bench"),
    ("scheduler", "cli", "bench_scheduler"),
    ("store", "store", "bench"),
];

fn run_bench(root: &Path, args: &[String]) -> ExitCode {
    let name = args.first().map(String::as_str).unwrap_or("");
    let Some((_, package, example)) = BENCHES.iter().find(|bench| bench.0 == name) else {
        println!("usage: cargo xtask bench NAME [ARGS]; NAME is one of");
        BENCHES.iter().for_each(|bench| println!("    {}", bench.0));
        return ExitCode::FAILURE;
    };
    run_example(root, &["--release"], (package, example), &args[1..])
}

fn run_differ(root: &Path, args: &[String]) -> ExitCode {
    run_example(root, &[], ("client", "differ"), args)
}

fn run_example(root: &Path, options: &[&str], (package, example): (&str, &str), args: &[String]) -> ExitCode {
    let status = std::process::Command::new(env!("CARGO"))
        .current_dir(root)
        .args(["run", "--quiet"])
        .args(options)
        .args(["--package", package, "--example", example, "--"])
        .args(args)
        .status();
    ended(status)
}

/// What became of a command.
fn ended(status: std::io::Result<std::process::ExitStatus>) -> ExitCode {
    match status {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            println!("cargo does not start: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Builds the product beside the driver and runs that.
fn run_soak(root: &Path, args: &[String]) -> ExitCode {
    let cargo = |words: &[&str], more: &[String]| {
        let mut command = std::process::Command::new(env!("CARGO"));
        let status = command.current_dir(root).args(words).args(more).status();
        status.inspect_err(|error| println!("cargo does not start: {error}")).is_ok_and(|s| s.success())
    };
    let done = cargo(&["build", "--quiet", "--package", "navarch"], &[])
        && cargo(&["run", "--quiet", "--package", "soak", "--"], args);
    if done { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs the simulation, optimised: a seed takes a fraction of a second.
fn run_sim(root: &Path, args: &[String]) -> ExitCode {
    let cargo = ["run", "--profile", "sim", "--quiet", "--package", "seeds", "--"];
    ended(std::process::Command::new(env!("CARGO")).current_dir(root).args(cargo).args(args).status())
}

fn run_facts(root: &Path, args: &[String]) -> ExitCode {
    match facts::run(root, args.iter().any(|arg| arg == "--write")) {
        Ok(problems) => {
            problems.iter().for_each(|problem| println!("{problem}"));
            println!("{} differences", problems.len());
            if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}
