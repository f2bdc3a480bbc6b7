//! One message there and back; one request and its answer.

use std::future::poll_fn;
use std::io::ErrorKind;
use std::pin::Pin;
use std::task::{Context, Poll};

use anyhow::bail;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::connect::Stream;

/// Sends `message` and reads as many bytes as its answer has; `room` is where they are read to.
pub async fn round_trip(stream: &mut Stream, message: &[u8], answer: usize, room: &mut [u8]) -> anyhow::Result<()> {
    let mut trip = Trip { message, answer, flushed: false };
    poll_fn(|cx| trip.poll(stream, room, cx)).await
}

/// Says Close (1000) and waits for the end of the tunnel.
pub async fn close(stream: &mut Stream, room: &mut [u8]) -> anyhow::Result<()> {
    stream.write_all(&[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8]).await?;
    stream.flush().await?;
    let mut echo = CLOSE_ECHO;
    while echo > 0 {
        match stream.read(room).await? {
            0 => bail!("the tunnel ended before its Close was answered"),
            count => echo = echo.saturating_sub(count),
        }
    }
    stream.shutdown().await?;
    loop {
        match stream.read(room).await {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            // Some end the TCP connection of a tunnel without an end of TLS.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

const CLOSE_ECHO: usize = 4;

/// Asks for the page and reads it, whatever the length of its head: some proxies put a time into it.
pub async fn get(stream: &mut Stream, request: &[u8], page: usize, room: &mut Vec<u8>) -> anyhow::Result<()> {
    stream.write_all(request).await?;
    stream.flush().await?;
    room.clear();
    loop {
        if stream.read_buf(room).await? == 0 {
            bail!("not a whole answer: {}", String::from_utf8_lossy(room));
        }
        let Some(end) = room.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        if !room.starts_with(b"HTTP/1.1 200") {
            bail!("not a 200: {}", String::from_utf8_lossy(room));
        }
        if room.len() == end + 4 + page {
            return Ok(());
        }
    }
}

/// What is left of both ways. They go on side by side: a big message comes back while it is still being sent.
struct Trip<'a> {
    message: &'a [u8],
    answer: usize,
    flushed: bool,
}

impl Trip<'_> {
    fn poll(&mut self, stream: &mut Stream, room: &mut [u8], cx: &mut Context<'_>) -> Poll<anyhow::Result<()>> {
        loop {
            let wrote = self.write(stream, cx)?;
            let mut buffer = ReadBuf::new(room);
            match Pin::new(&mut *stream).poll_read(cx, &mut buffer) {
                Poll::Ready(read) => read?,
                Poll::Pending if wrote => continue,
                Poll::Pending => return Poll::Pending,
            }
            match buffer.filled().len() {
                0 => return Poll::Ready(ended(self.answer)),
                count if count > self.answer => return Poll::Ready(ended(self.answer)),
                count => self.answer -= count,
            }
            if self.answer == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Whether anything moved.
    fn write(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> anyhow::Result<bool> {
        if self.message.is_empty() {
            if !self.flushed
                && let Poll::Ready(flushed) = Pin::new(stream).poll_flush(cx)
            {
                flushed?;
                self.flushed = true;
            }
            return Ok(false);
        }
        let Poll::Ready(written) = Pin::new(stream).poll_write(cx, self.message) else { return Ok(false) };
        self.message = &self.message[written?..];
        Ok(true)
    }
}

fn ended(left: usize) -> anyhow::Result<()> {
    bail!("not the answer that was due: {left} bytes were left of it")
}
