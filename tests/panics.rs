//! A panic is a bug of ours, and it must cost no more than the connection that it happened in.

mod support;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, panic, thread};

use serde_json::Value;
use spliceway::config::{Config, LogFile};
use spliceway::downstream::addr::ListenAddr;
use spliceway::downstream::connection::{Accepted, ConnContext, serve};
use spliceway::downstream::seat::{Budgets, PlacesOfClient, Seat};
use spliceway::proxy::{self, Serving};
use spliceway::record::Sink;
use spliceway::telemetry::Output;
use spliceway::upstream::EndpointStates;
use spliceway::worker::{self, Context};
use support::client::Client;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::sync::oneshot;

const GET: &str = "GET /fine HTTP/1.1\r\nHost: a\r\n\r\n";
const PANICKED: &str = "a task panicked; its connection ends";

/// A worker of one place, whose service panics for one path, with the connections' tasks spawned as the gateway's are.
struct Worker {
    address: SocketAddr,
    context: Arc<Context>,
    stop: oneshot::Sender<()>,
    thread: thread::JoinHandle<()>,
    log: PathBuf,
}

impl Worker {
    fn start() -> Self {
        let log = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("panics-{}.log", std::process::id()));
        let _ = fs::remove_file(&log);
        let text = format!(
            "[log]\nformat = \"json\"\nfile = \"{}\"\n[[listener]]\nbind = \"127.0.0.1:0\"\n\
             [[route]]\nrespond = {{ status = 200, body = \"fine\" }}\n",
            log.display()
        );
        let config = Config::parse("test", &text, Path::new("/")).expect("it is right");
        let output = Output::open(&LogFile::Path(log.clone())).expect("a log");
        output.install(&config.log);
        let listener = Arc::clone(&config.listeners[0]);
        let sink = Sink::new(output.lines(), config.log.format, config.log.records, Arc::clone(&config.gateway.name));
        let serving = Arc::new(Serving::new(config, &EndpointStates::default()));
        let context = Arc::new(Context::new(0, serving, Arc::new(sink), Arc::new(Semaphore::new(1))));
        let budget = Budgets::new(NonZeroUsize::MIN, None).of(&listener);
        let (stop, stopped) = oneshot::channel();
        let (bound, is_bound) = std::sync::mpsc::channel();
        let shared = Arc::clone(&context);
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let accept = async move {
                let socket = TcpListener::bind("127.0.0.1:0").await.expect("a port");
                let address = socket.local_addr().expect("its address");
                let local = ListenAddr(address);
                bound.send(address).expect("the test waits");
                loop {
                    let permits = budget.take().await;
                    let (stream, client) = socket.accept().await.expect("a connection");
                    let client = spliceway::downstream::addr::ClientAddr(client);
                    let seat = Seat::new(shared.registry.enter(client), Some(permits), PlacesOfClient::none());
                    let listener = Arc::clone(&listener);
                    let since = std::time::Instant::now();
                    let accepted = Accepted { stream, client, local, since, seat, listener };
                    worker::spawn_tunnel(serve(accepted, Arc::clone(&shared), handle));
                }
            };
            runtime.block_on(async {
                tokio::select! {
                    () = accept => {}
                    _ = stopped => {}
                }
            });
            drop(output);
        });
        let address = is_bound.recv().expect("it is bound");
        Self { address, context, stop, thread, log }
    }

    /// Ends it; gives the lines of its log.
    fn stop(self) -> Vec<Value> {
        self.stop.send(()).expect("it runs");
        self.thread.join().expect("the worker did not panic");
        let lines = fs::read_to_string(&self.log).expect("the log");
        fs::remove_file(&self.log).expect("it was there");
        lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }
}

async fn handle(
    request: hyper::Request<hyper::body::Incoming>,
    connection: Arc<ConnContext>,
) -> hyper::Response<proxy::body::Body> {
    if request.uri().path() == "/panic" {
        let mut record = connection.record();
        record.asks(request.method(), None, "/panic");
        tokio::task::yield_now().await;
        panic!("the service's own fault");
    }
    proxy::handle(request, connection).await
}

#[test]
fn a_panic_in_a_service_ends_one_connection() {
    let shown = panic::take_hook();
    let worker = Worker::start();
    let logged = panic::take_hook();
    // Where the gateway writes a panic to its log, this test's own must be seen too.
    panic::set_hook(Box::new(move |panic| {
        logged(panic);
        shown(panic);
    }));
    for _ in 0..3 {
        let mut client = Client::connect(worker.address);
        client.send(GET);
        assert_eq!(client.read_answer().text(), "fine");
        client.send("GET /panic HTTP/1.1\r\nHost: a\r\n\r\n");
        client.expect_end();
        // The next connection needs the seat of this one: there is one place.
        support::until("the registry is empty", || worker.context.registry.is_empty());
    }
    let lines = worker.stop();
    let (records, messages): (Vec<_>, Vec<_>) = lines.into_iter().partition(|line| line["record"].is_string());
    let paths: Vec<_> = records.iter().map(|record| record["path"].as_str().expect("a path")).collect();
    assert_eq!(paths, ["/fine", "/panic", "/fine", "/panic", "/fine", "/panic"]);
    for record in records.iter().filter(|record| record["path"] == "/panic") {
        assert_eq!(record["cause"], "the gateway failed: a task panicked", "{record}");
        assert_eq!(record["status"], Value::Null, "{record}");
    }
    assert_eq!(messages.len(), 3, "{messages:#?}");
    for message in &messages {
        assert_eq!((&message["level"], &message["message"]), (&"ERROR".into(), &PANICKED.into()));
        assert!(message["panic"].as_str().is_some_and(|panic| panic.contains("the service's own fault")), "{message}");
    }
}
