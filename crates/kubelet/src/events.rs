//! The events that users see about pods and containers.
//!
//! Must not decide anything: it only names the object.

use api::k8s::api::core::v1::Pod;
use client::plan::About;
use client::{EventKind, Recorder};

use crate::pods::pod::{PodExt, Slot};

/// Writes events about pods; cheap to clone.
#[derive(Clone, Debug)]
pub struct Events(Recorder);

impl Events {
    /// Over a recorder.
    pub fn new(recorder: Recorder) -> Events {
        Events(recorder)
    }

    /// An event about a pod.
    pub fn pod(&self, pod: &Pod, kind: EventKind, reason: &str, message: &str) {
        self.0.event(&About::of(pod), kind, reason, message);
    }

    /// An event about a container of a pod.
    pub fn container(&self, pod: &Pod, container: &str, kind: EventKind, reason: &str, message: &str) {
        let list = match pod.slot(container) {
            Some(Slot::Init(_)) => "initContainers",
            Some(Slot::Ephemeral(_)) => "ephemeralContainers",
            _ => "containers",
        };
        let about = About { field_path: format!("spec.{list}{{{container}}}"), ..About::of(pod) };
        self.0.event(&about, kind, reason, message);
    }

    /// An event about anything else.
    pub fn about(&self, about: &About, kind: EventKind, reason: &str, message: &str) {
        self.0.event(about, kind, reason, message);
    }
}
