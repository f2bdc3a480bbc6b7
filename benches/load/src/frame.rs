//! Frames of RFC 6455 section 5.2, as far as a load needs them.

const FINAL_BINARY: u8 = 0x82;
const MASKED: u8 = 0x80;
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A whole message as a client sends it.
pub fn message(size: usize) -> Vec<u8> {
    let mut frame = header(FINAL_BINARY, MASKED, size);
    frame.extend_from_slice(&MASK);
    frame.extend((0..size).map(|at| (at as u8) ^ MASK[at % 4]));
    frame
}

/// How many bytes the echo of a message is.
pub fn echo_length(size: usize) -> usize {
    header(FINAL_BINARY, 0, size).len() + size
}

/// The header of a frame of a server.
pub fn header(first: u8, mask_bit: u8, size: usize) -> Vec<u8> {
    let mut header = vec![first];
    match size {
        0..=125 => header.push(mask_bit | size as u8),
        126..=0xffff => {
            header.push(mask_bit | 126);
            header.extend_from_slice(&(size as u16).to_be_bytes());
        }
        _ => {
            header.push(mask_bit | 127);
            header.extend_from_slice(&(size as u64).to_be_bytes());
        }
    }
    header
}

/// The header of a client's frame: what it says, and how long it is.
pub struct Header {
    pub first: u8,
    pub size: usize,
    pub mask: [u8; 4],
    pub length: usize,
}

impl Header {
    /// None until all of it is there.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (&[first, second], rest) = bytes.split_first_chunk::<2>()?;
        let (size, rest) = match second & 0x7f {
            126 => rest.split_first_chunk::<2>().map(|(size, rest)| (u16::from_be_bytes(*size).into(), rest))?,
            127 => rest.split_first_chunk::<8>().map(|(size, rest)| (u64::from_be_bytes(*size) as usize, rest))?,
            size => (size.into(), rest),
        };
        let (mask, rest) = rest.split_first_chunk::<4>()?;
        Some(Self { first, size, mask: *mask, length: bytes.len() - rest.len() })
    }
}
