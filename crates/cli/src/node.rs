//! The node's part of `navarch up`.
use crate::error::CliError;
/// x
pub async fn start(_: &crate::up::UpArgs, _: &crate::pki::Pki, _: &crate::pki::Names, _: &crate::control::Plane) -> Result<(), CliError> { Ok(()) }
/// x
pub async fn remove_pods(_: &std::path::Path) {}
/// x
pub async fn remove_network(_: &std::path::Path) {}
/// x
pub fn remove_cgroups() {}
