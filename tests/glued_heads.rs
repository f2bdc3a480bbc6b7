//! A head that has begun is a request, also when its first bytes came glued behind the request before: it has
//! `request_head` to become whole, and exactly one record however it ends.
//!
//! The library below reads such bytes into its buffer together with the request before and shows nothing of it. Nothing
//! more came from the socket, so the connection looked idle: half a head waited for `keep_alive` and ended without a word.

mod support;

use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::client::{ACCEPT, Client, KEY};
use support::frame;
use support::gateway::{Gateway, Signal};
use support::tls::Authority;

/// The time that is tested.
const SHORT: Duration = Duration::from_millis(100);
/// A whole request of every framing, and how many answers there are to it.
const WHOLE: [(&str, usize); 5] = [
    ("GET /here HTTP/1.1\r\nHost: a\r\n\r\n", 1),
    ("POST /here HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", 1),
    ("POST /here HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 1),
    ("GET /here HTTP/1.1\r\nHost: a\r\n\r\nPOST /here HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab", 2),
    ("POST /here HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc\r\n", 1),
];

fn gateway(timeouts: &str) -> Gateway {
    Gateway::start(&format!(
        "[gateway]\nworkers = 1\n[timeouts]\n{timeouts}\n[[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n\
         [[route]]\npath = \"/here\"\nrespond = {{ status = 200, body = \"here\" }}\n\
         [[route]]\npath = \"/echo\"\nservice = \"echo\"\n"
    ))
}

/// The records that are not of a request which was served.
fn others(records: &[Value]) -> Vec<&Value> {
    records.iter().filter(|record| record["status"] != 200).collect()
}

#[test]
fn half_a_head_behind_a_request_has_request_head_and_is_answered_408() {
    let gateway = gateway("request_head = \"100ms\"\nkeep_alive = \"10m\"");
    for (whole, answers) in WHOLE {
        for half in ["G", "GET /here HTTP/1.1\r\nHost: a\r\n"] {
            let mut client = Client::connect(gateway.address("web"));
            let began = Instant::now();
            client.send(format!("{whole}{half}"));
            for _ in 0..answers {
                assert_eq!(client.read_answer().text(), "here");
                gateway.record(|record| record["status"] == 200);
            }
            let head = client.read_head();
            assert_eq!(
                head, "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
                "{whole:?}"
            );
            assert!(began.elapsed() >= SHORT, "it came before its time: {:?}", began.elapsed());
            client.expect_eof();
            let record = gateway.record(|record| record["status"] != 200);
            let told = (&record["record"], &record["status"], &record["cause"]);
            let cause = json!("the head was not whole within timeouts.request_head");
            assert_eq!(told, (&json!("request"), &json!(408), &cause), "{record}");
        }
    }
    let all: usize = WHOLE.iter().map(|(_, answers)| 2 * (answers + 1)).sum();
    assert_eq!(gateway.stop().len(), all);
}

#[test]
fn it_is_so_over_tls() {
    let authority = Authority::new();
    let gateway = Gateway::start(&format!(
        "[timeouts]\nrequest_head = \"100ms\"\n[[listener]]\nname = \"web\"\nbind = \"127.0.0.1:0\"\n{}\
         [[route]]\nrespond = {{ status = 200, body = \"here\" }}\n",
        authority.line()
    ));
    let mut client = authority.connect(gateway.address("web"));
    client.send(format!("{}GET", WHOLE[0].0.replace("Host: a", "Host: localhost")));
    assert_eq!(client.read_answer().text(), "here");
    assert_eq!(client.read_answer().status, 408);
    client.expect_eof();
    drop(client);
    gateway.record(|record| record["status"] == 408);
    assert_eq!(gateway.stop().len(), 2);
}

/// The time between requests is shorter here than a head may take: the head has begun, so it has all of its time.
#[test]
fn the_rest_of_a_head_may_come_later_and_the_request_is_served() {
    let gateway = gateway("request_head = \"10m\"\nkeep_alive = \"100ms\"");
    for (whole, answers) in WHOLE {
        let mut client = Client::connect(gateway.address("web"));
        client.send(format!("{whole}GET /he"));
        for _ in 0..answers {
            assert_eq!(client.read_answer().text(), "here");
        }
        client.expect_silence(SHORT + SHORT / 2);
        client.send("re HTTP/1.1\r\nHost: a\r\nX: ");
        client.expect_silence(SHORT + SHORT / 2);
        // The last of it with the next one behind, and with half of an upgrade behind that.
        client.send(format!("y\r\n\r\n{}GET /ec", WHOLE[1].0));
        assert_eq!(client.read_answer().text(), "here");
        assert_eq!(client.read_answer().text(), "here");
        client.expect_silence(SHORT + SHORT / 2);
        let message = frame::client(frame::TEXT, true, "early");
        let rest = format!(
            "ho HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
        );
        client.send([rest.as_bytes(), &message].concat());
        assert!(client.read_head().contains(ACCEPT), "no 101");
        assert_eq!(frame::read(&mut client).text(), "early");
        client.finish_sending();
        client.expect_eof();
    }
    let records = gateway.stop();
    assert_eq!(others(&records).len(), WHOLE.len(), "the tunnels: {records:#?}");
}

/// Some clients send an empty line behind a body, which nobody asked for.
#[test]
fn an_empty_line_behind_a_request_begins_no_head() {
    for timeouts in
        ["request_head = \"100ms\"\nkeep_alive = \"300ms\"", "request_head = \"300ms\"\nkeep_alive = \"100ms\""]
    {
        let gateway = gateway(timeouts);
        let mut client = Client::connect(gateway.address("web"));
        client.send(format!("{}\r\n", WHOLE[1].0));
        assert_eq!(client.read_answer().text(), "here");
        client.expect_eof();
        drop(client);
        assert_eq!(gateway.stop().len(), 1);
    }
}

#[test]
fn a_client_that_leaves_within_such_a_head_has_one_record_of_it() {
    let gateway = gateway("");
    for reset in [false, true] {
        let mut client = Client::connect(gateway.address("web"));
        client.send(format!("{}GET", WHOLE[0].0));
        assert_eq!(client.read_answer().text(), "here");
        if reset {
            client.reset();
        } else {
            client.finish_sending();
            client.read_to_end();
        }
        let record = gateway.record(|record| record["status"] != 200);
        assert_eq!(record["cause"], "the client left within a head", "{record}");
    }
    assert_eq!(gateway.stop().len(), 4);
}

/// A drain gives a request that is on its way a moment, and cuts what is idle.
#[test]
fn a_drain_waits_for_such_a_head_as_for_any_that_has_begun() {
    for comes in [true, false] {
        let gateway = gateway("");
        let mut client = Client::connect(gateway.address("web"));
        client.send(format!("{}GET /here HT", WHOLE[0].0));
        assert_eq!(client.read_answer().text(), "here");
        let mut idle = Client::connect(gateway.address("web"));
        idle.send(WHOLE[0].0);
        assert_eq!(idle.read_answer().text(), "here");
        gateway.signal(Signal::SIGTERM);
        gateway.message(|message| message["message"] == "draining");
        idle.expect_eof();
        drop(idle);
        if comes {
            client.send("TP/1.1\r\nHost: a\r\n\r\n");
            let answer = client.read_answer();
            assert_eq!((answer.text(), answer.header("connection")), ("here", Some("close")));
        } else {
            thread::sleep(SHORT);
            assert_eq!(client.read_answer().status, 408);
        }
        client.expect_eof();
        drop(client);
        let (status, records) = gateway.wait();
        assert_eq!((status.code(), records.len()), (Some(0), 3), "{records:#?}");
    }
}
