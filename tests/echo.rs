//! The gateway's own echo: a WebSocket server in its own right, through the real gateway.

mod support;

use std::io::Write;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::client::{Client, opening_handshake};
use support::frame::{self, BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, close_payload};
use support::gateway::Gateway;
use support::peer::Peer;
use support::until;

/// With the timeouts that a gateway has by itself: who pauses is not cut.
fn gateway() -> Gateway {
    gateway_with("")
}

fn gateway_with(timeouts: &str) -> Gateway {
    Gateway::start(&format!(
        "[gateway]\nworkers = 1\n[timeouts]\n{timeouts}\n\
         [[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n\
         [[route]]\nname = \"echo\"\nservice = \"echo\"\n\
         [[route]]\nname = \"small\"\npath = \"/small\"\nservice = \"echo\"\nwebsocket = {{ max_message = \"1KiB\" }}\n",
    ))
}

fn talk(gateway: &Gateway, path: &str) -> Peer {
    Client::upgrade(gateway.address("web"), path).0
}

fn assert_ended(gateway: &Gateway, by: &str, code: Option<u16>) -> Value {
    let record = gateway.record(|record| record["record"] == "tunnel");
    assert_eq!(record["ended_by"], by, "{record}");
    assert_eq!(record.get("close_code"), code.map(|code| json!(code)).as_ref(), "{record}");
    record
}

#[test]
fn every_message_comes_back_as_it_was_sent() {
    let gateway = gateway();
    let mut client = talk(&gateway, "/");
    let mut sent = 0;
    for opcode in [TEXT, BINARY] {
        for length in [0, 1, 125, 126, 65_535, 65_536, 1 << 20] {
            let payload: Vec<u8> = (0..length).map(|i| b'a' + (i % 26) as u8).collect();
            let bytes = frame::client(opcode, true, &payload);
            sent += bytes.len();
            client.send(bytes);
            let echoed = frame::read(&mut client);
            assert!(echoed.fin && !echoed.masked && echoed.reserved == 0, "{length}");
            assert!((echoed.opcode, echoed.payload) == (opcode, payload), "{length} bytes of opcode {opcode}");
        }
    }
    let close = frame::client(CLOSE, true, close_payload(1000, "done"));
    sent += close.len();
    client.send(close);
    assert_eq!(frame::read(&mut client).close_code(), Some(1000));
    client.expect_eof();
    drop(client);
    let record = assert_ended(&gateway, "ClientClosed", Some(1000));
    assert_eq!(record["sent"], sent, "every byte is counted");
    gateway.stop();
}

#[test]
fn fragments_are_joined_and_pings_between_them_answered() {
    let gateway = gateway();
    let mut client = talk(&gateway, "/");
    client.send(frame::client(TEXT, false, "Web"));
    client.send(frame::client(PING, true, "are you there?"));
    client.send(frame::client(CONTINUATION, false, "Socket "));
    client.send(frame::client(CONTINUATION, true, "rocks"));
    let pong = frame::read(&mut client);
    assert_eq!((pong.opcode, pong.text()), (PONG, "are you there?"));
    let mut joined = String::new();
    loop {
        let part = frame::read(&mut client);
        joined += part.text();
        if part.fin {
            break;
        }
    }
    assert_eq!(joined, "WebSocket rocks");
    client.send(frame::client(CLOSE, true, ""));
    assert_eq!(frame::read(&mut client).payload, b"", "a Close without a code is answered in kind");
    drop(client);
    assert_ended(&gateway, "ClientClosed", Some(1005));
    gateway.stop();
}

#[test]
fn what_breaks_the_protocol_is_told_by_its_code() {
    let unmasked = frame::server(TEXT, true, "no mask");
    let reserved = frame::client(3, true, "no such opcode");
    let fragmented_ping = frame::client(PING, false, "half");
    let not_utf8 = frame::client(TEXT, true, b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80");
    let cut_character = [frame::client(TEXT, false, b"\xe2\x82"), frame::client(CONTINUATION, true, "")].concat();
    let too_large = frame::client(BINARY, true, vec![0; 1025]);
    let too_many = [frame::client(BINARY, false, vec![0; 1000]), frame::client(CONTINUATION, true, [0; 100])].concat();
    let table = [
        (unmasked, 1002, "Malformed"),
        (reserved, 1002, "Malformed"),
        (fragmented_ping, 1002, "Malformed"),
        (not_utf8, 1007, "Malformed"),
        (cut_character, 1007, "Malformed"),
        (too_large, 1009, "Limit"),
        (too_many, 1009, "Limit"),
    ];
    let gateway = gateway();
    for (bytes, code, by) in table {
        let mut client = talk(&gateway, "/small");
        client.send(bytes);
        let close = frame::read(&mut client);
        assert_eq!((close.opcode, close.close_code()), (CLOSE, Some(code)));
        client.expect_eof();
        drop(client);
        assert_ended(&gateway, by, Some(code));
    }
    gateway.stop();
}

#[test]
fn a_thousand_messages_behind_the_request_are_answered_in_their_order() {
    let gateway = gateway();
    let mut client = Client::connect(gateway.address("web"));
    let mut bytes = opening_handshake("a.example", "/", "").into_bytes();
    for number in 0..1000 {
        bytes.extend(frame::client(TEXT, true, format!("message {number}")));
    }
    let mut sender = client.sender();
    let sending = std::thread::spawn(move || sender.send(bytes));
    assert!(client.read_head().starts_with("HTTP/1.1 101 "));
    for number in 0..1000 {
        assert_eq!(frame::read(&mut client).text(), format!("message {number}"));
    }
    sending.join().expect("all was taken");
    drop(client);
    assert_ended(&gateway, "ClientClosed", None);
    gateway.stop();
}

#[test]
fn a_silent_client_is_ended_by_the_clock() {
    let gateway = gateway_with("idle = \"300ms\"\nstall = \"300ms\"");
    let mut silent = talk(&gateway, "/");
    silent.expect_end();
    let record = assert_ended(&gateway, "Idle", None);
    assert!(record["lasted_ms"].as_f64() >= Some(300.0), "{record}");
    gateway.stop();
}

/// Whatever the client was told, it may stay without a word: a clock of the gateway's ends that, and the record says what
/// ended the conversation, not that the client was slow to leave.
#[test]
fn a_client_that_never_leaves_after_our_close_is_bounded_in_time() {
    for timeouts in ["half_close = \"200ms\"\nidle = \"1h\"", "half_close = \"1h\"\nidle = \"200ms\""] {
        let gateway = gateway_with(timeouts);
        let at_rest = gateway.descriptors();
        for (sent, code, ended_by) in [
            (frame::client(CLOSE, true, close_payload(1000, "")), 1000, "ClientClosed"),
            (frame::client(3, true, "no such opcode"), 1002, "Malformed"),
            (frame::client(BINARY, true, vec![0; (1 << 20) + 1])[..20].to_vec(), 1009, "Limit"),
        ] {
            let mut stubborn = talk(&gateway, "/");
            let began = Instant::now();
            stubborn.send(sent);
            assert_eq!(frame::read(&mut stubborn).close_code(), Some(code));
            stubborn.expect_eof();
            assert_ended(&gateway, ended_by, Some(code));
            let took = began.elapsed();
            assert!(took >= Duration::from_millis(200), "it ended before its time: after {took:?}");
            until("its descriptor is given back", || gateway.descriptors() == at_rest);
        }
        gateway.stop();
    }
}

#[test]
fn a_client_that_goes_on_talking_after_our_close_is_bounded_in_time_too() {
    let gateway = gateway_with("half_close = \"200ms\"\nidle = \"1h\"");
    let mut client = talk(&gateway, "/");
    client.send(frame::client(3, true, "no such opcode"));
    assert_eq!(frame::read(&mut client).close_code(), Some(1002));
    client.expect_eof();
    until("nobody listens any more", || client.try_send([0]).is_err());
    assert_ended(&gateway, "Malformed", Some(1002));
    gateway.stop();
}

#[test]
fn a_client_that_leaves_without_a_close_is_recorded_as_it_left() {
    let gateway = gateway();
    let mut whole = talk(&gateway, "/");
    whole.finish_sending();
    whole.expect_eof();
    assert_ended(&gateway, "ClientClosed", None);
    let mut half = talk(&gateway, "/");
    half.send(&frame::client(TEXT, true, "half a frame")[..9]);
    half.finish_sending();
    half.expect_eof();
    assert_eq!(assert_ended(&gateway, "ClientClosed", None)["sent"], 9);
    talk(&gateway, "/").reset();
    assert_ended(&gateway, "ClientReset", None);
    gateway.stop();
}

#[test]
fn a_message_at_the_limit_of_its_route_comes_back() {
    let gateway = gateway();
    let mut client = talk(&gateway, "/small");
    client.send(frame::client(BINARY, true, [7; 1024]));
    assert_eq!(frame::read(&mut client).payload, [7; 1024]);
    drop(client);
    gateway.stop();
}

#[test]
fn a_client_that_sends_and_never_reads_bounds_the_memory_and_ends_as_stalled() {
    let gateway = gateway_with("idle = \"300ms\"\nstall = \"300ms\"");
    let client = talk(&gateway, "/");
    // Its own: what it shares with the gateways of other tests is its alone when these end.
    let before = gateway.anonymous();
    let mut sender = client.sender();
    let sending = std::thread::spawn(move || {
        let message = frame::client(BINARY, true, vec![7; 60_000]);
        let mut taken: u64 = 0;
        // Its intention is 1 GiB.
        while taken < 1 << 30 && sender.try_send(&message).is_ok() {
            taken += message.len() as u64;
        }
        taken
    });
    let record = gateway.record(|record| record["record"] == "tunnel");
    assert_eq!(record["ended_by"], "Stalled", "{record}");
    let taken = sending.join().expect("it ends with the connection");
    assert!(taken < 1 << 30, "what nobody reads is not taken without end");
    let grown = gateway.anonymous().saturating_sub(before);
    assert!(grown < 4 << 20, "{taken} bytes taken, and the memory has grown by {grown}");
    gateway.stop();
}

/// It is slowed down, and when it reads after all, every message comes.
#[test]
fn a_client_that_reads_late_misses_no_message() {
    let gateway = gateway();
    let mut client = talk(&gateway, "/");
    client.stream().set_write_timeout(Some(Duration::from_millis(300))).expect("a timeout");
    let (message, answer) = ([7; 16_384], frame::server(BINARY, true, [7; 16_384]));
    let message = frame::client(BINARY, true, message);
    let mut sent = 0;
    while let Ok(taken) = { client.stream() }.write(&message[sent % message.len()..]) {
        sent += taken;
        assert!(sent < 128 << 20, "nothing holds the client back");
    }
    for number in 0..sent / message.len() {
        assert!(client.read_exact(answer.len()) == answer, "message {number}");
    }
    drop(client);
    gateway.record(|record| record["record"] == "tunnel");
    gateway.stop();
}
