//! `navarch certs`: which certificates a data directory has, when they end, and new ones.
//!
//! Renewal needs nobody: control planes and agents renew at their start and while they run. Must not issue
//! anything itself: files are taken away, and whoever runs makes them anew.

use std::fs;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::DataArgs;
use crate::error::CliError;
use crate::process::Process;
use crate::{agent, down, pki, token};

/// Where certificates lie in a data directory.
const PLACES: [&str; 3] = ["pki", "kubelet/pki", "agent"];

/// `navarch certs`.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum CertsCommand {
    /// Show the certificates of a data directory: for whom, by whom, until when.
    Show(DataArgs),
    /// Have new certificates made now instead of before their end. Authorities stay.
    Rotate(DataArgs),
    /// Make a new authority; the old one is trusted until `forget-ca`.
    RotateCa(DataArgs),
    /// Trust no longer the authorities that came before the newest.
    ForgetCa(DataArgs),
}

/// Runs `navarch certs …`.
pub fn run(command: &CertsCommand) -> Result<(), CliError> {
    let process = Process::new();
    match command {
        CertsCommand::Show(args) => show(&args.data_dir, process.clock.now()),
        CertsCommand::Rotate(args) => rotate(&args.data_dir),
        CertsCommand::RotateCa(args) => {
            let dir = control_plane(&args.data_dir)?;
            pki::rotate_ca(&dir, &process.clock, &process.rng)?;
            println!(
                "{} begins with a new authority; the old one is trusted too",
                dir.join("ca.crt").display()
            );
            say_restart(&args.data_dir);
            println!(
                "Then restart the agents; when `navarch certs show` names the new issuer there: navarch certs forget-ca"
            );
            Ok(())
        }
        CertsCommand::ForgetCa(args) => {
            let dir = control_plane(&args.data_dir)?;
            let forgotten = pki::forget_ca(&dir)?;
            println!("{forgotten} old authorities are no longer trusted");
            say_restart(&args.data_dir);
            Ok(())
        }
    }
}

fn control_plane(data_dir: &Path) -> Result<PathBuf, CliError> {
    let dir = data_dir.join("pki");
    if dir.join("ca.key").exists() { Ok(dir) } else { Err(CliError::NotRunning(data_dir.to_owned())) }
}

fn say_restart(data_dir: &Path) {
    if down::running(data_dir).is_some() {
        println!("Restart `navarch up` (or `navarch server`) for it to take effect; pods keep running.");
    }
}

/// Certificate files of a data directory.
fn files(data_dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for place in PLACES {
        let entries = fs::read_dir(data_dir.join(place)).into_iter().flatten().flatten();
        found.extend(
            entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "crt")),
        );
    }
    found.sort();
    found
}

fn show(data_dir: &Path, now: Timestamp) -> Result<(), CliError> {
    let mut rows = vec![["CERTIFICATE", "SUBJECT", "ISSUER", "EXPIRES", "DAYS LEFT"].map(str::to_owned)];
    for path in files(data_dir) {
        let text = fs::read_to_string(&path).map_err(|source| CliError::file("read", &path, source))?;
        let name = path.strip_prefix(data_dir).unwrap_or(&path).display().to_string();
        for (at, facts) in base::pki::describe_all(&text)?.iter().enumerate() {
            let name = if at == 0 { name.clone() } else { format!("{name} ({})", at + 1) };
            let ends = Timestamp::from_second(facts.not_after).unwrap_or(now);
            let groups: Vec<String> = facts.organizations.iter().map(|group| format!(" ({group})")).collect();
            let subject = format!("{}{}", facts.common_name, groups.concat());
            let days = (facts.not_after - now.as_second()).div_euclid(86_400);
            let left = if days < 0 { "expired".to_owned() } else { days.to_string() };
            rows.push([name, subject, facts.issuer.clone(), api::time::format(ends), left]);
        }
    }
    if rows.len() == 1 {
        return Err(CliError::NotRunning(data_dir.to_owned()));
    }
    print!("{}", token::table(&rows));
    Ok(())
}

fn rotate(data_dir: &Path) -> Result<(), CliError> {
    let mut taken = Vec::new();
    for path in files(data_dir) {
        let parent = path.parent().and_then(Path::file_name).unwrap_or_default();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // Authorities stay; an agent needs its certificate to ask for the next.
        if !pki::is_authority(&name) && parent != "agent" {
            fs::remove_file(&path).map_err(|source| CliError::file("remove", &path, source))?;
            taken.push(name);
        }
    }
    if agent::ask_renewal(data_dir)? {
        taken.push("those of the agent".to_owned());
    }
    if taken.is_empty() {
        return Err(CliError::NotRunning(data_dir.to_owned()));
    }
    println!("to be made anew: {}", taken.join(", "));
    let when = if down::running(data_dir).is_some() {
        "within a minute, while everything runs"
    } else {
        "at the next start"
    };
    println!("this happens {when}");
    Ok(())
}
