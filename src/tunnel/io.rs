//! One side of a tunnel: what carries the bytes, behind five verbs. An enum and not a boxed trait: the compiler sees
//! through it, and a tunnel can be taken apart into its parts.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::socket;

/// A stream of bytes to one party.
#[derive(Debug)]
pub enum TunnelIo {
    /// Plain TCP, of either side.
    Tcp(TcpStream),
}

impl TunnelIo {
    /// Reads what is there, at most the buffer. Nothing read is the end: FIN.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }

    /// Writes what is taken.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    /// Whether everything that was taken has reached the kernel.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            // TCP holds nothing back on our side of the system call.
            Self::Tcp(_) => {
                let _ = cx;
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Ends our direction: FIN. The other direction goes on.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    /// Cuts it when it is dropped: what was not sent is discarded, and the peer sees RST.
    pub fn abort(&self) {
        match self {
            Self::Tcp(stream) => socket::reset_on_close(stream),
        }
    }

    /// Whether bytes that were taken may still be inside: then a flush is due before anything waits.
    pub fn holds_back(&self) -> bool {
        match self {
            Self::Tcp(_) => false,
        }
    }
}

// For hyper, which speaks HTTP over it before it is a tunnel's.
impl AsyncRead for TunnelIo {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Self::poll_read(&mut self, cx, buffer)
    }
}

impl AsyncWrite for TunnelIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Self::poll_write(&mut self, cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Self::poll_flush(&mut self, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Self::poll_shutdown(&mut self, cx)
    }
}
