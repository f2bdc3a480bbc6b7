//! One end of a connection, the client's and the backend's alike; either may be TLS.

use std::collections::VecDeque;
use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use socket2::SockRef;

use super::GUARD;
use super::tls::Session;

/// A connected socket that reads and writes literal bytes and panics, with what it knows, when it cannot.
#[derive(Debug)]
pub struct Peer {
    stream: TcpStream,
    /// What its bytes go through, if it speaks TLS.
    tls: Option<Session>,
    /// Read from the socket, not yet asked for.
    held: VecDeque<u8>,
    /// Every byte that came from the socket.
    log: Option<Log>,
}

/// The bytes that a [`Peer`] received, shared with who wants to look at them later.
pub type Log = Arc<Mutex<Vec<u8>>>;

/// A second handle for sending on a [`Peer`]'s connection, for another thread.
#[derive(Debug)]
pub struct Sender(TcpStream, Option<Session>);

/// An HTTP answer, read whole.
#[derive(Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The head, with the empty line at its end; a byte a character, so nothing is lost.
    pub head: String,
    /// The body, its chunks joined.
    pub body: Vec<u8>,
}

impl Peer {
    /// Takes a connected stream; every blocking call on it gets the guard's timeout.
    pub fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(GUARD)).expect("a guard on reading");
        stream.set_write_timeout(Some(GUARD)).expect("a guard on writing");
        stream.set_nodelay(true).expect("TCP_NODELAY");
        Self { stream, tls: None, held: VecDeque::new(), log: None }
    }

    /// From now on everything goes through TLS, whose handshake is done.
    pub fn secured(self, tls: Session) -> Self {
        Self { tls: Some(tls), ..self }
    }

    /// The TLS session, of one that has it.
    pub fn tls(&self) -> &Session {
        self.tls.as_ref().expect("it speaks TLS")
    }

    /// The same, and every byte received is written to `log` too.
    pub fn logged(stream: TcpStream, log: Log) -> Self {
        Self { log: Some(log), ..Self::new(stream) }
    }

    /// From now on what is received is not logged: for scripts that move gigabytes.
    pub fn stop_logging(&mut self) {
        self.log = None;
    }

    /// This end's address.
    pub fn local(&self) -> SocketAddr {
        self.stream.local_addr().expect("a local address")
    }

    /// The other end's address.
    pub fn remote(&self) -> SocketAddr {
        self.stream.peer_addr().expect("a peer's address")
    }

    /// The socket itself, for what this type has no word for.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Shrinks or grows the receive buffer. To bound the window from its first byte, use `Client::connect_with`.
    pub fn set_receive_buffer(&self, bytes: usize) {
        SockRef::from(&self.stream).set_recv_buffer_size(bytes).expect("SO_RCVBUF");
    }

    /// The same for the send buffer.
    pub fn set_send_buffer(&self, bytes: usize) {
        SockRef::from(&self.stream).set_send_buffer_size(bytes).expect("SO_SNDBUF");
    }

    /// A handle for sending from another thread. While it lives, dropping the peer closes nothing.
    pub fn sender(&self) -> Sender {
        Sender(self.stream.try_clone().expect("a second handle"), self.tls.clone())
    }

    /// Sends all of it.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("the other end takes what is sent");
    }

    /// Sends all of it, or says why not: for a test in which the other end may have gone.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        send(&mut self.stream, self.tls.as_ref(), bytes.as_ref())
    }

    /// Sends FIN, and close_notify before it where there is TLS; reading goes on.
    pub fn finish_sending(&self) {
        finish(&self.stream, self.tls.as_ref());
    }

    /// Sends FIN without a close_notify; reading goes on.
    pub fn truncate(&self) {
        finish(&self.stream, None);
    }

    /// Ends the connection by RST.
    pub fn reset(self) {
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
        drop(self);
    }

    /// Reads through the empty line that ends a head; what follows is kept for the next read. A byte is a character.
    pub fn read_head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match self.byte() {
                Some(byte) => head.push(byte),
                None => panic!("the connection ended inside a head: {:?}", text(&head)),
            }
        }
        text(&head)
    }

    /// Reads the next head on a connection that may be asked again; `None` where it ended before one began.
    pub fn next_head(&mut self) -> Option<String> {
        let begins = !self.held.is_empty() || self.fill();
        begins.then(|| self.read_head())
    }

    /// Reads one line; the result is without its CR LF.
    pub fn read_line(&mut self) -> String {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            match self.byte() {
                Some(byte) => line.push(byte),
                None => panic!("the connection ended inside a line: {:?}", text(&line)),
            }
        }
        line.truncate(line.len() - 2);
        text(&line)
    }

    /// The same; `None` where the connection ends, by FIN or RST, before the line does.
    pub fn read_line_or_end(&mut self) -> Option<String> {
        while !self.held.iter().zip(self.held.iter().skip(1)).any(|pair| pair == (&b'\r', &b'\n')) {
            match self.try_fill() {
                Ok(0) => return None,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("reading a line failed: {error}"),
            }
        }
        Some(self.read_line())
    }

    /// Reads an answer with its body, by Content-Length, chunks or the end of the connection. Not for an answer to HEAD:
    /// its head says a length that is not sent.
    pub fn read_answer(&mut self) -> Answer {
        let head = self.read_head();
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        let mut answer = Answer { status: status.unwrap_or_else(|| panic!("no status: {head:?}")), head, body: vec![] };
        answer.body = if matches!(answer.status, 100..=199 | 204 | 304) {
            Vec::new()
        } else if answer.header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
            self.read_chunks()
        } else if let Some(length) = answer.header("content-length") {
            self.read_exact(length.parse().expect("Content-Length is a number"))
        } else {
            self.read_to_end()
        };
        answer
    }

    /// Reads a chunked body and the empty line behind it; trailers are dropped.
    pub fn read_chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let line = self.read_line();
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).unwrap_or_else(|_| panic!("no size of a chunk: {line:?}"));
            if size == 0 {
                break;
            }
            body.extend(self.read_exact(size));
            assert_eq!(self.read_line(), "", "a chunk ends where its size says");
        }
        while !self.read_line().is_empty() {}
        body
    }

    /// Reads just so many bytes.
    pub fn read_exact(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count.min(1 << 20));
        while bytes.len() < count {
            if self.held.is_empty() && !self.fill() {
                panic!("the connection ended after {} of {count} bytes: {:?}", bytes.len(), excerpt(&bytes));
            }
            let take = self.held.len().min(count - bytes.len());
            bytes.extend(self.held.drain(..take));
        }
        bytes
    }

    /// Reads to the FIN.
    pub fn read_to_end(&mut self) -> Vec<u8> {
        while self.fill() {}
        self.held.drain(..).collect()
    }

    /// Reads whatever has come, at least one byte; empty at the end of the connection.
    pub fn read_some(&mut self) -> Vec<u8> {
        if self.held.is_empty() {
            self.fill();
        }
        self.held.drain(..).collect()
    }

    /// The same, or says why not: for a test in which the other end may reset.
    pub fn try_read_some(&mut self) -> std::io::Result<Vec<u8>> {
        if self.held.is_empty() {
            self.try_fill()?;
        }
        Ok(self.held.drain(..).collect())
    }

    /// Reads just so many bytes and keeps none of them, nor are they logged.
    pub fn discard(&mut self, mut count: u64) {
        self.log = None;
        while count > 0 {
            let most = usize::try_from(count).unwrap_or(usize::MAX);
            let took = self.held.len().min(most);
            self.held.drain(..took);
            count -= took as u64;
            assert!(count == 0 || self.fill(), "the connection ended with {count} bytes to come");
        }
    }

    /// Reads just so many bytes and keeps none of them; false where the connection ends, by FIN or RST, before.
    pub fn skip_or_end(&mut self, mut count: usize) -> bool {
        while count > 0 {
            let took = self.held.len().min(count);
            self.held.drain(..took);
            count -= took;
            if count > 0 && self.held.is_empty() && !matches!(self.try_fill(), Ok(1..)) {
                return false;
            }
        }
        true
    }

    /// Reads to the FIN and counts; nothing is kept or logged.
    pub fn count_to_end(&mut self) -> u64 {
        self.log = None;
        let mut count = 0;
        loop {
            count += self.held.len() as u64;
            self.held.clear();
            if !self.fill() {
                return count;
            }
        }
    }

    /// Asserts that a FIN comes, and nothing before it.
    pub fn expect_eof(&mut self) {
        let rest = self.read_to_end();
        assert!(rest.is_empty(), "expected the end, and {} bytes came: {:?}", rest.len(), excerpt(&rest));
    }

    /// Asserts that the connection ends by RST; gives what came before it.
    pub fn expect_reset(&mut self) -> Vec<u8> {
        loop {
            match self.try_fill() {
                Ok(0) => panic!("expected a reset, and a FIN came"),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return self.held.drain(..).collect(),
                Err(error) => panic!("expected a reset: {error}"),
            }
        }
    }

    /// Asserts that a FIN comes without a close_notify before it; gives what came before.
    pub fn expect_truncation(&mut self) -> Vec<u8> {
        loop {
            match self.try_fill() {
                Ok(0) => panic!("expected a truncation, and an end in order came"),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return self.held.drain(..).collect(),
                Err(error) => panic!("expected a truncation: {error}"),
            }
        }
    }

    /// Asserts that the connection ends, by FIN or RST, and nothing comes before: for a peer that is only shut out.
    pub fn expect_end(&mut self) {
        loop {
            match self.try_fill() {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
                Err(error) => panic!("expected the end: {error}"),
            }
        }
        assert!(self.held.is_empty(), "expected the end, and bytes came: {:?}", excerpt(self.held.make_contiguous()));
    }

    /// Asserts that nothing comes, and no end either, for that long.
    pub fn expect_silence(&mut self, lasting: Duration) {
        assert!(self.held.is_empty(), "bytes are there: {:?}", excerpt(self.held.make_contiguous()));
        self.stream.set_read_timeout(Some(lasting)).expect("a timeout");
        match self.try_fill() {
            Err(error) if is_timeout(&error) => {}
            Ok(0) => panic!("expected silence, and a FIN came"),
            Ok(_) => panic!("expected silence, and bytes came: {:?}", excerpt(&self.read_some())),
            Err(error) => panic!("expected silence: {error}"),
        }
        self.stream.set_read_timeout(Some(GUARD)).expect("the guard again");
    }

    fn byte(&mut self) -> Option<u8> {
        if self.held.is_empty() {
            self.fill();
        }
        self.held.pop_front()
    }

    /// Reads once; false at the FIN.
    fn fill(&mut self) -> bool {
        match self.try_fill() {
            Ok(count) => count > 0,
            Err(error) if is_timeout(&error) => {
                panic!("nothing came for {GUARD:?}; so far unread: {:?}", excerpt(self.held.make_contiguous()))
            }
            Err(error) => panic!("reading failed: {error}; unread: {:?}", excerpt(self.held.make_contiguous())),
        }
    }

    fn try_fill(&mut self) -> std::io::Result<usize> {
        let mut buffer = [0; 64 * 1024];
        let count = loop {
            match receive(&mut self.stream, self.tls.as_ref(), &mut buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        self.held.extend(&buffer[..count]);
        if let Some(log) = &self.log {
            log.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..count]);
        }
        Ok(count)
    }
}

impl Sender {
    /// Sends all of it.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("the other end takes what is sent");
    }

    /// Sends all of it, or says why not.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        send(&mut self.0, self.1.as_ref(), bytes.as_ref())
    }

    /// Sends FIN, and close_notify before it where there is TLS; reading goes on.
    pub fn finish_sending(&self) {
        finish(&self.0, self.1.as_ref());
    }
}

fn receive(stream: &mut TcpStream, tls: Option<&Session>, buffer: &mut [u8]) -> std::io::Result<usize> {
    match tls {
        Some(tls) => tls.receive(stream, buffer),
        None => stream.read(buffer),
    }
}

fn send(stream: &mut TcpStream, tls: Option<&Session>, bytes: &[u8]) -> std::io::Result<()> {
    match tls {
        Some(tls) => tls.send(stream, bytes),
        None => stream.write_all(bytes),
    }
}

fn finish(stream: &TcpStream, tls: Option<&Session>) {
    if let Some(tls) = tls {
        tls.say_end(stream);
    }
    stream.shutdown(Shutdown::Write).expect("the connection can be half closed");
}

impl Answer {
    /// The value of the header, if it is there; panics if it is there more than once.
    pub fn header(&self, name: &str) -> Option<&str> {
        let values = self.headers(name);
        assert!(values.len() < 2, "several lines of {name}: {values:?}");
        values.first().copied()
    }

    /// The values of all lines of that name.
    pub fn headers(&self, name: &str) -> Vec<&str> {
        header_lines(&self.head, name)
    }

    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is text")
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("head", &self.head).field("body", &excerpt(&self.body)).finish_non_exhaustive()
    }
}

/// The values of all header lines of that name in a head, of a request or an answer, in their order.
pub fn header_lines<'a>(head: &'a str, name: &str) -> Vec<&'a str> {
    let fields = head.split("\r\n").skip(1).filter_map(|line| line.split_once(':'));
    fields.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect()
}

/// The value of the header of that name in a head, if it is there; panics if it is there more than once.
pub fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let values = header_lines(head, name);
    assert!(values.len() < 2, "several lines of {name}: {values:?}");
    values.first().copied()
}

/// Bytes as text, a character a byte: for literal comparisons nothing is lost or merged.
pub fn text(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| char::from(byte)).collect()
}

/// The beginning of some bytes, for a message.
fn excerpt(bytes: &[u8]) -> String {
    text(&bytes[..bytes.len().min(400)])
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
