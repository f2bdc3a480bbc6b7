//! One side of a tunnel: what carries the bytes, behind five verbs. An enum and not a boxed trait: the compiler sees
//! through it, and a tunnel can be taken apart into its parts.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::paced::Paced;
use crate::socket;

/// A stream of bytes to one party.
#[derive(Debug)]
pub enum TunnelIo {
    /// Plain TCP, of either side.
    Tcp(TcpStream),
    /// TLS of a client. Boxed: it is 1.2 KB, and every plain tunnel would be as large.
    TlsDown(Box<TlsDown>),
}

/// A client's TLS stream, and how it ended.
#[derive(Debug)]
pub struct TlsDown {
    stream: TlsStream<Paced>,
    truncated: bool,
}

impl TunnelIo {
    /// The stream of a client whose TLS handshake is done.
    pub fn tls_down(stream: TlsStream<Paced>) -> Self {
        Self::TlsDown(Box::new(TlsDown { stream, truncated: false }))
    }

    /// Reads what is there, at most the buffer. Nothing read is the end: FIN.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::TlsDown(tls) => tls.poll_read(cx, buffer),
        }
    }

    /// Writes what is taken.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::TlsDown(tls) => Pin::new(&mut tls.stream).poll_write(cx, bytes),
        }
    }

    /// Writes past the word of epoll, which calls a socket writable only when a third of what the kernel holds for it is gone:
    /// that can be megabytes, and a slow reader is long since at work on them. None where nothing moved; otherwise how many
    /// of `bytes` were taken (none, where older bytes moved). It never waits and wakes nobody, and what is wrong with the
    /// socket is left for the next write to find.
    pub fn press(&mut self, bytes: &[u8]) -> Option<usize> {
        match self {
            Self::Tcp(stream) => socket::offer(stream, bytes).ok().filter(|taken| *taken > 0),
            Self::TlsDown(tls) => {
                let (stream, connection) = tls.stream.get_mut();
                let written = connection.write_tls(&mut Offer(stream)).ok()?;
                (written > 0).then_some(0)
            }
        }
    }

    /// Whether everything that was taken has reached the kernel.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            // TCP holds nothing back on our side of the system call.
            Self::Tcp(_) => Poll::Ready(Ok(())),
            Self::TlsDown(tls) => Pin::new(&mut tls.stream).poll_flush(cx),
        }
    }

    /// Ends our direction: FIN, and before it close_notify where there is TLS. The other direction goes on.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::TlsDown(tls) => Pin::new(&mut tls.stream).poll_shutdown(cx),
        }
    }

    /// Says to its party, before the stream is dropped and if that can be said without waiting, that the end is no cut. The
    /// close of a plain socket says so by itself; under TLS, a FIN alone would look like an attack (RFC 8446 section 6.1).
    pub fn say_end(&mut self) {
        if !self.ends_by_closing() {
            // Ready or not, failed or not: the stream is over.
            let _ = self.poll_shutdown(&mut Context::from_waker(Waker::noop()));
        }
    }

    /// Cuts it when it is dropped: what was not sent is discarded, and the peer sees RST.
    pub fn abort(&self) {
        match self {
            Self::Tcp(stream) => socket::reset_on_close(stream),
            // On the raw socket: a close_notify would call an end what was none.
            Self::TlsDown(tls) => socket::reset_on_close(tls.stream.get_ref().0),
        }
    }

    /// Whether bytes that were taken may still be inside: then a flush is due before anything waits.
    pub fn holds_back(&self) -> bool {
        match self {
            Self::Tcp(_) => false,
            Self::TlsDown(tls) => tls.stream.get_ref().1.wants_write(),
        }
    }

    /// Whether closing the socket says all that ending our direction would.
    pub fn ends_by_closing(&self) -> bool {
        matches!(self, Self::Tcp(_))
    }

    /// Whether the socket has an error to tell, which it tells once: a reset, or a network that is gone.
    pub fn has_failed(&self) -> bool {
        match self {
            Self::Tcp(stream) => socket::has_failed(stream),
            Self::TlsDown(tls) => socket::has_failed(tls.stream.get_ref().0),
        }
    }

    /// Whether its end was a FIN without close_notify: perhaps its sender's, perhaps not (RFC 8446 section 6.1).
    pub fn was_truncated(&self) -> bool {
        match self {
            Self::Tcp(_) => false,
            Self::TlsDown(tls) => tls.truncated,
        }
    }
}

/// Where a TLS connection writes in [`TunnelIo::press`].
struct Offer<'a>(&'a Paced);

impl io::Write for Offer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        socket::offer(self.0, bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl TlsDown {
    /// A FIN without close_notify is passed on as a FIN, like any other; that it was truncated is for the record.
    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.stream.get_mut().0.allow();
        match ready!(Pin::new(&mut self.stream).poll_read(cx, buffer)) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                self.truncated = true;
                Poll::Ready(Ok(()))
            }
            read => Poll::Ready(read),
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
            Self::TlsDown(tls) => Pin::new(&mut tls.stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::TlsDown(tls) => tls.stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Self::poll_flush(&mut self, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Self::poll_shutdown(&mut self, cx)
    }
}
