//! What stands behind the proxy: it echoes WebSocket messages, and answers GET with a short page.

use std::net::SocketAddr;

use anyhow::Context;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tungstenite::handshake::derive_accept_key;

use crate::frame::{self, Header};

/// As many as a message of the scenario of round trips has.
const PAGE: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 125\r\n\r\n";
const READ: usize = 64 * 1024;

/// Serves until it is ended; prints its address as a JSON object once it listens.
pub async fn serve(bind: SocketAddr) -> anyhow::Result<()> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(bind), socket2::Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    socket.bind(&bind.into())?;
    socket.listen(4096)?; // no connection of a load is to wait for a retransmission
    let listener = TcpListener::from_std(socket.into())?;
    println!("{}", serde_json::json!({ "port": listener.local_addr()?.port() }));
    loop {
        let (stream, _) = listener.accept().await.context("accept")?;
        tokio::task::spawn_local(async move {
            stream.set_nodelay(true).ok();
            // A client that goes in the middle of something is no fault of the backend.
            let _ = converse(stream).await;
        });
    }
}

/// Requests until one is an upgrade, then messages.
async fn converse(mut stream: TcpStream) -> anyhow::Result<()> {
    let page = [PAGE.as_bytes(), &[b'.'; 125]].concat();
    let mut read = Vec::with_capacity(1024);
    loop {
        let Some(end) = read.windows(4).position(|window| window == b"\r\n\r\n") else {
            if stream.read_buf(&mut read).await? == 0 {
                return Ok(());
            }
            continue;
        };
        let rest = read.split_off(end + 4);
        let head = std::mem::replace(&mut read, rest);
        match key(&head) {
            None => stream.write_all(&page).await?,
            Some(key) => {
                stream.write_all(switching(&key).as_bytes()).await?;
                return echo(stream, read).await;
            }
        }
    }
}

fn key(head: &[u8]) -> Option<String> {
    let head = std::str::from_utf8(head).ok()?;
    let lines = head.lines().filter_map(|line| line.split_once(':'));
    let (_, key) = lines.into_iter().find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key"))?;
    Some(key.trim().to_owned())
}

fn switching(key: &str) -> String {
    let accept = derive_accept_key(key.as_bytes());
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    )
}

/// Sends every frame back as it comes, whole or in parts: a big message is not held.
async fn echo(mut stream: TcpStream, mut read: Vec<u8>) -> anyhow::Result<()> {
    let mut payload = Payload { left: 0, mask: [0; 4], at: 0 };
    let mut out = Vec::new();
    loop {
        let mut taken = 0;
        while taken < read.len() {
            if payload.left == 0 {
                let Some(header) = Header::parse(&read[taken..]) else { break };
                taken += header.length;
                out.extend(frame::header(header.first, 0, header.size));
                payload = Payload { left: header.size, mask: header.mask, at: 0 };
            }
            taken += payload.unmask(&mut read[taken..], &mut out);
        }
        read.drain(..taken);
        stream.write_all(&out).await?;
        out.clear();
        // An idle connection keeps no more than a small buffer; one that gets much reads more and more at once.
        read.reserve((2 * taken).clamp(512, READ));
        if stream.read_buf(&mut read).await? == 0 {
            return Ok(());
        }
    }
}

struct Payload {
    left: usize,
    mask: [u8; 4],
    at: usize,
}

impl Payload {
    fn unmask(&mut self, bytes: &mut [u8], out: &mut Vec<u8>) -> usize {
        let count = self.left.min(bytes.len());
        let bytes = &mut bytes[..count];
        let mask: [u8; 4] = std::array::from_fn(|at| self.mask[(self.at + at) % 4]);
        let mut chunks = bytes.chunks_exact_mut(4);
        for chunk in &mut chunks {
            chunk.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
        }
        chunks.into_remainder().iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
        out.extend_from_slice(bytes);
        self.left -= count;
        self.at += count;
        count
    }
}
