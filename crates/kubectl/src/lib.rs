//! kubectl: the command line of Kubernetes, compatible with upstream's in flags, output, messages and exit
//! codes. Commands are a table; help, parsing and dispatch derive from it.
//!
//! Works against any conformant API server. Must not know the server's insides: everything goes through
//! `client`.

pub mod app;
pub mod commands;
pub mod connect;
pub mod describe;
pub mod error;
pub mod files;
pub mod flags;
pub mod help;
pub mod kinds;
pub mod print;
pub mod request;
pub mod select;
pub mod tabs;
pub mod verbs;

use std::process::ExitCode;

pub use app::{App, Sink, Stdin};
pub use error::Error;

/// Runs one command line (without the program's name) with the process's streams.
pub fn run(line: Vec<String>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let (out, err) = (Sink::new(std::io::stdout()), Sink::new(std::io::stderr()));
    let code = runtime.block_on(execute(&line, out, err, Stdin::Process, Ok));
    // A thread may still be waiting for standard input.
    runtime.shutdown_background();
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// Runs one command line with these streams; `prepare` may give the run a connection. Returns the exit code.
pub async fn execute(
    line: &[String],
    out: Sink,
    err: Sink,
    stdin: Stdin,
    prepare: impl FnOnce(App) -> Result<App, Error>,
) -> i32 {
    let (command, args) = match commands::read(line) {
        Ok(commands::Read::Run(command, args)) => (command, args),
        Ok(commands::Read::Help(text)) => {
            out.text(&text);
            return 0;
        }
        Err(error) => return tell(&err, &error, ""),
    };
    let app = match prepare(App::new(args.clone(), out, err.clone(), stdin)) {
        Ok(app) => app,
        Err(error) => return tell(&err, &error, ""),
    };
    match (command.run)(&app, &args).await {
        Ok(()) => 0,
        Err(error) => {
            let code = tell(&err, &error, &app.server());
            // Whoever runs diff wants to tell a difference from a failure.
            if command.name == "diff" && !matches!(error, Error::Exit(_)) { code + 1 } else { code }
        }
    }
}

fn tell(err: &Sink, error: &Error, server: &str) -> i32 {
    let (text, code) = error.report(server);
    if !text.is_empty() {
        err.line(text.trim_end_matches('\n'));
    }
    code
}
