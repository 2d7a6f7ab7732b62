//! The command line of Navarch: every subcommand, and the wiring of the components.

/// Parses the arguments, runs the subcommand, and returns its exit code.
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
