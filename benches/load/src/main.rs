//! Loads a WebSocket proxy, and measures what the proxy spends on it: see ../README.md.
//!
//! One thread, so that it can be pinned to the core that the proxy does not run on. Each scenario prints one JSON object.

mod backend;
mod connect;
mod exchange;
mod frame;
mod machine;
mod pace;
mod scenario;

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::connect::Target;
use crate::machine::Watched;

/// Loads a WebSocket proxy and measures what the proxy spends on it.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The backend behind the proxy: echoes WebSocket messages and answers GET.
    Backend {
        /// Where it listens; prints the address once it does.
        #[arg(long, default_value = "127.0.0.1:0")]
        bind: SocketAddr,
    },
    /// Messages that are echoed, each tunnel sending its next one when the last has come back.
    RoundTrips {
        #[command(flatten)]
        load: Load,
        #[command(flatten)]
        messages: Messages,
        /// Messages a second over all tunnels; without it as many as go. Latencies count from the moment when a message
        /// was due, not from when it could be sent (the correction for coordinated omission), so only a rate has them.
        #[arg(long)]
        rate: Option<f64>,
        /// Tunnels that are open beside and silent.
        #[arg(long, default_value_t = 0)]
        idle: usize,
    },
    /// Tunnels that come or go all at once, each time that a line comes on standard input; measures nothing. A process of its
    /// own, so that what it has to do holds up nobody who measures.
    Storm {
        /// ws or wss; certificates are not checked.
        #[arg(long)]
        url: String,
        /// How many tunnels.
        #[arg(long, default_value_t = 9000)]
        tunnels: usize,
    },
    /// Tunnels that are open and silent: what the proxy's memory grows by.
    Idle {
        #[command(flatten)]
        load: Load,
        /// How many tunnels.
        #[arg(long, default_value_t = 2000)]
        tunnels: usize,
        /// How often they are all opened and closed; the memory after each round is told.
        #[arg(long, default_value_t = 1)]
        rounds: usize,
    },
    /// Connect, upgrade, one message echoed, close: over and over.
    Upgrades {
        #[command(flatten)]
        load: Load,
        /// How many at once.
        #[arg(long, default_value_t = 16)]
        parallel: usize,
    },
    /// Plain requests over connections that are kept.
    Get {
        #[command(flatten)]
        load: Load,
        /// How many connections.
        #[arg(long, default_value_t = 64)]
        connections: usize,
    },
}

#[derive(Args, Clone)]
struct Load {
    /// ws, wss, http or https; certificates are not checked.
    #[arg(long)]
    url: String,
    /// The proxy: its processor time and memory are measured, its children's with them.
    #[arg(long)]
    proxy: u32,
    /// The backend, whose processor time is known to be nobody else's.
    #[arg(long)]
    backend: u32,
    /// Seconds that are measured, after a fifth of it to warm up.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
}

#[derive(Args, Clone, Copy)]
struct Messages {
    /// How many tunnels send.
    #[arg(long, default_value_t = 64)]
    tunnels: usize,
    /// Bytes of payload a message.
    #[arg(long, default_value_t = 125)]
    size: usize,
}

impl Load {
    fn target(&self) -> anyhow::Result<Target> {
        Target::parse(&self.url)
    }

    fn watched(&self) -> Watched {
        Watched { proxy: self.proxy, others: [self.backend, std::process::id()] }
    }

    fn measured(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let tasks = tokio::task::LocalSet::new();
    let result = tasks.block_on(&runtime, run(arguments.command))?;
    if let Some(result) = result {
        println!("{result}");
    }
    Ok(())
}

async fn run(command: Command) -> anyhow::Result<Option<serde_json::Value>> {
    Ok(Some(match command {
        Command::Backend { bind } => return backend::serve(bind).await.map(|()| None),
        Command::RoundTrips { load, messages, rate, idle } => {
            scenario::round_trips(&load, messages, rate, idle).await?
        }
        Command::Storm { url, tunnels } => return scenario::storm(&Target::parse(&url)?, tunnels).await.map(|()| None),
        Command::Idle { load, tunnels, rounds } => scenario::idle(&load, tunnels, rounds).await?,
        Command::Upgrades { load, parallel } => scenario::upgrades(&load, parallel).await?,
        Command::Get { load, connections } => scenario::get(&load, connections).await?,
    }))
}
