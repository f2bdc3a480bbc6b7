//! A backend that shows what it was asked: so that a test sees what arrived, and not only that something did.

use super::backend::accept_of;
use super::peer::{Peer, header};

/// A script: answers every request of a connection with 200 and, as the body, the head and the body that came. It agrees to
/// whatever upgrade it is asked for: then the head is the tunnel's first bytes, and all that follows is sent back.
pub fn mirror(mut peer: Peer) {
    while let Some(head) = peer.next_head() {
        if let Some(token) = header(&head, "upgrade") {
            return agree(&mut peer, &head, token);
        }
        let body = if header(&head, "transfer-encoding").is_some() {
            peer.read_chunks()
        } else {
            peer.read_exact(header(&head, "content-length").map_or(0, |length| length.parse().expect("a number")))
        };
        let shown = [bytes(&head), body].concat();
        peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", shown.len()));
        if !head.starts_with("HEAD ") {
            peer.send(shown);
        }
    }
}

fn agree(peer: &mut Peer, head: &str, token: &str) {
    let accept = match header(head, "sec-websocket-key") {
        Some(key) => format!("Sec-WebSocket-Accept: {}\r\n", accept_of(key)),
        None => String::new(),
    };
    peer.send(format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {token}\r\n{accept}\r\n"));
    peer.send(bytes(head));
    loop {
        let some = peer.read_some();
        if some.is_empty() {
            break;
        }
        peer.send(some);
    }
    peer.finish_sending();
}

/// A head's lines for comparison: the first, and then the headers in alphabetical order, their names in lower case. The
/// request's id is left out.
pub fn lines(head: &str) -> Vec<String> {
    let mut lines = head.trim_end_matches("\r\n").split("\r\n");
    let first = lines.next().unwrap_or_default().to_owned();
    let line = |line: &str| match line.split_once(':') {
        Some((name, value)) => format!("{}: {}", name.to_ascii_lowercase(), value.trim()),
        None => panic!("no header: {line:?}"),
    };
    let mut headers: Vec<_> = lines.map(line).filter(|line| !line.starts_with("x-request-id: ")).collect();
    headers.sort();
    [vec![first], headers].concat()
}

/// What [`super::peer::text`] was made of.
fn bytes(text: &str) -> Vec<u8> {
    text.chars().map(|c| u8::try_from(c).expect("a character is a byte")).collect()
}
