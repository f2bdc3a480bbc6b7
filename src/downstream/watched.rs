//! The client's stream as hyper has it.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connection::ConnContext;
use crate::tunnel::io::TunnelIo;

/// The client's stream under hyper: it tells the connection what its deadlines need to know.
pub(super) struct Watched {
    /// What another hyper has read before this one, of a head that is not whole: so it is read to its end before any
    /// request comes of it.
    pub(super) read_before: Bytes,
    /// The stream.
    pub(super) io: TunnelIo,
    /// Whom it tells.
    pub(super) connection: Arc<ConnContext>,
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.read_before.is_empty() {
            let fits = self.read_before.len().min(buffer.remaining());
            buffer.put_slice(&self.read_before.split_to(fits));
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let polled = self.io.poll_read(cx, buffer);
        if matches!(polled, Poll::Ready(Ok(()))) {
            self.connection.timing().read(buffer.filled().len() - before);
        }
        polled
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = self.io.poll_write(cx, bytes);
        self.connection.timing().wrote(&polled);
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = pin!(&mut self.io).poll_write_vectored(cx, slices);
        self.connection.timing().wrote(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.connection.timing().ends();
        self.io.poll_shutdown(cx)
    }
}
