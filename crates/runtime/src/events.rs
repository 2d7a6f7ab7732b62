//! What happens to containers, as a stream of ids: from CRI's events where offered, else from containerd's own
//! event service on the same socket, which every version has.
//!
//! Must not interpret events: an id says "look at this container again" and nothing more.

use crate::cri::messages as m;
use crate::cri::{Cri, CriError, server_stream};

/// containerd's `Envelope` (containerd API `services/events/v1`).
#[derive(Clone, PartialEq, prost::Message)]
struct Envelope {
    #[prost(string, tag = "2")]
    namespace: String,
    #[prost(string, tag = "3")]
    topic: String,
    #[prost(message, optional, tag = "4")]
    event: Option<Any>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SubscribeRequest {
    #[prost(string, repeated, tag = "1")]
    filters: Vec<String>,
}

/// The start of every task event: all begin with the container's id.
#[derive(Clone, PartialEq, prost::Message)]
struct TaskEvent {
    #[prost(string, tag = "1")]
    container_id: String,
    #[prost(string, tag = "2")]
    id: String,
}

/// Something happened to a container or sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Which one.
    pub id: String,
    /// It ended.
    pub exit: bool,
}

/// A stream of container ids that changed.
#[derive(Debug)]
pub struct Events(Source);

#[derive(Debug)]
enum Source {
    Cri(tonic::Streaming<m::ContainerEventResponse>),
    Containerd(tonic::Streaming<Envelope>),
}

impl Events {
    /// Subscribes; an error means that the runtime offers no events or cannot be reached.
    pub async fn subscribe(cri: &Cri) -> Result<Events, CriError> {
        match Self::containerd(cri).await {
            Ok(events) => Ok(events),
            Err(error) if error.is_unimplemented() => Ok(Events(Source::Cri(cri.container_events().await?))),
            Err(error) => Err(error),
        }
    }

    async fn containerd(cri: &Cri) -> Result<Events, CriError> {
        // Starts are our own doing; only an end is news. Exec processes end all the time (probes): left out below.
        let filters = vec!["namespace==k8s.io,topic==\"/tasks/exit\"".to_owned()];
        let request = tonic::Request::new(SubscribeRequest { filters });
        let path = "/containerd.services.events.v1.Events/Subscribe";
        Ok(Events(Source::Containerd(server_stream(cri.channel(), "Subscribe", path, request).await?)))
    }

    /// What happened next; `None` when the stream ended.
    pub async fn next(&mut self) -> Option<Event> {
        match &mut self.0 {
            Source::Cri(stream) => {
                let event = stream.message().await.ok()??;
                let exit = event.container_event_type == m::ContainerEventType::Stopped as i32;
                Some(Event { id: event.container_id, exit })
            }
            Source::Containerd(stream) => loop {
                let event = stream.message().await.ok()??.event?;
                let Ok(task) = <TaskEvent as prost::Message>::decode(event.value.as_slice()) else {
                    continue;
                };
                let whole_task = task.id.is_empty() || task.id == task.container_id;
                let exit = event.type_url.ends_with("TaskExit");
                if whole_task || !exit {
                    return Some(Event { id: task.container_id, exit });
                }
            },
        }
    }
}
