//! The command line of Navarch: every subcommand, and the wiring of the components into one process.
//!
//! Only this crate knows all components; it must not hold behaviour of its own beyond starting, joining and
//! stopping them.

pub mod agent;
pub mod backup;
pub mod certs;
pub mod cluster;
pub mod containerd;
pub mod control;
pub mod demo;
pub mod down;
pub mod error;
pub mod flags;
pub mod hello;
pub mod host;
pub mod image;
pub mod join;
pub mod node;
pub mod pause;
pub mod pki;
pub mod process;
pub mod rotating;
pub mod simulate;
pub mod single;
pub mod storage;
pub mod token;
pub mod up;

use std::path::PathBuf;
use std::process::ExitCode;

use base::telemetry::{self, LogFormat};
use clap::{Parser, Subcommand};

use crate::error::CliError;

/// Where a cluster keeps its things unless told otherwise.
pub const DEFAULT_DATA_DIR: &str = "/var/lib/navarch";

/// All of Kubernetes v1.36 in one binary.
#[derive(Debug, Parser)]
#[command(name = "navarch", version, about, long_about = LONG_ABOUT, propagate_version = true)]
struct Cli {
    /// How much to log: error, warn, info, debug, or a filter such as info,kubelet=debug.
    #[arg(long, global = true, default_value = "info", value_name = "LEVEL")]
    log_level: String,
    /// How log lines look: text or json.
    #[arg(long, global = true, default_value = "text", value_name = "FORMAT")]
    log_format: String,
    #[command(subcommand)]
    command: Command,
}

const LONG_ABOUT: &str = "All of Kubernetes v1.36 in one binary.\n\n\
    Make this machine a cluster:\n\n    navarch up\n\n\
    and in another terminal:\n\n    export KUBECONFIG=/var/lib/navarch/admin.kubeconfig\n    kubectl get nodes\n\n\
    Each component also runs alone, with upstream's flags, against any conformant cluster.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Make this machine a cluster: control plane, node agent, network. Runs in the foreground.
    Up(up::UpArgs),
    /// Stop the cluster of this machine and remove everything it made.
    Down(down::DownArgs),
    /// Deploy the demo application and show its page.
    Demo(demo::DemoArgs),
    /// Print the administrator's kubeconfig of the cluster of this machine.
    Kubeconfig(DataArgs),
    /// Run a control plane without a node agent.
    Server(up::UpArgs),
    /// Make this machine a node of a cluster that runs elsewhere.
    Agent(agent::AgentArgs),
    /// Tokens with which other machines join as nodes.
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Look after the certificates of a data directory.
    #[command(subcommand)]
    Certs(certs::CertsCommand),
    /// Write the whole running cluster, objects and keys, to one file.
    Backup(backup::BackupArgs),
    /// Fill a data directory from a backup.
    Restore(backup::RestoreArgs),
    /// Make a backup of what can be read of a store that does not open any more.
    Salvage(backup::SalvageArgs),
    /// Run the API server alone.
    Apiserver(Box<single::ApiserverArgs>),
    /// Run the scheduler alone.
    Scheduler(single::SchedulerArgs),
    /// Run the controllers alone.
    ControllerManager(single::ControllerManagerArgs),
    /// Run the node agent alone.
    Kubelet(Box<single::KubeletArgs>),
    /// Run the service proxy alone.
    Proxy(Box<single::ProxyArgs>),
    /// Control a Kubernetes cluster: the same as kubectl (`navarch kubectl --help`).
    #[command(disable_help_flag = true)]
    Kubectl {
        /// What kubectl is to do.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
        words: Vec<String>,
    },
    /// Thousands of hollow nodes and a load of pods, to see what a control plane can bear.
    Simulate(simulate::SimulateArgs),
    /// Work with container images.
    #[command(subcommand)]
    Image(ImageCommand),
    /// Serve the demo page.
    Hello(hello::HelloArgs),
    /// Hold a pod's namespaces (used inside pods).
    #[command(hide = true)]
    Pause,
}

/// Flags of commands that act on the cluster of this machine.
#[derive(Clone, Debug, clap::Args)]
pub struct DataArgs {
    /// Where the cluster keeps its things.
    #[arg(long, default_value = DEFAULT_DATA_DIR, value_name = "DIR")]
    pub data_dir: PathBuf,
}

#[derive(Debug, Subcommand)]
enum ImageCommand {
    /// Load image archives (docker save, OCI) into the node's runtime.
    Import {
        #[command(flatten)]
        data: DataArgs,
        /// The archives.
        #[arg(required = true, value_name = "FILE")]
        archives: Vec<PathBuf>,
    },
    /// Show the images that the node's runtime has.
    List(DataArgs),
}

/// Ends the process without a word when nobody reads what it prints any more, as in `navarch demo | head -1`.
fn end_with_the_reader() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let text = info.payload_as_str().unwrap_or("");
        if text.starts_with("failed printing to std") && text.contains("Broken pipe") {
            std::process::exit(BROKEN_PIPE);
        }
        report(info);
    }));
}

/// The exit code of a process that a shell saw end by SIGPIPE.
const BROKEN_PIPE: i32 = 128 + 13;

/// Parses the arguments, runs the subcommand, and returns its exit code.
pub fn main() -> ExitCode {
    end_with_the_reader();
    // kubectl reads its own flags: its words are not ours to parse.
    let mut words = std::env::args();
    let program = words.next().unwrap_or_default();
    if program.ends_with("kubectl") {
        return kubectl::run(words.collect());
    }
    if std::env::args().nth(1).as_deref() == Some("kubectl") {
        return kubectl::run(words.skip(1).collect());
    }
    // The most common of our processes starts and stays small.
    if std::env::args().nth(1).as_deref() == Some("pause") {
        return pause::run();
    }
    let cli = Cli::parse();
    if let Command::Hello(args) = &cli.command {
        return hello::run(args);
    }
    let format = if cli.log_format == "json" { LogFormat::Json } else { LogFormat::Text };
    telemetry::init(&cli.log_level, format);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("navarch: cannot start the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(cli.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("navarch: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> Result<(), CliError> {
    match command {
        Command::Up(args) => up::run(args, true).await,
        Command::Server(args) => up::run(args, false).await,
        Command::Agent(args) => agent::run(args).await,
        Command::Token(command) => token::run(command).await,
        Command::Certs(command) => certs::run(&command),
        Command::Simulate(args) => simulate::run(args).await,
        Command::Backup(args) => backup::backup(&args).await,
        Command::Restore(args) => backup::restore(&args),
        Command::Salvage(args) => backup::salvage(&args),
        Command::Down(args) => down::run(&args).await,
        Command::Demo(args) => demo::run(&args).await,
        Command::Kubeconfig(args) => kubeconfig(&args),
        Command::Apiserver(args) => single::apiserver(*args).await,
        Command::Scheduler(args) => single::scheduler(args).await,
        Command::ControllerManager(args) => single::controller_manager(args).await,
        Command::Kubelet(args) => single::kubelet(*args).await,
        Command::Proxy(args) => single::proxy(*args).await,
        Command::Image(ImageCommand::Import { data, archives }) => {
            let printed = image::import(&containerd::socket(&data.data_dir), &archives).await?;
            print!("{printed}");
            Ok(())
        }
        Command::Image(ImageCommand::List(data)) => image::list(&containerd::socket(&data.data_dir)).await,
        Command::Hello(_) | Command::Pause | Command::Kubectl { .. } => Ok(()),
    }
}

fn kubeconfig(args: &DataArgs) -> Result<(), CliError> {
    let path = args.data_dir.join("admin.kubeconfig");
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            print!("{text}");
            Ok(())
        }
        Err(_) => Err(CliError::NotRunning(args.data_dir.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }
}
