//! What runs without a configuration: the test page, the echo service, and a small backend of its own behind the very path
//! of any upstream. On loopback only.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::thread;

use tokio::net::{TcpListener, TcpStream};

use crate::config::{Config, ConfigError};
use crate::service::echo;

/// Where the demonstration listens.
pub const ADDRESS: &str = "127.0.0.1:8080";

/// Messages larger than this are refused by the small backend.
const MAX_MESSAGE: usize = 1024 * 1024;

/// The demonstration's configuration; `backend` is where its small backend listens.
pub fn config(backend: SocketAddr) -> Result<Config, ConfigError> {
    let text = format!(
        r#"
[[listener]]
name = "demonstration"
bind = "{ADDRESS}"

[upstream.backend]
endpoints = ["{backend}"]

[[route]]
name = "test-page"
path = "/"
service = "test-page"

[[route]]
name = "echo"
path = "/echo"
service = "echo"

[[route]]
name = "backend"
path = "/backend"
upstream = "backend"

[[route]]
name = "health"
path = "/health"
service = "health"
"#
    );
    Config::parse("demonstration", &text, Path::new("."))
}

/// Starts the small backend, a WebSocket echo, on a loopback port of the system's choice. It ends with the process.
pub fn start_backend() -> io::Result<SocketAddr> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
    let address = listener.local_addr()?;
    let serve = move || runtime.block_on(serve(listener));
    thread::Builder::new().name("backend".into()).spawn(serve)?;
    Ok(address)
}

async fn serve(listener: TcpListener) {
    let mut open = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    open.spawn(converse(stream));
                }
                Err(error) => tracing::warn!(%error, "the demonstration's backend cannot accept"),
            },
            Some(_) = open.join_next() => {}
        }
    }
}

async fn converse(stream: TcpStream) {
    // The crate that speaks WebSocket answers the handshake; what is no handshake gets its 400.
    if let Ok((_, websocket)) = tokio_websockets::ServerBuilder::new().accept(stream).await {
        echo::echo(websocket.into_inner(), MAX_MESSAGE).await;
    }
}
