//! One side of a tunnel: what carries the bytes, behind five verbs. An enum and not a boxed trait: the compiler sees
//! through it, and a tunnel can be taken apart into its parts.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use super::paced::Paced;
use crate::socket;

/// Ciphertext that may be held back for a party that does not read; rustls' own default is 64 KiB.
const HELD_BACK: usize = 16 * 1024;

/// A stream of bytes to one party.
#[derive(Debug)]
pub enum TunnelIo {
    /// Plain TCP, of either side.
    Tcp(TcpStream),
    /// TLS, of either side. Boxed: it is 1.2 KB, and every plain tunnel would be as large.
    Tls(Box<TlsIo>),
}

/// A TLS stream, and how it ended.
#[derive(Debug)]
pub struct TlsIo {
    stream: TlsStream<Paced>,
    truncated: bool,
    /// Whether HTTP is spoken over it to a server.
    asks: bool,
}

impl TunnelIo {
    /// The stream of a client or a server with whom the TLS handshake is done.
    pub fn tls(stream: impl Into<TlsStream<Paced>>) -> Self {
        let mut stream = stream.into();
        match &mut stream {
            TlsStream::Client(stream) => stream.get_mut().1.set_buffer_limit(Some(HELD_BACK)),
            TlsStream::Server(stream) => stream.get_mut().1.set_buffer_limit(Some(HELD_BACK)),
        }
        let asks = matches!(stream, TlsStream::Client(_));
        Self::Tls(Box::new(TlsIo { stream, truncated: false, asks }))
    }

    /// From now on its end is said only where a tunnel's end says so.
    pub fn becomes_tunnel(&mut self) {
        if let Self::Tls(tls) = self {
            tls.asks = false;
        }
    }

    /// Reads what is there, at most the buffer. Nothing read is the end: FIN.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(tls) => tls.poll_read(cx, buffer),
        }
    }

    /// Writes what is taken.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(tls) => Pin::new(&mut tls.stream).poll_write(cx, bytes),
        }
    }

    /// Writes past the word of epoll, which calls a socket writable only when a third of what the kernel holds for it is gone:
    /// that can be megabytes, and a slow reader is long since at work on them. None where nothing moved; otherwise how many
    /// of `bytes` were taken (none, where older bytes moved). It never waits and wakes nobody, and what is wrong with the
    /// socket is left for the next write to find.
    pub fn press(&mut self, bytes: &[u8]) -> Option<usize> {
        match self {
            Self::Tcp(stream) => socket::offer(stream, bytes).ok().filter(|taken| *taken > 0),
            Self::Tls(tls) => {
                let written = tls.offer().ok()?;
                (written > 0).then_some(0)
            }
        }
    }

    /// Whether everything that was taken has reached the kernel.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            // TCP holds nothing back on our side of the system call.
            Self::Tcp(_) => Poll::Ready(Ok(())),
            Self::Tls(tls) => Pin::new(&mut tls.stream).poll_flush(cx),
        }
    }

    /// Ends our direction: FIN, and before it close_notify where there is TLS. The other direction goes on.
    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(tls) => Pin::new(&mut tls.stream).poll_shutdown(cx),
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
            Self::Tls(tls) => socket::reset_on_close(tls.stream.get_ref().0),
        }
    }

    /// Whether bytes that were taken may still be inside: then a flush is due before anything waits.
    pub fn holds_back(&self) -> bool {
        match self {
            Self::Tcp(_) => false,
            Self::Tls(tls) => tls.stream.get_ref().1.wants_write(),
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
            Self::Tls(tls) => socket::has_failed(tls.stream.get_ref().0),
        }
    }

    /// Whether its end was a FIN without close_notify: perhaps its sender's, perhaps not (RFC 8446 section 6.1).
    pub fn was_truncated(&self) -> bool {
        match self {
            Self::Tcp(_) => false,
            Self::Tls(tls) => tls.truncated,
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

impl TlsIo {
    /// Writes ciphertext past the word of epoll, as much as the kernel takes.
    fn offer(&mut self) -> io::Result<usize> {
        match &mut self.stream {
            TlsStream::Client(stream) => {
                let (stream, connection) = stream.get_mut();
                connection.write_tls(&mut Offer(stream))
            }
            TlsStream::Server(stream) => {
                let (stream, connection) = stream.get_mut();
                connection.write_tls(&mut Offer(stream))
            }
        }
    }

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

/// RFC 9112 section 9.8: a client that closes, whatever for, says so by a close_notify. What of a request is missing then, its
/// framing tells; of a tunnel, nothing else does.
impl Drop for TlsIo {
    fn drop(&mut self) {
        if self.asks {
            // Ready or not, failed or not: the stream is over.
            let _ = Pin::new(&mut self.stream).poll_shutdown(&mut Context::from_waker(Waker::noop()));
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
            Self::Tls(tls) => Pin::new(&mut tls.stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            Self::Tls(tls) => tls.stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Self::poll_flush(&mut self, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Self::poll_shutdown(&mut self, cx)
    }
}
