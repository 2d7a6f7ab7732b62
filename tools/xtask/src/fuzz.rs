//! `cargo xtask fuzz`: builds the fuzz targets with the compiler's coverage instrumentation, which the stable
//! toolchain has, and runs them. It must not know what a target does.

use std::path::Path;
use std::process::{Command, ExitCode};

/// What libFuzzer needs to see its way: counters at edges, their places, the operands of comparisons.
const INSTRUMENTATION: &str = "--cfg fuzzing -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares";
/// One input may take this long: a request does not, either.
const INPUT_SECONDS: u32 = 10;
/// The memory of a target, which keeps its corpus there.
const MEMORY_MB: u32 = 1024;
/// Longest input: deep and wide enough for every limit but those on size.
const INPUT_BYTES: u32 = 16 * 1024;
/// The stack of the server's threads; an input that needs more is a finding.
const STACK_KB: u32 = 2048;
/// How long a target runs when nothing else is asked for.
const SECONDS: &str = "60";

/// Runs the named targets, or all, one after the other; the first finding ends it.
pub fn run(root: &Path, args: &[String]) -> ExitCode {
    match try_run(root, args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn try_run(root: &Path, args: &[String]) -> Result<(), String> {
    let (mut seconds, mut wanted, mut args) = (SECONDS, Vec::new(), args.iter());
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--seconds" => seconds = args.next().ok_or("--seconds needs a number")?,
            flag if flag.starts_with('-') => {
                return Err("usage: cargo xtask fuzz [TARGET…] [--seconds N]".into());
            }
            name => wanted.push(name.to_owned()),
        }
    }
    let target_dir = root.join("target/fuzz");
    let host = env!("HOST");
    let built = Command::new(env!("CARGO"))
        .current_dir(root.join("fuzz"))
        .env("RUSTFLAGS", INSTRUMENTATION)
        .args(["build", "--release", "--locked", "--target", host, "--target-dir"])
        .arg(&target_dir)
        .status();
    if !built.is_ok_and(|status| status.success()) {
        return Err("the fuzz targets do not build".to_owned());
    }
    let program = target_dir.join(host).join("release/fuzz");
    let listed = Command::new(&program).env("NAVARCH_FUZZ", "list").output().map_err(|e| e.to_string())?;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let known: Vec<&str> = listed.split_whitespace().collect();
    if let Some(name) = wanted.iter().find(|name| !known.contains(&name.as_str())) {
        return Err(format!("there is no target {name}; the targets are {}", known.join(", ")));
    }
    known
        .iter()
        .filter(|name| wanted.is_empty() || wanted.iter().any(|wanted| wanted == *name))
        .try_for_each(|name| fuzz(&program, &target_dir, name, seconds))
}

/// One target. Its corpus stays in the target directory, so that the next run goes on from there.
fn fuzz(program: &Path, target_dir: &Path, name: &str, seconds: &str) -> Result<(), String> {
    let dir = target_dir.join("runs").join(name);
    let corpus = dir.join("corpus");
    std::fs::create_dir_all(&corpus).map_err(|error| error.to_string())?;
    println!("{name}: {seconds} s in {}", dir.display());
    let status = Command::new("sh")
        .args(["-c", &format!("ulimit -s {STACK_KB} && exec \"$@\""), "sh"])
        .arg(program)
        .args([corpus, dir.join("seeds")])
        .arg(format!("-dict={}", dir.join("words").display()))
        .arg(format!("-artifact_prefix={}/", dir.display()))
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-timeout={INPUT_SECONDS}"))
        .arg(format!("-rss_limit_mb={MEMORY_MB}"))
        .arg(format!("-max_len={INPUT_BYTES}"))
        .args(["-print_final_stats=1", "-use_value_profile=1", "-verbosity=1"])
        .env("NAVARCH_FUZZ", name)
        .env("NAVARCH_FUZZ_DIR", &dir)
        .env("RUST_BACKTRACE", "1")
        .status()
        .map_err(|error| error.to_string())?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{name}: a finding; the input is in {}", dir.display()))
    }
}
