//! Limits on what clients may occupy: memory for bodies and sessions, places for connections.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

use crate::common::gatepost::{Gatepost, Setup, token, token_with};
use crate::common::wait::{SOON, until};
use crate::process_limits::metric;

/// The time in which a connection that must give way is closed; less than the time limit of a head.
const GIVE_WAY: Duration = Duration::from_secs(5);

const MIB: usize = 1024 * 1024;

fn host(gatepost: &Gatepost) -> String {
    gatepost.url().strip_prefix("http://").unwrap().to_owned()
}

/// The head of a POST with a body of `length` bytes.
fn head(host: &str, path: &str, length: usize, more: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\naccept: application/json\r\n\
         content-length: {length}\r\n{more}\r\n"
    )
}

fn bearer(token: &str) -> String {
    format!("authorization: Bearer {token}\r\n")
}

fn call(tool: &str, arguments: &Value) -> String {
    let params = format!(r#"{{"name":"{tool}","arguments":{arguments}}}"#);
    format!(r#"{{"jsonrpc":"2.0","id":"limits","method":"tools/call","params":{params}}}"#)
}

/// The status of the response on `stream`.
fn status(stream: &mut TcpStream) -> u16 {
    stream.set_read_timeout(Some(SOON)).unwrap();
    let mut start = [0; 12];
    stream.read_exact(&mut start).unwrap();
    std::str::from_utf8(&start[9..]).unwrap().parse().unwrap()
}

fn post(host: &str, path: &str, body: &str, more: &str) -> u16 {
    let mut stream = TcpStream::connect(host).unwrap();
    stream.write_all(head(host, path, body.len(), more).as_bytes()).unwrap();
    // The gateway may refuse before it has read all.
    stream.write_all(body.as_bytes()).ok();
    status(&mut stream)
}

/// The peak of the gateway's memory since `reset`, in bytes.
fn peak(gatepost: &Gatepost) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", gatepost.pid)).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
}

/// Makes the present memory the peak.
fn reset_peak(gatepost: &Gatepost) {
    std::fs::write(format!("/proc/{}/clear_refs", gatepost.pid), "5").unwrap();
}

/// The records of `method`, once there are `count`.
fn records(setup: &Setup, method: &str, count: usize) -> Vec<Value> {
    let mut found = Vec::new();
    until("the requests are recorded", SOON, || {
        let output = setup.command(&["outbox", "list", "--json", "--limit", "1000"]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let all = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        found = all.filter(|record| record["method"] == method).collect();
        found.len() >= count
    });
    assert_eq!(found.len(), count, "{found:?}");
    found
}

#[test]
fn body_without_a_valid_token_is_not_asked_for_and_its_beginning_is_recorded() {
    let setup = Setup::new();
    let gatepost = setup.start();
    let host = host(&gatepost);
    // A client that waits to be asked for its body is not asked.
    let mut waiting = TcpStream::connect(&host).unwrap();
    waiting.write_all(head(&host, "/mcp/example", 4 * MIB, "expect: 100-continue\r\n").as_bytes()).unwrap();
    assert_eq!(status(&mut waiting), 401);
    // One that sends gets its response before it has sent all.
    let mut sending = TcpStream::connect(&host).unwrap();
    sending.write_all(head(&host, "/mcp/example", 4 * MIB, "").as_bytes()).unwrap();
    let body = call("echo", &json!({"text": "x".repeat(64 * 1024)}));
    sending.write_all(body.as_bytes()).unwrap();
    assert_eq!(status(&mut sending), 401);
    let record = &records(&setup, "tools/call", 1)[0];
    // No list was read, and none is for a stranger: whether there is such a tool is not known.
    assert_eq!((&record["tool_name"], &record["rpc_id"]), (&json!("unknown"), &json!("limits")));
    assert_eq!(record["request_extra"], json!(r#"{"name":"echo"}"#));
    assert_eq!((&record["response_status"], &record["request_args"]), (&json!("unauthenticated"), &Value::Null));
    records(&setup, "unknown", 1);
}

#[test]
fn i6_unfinished_bodies_of_unknown_callers_take_little_memory() {
    let mut setup = Setup::new();
    setup.set_toml("server.connections_max", "512");
    let gatepost = setup.start();
    let host = host(&gatepost);
    post(&host, "/mcp/example", &call("echo", &json!({"text": "a"})), &bearer(&token("admin")));
    reset_peak(&gatepost);
    let before = peak(&gatepost);
    let chunk = vec![b' '; 64 * 1024];
    let mut streams = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(&host).unwrap();
        stream.write_all(head(&host, "/mcp/example", 4 * MIB, "").as_bytes()).unwrap();
        stream.set_write_timeout(Some(Duration::from_millis(20))).unwrap();
        // As much as the gateway and the kernel take.
        for _ in 0..4 * MIB / chunk.len() - 1 {
            if stream.write_all(&chunk).is_err() {
                break;
            }
        }
        streams.push(stream);
    }
    // At 4 KiB each and what a connection needs. Whole bodies would be 800 MiB.
    let used = peak(&gatepost) - before;
    assert!(used < 16 * MIB, "{used} bytes");
}

#[test]
fn i6_open_calls_share_their_bodies_instead_of_copying_them() {
    let mut setup = Setup::new();
    setup.set("log.filter", "error");
    // What is recorded of a call is bounded by itself; here it is short.
    setup.set_toml("audit.shorten", r#"["example/sleep:/pad"]"#);
    let gatepost = setup.start();
    let host = host(&gatepost);
    for (path, tool) in [("/mcp/example", "sleep"), ("/mcp", "example__sleep")] {
        post(&host, path, &call(tool, &json!({"ms": 1})), &bearer(&token("admin")));
        reset_peak(&gatepost);
        let before = peak(&gatepost);
        let body = call(tool, &json!({"ms": 1500, "pad": "x".repeat(4 * MIB - 1024)}));
        let statuses: Vec<_> = std::thread::scope(|scope| {
            let calls: Vec<_> =
                (0..16).map(|_| scope.spawn(|| post(&host, path, &body, &bearer(&token("admin"))))).collect();
            calls.into_iter().map(|call| call.join().unwrap()).collect()
        });
        assert_eq!(statuses, [200; 16]);
        // Less than three times their size, with the buffers of connections and of the allocator.
        let used = peak(&gatepost) - before;
        assert!(used < 16 * 12 * MIB, "{path}: {used} bytes");
    }
}

#[test]
fn i6_request_without_room_is_refused_and_recorded() {
    let mut setup = Setup::new();
    setup.set_toml("server.body_bytes_max", "65536").set_toml("server.request_bytes_max", "262144");
    let gatepost = setup.start();
    let host = host(&gatepost);
    let caller = |subject: &str| bearer(&token_with(&json!({"sub": subject, "role": "admin"})));
    let large = |ms: u32| call("sleep", &json!({"ms": ms, "pad": "x".repeat(60_000)}));
    let open = |subject: &str| {
        let (mut stream, body) = (TcpStream::connect(&host).unwrap(), large(8_000));
        stream.write_all(head(&host, "/mcp/example", body.len(), &caller(subject)).as_bytes()).unwrap();
        stream.write_all(body.as_bytes()).unwrap();
        stream
    };
    post(&host, "/mcp/example", &call("echo", &json!({"text": "a"})), &caller("ann"));
    let mut anns = open("ann");
    until("the call is open", SOON, || gatepost.get_ops("/metrics").1.contains("gatepost_calls_open 1.0"));
    // A caller may occupy half of all, and all of what is not kept for small bodies.
    assert_eq!(post(&host, "/mcp/example", &large(1), &caller("ann")), 429);
    assert_eq!(post(&host, "/mcp/example", &large(1), &caller("bob")), 429);
    assert_eq!(post(&host, "/mcp/example", &call("echo", &json!({"text": "a"})), &caller("ann")), 200);
    assert_eq!(status(&mut anns), 200);
    // Its end gives back the room.
    assert_eq!(post(&host, "/mcp/example", &large(1), &caller("bob")), 200);
    let limited: Vec<_> = records(&setup, "tools/call", 6)
        .into_iter()
        .filter(|record| record["response_status"] == "rate_limited")
        .map(|record| (record["client_subject"].clone(), record["tool_name"].clone()))
        .collect();
    assert_eq!(limited, [(json!("ann"), json!("sleep")), (json!("bob"), json!("sleep"))]);
}

#[test]
fn i6_parameters_of_initialize_are_bounded() {
    let setup = Setup::new();
    let gatepost = setup.start();
    let host = host(&gatepost);
    let hello = |bytes: usize| {
        let params = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "pad": "x".repeat(bytes)});
        json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}).to_string()
    };
    assert_eq!(post(&host, "/mcp", &hello(63 * 1024), &bearer(&token("admin"))), 200);
    assert_eq!(post(&host, "/mcp", &hello(64 * 1024), &bearer(&token("admin"))), 413);
    let statuses: Vec<_> =
        records(&setup, "initialize", 2).into_iter().map(|record| record["response_status"].clone()).collect();
    assert_eq!(statuses, ["ok", "malformed"]);
}

#[test]
fn unknown_clients_keep_nobody_out() {
    let mut setup = Setup::new();
    setup.set_toml("server.connections_max", "16");
    let gatepost = setup.start();
    let host = host(&gatepost);
    let mut known = TcpStream::connect(&host).unwrap();
    let body = call("echo", &json!({"text": "a"}));
    let request = head(&host, "/mcp/example", body.len(), &bearer(&token("admin"))) + &body;
    known.write_all(request.as_bytes()).unwrap();
    assert_eq!(status(&mut known), 200);
    let mut strangers = Vec::new();
    for _ in 0..64 {
        let mut stranger = TcpStream::connect(&host).unwrap();
        stranger.write_all(b"POST /mcp HTTP/1.1\r\nhost: 127.0.0.1\r\n").unwrap();
        strangers.push(stranger);
    }
    for _ in 0..8 {
        assert_eq!(post(&host, "/mcp/example", &body, &bearer(&token("admin"))), 200);
    }
    assert!(metric(&gatepost, "gatepost_connections_evicted_total") >= 48.0);
    // The connection whose client is known was kept.
    let mut rest = vec![0; 16 * 1024];
    let read = known.read(&mut rest).unwrap();
    assert!(String::from_utf8_lossy(&rest[..read]).contains("\"result\""));
    known.write_all(request.as_bytes()).unwrap();
    assert_eq!(status(&mut known), 200);
}

#[test]
fn connections_beyond_the_share_of_an_address_are_closed_and_counted() {
    let mut setup = Setup::new();
    setup.set_toml("server.connections_per_address_max", "1");
    let gatepost = setup.start();
    let host = host(&gatepost);
    let mut known = TcpStream::connect(&host).unwrap();
    let body = call("echo", &json!({"text": "a"}));
    let request = head(&host, "/mcp/example", body.len(), &bearer(&token("admin"))) + &body;
    known.write_all(request.as_bytes()).unwrap();
    assert_eq!(status(&mut known), 200);
    for refused in 1..4 {
        let mut stream = TcpStream::connect(&host).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        assert_eq!(metric(&gatepost, "gatepost_connections_refused_total").to_string(), refused.to_string());
    }
    assert_eq!(metric(&gatepost, "gatepost_connections_open").to_string(), "1");
}

#[test]
fn known_clients_that_send_no_body_keep_nobody_out() {
    let mut setup = Setup::new();
    setup.set_toml("server.connections_max", "16");
    let gatepost = setup.start();
    let host = host(&gatepost);
    let body = call("echo", &json!({"text": "a"}));
    let hold = || {
        let mut stream = TcpStream::connect(&host).unwrap();
        let more = format!("{}expect: 100-continue\r\n", bearer(&token("echo")));
        stream.write_all(head(&host, "/mcp/example", body.len(), &more).as_bytes()).unwrap();
        assert_eq!(status(&mut stream), 100, "the body is awaited");
        stream.read_exact(&mut [0; " Continue\r\n\r\n".len()]).unwrap();
        stream
    };
    let mut unfinished: Vec<_> = (0..16).map(|_| hold()).collect();
    let answered = (0..4).map(|_| post(&host, "/mcp/example", &body, &bearer(&token("admin"))));
    assert_eq!(answered.collect::<Vec<_>>(), [200; 4]);
    // Those that gave way hear why. The time for a body is much longer when no one waits.
    let is_answered = |stream: &mut TcpStream| {
        stream.set_nonblocking(true).unwrap();
        let is_answered = matches!(stream.peek(&mut [0]), Ok(1));
        stream.set_nonblocking(false).unwrap();
        is_answered
    };
    let answers: Vec<_> =
        unfinished.iter_mut().filter_map(|stream| is_answered(stream).then(|| status(stream))).collect();
    assert!((1..=4).contains(&answers.len()) && answers.iter().all(|status| *status == 408), "{answers:?}");
}

#[test]
fn idle_connections_to_the_operations_listener_keep_nobody_out() {
    let setup = Setup::new();
    let gatepost = setup.start();
    let ops = gatepost.ops_url.strip_prefix("http://").unwrap();
    let idle: Vec<_> = (0..200).map(|_| TcpStream::connect(ops).unwrap()).collect();
    assert_eq!(gatepost.get_ops("/healthz").0, 200);
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", gatepost.pid)).unwrap().count();
    // A connection that gives way is closed by its own task. Without the limit they would stay until the time limit of
    // a head.
    until("idle connections are closed", GIVE_WAY, || descriptors() < 150);
    let body = call("echo", &json!({"text": "a"}));
    assert_eq!(post(&host(&gatepost), "/mcp/example", &body, &bearer(&token("admin"))), 200);
    drop(idle);
}

#[test]
fn address_that_a_trusted_proxy_names_is_recorded() {
    let mut setup = Setup::new();
    setup.set_toml("server.trusted_proxies", r#"["127.0.0.1", "10.0.0.0/8"]"#);
    let gatepost = setup.start();
    let host = host(&gatepost);
    let body = call("echo", &json!({"text": "a"}));
    let forwarded = |value: &str| format!("{}x-forwarded-for: {value}\r\n", bearer(&token("admin")));
    assert_eq!(post(&host, "/mcp/example", &body, &forwarded("9.9.9.9, 192.0.2.7, 10.1.2.3")), 200);
    assert_eq!(post(&host, "/mcp/example", &body, "x-forwarded-for: 192.0.2.8\r\n"), 401);
    assert_eq!(post(&host, "/nowhere", &body, "x-forwarded-for: 192.0.2.9\r\n"), 404);
    assert_eq!(post(&host, "/mcp/example", &body, &forwarded("192.0.2.10, unknown")), 200);
    let mut addresses: Vec<_> = records(&setup, "tools/call", 3).into_iter().collect();
    addresses.extend(records(&setup, "unknown", 1));
    let addresses: Vec<_> = addresses.iter().map(|record| record["client_addr"].as_str().unwrap()).collect();
    assert_eq!((addresses[0], addresses[1], addresses[3]), ("192.0.2.7", "192.0.2.8", "192.0.2.9"));
    assert!(addresses[2].starts_with("127.0.0.1:"), "{addresses:?}");
}

#[test]
fn streams_of_one_principal_leave_places_to_others() {
    let mut setup = Setup::new();
    setup.set_toml("server.connections_max", "24");
    let gatepost = setup.start();
    let host = host(&gatepost);
    let caller = |subject: &str| bearer(&token_with(&json!({"sub": subject, "role": "echo"})));
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let params = json!({"_meta": meta, "notifications": {"toolsListChanged": true}});
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": params}).to_string();
    let headers =
        "accept: text/event-stream\r\nmcp-protocol-version: 2026-07-28\r\nmcp-method: subscriptions/listen\r\n";
    let listen = |subject: &str| {
        let mut stream = TcpStream::connect(&host).unwrap();
        let more = format!("{}{headers}", caller(subject));
        stream.write_all((head(&host, "/mcp", body.len(), &more) + &body).as_bytes()).unwrap();
        (status(&mut stream), stream)
    };
    // A quarter of all connections.
    let mut streams: Vec<_> = (0..6).map(|_| listen("ann")).collect();
    assert!(streams.iter().all(|(status, _)| *status == 200));
    assert_eq!(listen("ann").0, 429);
    assert_eq!(listen("bob").0, 200);
    streams.pop();
    until("an ended stream does not count", SOON, || listen("ann").0 == 200);
}
