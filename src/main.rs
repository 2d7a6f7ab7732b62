//! The `navarch` binary. It only wires: parse, build, run, drain.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[allow(unsafe_code, reason = "declares one function of the allocator's C library, by its header")]
unsafe extern "C" {
    safe fn mi_option_set(option: std::ffi::c_int, value: std::ffi::c_long);
}

/// `mi_option_purge_delay` of mimalloc.h: milliseconds until free pages go back to the system.
const PURGE_DELAY: std::ffi::c_int = 15;

fn main() -> std::process::ExitCode {
    // At once: by default they go a second later, and then only while something else is allocated, so that a burst of
    // large requests left hundreds of MB behind. Measured, requests cost no more.
    mi_option_set(PURGE_DELAY, 0);
    cli::main()
}
