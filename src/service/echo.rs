//! The echo service: every message comes back to its sender.
//!
//! Here the gateway is a WebSocket server itself. The codec reads, joins fragments, validates, and answers pings and
//! Closes; this file sends messages back, says what the codec leaves unsaid, and closes so that the client gets to read
//! why. It negotiates no extension: a caller's 101 has no Sec-WebSocket-Extensions.
//!
//! Nothing is read before the last answer has been written, so a client that sends and never reads holds one message in
//! memory at most and is then slowed down by TCP. No clock runs here: the caller watches from outside, and may drop the
//! future at any await.

use std::io::ErrorKind;

use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_websockets::proto::ProtocolError;
use tokio_websockets::{CloseCode, Config, Error, Limits, Message, ServerBuilder, WebSocketStream};

/// How an echo ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EchoEnd {
    /// The client's Close came, with this code (1005: without one), and was answered in kind.
    ClientClosed(u16),
    /// The client broke the protocol; it was sent this code: 1002, or 1007 for text that is not UTF-8.
    Malformed(u16),
    /// The client's message was larger than allowed; it was sent 1009.
    Limit,
    /// The client sent FIN without a Close, be it inside a frame.
    ClientGone,
    /// The connection broke.
    ClientReset,
}

impl EchoEnd {
    /// The code of the Close that began the end; `None` where there was no Close.
    pub fn close_code(self) -> Option<u16> {
        match self {
            Self::ClientClosed(code) | Self::Malformed(code) => Some(code),
            Self::Limit => Some(CloseCode::MESSAGE_TOO_BIG.into()),
            Self::ClientGone | Self::ClientReset => None,
        }
    }
}

/// The largest `max_message`, which a configuration cannot go beyond. The codec reserves the length that a header announces, before any of it has come: with no
/// bound at all, 14 bytes of a client could ask for more than the machine has, and end the process.
pub const LARGEST_MESSAGE: usize = 64 << 20;

/// Echoes over `stream`, whose 101 has been sent, until either side closes it. A message may have `max_message` bytes
/// (at most [`LARGEST_MESSAGE`]), in one frame or in many. `told` is called when the conversation has ended and only the
/// connection remains to be closed, which takes as long as the client pleases.
pub async fn echo<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    max_message: usize,
    told: impl FnOnce(EchoEnd),
) -> EchoEnd {
    let max_message = max_message.min(LARGEST_MESSAGE);
    let mut socket = ServerBuilder::new()
        .limits(Limits::default().max_payload_len(Some(max_message.max(LONGEST_CONTROL))))
        .config(Config::default().frame_size(max_message.max(1)))
        .serve(stream);
    let end = answer_all(&mut socket, max_message).await;
    told(end);
    if end != EchoEnd::ClientReset {
        close(socket.into_inner(), max_message).await;
    }
    end
}

/// The codec holds control frames to the limit of messages too, so that limit is never below what a ping may have.
const LONGEST_CONTROL: usize = 125;

async fn answer_all<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut WebSocketStream<S>, max_message: usize) -> EchoEnd {
    loop {
        let message = match socket.next().await {
            Some(Ok(message)) => message,
            Some(Err(error)) => return refuse(socket, error, max_message).await,
            None => return EchoEnd::ClientGone,
        };
        if let Some((code, _)) = message.as_close() {
            // The codec has queued the answer. The client may be gone before it is out: it closed all the same.
            let _ = socket.flush().await;
            return EchoEnd::ClientClosed(code.into());
        }
        if let Err(error) = answer(socket, message, max_message).await {
            return refuse(socket, error, max_message).await;
        }
    }
}

/// Answers a message and waits until the answer is out.
async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut WebSocketStream<S>,
    message: Message,
    max_message: usize,
) -> Result<(), Error> {
    if message.is_ping() || message.is_pong() {
        // The codec has queued the pong. Reading on without a flush would let unread pongs pile up without bound.
        return socket.flush().await;
    }
    let len = message.as_payload().len();
    if len > max_message {
        return Err(Error::PayloadTooLong { len, max_len: max_message });
    }
    // The codec does not look at text again when the final fragment is empty: a character cut short would pass.
    if message.is_text() && std::str::from_utf8(message.as_payload()).is_err() {
        return Err(Error::Protocol(ProtocolError::InvalidUtf8));
    }
    socket.send(message).await
}

/// Sends the Close that tells the client what was wrong, where there still is a client.
async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut WebSocketStream<S>,
    error: Error,
    max_message: usize,
) -> EchoEnd {
    let (code, reason) = match &error {
        Error::Protocol(ProtocolError::InvalidUtf8) => (CloseCode::INVALID_FRAME_PAYLOAD_DATA, "invalid utf8"),
        Error::Protocol(_) => (CloseCode::PROTOCOL_ERROR, "protocol error"),
        Error::PayloadTooLong { .. } => (CloseCode::MESSAGE_TOO_BIG, &*format!("max length: {max_message}")),
        // The codec's word for a stream that ended inside a frame is `Other`; a TLS stream's word for a FIN is
        // `UnexpectedEof`.
        Error::Io(error) if matches!(error.kind(), ErrorKind::Other | ErrorKind::UnexpectedEof) => {
            return EchoEnd::ClientGone;
        }
        _ => return EchoEnd::ClientReset,
    };
    // For what it found in a single frame the codec has queued a Close, and refuses this one; for a message too big in
    // fragments, and for what is found here, it has not. So this may fail, and the flush is what counts.
    let _ = socket.feed(Message::close(Some(code), reason)).await;
    let _ = socket.flush().await;
    match error {
        Error::PayloadTooLong { .. } => EchoEnd::Limit,
        _ => EchoEnd::Malformed(code.into()),
    }
}

/// Ends the connection so that a Close on its way arrives: the server's FIN goes first (RFC 6455 section 7.1.1), then
/// what the client still sends is read and thrown away until its FIN, for closing a socket with unread bytes sends a
/// RST, which eats the Close. Bounded, but by more than a message of the size that is allowed, so that the sender of
/// one somewhat too big gets to read its 1009.
async fn close<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, max_message: usize) {
    if stream.shutdown().await.is_ok() {
        let bound = LINGER.saturating_add(max_message as u64);
        let _ = tokio::io::copy(&mut stream.take(bound), &mut tokio::io::sink()).await;
    }
}

const LINGER: u64 = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};
    use std::time::Duration;
    use tokio::io::DuplexStream;
    use tungstenite::protocol::frame::coding::CloseCode as Code;
    use tungstenite::protocol::{CloseFrame, Role};
    use tungstenite::{Message as Sent, WebSocket};

    const MAX: usize = 100_000;
    const FINAL: u8 = 0x80;
    const CONTINUATION: u8 = 0;
    const TEXT: u8 = 1;
    const BINARY: u8 = 2;
    const CLOSE: u8 = 8;
    const PING: u8 = 9;
    const PONG: u8 = 10;

    #[test]
    fn the_future_is_small_and_may_move_between_threads() {
        fn size<F: Future + Send>(_: fn(tokio::net::TcpStream, usize, fn(EchoEnd)) -> F) -> usize {
            size_of::<F>()
        }
        assert!(size(echo) <= 1024, "{}", size(echo));
    }

    #[test]
    fn messages_of_every_length_come_back() {
        let end = with_client(MAX, |stream| {
            let mut client = WebSocket::from_raw_socket(stream, Role::Client, None);
            for length in [0, 1, 125, 126, 127, 65535, 65536, MAX] {
                for message in [Sent::text("x".repeat(length)), Sent::binary(vec![0xff; length])] {
                    client.send(message.clone()).unwrap();
                    assert_eq!(client.read().unwrap(), message);
                }
            }
            client.send(Sent::text("WebSocket rocks \u{1f918}")).unwrap();
            assert_eq!(client.read().unwrap(), Sent::text("WebSocket rocks \u{1f918}"));
            client.close(Some(CloseFrame { code: Code::Normal, reason: "done".into() })).unwrap();
            let answer = CloseFrame { code: Code::Normal, reason: "".into() };
            assert_eq!(client.read().unwrap(), Sent::Close(Some(answer)));
            assert!(matches!(client.read(), Err(tungstenite::Error::ConnectionClosed)));
        });
        assert_eq!(end, EchoEnd::ClientClosed(1000));
    }

    #[test]
    fn messages_sent_at_once_come_back_in_order() {
        let sent: Vec<u8> = (0..50).flat_map(|i| frame(FINAL | BINARY, &vec![i; usize::from(i)])).collect();
        let echoed: Vec<u8> = (0..50).flat_map(|i| answer(FINAL | BINARY, &vec![i; usize::from(i)])).collect();
        assert_eq!(exchange(MAX, &sent), (echoed, EchoEnd::ClientGone));
    }

    #[test]
    fn fragments_come_back_joined_and_a_ping_between_them_is_answered_first() {
        let sent = [frame(TEXT, b"Hel"), frame(FINAL | PING, b"?"), frame(CONTINUATION, b""), frame(FINAL, b"lo")];
        let expected = [answer(FINAL | PONG, b"?"), answer(FINAL | TEXT, b"Hello")];
        assert_eq!(exchange(MAX, &sent.concat()), (expected.concat(), EchoEnd::ClientGone));
    }

    #[test]
    fn a_character_may_be_cut_by_fragments() {
        let sent = [frame(TEXT, b"\xf0\x9f"), frame(CONTINUATION, b"\xa4"), frame(FINAL, b"\x98")];
        let expected = answer(FINAL | TEXT, "\u{1f918}".as_bytes());
        assert_eq!(exchange(MAX, &sent.concat()), (expected, EchoEnd::ClientGone));
    }

    #[test]
    fn pings_are_answered_with_their_payload_and_pongs_are_not() {
        let sent = [frame(FINAL | PING, b""), frame(FINAL | PONG, b"unasked"), frame(FINAL | PING, &[7; 125])];
        let expected = [answer(FINAL | PONG, b""), answer(FINAL | PONG, &[7; 125])];
        for max in [0, 1, MAX] {
            assert_eq!(exchange(max, &sent.concat()), (expected.concat(), EchoEnd::ClientGone));
        }
    }

    #[test]
    fn a_close_is_answered_with_its_code_and_the_server_ends_first() {
        for (payload, echoed, code) in [
            (&b""[..], &b""[..], 1005),
            (b"\x03\xe8", b"\x03\xe8", 1000),
            (b"\x03\xe9leaving", b"\x03\xe9", 1001),
            (b"\x0b\xb8", b"\x0b\xb8", 3000),
            (b"\x13\x87", b"\x13\x87", 4999),
        ] {
            let end = with_client(MAX, |mut stream| {
                stream.write_all(&frame(FINAL | CLOSE, payload)).unwrap();
                let mut received = Vec::new();
                stream.read_to_end(&mut received).unwrap();
                assert_eq!(received, answer(FINAL | CLOSE, echoed));
            });
            assert_eq!(end, EchoEnd::ClientClosed(code));
        }
    }

    #[test]
    fn broken_protocol_is_answered_with_1002() {
        for (what, sent) in [
            ("unmasked", answer(FINAL | TEXT, b"hello")),
            ("reserved data opcode", frame(FINAL | 3, b"")),
            ("reserved control opcode", frame(FINAL | 11, b"")),
            ("reserved bit", frame(FINAL | 0x40 | TEXT, b"deflated?")),
            ("fragmented ping", frame(PING, b"")),
            ("long ping", frame(FINAL | PING, &[0; 126])),
            ("continuation of nothing", frame(FINAL, b"")),
            ("message in a message", [frame(TEXT, b""), frame(FINAL | TEXT, b"")].concat()),
            ("half a code", frame(FINAL | CLOSE, b"\x03")),
            ("code 999", frame(FINAL | CLOSE, b"\x03\xe7")),
            ("code 1005", frame(FINAL | CLOSE, b"\x03\xed")),
            ("code 1006", frame(FINAL | CLOSE, b"\x03\xee")),
            ("code 1015", frame(FINAL | CLOSE, b"\x03\xf7")),
            ("code 2999", frame(FINAL | CLOSE, b"\x0b\xb7")),
            ("code 5000", frame(FINAL | CLOSE, b"\x13\x88")),
        ] {
            let (received, end) = exchange(MAX, &sent);
            assert_eq!((close_code(&received), end), (1002, EchoEnd::Malformed(1002)), "{what}");
        }
    }

    #[test]
    fn text_that_is_not_utf8_is_answered_with_1007() {
        for (what, sent) in [
            ("one frame", frame(FINAL | TEXT, b"\xff")),
            ("surrogate", frame(FINAL | TEXT, b"\xed\xa0\x80")),
            ("cut at the end", frame(FINAL | TEXT, b"caf\xc3")),
            ("second fragment", [frame(TEXT, b"caf"), frame(FINAL, b"\xff")].concat()),
            ("cut by an empty fragment", [frame(TEXT, b"caf\xc3"), frame(FINAL, b"")].concat()),
            ("reason of a close", frame(FINAL | CLOSE, b"\x03\xe8\xff")),
        ] {
            let (received, end) = exchange(MAX, &sent);
            assert_eq!((close_code(&received), end), (1007, EchoEnd::Malformed(1007)), "{what}");
        }
    }

    #[test]
    fn a_message_beyond_the_limit_is_answered_with_1009() {
        for (max, sent) in [
            (MAX, frame(FINAL | BINARY, &vec![0; MAX + 1])),
            (MAX, [frame(BINARY, &vec![0; MAX]), frame(FINAL, &[0])].concat()),
            (MAX, [frame(TEXT, b"x"), frame(CONTINUATION, &vec![b'x'; MAX - 1]), frame(CONTINUATION, b"x")].concat()),
            (MAX, frame(FINAL | BINARY, &vec![0; MAX + 1])[..14].to_vec()),
            (10, frame(FINAL | TEXT, b"eleven char")),
            (10, [frame(TEXT, b"eleven"), frame(FINAL, b" char")].concat()),
            (0, frame(FINAL | TEXT, b"x")),
            (usize::MAX, header(FINAL | BINARY, 0x80, 1 << 62)),
        ] {
            let (received, end) = exchange(max, &sent);
            assert_eq!((close_code(&received), end, end.close_code()), (1009, EchoEnd::Limit, Some(1009)));
        }
    }

    #[test]
    fn a_message_at_the_limit_comes_back_whole() {
        let sent = [frame(BINARY, &vec![7; MAX - 1]), frame(FINAL, &[7])].concat();
        assert_eq!(exchange(MAX, &sent).0, answer(FINAL | BINARY, &vec![7; MAX]));
        assert_eq!(exchange(10, &frame(FINAL | TEXT, b"ten chars.")).0, answer(FINAL | TEXT, b"ten chars."));
        assert_eq!(exchange(0, &frame(FINAL | TEXT, b"")).0, answer(FINAL | TEXT, b""));
    }

    #[test]
    fn a_client_that_keeps_sending_still_reads_the_close() {
        for first in [frame(FINAL | 3, b""), frame(FINAL | CLOSE, b"\x03\xe8")] {
            let sent = [first, vec![0; LINGER as usize]].concat();
            assert!(close_code(&exchange(MAX, &sent).0) >= 1000);
        }
    }

    #[test]
    fn the_sender_of_a_message_somewhat_too_big_is_not_cut_off() {
        let max = 12 << 20; // more than the kernel's buffers hold
        let (received, end) = exchange(max, &[header(FINAL | BINARY, 0x80, max + 1), vec![0; 4 + max + 1]].concat());
        assert_eq!((close_code(&received), end), (1009, EchoEnd::Limit));
    }

    #[test]
    fn a_client_that_never_stops_sending_is_left() {
        let end = with_client(MAX, |mut stream| {
            stream.write_all(&frame(FINAL | 3, b"")).unwrap();
            while stream.write_all(&[0; 65536]).is_ok() {}
        });
        assert_eq!(end, EchoEnd::Malformed(1002));
    }

    #[test]
    fn a_client_that_leaves_without_a_close_is_gone() {
        for sent in [Vec::new(), frame(FINAL | TEXT, b"hello")[..8].to_vec(), frame(TEXT, b"hel")] {
            assert_eq!(exchange(MAX, &sent), (Vec::new(), EchoEnd::ClientGone));
        }
        assert_eq!(EchoEnd::ClientGone.close_code(), None);
    }

    #[test]
    fn a_connection_that_breaks_is_reset() {
        let end = with_client(MAX, |stream| {
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        });
        assert_eq!((end, end.close_code()), (EchoEnd::ClientReset, None));
    }

    #[test]
    fn a_client_that_sends_and_never_reads_is_slowed_down() {
        const PIPE: usize = 4096;
        const BIG: usize = 64 * 1024;
        for (unit, bound) in [
            (frame(FINAL | PING, &[7; 125]), 32 * 1024),
            (frame(FINAL | TEXT, b"WebSocket rocks"), 32 * 1024),
            ([frame(TEXT, b"a"), frame(FINAL | PING, b"?"), frame(FINAL, b"b")].concat(), 32 * 1024),
            (frame(FINAL | BINARY, &[7; BIG]), 4 * BIG),
        ] {
            let (client, server) = tokio::io::duplex(PIPE);
            let accepted = pour(client, server, &unit, 4 * bound);
            assert!(accepted <= bound, "{accepted} bytes were taken in");
        }
    }

    /// Sends `unit` over and over and reads nothing, until no side moves any more or `enough` has been taken.
    fn pour(client: DuplexStream, server: DuplexStream, unit: &[u8], enough: usize) -> usize {
        let mut context = Context::from_waker(Waker::noop());
        let (mut client, mut echo, mut accepted) = (pin!(client), pin!(echo(server, MAX, |_| {})), 0);
        while accepted < enough {
            let ended = echo.as_mut().poll(&mut context);
            assert_eq!(ended, Poll::Pending);
            match client.as_mut().poll_write(&mut context, &unit[accepted % unit.len()..]) {
                Poll::Ready(written) => accepted += written.unwrap(),
                Poll::Pending => break,
            }
        }
        accepted
    }

    /// Sends `bytes`, then FIN; gives all that came back before the server's FIN, and checks that no RST came after.
    fn exchange(max_message: usize, bytes: &[u8]) -> (Vec<u8>, EchoEnd) {
        let (mut received, mut kept) = (Vec::new(), None);
        let end = with_client(max_message, |mut stream| {
            stream.write_all(bytes).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            stream.read_to_end(&mut received).unwrap();
            kept = Some(stream);
        });
        assert!(kept.unwrap().take_error().unwrap().is_none(), "the client was reset");
        (received, end)
    }

    /// Runs the service with `client` at the other end of a TCP connection.
    fn with_client(max_message: usize, client: impl FnOnce(TcpStream) + Send) -> EchoEnd {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        accepted.set_nonblocking(true).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| client(stream));
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
            runtime
                .block_on(async { echo(tokio::net::TcpStream::from_std(accepted).unwrap(), max_message, |_| {}).await })
        })
    }

    fn close_code(received: &[u8]) -> u16 {
        assert!(received.len() >= 4 && received[0] == FINAL | CLOSE, "{received:02x?}");
        assert_eq!(received.len(), 2 + usize::from(received[1]));
        u16::from_be_bytes([received[2], received[3]])
    }

    /// A masked frame, as a client sends it.
    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
        let masked = payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask);
        [&header(first, 0x80, payload.len()), &MASK[..]].concat().into_iter().chain(masked).collect()
    }

    /// The frame that a server sends.
    fn answer(first: u8, payload: &[u8]) -> Vec<u8> {
        [&header(first, 0, payload.len()), payload].concat()
    }

    fn header(first: u8, mask_bit: u8, length: usize) -> Vec<u8> {
        match length {
            0..=125 => vec![first, mask_bit | length as u8],
            126..=0xffff => [&[first, mask_bit | 126], &(length as u16).to_be_bytes()[..]].concat(),
            _ => [&[first, mask_bit | 127], &(length as u64).to_be_bytes()[..]].concat(),
        }
    }
}
