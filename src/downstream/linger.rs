//! How a connection ends whose client may still be sending: our end is said, what comes is read and thrown away for a
//! while, and only then is the socket closed. Bytes that are unread at a close turn it into a RST, and that eats the answer
//! (RFC 9112 section 9.6).

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// How long, and how much.
const TIME: Duration = Duration::from_secs(2);
const BYTES: u64 = 256 * 1024;

/// Says `last_words`, ends our direction, and waits for the client's end, within bounds.
pub async fn close(mut io: impl AsyncRead + AsyncWrite + Unpin, last_words: &[u8]) {
    // Whatever fails here, the connection is over; the bound makes it over in time.
    let _ = timeout(TIME, async {
        io.write_all(last_words).await?;
        io.shutdown().await?;
        let mut scrap = [0; 2048];
        let mut read = 0;
        while read < BYTES {
            match io.read(&mut scrap).await? {
                0 => break,
                n => read += n as u64,
            }
        }
        std::io::Result::Ok(())
    })
    .await;
}
