//! Kernel parameters of this network namespace.
//!
//! Must not know why one is wanted.

use std::path::Path;

/// Sets `name`, a path below `/proc/sys`, unless it has that value. False when that is not possible.
pub fn set(name: &str, value: &str) -> bool {
    let path = Path::new("/proc/sys").join(name);
    match std::fs::read_to_string(&path) {
        Ok(now) if now.trim() == value => return true,
        Ok(_) => {}
        Err(error) => {
            tracing::debug!(name, %error, "no such kernel parameter");
            return false;
        }
    }
    match std::fs::write(&path, value) {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(name, value, %error, "cannot set a kernel parameter");
            false
        }
    }
}

/// Raises a number; a larger one stays.
pub fn raise(name: &str, value: u64) {
    let now = std::fs::read_to_string(Path::new("/proc/sys").join(name)).ok();
    if now.and_then(|now| now.trim().parse::<u64>().ok()).is_some_and(|now| now < value) {
        set(name, &value.to_string());
    }
}
