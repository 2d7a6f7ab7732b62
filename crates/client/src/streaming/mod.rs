//! Streams to and from containers: SPDY/3.1 and WebSocket framing, the channel protocols over them, and the
//! client's side of exec, attach and port-forward. The agent's side is made of the same parts.
//!
//! Must not know the agent, nor terminals and local sockets.

pub mod channel;
pub mod command;
mod dictionary;
pub mod mux;
pub mod remote;
pub mod spdy;
pub mod websocket;

pub use command::{Exit, TerminalSize};
pub use remote::{
    Command, CommandOptions, Context, Forwarded, Input, Output, PortForward, attach, exec, port_forward,
};
