//! Clients that hang up at any moment after their request was sent: each call leaves exactly one record, with the right
//! status, and reaches its backend at most once.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use crate::common::gatepost::{Setup, token};
use crate::common::mcp::Era;
use crate::common::pause::pause;
use crate::common::raw_backend::raw_backend;
use crate::common::wait::{SOON, until};
use serde_json::{Value, json};

/// Calls of each era. *Chosen*: in steps of 20 us they cover the whole life of a call, which takes two commits and the
/// time of the backend.
const CALLS: u64 = 150;

/// The last calls of each era hang up once the answer has begun, however busy the machine is.
const ANSWERED: u64 = 5;

/// A request whose body ends with `padding` spaces.
fn request(host: &str, era: Era, number: u64, padding: usize) -> Vec<u8> {
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let id = format!("{era:?}-{number}.");
    let mut params = json!({"name": "echo", "arguments": {"text": id}});
    let mut headers = "";
    if era == Era::Modern {
        params["_meta"] = meta;
        headers = "mcp-protocol-version: 2026-07-28\r\nmcp-method: tools/call\r\nmcp-name: echo\r\n";
    }
    let message = json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params}).to_string();
    let body = message + &" ".repeat(padding);
    let (length, token) = (body.len(), token("admin"));
    format!(
        "POST /mcp/raw HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n\
         accept: application/json, text/event-stream\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
    )
    .into_bytes()
}

#[test]
fn i2_a_client_disconnecting_at_any_moment_leaves_one_record() {
    let mut setup = Setup::new();
    let received = raw_backend(&mut setup, "raw");
    // On a busy machine many are open at once.
    setup.set_toml("limits.calls_per_principal", "1000").set_toml("limits.calls_per_backend", "1000");
    let gatepost = setup.start();
    let host = gatepost.url().strip_prefix("http://").unwrap().to_owned();
    for era in [Era::Legacy, Era::Modern] {
        for number in 0..CALLS {
            let mut stream = TcpStream::connect(&host).unwrap();
            stream.write_all(&request(&host, era, number, 0)).unwrap();
            if number < CALLS - ANSWERED {
                pause(Duration::from_micros(20) * u32::try_from(number).unwrap());
            } else {
                stream.read_exact(&mut [0]).unwrap();
            }
            // Some say that they go, some are just gone.
            if number % 2 == 0 {
                stream.shutdown(Shutdown::Both).unwrap();
            }
        }
    }
    // What is open by now is finished and recorded.
    assert_eq!(gatepost.terminate(), Some(0));
    let output = setup.command(&["outbox", "list", "--json", "--limit", "1000"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let records = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let mut seen = BTreeMap::<String, Vec<String>>::new();
    for record in records.filter(|record| record["method"] == "tools/call") {
        let status = record["response_status"].as_str().unwrap().to_owned();
        seen.entry(record["rpc_id"].as_str().unwrap().to_owned()).or_default().push(status);
    }
    let received = std::fs::read_to_string(received).unwrap();
    for era in [Era::Legacy, Era::Modern] {
        for number in 0..CALLS {
            let id = format!("{era:?}-{number}.");
            let made = received.matches(&format!("\"{id}\"")).count();
            let statuses = seen.get(&id).map(Vec::as_slice).unwrap_or_default();
            // Whoever speaks the older era does not cancel by going.
            let is_right = match statuses {
                [status] => (status == "ok" && made == 1) || (era == Era::Modern && status == "cancelled" && made <= 1),
                _ => false,
            };
            assert!(is_right, "{id}: {statuses:?}, made {made} times");
        }
    }
    let cancelled = seen.values().filter(|statuses| statuses[0] == "cancelled").count();
    assert!(
        cancelled > 0 && cancelled < usize::try_from(CALLS).unwrap(),
        "{cancelled} were cancelled: no moment of both"
    );
}

#[test]
fn i2_a_client_disconnecting_in_its_body_leaves_one_record_and_calls_nothing() {
    let mut setup = Setup::new();
    let received = raw_backend(&mut setup, "raw");
    setup.set_toml("audit.refusals_singly_max", "1000");
    let gatepost = setup.start();
    let host = gatepost.url().strip_prefix("http://").unwrap().to_owned();
    let mut addresses = Vec::new();
    for era in [Era::Legacy, Era::Modern] {
        // Cut in the spaces, the message is whole and its body is not.
        let whole = request(&host, era, 0, 30);
        let body = whole.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
        // From the head alone to all but one byte.
        for end in (body..whole.len()).step_by(7).chain([whole.len() - 1]) {
            let mut stream = TcpStream::connect(&host).unwrap();
            stream.write_all(&whole[..end]).unwrap();
            addresses.push(stream.local_addr().unwrap().to_string());
            if end % 2 == 0 {
                stream.shutdown(Shutdown::Both).unwrap();
            }
        }
    }
    let mut records = Vec::<Value>::new();
    let list = ["outbox", "list", "--json", "--limit", "1000"];
    until("every request is recorded", SOON, || {
        let output = setup.command(&list).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        records = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        addresses.iter().all(|address| records.iter().any(|record| record["client_addr"] == **address))
    });
    for address in &addresses {
        let found: Vec<_> = records.iter().filter(|record| record["client_addr"] == **address).collect();
        assert_eq!(found.len(), 1, "{address}: {found:?}");
        assert_eq!(
            (&found[0]["response_status"], &found[0]["client_subject"]),
            (&json!("malformed"), &json!("tester"))
        );
    }
    assert_eq!(std::fs::read_to_string(received).unwrap_or_default(), "");
}
