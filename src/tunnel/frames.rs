//! Follows WebSocket frame headers in passing (RFC 6455 section 5.2), so that the gateway knows where a frame ends.
//!
//! The cursor reads and never writes: payload is skipped, nothing is buffered or changed, and whatever it thinks of a
//! stream, every byte of it is passed on by others. A codec would hold each message once more, and would have to refuse
//! what it does not know; a cursor only ever loses its own place.

/// Where one direction of a tunnel stands in its frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// Payload bytes of the current frame that are still to come.
    remaining: u64,
    /// The current frame's header. A Close frame's code is put right behind it: a control frame's header has 6 bytes.
    header: [u8; 14],
    /// Bytes of a header that is not yet whole; 0 in payload and between frames.
    gathered: u8,
    sender: Sender,
    /// A fragmented message has begun and its final frame has not.
    in_message: bool,
    close: Option<CloseCode>,
}

/// What a Close frame said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseCode {
    /// It had no payload.
    Missing,
    /// Its code, whether or not that code may be sent.
    Code(u16),
}

impl Cursor {
    /// At the start of what a client sends: masked frames.
    pub fn client() -> Self {
        Self::new(Sender::Client)
    }

    /// At the start of what a server sends: unmasked frames.
    pub fn server() -> Self {
        Self::new(Sender::Server)
    }

    /// For a stream that is no WebSocket.
    pub fn opaque() -> Self {
        Self::new(Sender::Unknown)
    }

    /// Follows the next bytes of the stream, in whatever pieces it is read. The cost is one of frames, not of bytes.
    pub fn advance(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.is_opaque() {
            bytes = if self.remaining > 0 { self.pass_payload(bytes) } else { self.gather_header(bytes) };
        }
    }

    /// Whether the last byte was the last of a frame (or none has come yet): here, and nowhere else, a frame of the
    /// gateway's own may be put in. Inside a fragmented message only a control frame may.
    pub fn at_boundary(&self) -> bool {
        !self.is_opaque() && self.gathered == 0 && self.remaining == 0
    }

    /// Payload bytes of the current frame that are still to come; 0 inside a header, and on an opaque stream.
    pub fn remaining(&self) -> u64 {
        self.remaining
    }

    /// Whether a fragmented message is open. Control frames between its fragments do not end it.
    pub fn in_message(&self) -> bool {
        self.in_message
    }

    /// What the first Close frame said, once the whole frame has passed; `None` when there was none.
    pub fn close_code(&self) -> Option<CloseCode> {
        self.close
    }

    /// Whether nothing is known of frames here: the stream is no WebSocket, or broke the framing. It stays so, for
    /// whatever looked like a header later would be a guess.
    pub fn is_opaque(&self) -> bool {
        self.sender == Sender::Unknown
    }

    fn new(sender: Sender) -> Self {
        Self { remaining: 0, header: [0; 14], gathered: 0, sender, in_message: false, close: None }
    }

    /// Takes what `bytes` hold of the header, and gives the bytes behind it. The first two bytes tell its length, and
    /// are judged before the rest is waited for.
    fn gather_header<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let gathered = usize::from(self.gathered);
        let target = if gathered < 2 { 2 } else { self.header_length() };
        let (taken, rest) = bytes.split_at(bytes.len().min(target - gathered));
        self.header[gathered..gathered + taken.len()].copy_from_slice(taken);
        self.gathered += taken.len() as u8;
        if usize::from(self.gathered) == target {
            if target == 2 && !self.start_is_sound() {
                self.lose();
            } else if target == self.header_length() {
                self.begin_payload();
            }
        }
        rest
    }

    /// The header is whole.
    fn begin_payload(&mut self) {
        let Some(length) = self.payload_length() else { return self.lose() };
        self.gathered = 0;
        self.remaining = length;
        if !self.is_control() {
            self.in_message = !self.is_final();
        }
        if length == 0 {
            self.end_frame();
        }
    }

    fn pass_payload<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let fits = usize::try_from(self.remaining).unwrap_or(usize::MAX);
        let (payload, rest) = bytes.split_at(bytes.len().min(fits));
        if self.opcode() == CLOSE {
            self.keep_code(payload);
        }
        self.remaining -= payload.len() as u64;
        if self.remaining == 0 {
            self.end_frame();
        }
        rest
    }

    /// Keeps what `payload` holds of the first two bytes of a Close frame.
    fn keep_code(&mut self, payload: &[u8]) {
        let passed = usize::from(self.short_length()) - self.remaining as usize;
        let start = self.header_length();
        for (index, byte) in (passed..2).zip(payload) {
            self.header[start + index] = *byte;
        }
    }

    fn end_frame(&mut self) {
        if self.opcode() == CLOSE && self.close.is_none() {
            self.close = Some(self.kept_code());
        }
    }

    fn kept_code(&self) -> CloseCode {
        let header = &self.header;
        match (self.short_length(), self.is_masked()) {
            (0, _) => CloseCode::Missing,
            (_, true) => CloseCode::Code(u16::from_be_bytes([header[6] ^ header[2], header[7] ^ header[3]])),
            (_, false) => CloseCode::Code(u16::from_be_bytes([header[2], header[3]])),
        }
    }

    /// The framing is broken, or its place in it is lost. What a Close said before that stays known.
    fn lose(&mut self) {
        *self = Self { close: self.close, ..Self::opaque() };
    }

    /// Whether the first two bytes may begin a frame here. The reserved bits may be set: they belong to extensions,
    /// which the two parties have agreed on between themselves.
    fn start_is_sound(&self) -> bool {
        let length = self.short_length();
        let kind_is_sound = match self.opcode() {
            CONTINUATION => self.in_message,
            TEXT | BINARY => !self.in_message,
            CLOSE => self.is_final() && length <= 125 && length != 1,
            PING | PONG => self.is_final() && length <= 125,
            _ => false,
        };
        kind_is_sound && self.is_masked() == (self.sender == Sender::Client)
    }

    /// The length of a whole header's payload, unless its form is not the shortest or its top bit is set.
    fn payload_length(&self) -> Option<u64> {
        let [_, _, a, b, c, d, e, f, g, h, ..] = self.header;
        match self.short_length() {
            126 => Some(u64::from(u16::from_be_bytes([a, b]))).filter(|length| *length > 125),
            127 => Some(u64::from_be_bytes([a, b, c, d, e, f, g, h])).filter(|l| *l > 0xffff && *l < 1 << 63),
            short => Some(u64::from(short)),
        }
    }

    /// The length of the header, known from its first two bytes.
    fn header_length(&self) -> usize {
        let extended = match self.short_length() {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if self.is_masked() { 4 } else { 0 };
        2 + extended + mask
    }

    fn opcode(&self) -> u8 {
        self.header[0] & 0x0f
    }

    fn is_control(&self) -> bool {
        self.opcode() >= CLOSE
    }

    fn is_final(&self) -> bool {
        self.header[0] & 0x80 != 0
    }

    fn is_masked(&self) -> bool {
        self.header[1] & 0x80 != 0
    }

    fn short_length(&self) -> u8 {
        self.header[1] & 0x7f
    }
}

impl CloseCode {
    /// The code for records: 1005 stands for a Close without one (RFC 6455 section 7.4.1).
    pub fn number(self) -> u16 {
        match self {
            Self::Missing => 1005,
            Self::Code(code) => code,
        }
    }
}

/// Who sends the stream, hence whether its frames are masked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sender {
    Client,
    Server,
    /// Somebody who does not send frames.
    Unknown,
}

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tungstenite::protocol::frame::FrameHeader;

    const FINAL: u8 = 0x80;
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

    #[test]
    fn a_cursor_is_small() {
        assert!(size_of::<Cursor>() <= 32, "{}", size_of::<Cursor>());
    }

    #[test]
    fn every_form_of_length_is_skipped() {
        for (length, header) in [(0, 2), (1, 2), (125, 2), (126, 4), (127, 4), (65535, 4), (65536, 10), (100_000, 10)] {
            for (mut cursor, sender, mask) in
                [(Cursor::server(), Sender::Server, 0), (Cursor::client(), Sender::Client, 4)]
            {
                let bytes = frame(sender, FINAL | BINARY, &vec![7; length]);
                assert_eq!(bytes.len(), header + mask + length);
                cursor.advance(&bytes[..header + mask]);
                assert_eq!((cursor.remaining(), cursor.at_boundary()), (length as u64, length == 0));
                cursor.advance(&bytes[header + mask..]);
                assert_eq!((cursor.remaining(), cursor.at_boundary(), cursor.is_opaque()), (0, true, false));
            }
        }
    }

    #[test]
    fn the_longest_payload_is_counted() {
        let mut cursor = Cursor::server();
        cursor.advance(&[0x82, 127, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(cursor.remaining(), u64::MAX >> 1);
        cursor.advance(&[0; 1000]);
        assert_eq!(cursor.remaining(), (u64::MAX >> 1) - 1000);
    }

    #[test]
    fn a_header_that_is_not_whole_is_no_boundary() {
        let bytes = frame(Sender::Client, FINAL | BINARY, &[7; 70_000]);
        for cut in 1..14 {
            let mut cursor = Cursor::client();
            cursor.advance(&bytes[..cut]);
            assert_eq!((cursor.at_boundary(), cursor.remaining(), cursor.is_opaque()), (false, 0, false), "{cut}");
        }
    }

    #[test]
    fn a_message_is_open_from_its_first_fragment_to_its_final_one() {
        let mut cursor = Cursor::client();
        for (first, payload, open) in [
            (TEXT, &b"Hel"[..], true),
            (FINAL | PING, b"there?", true),
            (CONTINUATION, b"", true),
            (FINAL | PONG, b"", true),
            (FINAL, b"lo", false),
            (FINAL | TEXT, b"next", false),
            (FINAL | PING, b"", false),
        ] {
            cursor.advance(&frame(Sender::Client, first, payload));
            assert_eq!((cursor.in_message(), cursor.at_boundary(), cursor.is_opaque()), (open, true, false));
        }
    }

    #[test]
    fn bits_of_extensions_are_let_pass() {
        for bits in [0x40, 0x20, 0x10, 0x70] {
            let mut cursor = Cursor::server();
            cursor.advance(&frame(Sender::Server, FINAL | bits | TEXT, b"deflated"));
            assert!(cursor.at_boundary());
        }
    }

    #[test]
    fn the_code_of_a_close_is_read() {
        for (payload, expected) in [
            (&b""[..], CloseCode::Missing),
            (b"\x03\xe8", CloseCode::Code(1000)),
            (b"\x03\xe9going away", CloseCode::Code(1001)),
            (b"\x0f\xa0 application", CloseCode::Code(4000)),
            (b"\x00\x00", CloseCode::Code(0)),
        ] {
            for (mut cursor, sender) in [(Cursor::server(), Sender::Server), (Cursor::client(), Sender::Client)] {
                let bytes = frame(sender, FINAL | CLOSE, payload);
                for byte in &bytes {
                    assert_eq!(cursor.close_code(), None);
                    cursor.advance(&[*byte]);
                }
                assert_eq!(cursor.close_code(), Some(expected));
                assert!(cursor.at_boundary());
            }
        }
    }

    #[test]
    fn the_first_close_counts_and_what_follows_does_not_undo_it() {
        let mut cursor = Cursor::server();
        for code in [b"\x03\xe8", b"\x03\xf3"] {
            cursor.advance(&frame(Sender::Server, FINAL | CLOSE, code));
        }
        cursor.advance(b"\xff\xffrubbish");
        assert_eq!((cursor.close_code(), cursor.is_opaque()), (Some(CloseCode::Code(1000)), true));
    }

    #[test]
    fn a_close_without_code_is_1005_in_records() {
        assert_eq!((CloseCode::Missing.number(), CloseCode::Code(1001).number()), (1005, 1001));
    }

    #[test]
    fn broken_framing_is_opaque_from_then_on() {
        let cases: &[(&str, &[u8])] = &[
            ("reserved data opcode", &[0x83, 0]),
            ("reserved control opcode", &[0x8b, 0]),
            ("ping longer than 125", &[0x89, 126, 0, 126]),
            ("close longer than 125", &[0x88, 127]),
            ("fragmented ping", &[0x09, 0]),
            ("fragmented close", &[0x08, 0]),
            ("close with half a code", &[0x88, 1, 3]),
            ("masked by the server", &[0x81, 0x80, 1, 2, 3, 4]),
            ("continuation of nothing", &[0x80, 0]),
            ("continuation of a whole message", &[0x81, 0, 0x00, 0]),
            ("message inside a message", &[0x01, 0, 0x82, 0]),
            ("125 in 16 bits", &[0x82, 126, 0, 125]),
            ("65535 in 64 bits", &[0x82, 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff]),
            ("top bit of 64", &[0x82, 127, 0x80, 0, 0, 0, 0, 1, 0, 0]),
        ];
        for (what, bytes) in cases {
            let mut cursor = Cursor::server();
            cursor.advance(bytes);
            assert!(cursor.is_opaque(), "{what}");
            cursor.advance(&frame(Sender::Server, FINAL | CLOSE, b"\x03\xe8"));
            assert_eq!(cursor, Cursor::opaque(), "{what}");
        }
    }

    #[test]
    fn a_client_that_does_not_mask_is_opaque() {
        let mut cursor = Cursor::client();
        cursor.advance(&[0x81, 5]);
        assert!(cursor.is_opaque());
    }

    #[test]
    fn an_opaque_stream_has_no_boundary() {
        let mut cursor = Cursor::opaque();
        cursor.advance(&frame(Sender::Server, FINAL | TEXT, b"looks like a frame"));
        assert_eq!((cursor.at_boundary(), cursor.remaining(), cursor.in_message()), (false, 0, false));
    }

    proptest! {
        #[test]
        fn boundaries_are_just_the_ends_of_frames((sender, frames) in streams()) {
            let mut cursor = start(sender);
            let (mut bytes, mut ends) = (Vec::new(), vec![0]);
            for frame in &frames {
                bytes.extend(frame);
                ends.push(bytes.len());
            }
            let mut found = vec![0];
            for (index, byte) in bytes.iter().enumerate() {
                cursor.advance(&[*byte]);
                found.extend(cursor.at_boundary().then_some(index + 1));
            }
            prop_assert_eq!(found, ends);
            prop_assert!(!cursor.is_opaque());
        }

        #[test]
        fn no_split_of_frames_changes_a_state((sender, frames) in streams(), cuts in cuts()) {
            same_state_at_every_cut(sender, &frames.concat(), &cuts)?;
        }

        #[test]
        fn no_split_of_broken_frames_changes_a_state((sender, frames) in streams(), cuts in cuts(),
            at in any::<prop::sample::Index>(), bits in 1u8..)
        {
            let mut bytes = frames.concat();
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] ^= bits;
            }
            same_state_at_every_cut(sender, &bytes, &cuts)?;
        }

        #[test]
        fn no_split_of_garbage_changes_a_state(bytes in prop::collection::vec(any::<u8>(), 0..200), cuts in cuts()) {
            for sender in [Sender::Client, Sender::Server, Sender::Unknown] {
                same_state_at_every_cut(sender, &bytes, &cuts)?;
            }
        }

        #[test]
        fn a_header_means_what_another_implementation_reads(bytes in any::<[u8; 14]>(), masked: bool) {
            let sender = if masked { Sender::Client } else { Sender::Server };
            let mut cursor = start(sender);
            let parsed = FrameHeader::parse(&mut std::io::Cursor::new(bytes));
            if let Ok(Some((_, length))) = parsed {
                cursor.advance(&bytes[..header_length(&bytes)]);
                prop_assert!(cursor.is_opaque() || cursor.remaining() == length);
            } else {
                cursor.advance(&bytes);
                prop_assert!(cursor.is_opaque());
            }
        }
    }

    /// The length of the header that `bytes` begin with.
    fn header_length(bytes: &[u8; 14]) -> usize {
        Cursor { header: *bytes, ..Cursor::server() }.header_length()
    }

    /// At every cut, a cursor that was given the pieces equals one that was given one byte at a time.
    fn same_state_at_every_cut(
        sender: Sender,
        bytes: &[u8],
        cuts: &[prop::sample::Index],
    ) -> Result<(), TestCaseError> {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).chain([bytes.len()]).collect();
        cuts.sort_unstable();
        let (mut by_pieces, mut by_bytes, mut from) = (start(sender), start(sender), 0);
        for cut in cuts {
            by_pieces.advance(&bytes[from..cut]);
            bytes[from..cut].iter().for_each(|byte| by_bytes.advance(&[*byte]));
            prop_assert_eq!(&by_pieces, &by_bytes);
            from = cut;
        }
        let mut whole = start(sender);
        whole.advance(bytes);
        prop_assert_eq!(whole, by_pieces);
        Ok(())
    }

    fn start(sender: Sender) -> Cursor {
        Cursor::new(sender)
    }

    fn cuts() -> impl Strategy<Value = Vec<prop::sample::Index>> {
        prop::collection::vec(any::<prop::sample::Index>(), 0..20)
    }

    /// Frames in an order that the RFC allows, by one sender.
    fn streams() -> impl Strategy<Value = (Sender, Vec<Vec<u8>>)> {
        let sender = prop_oneof![Just(Sender::Client), Just(Sender::Server)];
        let message = (any::<bool>(), prop::collection::vec((payloads(), prop::option::of(controls())), 1..4));
        (sender, prop::collection::vec(message, 0..4), prop::option::of(closes())).prop_map(
            |(sender, messages, close)| {
                let mut frames = Vec::new();
                for (text, fragments) in messages {
                    let last = fragments.len() - 1;
                    for (index, (payload, control)) in fragments.into_iter().enumerate() {
                        let opcode = if index > 0 {
                            CONTINUATION
                        } else if text {
                            TEXT
                        } else {
                            BINARY
                        };
                        let last = if index == last { FINAL } else { 0 };
                        frames.push(frame(sender, last | opcode, &payload));
                        frames.extend(control.map(|(opcode, payload)| frame(sender, FINAL | opcode, &payload)));
                    }
                }
                frames.extend(close.map(|payload| frame(sender, FINAL | CLOSE, &payload)));
                (sender, frames)
            },
        )
    }

    fn payloads() -> impl Strategy<Value = Vec<u8>> {
        let length = prop_oneof![8 => 0..10usize, 2 => 120..130usize, 1 => 65530..65540usize];
        (any::<u8>(), length).prop_map(|(byte, length)| vec![byte; length])
    }

    fn controls() -> impl Strategy<Value = (u8, Vec<u8>)> {
        (prop_oneof![Just(PING), Just(PONG)], prop::collection::vec(any::<u8>(), 0..=125))
    }

    fn closes() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![Just(Vec::new()), prop::collection::vec(any::<u8>(), 2..=125)]
    }

    fn frame(sender: Sender, first: u8, payload: &[u8]) -> Vec<u8> {
        let mask_bit = if sender == Sender::Client { 0x80 } else { 0 };
        let mut bytes = vec![first];
        match payload.len() {
            short @ 0..=125 => bytes.push(mask_bit | short as u8),
            medium @ 126..=0xffff => {
                bytes.push(mask_bit | 126);
                bytes.extend((medium as u16).to_be_bytes());
            }
            long => {
                bytes.push(mask_bit | 127);
                bytes.extend((long as u64).to_be_bytes());
            }
        }
        if sender == Sender::Client {
            bytes.extend(MASK);
            bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        } else {
            bytes.extend(payload);
        }
        bytes
    }
}
