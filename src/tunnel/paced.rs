//! A socket under TLS that yields now and then. The layer above reads until it has a byte for its caller, and records that
//! hold none (empty ones, new keys, warnings) bring none, however many come: one client of such would have the worker for
//! as long as the runtime lets a task run, each time that it is its turn.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::yield_now;

/// Reads without a pause. rustls reads 4 KiB at a time, and the longest record (RFC 8446 section 5.2) takes five of them:
/// whoever sends bytes never meets the bound.
const READS: u8 = 8;

/// The socket, and how often it may still be read.
#[derive(Debug)]
pub struct Paced {
    stream: TcpStream,
    left: u8,
}

impl Paced {
    /// Paces the reads of a socket.
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, left: READS }
    }

    /// Its reader has got something, or has its turn: it may read anew.
    pub fn allow(&mut self) {
        self.left = READS;
    }
}

impl AsyncRead for Paced {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Some(left) = self.left.checked_sub(1) else {
            self.allow();
            // Not by its own waker: the runtime runs what is awake dozens of times before it looks for what has come for
            // others. Its own way to yield looks first.
            let _ = pin!(yield_now()).poll(cx);
            return Poll::Pending;
        };
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        self.left = left;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Paced {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl AsFd for Paced {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    /// Reads a byte at a time until it has to wait.
    fn read(paced: &mut Paced) -> usize {
        let mut cx = Context::from_waker(Waker::noop());
        let mut byte = [0];
        let mut once = || Pin::new(&mut *paced).poll_read(&mut cx, &mut ReadBuf::new(&mut byte)).is_ready();
        std::iter::repeat_with(&mut once).take_while(|ready| *ready).count()
    }

    #[tokio::test]
    async fn it_yields_though_there_is_more_to_read() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (receiver, _) = listener.accept().await.unwrap();
        sender.write_all(&[0; 100]).await.unwrap();
        receiver.readable().await.unwrap();
        let mut paced = Paced::new(receiver);
        assert_eq!(read(&mut paced), 8);
        assert_eq!(read(&mut paced), 8, "a turn later it reads on");
        let mut byte = [0];
        let mut cx = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut paced).poll_read(&mut cx, &mut ReadBuf::new(&mut byte)).is_ready());
        paced.allow();
        assert_eq!(read(&mut paced), 8);
    }
}
