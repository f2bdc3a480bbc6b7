//! What a message costs at the kernel's door: one read and one write each way, and the poll that says that it is there.

mod support;

use support::backend::{self, Backend};
use support::client::Client;
use support::frame;
use support::gateway::Gateway;
use support::peer::Peer;
use support::syscalls::Syscalls;

const MESSAGES: u64 = 500;

#[test]
fn an_echoed_message_is_four_system_calls_and_the_poll() {
    let backend = Backend::start(backend::websocket_echo);
    let gateway = Gateway::start(&format!(
        "[gateway]\nworkers = 1\n[[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n\
         [upstream.b]\nendpoints = [\"{}\"]\n[[route]]\nupstream = \"b\"\n",
        backend.address()
    ));
    let (mut client, _) = Client::upgrade(gateway.address("web"), "/");
    let message = frame::client(frame::BINARY, true, [7; 125]);
    let syscalls = Syscalls::attach(gateway.pid(), "worker-0");
    (0..10).for_each(|_| echo(&mut client, &message));
    let before = syscalls.counts();
    (0..MESSAGES).for_each(|_| echo(&mut client, &message));
    let counts = syscalls.counts() - before;
    drop(syscalls);
    println!("{MESSAGES} messages echoed: {counts:?}");

    // Each way once: in from one side, out to the other.
    assert_eq!(counts.of("recvfrom"), 2 * MESSAGES, "{counts:?}");
    assert_eq!(counts.of("sendto"), 2 * MESSAGES, "{counts:?}");
    // Each way wakes the worker once; the poll after the last message may have begun before or after a look.
    let polls = counts.of_all(&["epoll_wait", "epoll_pwait", "epoll_pwait2"]);
    assert!((2 * MESSAGES - 1..=2 * MESSAGES + 1).contains(&polls), "{counts:?}");
    assert_eq!(counts.total(), 4 * MESSAGES + polls, "something else is called: {counts:?}");
    drop(client);
    gateway.record(|record| record["record"] == "tunnel");
    gateway.stop();
}

fn echo(client: &mut Peer, message: &[u8]) {
    client.send(message);
    assert_eq!(client.read_exact(message.len()), message);
}
