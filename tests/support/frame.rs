//! WebSocket frames (RFC 6455 section 5.2), built and read by hand: the tests share no code with what they test.

use super::peer::Peer;

/// Opcode of the frames that continue a message.
pub const CONTINUATION: u8 = 0;
/// Opcode of text.
pub const TEXT: u8 = 1;
/// Opcode of bytes.
pub const BINARY: u8 = 2;
/// Opcode of the closing handshake.
pub const CLOSE: u8 = 8;
/// Opcode of a ping.
pub const PING: u8 = 9;
/// Opcode of its answer.
pub const PONG: u8 = 10;

/// The mask of every client's frame here; that of the examples in RFC 6455 section 5.7.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A frame as it was read, unmasked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Whether it is the last of its message.
    pub fin: bool,
    /// The three reserved bits, 0 to 7.
    pub reserved: u8,
    /// What it is.
    pub opcode: u8,
    /// Whether it came masked.
    pub masked: bool,
    /// Its payload.
    pub payload: Vec<u8>,
}

/// A client's frame: masked.
pub fn client(opcode: u8, fin: bool, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let mut frame = header(opcode, fin, true, payload.len());
    frame.extend(MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// A server's frame: not masked.
pub fn server(opcode: u8, fin: bool, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let mut frame = header(opcode, fin, false, payload.len());
    frame.extend(payload);
    frame
}

/// The payload of a Close frame.
pub fn close_payload(code: u16, reason: &str) -> Vec<u8> {
    [&code.to_be_bytes(), reason.as_bytes()].concat()
}

/// Reads one frame.
pub fn read(peer: &mut Peer) -> Frame {
    let head = peer.read_exact(2);
    let masked = head[1] & 0x80 != 0;
    let length = match head[1] & 0x7f {
        126 => u64::from(u16::from_be_bytes(array(peer.read_exact(2)))),
        127 => u64::from_be_bytes(array(peer.read_exact(8))),
        short => u64::from(short),
    };
    let mask = if masked { array(peer.read_exact(4)) } else { [0; 4] };
    let length = usize::try_from(length).expect("a payload that fits into memory");
    let payload = peer.read_exact(length).iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
    Frame { fin: head[0] & 0x80 != 0, reserved: head[0] >> 4 & 7, opcode: head[0] & 0x0f, masked, payload }
}

impl Frame {
    /// The payload as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.payload).expect("the payload is text")
    }

    /// The code of a Close frame, if it carries one.
    pub fn close_code(&self) -> Option<u16> {
        assert_eq!(self.opcode, CLOSE, "no Close: {self:?}");
        self.payload.first_chunk().map(|code| u16::from_be_bytes(*code))
    }
}

fn header(opcode: u8, fin: bool, masked: bool, length: usize) -> Vec<u8> {
    let mask_bit = if masked { 0x80 } else { 0 };
    let mut header = vec![if fin { 0x80 } else { 0 } | opcode];
    match length {
        0..=125 => header.push(mask_bit | length as u8),
        126..=0xffff => {
            header.push(mask_bit | 126);
            header.extend((length as u16).to_be_bytes());
        }
        _ => {
            header.push(mask_bit | 127);
            header.extend((length as u64).to_be_bytes());
        }
    }
    header
}

fn array<const N: usize>(bytes: Vec<u8>) -> [u8; N] {
    bytes.try_into().expect("read_exact gives just so many")
}
