//! D-Bus messages, as much of them as talking with logind takes: calls with texts and numbers out; returns, errors and
//! signals in.
//!
//! Must not know sockets: bytes in, messages out.

/// What a message is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// Asks for something.
    #[default]
    Call = 1,
    /// Answers.
    Return = 2,
    /// Refuses.
    Error = 3,
    /// Tells.
    Signal = 4,
}

/// A value in a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arg {
    /// `s`.
    Text(String),
    /// `i`.
    Int(i32),
    /// `u`.
    Unsigned(u32),
    /// `b`.
    Bool(bool),
    /// `t`, alone or in a variant.
    Long(u64),
    /// `h`: the index of a file descriptor.
    Descriptor(u32),
}

/// A message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// What it is.
    pub kind: Kind,
    /// Its number.
    pub serial: u32,
    /// The object.
    pub path: String,
    /// The interface.
    pub interface: String,
    /// The method or signal; an error's name.
    pub member: String,
    /// To whom.
    pub destination: String,
    /// The message it answers.
    pub reply_to: u32,
    /// File descriptors that come with it.
    pub descriptors: u32,
    /// Its values.
    pub args: Vec<Arg>,
}

/// Why bytes are no message that we understand.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a D-Bus message is not as expected: {what}")]
pub struct Malformed {
    /// What is wrong.
    pub what: &'static str,
}

/// Longer messages are not for us.
const MAX_BYTES: usize = 64 * 1024;
const FIXED_BYTES: usize = 16;

const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR: u8 = 4;
const REPLY: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;
const DESCRIPTORS: u8 = 9;

struct Writer(Vec<u8>);

impl Writer {
    fn pad(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn number(&mut self, number: u32) {
        self.pad(4);
        self.0.extend(number.to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.number(u32::try_from(text.len()).unwrap_or(0));
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn signature(&mut self, text: &str) {
        self.0.push(u8::try_from(text.len()).unwrap_or(0));
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn arg(&mut self, arg: &Arg) {
        match arg {
            Arg::Text(text) => self.text(text),
            Arg::Int(number) => self.number(number.cast_unsigned()),
            Arg::Unsigned(number) | Arg::Descriptor(number) => self.number(*number),
            Arg::Bool(yes) => self.number(u32::from(*yes)),
            Arg::Long(number) => {
                self.signature("t");
                self.pad(8);
                self.0.extend(number.to_le_bytes());
            }
        }
    }

    /// One header field: its code, its type, its value.
    fn field(&mut self, code: u8, kind: &str, value: &Arg) {
        self.pad(8);
        self.0.push(code);
        self.signature(kind);
        match (kind, value) {
            ("g", Arg::Text(text)) => self.signature(text),
            _ => self.arg(value),
        }
    }
}

/// A message as bytes, little-endian. `Arg::Long` travels in a variant.
pub fn encode(message: &Message) -> Vec<u8> {
    let mut body = Writer(Vec::new());
    let mut signature = String::new();
    for arg in &message.args {
        signature.push(match arg {
            Arg::Text(_) => 's',
            Arg::Int(_) => 'i',
            Arg::Unsigned(_) => 'u',
            Arg::Bool(_) => 'b',
            Arg::Long(_) => 'v',
            Arg::Descriptor(_) => 'h',
        });
        body.arg(arg);
    }
    let mut head = Writer(vec![b'l', message.kind as u8, 0, 1]);
    head.number(u32::try_from(body.0.len()).unwrap_or(0));
    head.number(message.serial);
    head.number(0);
    let member = if message.kind == Kind::Error { ERROR } else { MEMBER };
    let texts = [
        (PATH, "o", &message.path),
        (INTERFACE, "s", &message.interface),
        (member, "s", &message.member),
        (DESTINATION, "s", &message.destination),
        (SIGNATURE, "g", &signature),
    ];
    for (code, kind, text) in texts.into_iter().filter(|(.., text)| !text.is_empty()) {
        head.field(code, kind, &Arg::Text(text.clone()));
    }
    for (code, number) in [(REPLY, message.reply_to), (DESCRIPTORS, message.descriptors)] {
        if number > 0 {
            head.field(code, "u", &Arg::Unsigned(number));
        }
    }
    let fields = u32::try_from(head.0.len() - FIXED_BYTES).unwrap_or(0);
    head.0[12..16].copy_from_slice(&fields.to_le_bytes());
    head.pad(8);
    head.0.extend(body.0);
    head.0
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    little: bool,
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Malformed> {
        let end = self.at.checked_add(count).ok_or(Malformed { what: "length" })?;
        let part = self.bytes.get(self.at..end).ok_or(Malformed { what: "too short" })?;
        self.at = end;
        Ok(part)
    }

    fn pad(&mut self, to: usize) -> Result<(), Malformed> {
        self.take(self.at.next_multiple_of(to) - self.at).map(drop)
    }

    fn number(&mut self) -> Result<u32, Malformed> {
        self.pad(4)?;
        let bytes = self.take(4)?.try_into().map_err(|_| Malformed { what: "number" })?;
        Ok(if self.little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) })
    }

    fn long(&mut self) -> Result<u64, Malformed> {
        self.pad(8)?;
        let bytes = self.take(8)?.try_into().map_err(|_| Malformed { what: "number" })?;
        Ok(if self.little { u64::from_le_bytes(bytes) } else { u64::from_be_bytes(bytes) })
    }

    fn chars(&mut self, count: usize) -> Result<String, Malformed> {
        let text = std::str::from_utf8(self.take(count)?).map_err(|_| Malformed { what: "text" })?.to_owned();
        self.take(1)?;
        Ok(text)
    }

    fn text(&mut self) -> Result<String, Malformed> {
        let count = self.number()?;
        self.chars(usize::try_from(count).unwrap_or(usize::MAX))
    }

    fn signature(&mut self) -> Result<String, Malformed> {
        let count = self.take(1)?[0];
        self.chars(usize::from(count))
    }

    /// A value of a simple type or of a variant of one; `None` for others.
    fn arg(&mut self, kind: u8) -> Result<Option<Arg>, Malformed> {
        Ok(Some(match kind {
            b's' | b'o' => Arg::Text(self.text()?),
            b'g' => Arg::Text(self.signature()?),
            b'i' => Arg::Int(self.number()?.cast_signed()),
            b'u' => Arg::Unsigned(self.number()?),
            b'b' => Arg::Bool(self.number()? != 0),
            b't' => Arg::Long(self.long()?),
            b'h' => Arg::Descriptor(self.number()?),
            b'v' => {
                let inner = self.signature()?;
                return match inner.as_bytes() {
                    [kind] if *kind != b'v' => self.arg(*kind),
                    _ => Ok(None),
                };
            }
            _ => return Ok(None),
        }))
    }
}

/// How long the message is that these bytes begin; `None` = more bytes are needed to tell.
pub fn length(bytes: &[u8]) -> Result<Option<usize>, Malformed> {
    if bytes.len() < FIXED_BYTES {
        return Ok(None);
    }
    let little = match bytes[0] {
        b'l' => true,
        b'B' => false,
        _ => return Err(Malformed { what: "byte order" }),
    };
    let number = |at| Reader { bytes, at, little }.number().map(|n| usize::try_from(n).unwrap_or(usize::MAX));
    let (body, fields) = (number(4)?, number(12)?);
    let length = fields.checked_add(FIXED_BYTES).and_then(|head| head.next_multiple_of(8).checked_add(body));
    length.filter(|length| *length <= MAX_BYTES).map(Some).ok_or(Malformed { what: "too long" })
}

/// Reads one whole message. Values after the first of a type that is not for us are left out.
pub fn decode(bytes: &[u8]) -> Result<Message, Malformed> {
    let mut reader = Reader { bytes, at: 0, little: bytes.first() == Some(&b'l') };
    let head = reader.take(4)?;
    let kind = match head[1] {
        1 => Kind::Call,
        2 => Kind::Return,
        3 => Kind::Error,
        4 => Kind::Signal,
        _ => return Err(Malformed { what: "kind" }),
    };
    reader.number()?;
    let mut message = Message { kind, serial: reader.number()?, ..Message::default() };
    let fields = usize::try_from(reader.number()?).unwrap_or(usize::MAX);
    let end = reader.at.checked_add(fields).filter(|end| *end <= bytes.len());
    let end = end.ok_or(Malformed { what: "fields" })?;
    let mut signature = String::new();
    while reader.at < end {
        reader.pad(8)?;
        let code = reader.take(1)?[0];
        let kind = reader.signature()?;
        let value = match kind.as_bytes() {
            [kind] => reader.arg(*kind)?,
            _ => None,
        };
        match (code, value.ok_or(Malformed { what: "field" })?) {
            (PATH, Arg::Text(text)) => message.path = text,
            (INTERFACE, Arg::Text(text)) => message.interface = text,
            (MEMBER | ERROR, Arg::Text(text)) => message.member = text,
            (DESTINATION, Arg::Text(text)) => message.destination = text,
            (SIGNATURE, Arg::Text(text)) => signature = text,
            (REPLY, Arg::Unsigned(number)) => message.reply_to = number,
            (DESCRIPTORS, Arg::Unsigned(number)) => message.descriptors = number,
            _ => {}
        }
    }
    reader.pad(8)?;
    let mut body = Reader { bytes: &bytes[reader.at..], at: 0, little: reader.little };
    for kind in signature.bytes() {
        let Some(arg) = body.arg(kind)? else { break };
        message.args.push(arg);
    }
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive() {
        let message = Message {
            kind: Kind::Call,
            serial: 7,
            path: "/org/freedesktop/login1".into(),
            interface: "org.freedesktop.login1.Manager".into(),
            member: "Inhibit".into(),
            destination: "org.freedesktop.login1".into(),
            reply_to: 3,
            descriptors: 1,
            args: vec![
                Arg::Text("shutdown".into()),
                Arg::Int(-1),
                Arg::Bool(true),
                Arg::Long(5_000_000),
                Arg::Descriptor(0),
                Arg::Text(String::new()),
            ],
        };
        let bytes = encode(&message);
        assert_eq!(length(&bytes), Ok(Some(bytes.len())));
        assert_eq!(decode(&bytes), Ok(message));
        for cut in 0..bytes.len() {
            assert!(cut < FIXED_BYTES || length(&bytes[..cut]) == Ok(Some(bytes.len())));
            let _ = decode(&bytes[..cut]);
        }
    }

    #[test]
    fn beginnings_are_judged() {
        assert_eq!(length(b"x123456789abcdef"), Err(Malformed { what: "byte order" }));
        assert_eq!(
            length(b"l\x01\0\x01\xff\xff\xff\xff\0\0\0\0\0\0\0\0"),
            Err(Malformed { what: "too long" })
        );
        assert_eq!(length(b"l"), Ok(None));
        // In the other byte order: eight bytes of body, sixteen of fields.
        assert_eq!(length(b"B\x02\0\x01\0\0\0\x08\0\0\0\x01\0\0\0\x10"), Ok(Some(40)));
    }

    #[test]
    fn arbitrary_bytes_do_no_harm() {
        let rng = base::Rng::seeded(5);
        for _ in 0..20_000 {
            let mut bytes =
                encode(&Message { member: "m".into(), args: vec![Arg::Long(1)], ..Message::default() });
            for _ in 0..3 {
                let at = usize::try_from(rng.below(bytes.len() as u64)).expect("small");
                bytes[at] = u8::try_from(rng.below(256)).expect("a byte");
            }
            let _ = length(&bytes);
            let _ = decode(&bytes);
        }
    }
}
