//! A reader that stops bounds the memory of the gateway, and its sender feels it.
//!
//! The sender means to send 1 GiB. It gets as far as the kernel's buffers on the way hold, whatever they are here (less
//! than [`STUCK_BEFORE`] in any case), and the gateway holds one block besides. When the reader goes on, everything comes in
//! its order, and the rest of what the sender has flows again.

mod support;

use std::thread;
use std::time::Duration;

use support::peer::Peer;
use support::tunnels::{Pattern, Tunnels};

const INTENTION: usize = 1 << 30;

/// Two sockets' send and receive buffers at the largest that Linux grows them to by itself, and more.
const STUCK_BEFORE: usize = 128 << 20;

/// How far the gateway's memory may grow while it holds a sender back.
const GROWTH: u64 = 4 << 20;

/// What flows after the reader has gone on.
const AFTER: usize = 4 << 20;

/// Who cannot send a byte for so long is stuck. Should it be a busy machine's pause, then less is under way when the
/// memory is looked at, and everything else is the same.
const PATIENCE: Duration = Duration::from_millis(500);

#[test]
fn a_client_that_stops_reading_slows_the_server_down_and_costs_no_memory() {
    let tunnels = Tunnels::start("[gateway]\nworkers = 1\n");
    let (client, server) = warmed_up(&tunnels);
    let sent = held_back(&tunnels, &server, client);
    tunnels.expect_record("ServerClosed", 1, 1 + sent);
    tunnels.stop();
}

#[test]
fn a_server_that_stops_reading_slows_the_client_down_and_costs_no_memory() {
    let tunnels = Tunnels::start("[gateway]\nworkers = 1\n");
    let (client, server) = warmed_up(&tunnels);
    let sent = held_back(&tunnels, &client, server);
    tunnels.expect_record("ClientClosed", 1 + sent, 1);
    tunnels.stop();
}

/// Both ways are stuck, and both go on: neither waits for the other.
#[test]
fn two_that_both_send_and_do_not_read_hold_each_other_up_only_until_one_reads() {
    let tunnels = Tunnels::start("[gateway]\nworkers = 1\n");
    let (there, back) = (Pattern::new(1), Pattern::new(2));
    let (client, server) = warmed_up(&tunnels);
    let before = tunnels.gateway.anonymous();
    let (sent, received) = thread::scope(|scope| {
        let sent = scope.spawn(|| there.send_until_stuck(&client, INTENTION, PATIENCE));
        let received = scope.spawn(|| back.send_until_stuck(&server, INTENTION, PATIENCE));
        (sent.join().expect("it gets stuck"), received.join().expect("it gets stuck"))
    });
    assert!(sent < STUCK_BEFORE && received < STUCK_BEFORE, "{sent} and {received} bytes were taken");
    expect_flat(&tunnels, before);
    back.expect(&client, 0..received);
    there.expect(&server, 0..sent);
    drop((client, server));
    let record = tunnels.record();
    assert_eq!((&record["sent"], &record["received"]), (&(1 + sent).into(), &(1 + received).into()), "{record}");
    tunnels.stop();
}

/// Many at once cost a block each, and no more.
#[test]
fn many_that_stop_reading_cost_a_block_each() {
    const MANY: u64 = 16;
    let tunnels = Tunnels::start("[gateway]\nworkers = 1\n");
    let pattern = Pattern::new(3);
    warmed_up(&tunnels);
    let before = tunnels.gateway.anonymous();
    let ends: Vec<_> = (0..MANY).map(|_| tunnels.open_with_buffer(4_096)).collect();
    thread::scope(|scope| {
        let stuck: Vec<_> = ends
            .iter()
            .map(|(_, server)| scope.spawn(|| pattern.send_until_stuck(server, INTENTION, PATIENCE)))
            .collect();
        for sent in stuck {
            assert!(sent.join().expect("it gets stuck") < STUCK_BEFORE);
        }
    });
    let grown = tunnels.gateway.anonymous().saturating_sub(before);
    println!("{MANY} stuck tunnels cost {grown} bytes");
    assert!(grown < MANY * (96 << 10) + (1 << 20), "{MANY} stuck tunnels cost {grown} bytes");
    drop(ends);
    for _ in 0..=MANY {
        tunnels.record();
    }
    tunnels.stop();
}

/// A tunnel that has moved a byte each way, so that what the gateway needs once is not counted as growth.
fn warmed_up(tunnels: &Tunnels) -> (Peer, Peer) {
    let (mut client, mut server) = tunnels.open();
    client.send("a");
    assert_eq!(server.read_exact(1), b"a");
    server.send("b");
    assert_eq!(client.read_exact(1), b"b");
    (client, server)
}

/// Sends until the sender is stuck, looks at the memory, and reads all of it, and a rest that flows behind it, to the end.
fn held_back(tunnels: &Tunnels, sender: &Peer, mut reader: Peer) -> usize {
    let pattern = Pattern::new(4);
    let before = tunnels.gateway.anonymous();
    let stuck = pattern.send_until_stuck(sender, INTENTION, PATIENCE);
    assert!(stuck < STUCK_BEFORE, "nothing held the sender back: it sent {stuck} bytes");
    expect_flat(tunnels, before);
    let all = stuck + AFTER;
    thread::scope(|scope| {
        scope.spawn(|| {
            pattern.send(sender, stuck..all);
            sender.finish_sending();
        });
        pattern.expect(&reader, 0..all);
    });
    reader.expect_eof();
    expect_flat(tunnels, before);
    all
}

#[track_caller]
fn expect_flat(tunnels: &Tunnels, before: u64) {
    let now = tunnels.gateway.anonymous();
    assert!(now < before + GROWTH, "the gateway's memory grew from {before} to {now} bytes");
}
