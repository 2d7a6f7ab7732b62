//! kubectl alone: builds in a fraction of the time of the whole binary.

fn main() -> std::process::ExitCode {
    kubectl::run(std::env::args().skip(1).collect())
}
