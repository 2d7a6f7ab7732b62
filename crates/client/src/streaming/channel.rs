//! The channel protocols over WebSocket: every message is a channel number and its data, for commands in a
//! container (`channel.k8s.io`, `v4.`, `v5.` and so on), the old port-forward, and plain streams of logs.
//!
//! Must not know sockets: messages in, events out.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

/// Standard input.
pub const STDIN: u8 = 0;
/// Standard output.
pub const STDOUT: u8 = 1;
/// Standard error.
pub const STDERR: u8 = 2;
/// How the command ended.
pub const ERROR: u8 = 3;
/// The terminal's size.
pub const RESIZE: u8 = 4;
/// From v5 on: the next byte names a channel on which nothing follows.
const CLOSE: u8 = 255;

/// How a command's end is told on [`ERROR`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// A text when it failed, nothing otherwise.
    Text,
    /// A `Status` in any case.
    Status,
}

/// A subprotocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocol {
    /// As negotiated; empty when the client named none.
    pub name: &'static str,
    /// Data is base64, the channel number a digit, the messages text.
    pub base64: bool,
    /// [`Event::Close`] exists.
    pub closes: bool,
    /// How a command's end is told.
    pub ending: Ending,
}

const fn row(name: &'static str, base64: bool, closes: bool, ending: Ending) -> Protocol {
    Protocol { name, base64, closes, ending }
}

/// For commands, newest first.
pub const COMMAND: &[Protocol] = &[
    row("v5.channel.k8s.io", false, true, Ending::Status),
    row("v4.channel.k8s.io", false, false, Ending::Status),
    row("v4.base64.channel.k8s.io", true, false, Ending::Status),
    row("v3.channel.k8s.io", false, false, Ending::Text),
    row("v2.channel.k8s.io", false, false, Ending::Text),
    row("channel.k8s.io", false, false, Ending::Text),
    row("base64.channel.k8s.io", true, false, Ending::Text),
    row("", false, false, Ending::Text),
];

/// For the old port-forward.
pub const PORTS: &[Protocol] = &[
    row("v4.channel.k8s.io", false, false, Ending::Text),
    row("v4.base64.channel.k8s.io", true, false, Ending::Text),
    row("", false, false, Ending::Text),
];

/// For streams without channels, such as logs.
pub const PLAIN: &[Protocol] = &[
    row("binary.k8s.io", false, false, Ending::Text),
    row("base64.binary.k8s.io", true, false, Ending::Text),
    row("", false, false, Ending::Text),
];

/// Port-forward as SPDY inside binary messages.
pub const TUNNEL: &[Protocol] = &[row("SPDY/3.1+portforward.k8s.io", false, false, Ending::Text)];

/// The first of the client's `offers` that `known` has; the nameless one when it offers nothing.
pub fn negotiate(offers: &[String], known: &[Protocol]) -> Option<Protocol> {
    let find = |name: &str| known.iter().find(|protocol| protocol.name == name).copied();
    if offers.is_empty() { find("") } else { offers.iter().find_map(|offer| find(offer)) }
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Data on a channel.
    Data {
        /// The channel.
        channel: u8,
        /// The data.
        bytes: Bytes,
    },
    /// Nothing follows on a channel.
    Close {
        /// The channel.
        channel: u8,
    },
}

/// Why a message makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    /// A close without exactly one channel.
    #[error("a close message must name one channel")]
    Close,
    /// Not base64.
    #[error("the message is not base64")]
    Base64,
    /// Text begins with a channel: `0` for the first, then on through ASCII.
    #[error("the message does not begin with a channel")]
    Digit,
}

impl Protocol {
    /// The content of a message with `data` on `channel`.
    pub fn encode(&self, channel: u8, data: &[u8]) -> Vec<u8> {
        if self.base64 {
            let mut out = String::with_capacity(1 + data.len().div_ceil(3) * 4);
            out.push(char::from(b'0'.wrapping_add(channel)));
            STANDARD.encode_string(data, &mut out);
            return out.into_bytes();
        }
        [&[channel], data].concat()
    }

    /// The content of a message that closes `channel`.
    pub fn encode_close(&self, channel: u8) -> Vec<u8> {
        vec![CLOSE, channel]
    }

    /// Reads a message; an empty one says nothing.
    pub fn decode(&self, message: &Bytes) -> Result<Option<Event>, ChannelError> {
        let Some(first) = message.first().copied() else { return Ok(None) };
        if self.closes && first == CLOSE {
            let &[_, channel] = &message[..] else { return Err(ChannelError::Close) };
            return Ok(Some(Event::Close { channel }));
        }
        if !self.base64 {
            return Ok(Some(Event::Data { channel: first, bytes: message.slice(1..) }));
        }
        let channel = first.checked_sub(b'0').filter(|_| first.is_ascii()).ok_or(ChannelError::Digit)?;
        let bytes = STANDARD.decode(&message[1..]).map_err(|_| ChannelError::Base64)?;
        Ok(Some(Event::Data { channel, bytes: bytes.into() }))
    }

    /// The content of a message of a stream without channels.
    pub fn encode_plain(&self, data: &[u8]) -> Vec<u8> {
        if self.base64 { STANDARD.encode(data).into_bytes() } else { data.to_vec() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn protocol(name: &str) -> Protocol {
        negotiate(&[name.to_owned()], COMMAND).expect("known")
    }

    #[test]
    fn messages() {
        let data = |channel, bytes: &'static str| Ok(Some(Event::Data { channel, bytes: bytes.into() }));
        for (name, message, expect) in [
            ("v5.channel.k8s.io", &b"\x00foo"[..], data(0, "foo")),
            ("v5.channel.k8s.io", b"\xff\x00", Ok(Some(Event::Close { channel: 0 }))),
            ("v5.channel.k8s.io", b"\xff", Err(ChannelError::Close)),
            ("v5.channel.k8s.io", b"\xff\x00\x01", Err(ChannelError::Close)),
            ("v4.channel.k8s.io", b"\xff\x00", data(255, "\0")),
            ("v4.channel.k8s.io", b"", Ok(None)),
            ("v4.channel.k8s.io", b"\x01", data(1, "")),
            ("base64.channel.k8s.io", b"0Zm9vCg==", data(0, "foo\n")),
            ("base64.channel.k8s.io", b"1!", Err(ChannelError::Base64)),
            ("base64.channel.k8s.io", b":", data(10, "")),
            ("base64.channel.k8s.io", b"/", Err(ChannelError::Digit)),
            ("base64.channel.k8s.io", b"\xc4", Err(ChannelError::Digit)),
        ] {
            assert_eq!(protocol(name).decode(&Bytes::from_static(message)), expect, "{name} {message:?}");
        }
        assert_eq!(protocol("v4.base64.channel.k8s.io").encode(1, b"\n"), b"1Cg==");
        assert_eq!(PLAIN[1].encode_plain(b"foo"), b"Zm9v");
    }

    #[test]
    fn negotiation() {
        let offers = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        for (list, expect) in [
            (&["v5.channel.k8s.io", "v4.channel.k8s.io"][..], Some("v5.channel.k8s.io")),
            (&["v9.channel.k8s.io", "v4.channel.k8s.io"], Some("v4.channel.k8s.io")),
            (&["channel.k8s.io"], Some("channel.k8s.io")),
            (&[], Some("")),
            (&["other"], None),
        ] {
            assert_eq!(negotiate(&offers(list), COMMAND).map(|protocol| protocol.name), expect, "{list:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(index in 0..COMMAND.len(), channel in 0u8..10,
                                   data in proptest::collection::vec(any::<u8>(), 0..500)) {
            let protocol = COMMAND[index];
            let message = Bytes::from(protocol.encode(channel, &data));
            prop_assert_eq!(protocol.decode(&message), Ok(Some(Event::Data { channel, bytes: data.into() })));
        }

        #[test]
        fn garbage_does_not_panic(index in 0..COMMAND.len(), data in proptest::collection::vec(any::<u8>(), 0..50)) {
            let _ = COMMAND[index].decode(&data.into());
        }
    }
}
