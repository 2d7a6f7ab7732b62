//! The built-in provisioner: volumes of the default StorageClass are directories of the node a pod goes to.

/// Its name in StorageClasses, and of its CSIDriver, which tells the scheduler that capacity counts.
pub const PROVISIONER: &str = "local.navarch.io";
/// Its service account in `kube-system`.
pub const ACCOUNT: &str = "local-volume-provisioner";
