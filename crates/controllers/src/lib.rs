//! All of kube-controller-manager's controllers: pure plans over shared caches, written by one runner.
//!
//! Must not know how the API server is reached or what it stores: everything goes through `client`.

pub mod affinity;
pub mod aggregation;
pub mod autoscaler;
pub mod bootstrap;
pub mod certificates;
pub mod context;
pub mod cronjob;
pub mod daemonset;
pub mod deployment;
pub mod disruption;
pub mod endpoints;
pub mod garbage;
pub mod history;
pub mod job;
pub mod loadbalancer;
pub mod namespace;
pub mod node;
pub mod owner;
pub mod podgc;
pub mod pods;
pub mod policystatus;
pub mod quota;
pub mod replicaset;
pub mod resourceclaim;
pub mod selection;
pub mod serviceaccount;
pub mod servicecidr;
pub mod statefulset;
pub mod table;
pub mod template;
pub mod ttl;
pub mod volume;
pub mod worker;

pub use certificates::serving::SERVING_APPROVER;
pub use context::{ClientFor, Config, Context, TokenSigner};
pub use table::{ROWS, Row, WATCHER, run, start_all, start_with};
pub use volume::LOCAL_ACCOUNT as LOCAL_VOLUMES_ACCOUNT;
