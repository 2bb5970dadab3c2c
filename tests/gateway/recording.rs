//! The texts in records: redacted in every method and spelling, whole within a bound, shortened only where the operator
//! says so, and never by the caller's choice.

use std::sync::Arc;

use axum::response::Response;
use gatepost::audit::outbox::Reader;
use gatepost::audit::outbox::fs::DiskFs;
use gatepost::audit::record::{AuditRecord, Entry, Status};
use serde_json::{Value, json};

use crate::common::gatepost::{Gatepost, Setup};
use crate::common::mcp::{Client, Era, MODERN, Reply};
use crate::common::stored_records::stored_records;
use crate::http_backend_stub::{BackendStub, ReceivedRequest, json_body, modern, result};

/// A value that the operator has redacted. Its spellings in JSON differ: it has a quotation mark, a backslash, a slash,
/// and characters beyond ASCII and beyond the basic plane.
const SECRET: &str = "S3\"C\\R/ET-\u{e9}\u{1f600}-4Z1X";

/// The end of the secret.
const LAST: &str = "-4Z1X";

/// Parts of the secret, at least one of which is in each of its spellings.
const PARTS: [&str; 6] = ["ET-", LAST, "u0045", "%45%54", "u0034", "%34%5A"];

const TOOLS: &str = r#"{"tools":[
    {"name":"t","inputSchema":{"type":"object"}},{"name":"fails","inputSchema":{"type":"object"}},
    {"name":"refuses","inputSchema":{"type":"object"}},{"name":"write","inputSchema":{"type":"object"}}]}"#;

fn stored(setup: &Setup) -> Vec<AuditRecord> {
    stored_records(&Reader::offline(Arc::new(DiskFs), &setup.audit_dir()).unwrap())
}

fn records(setup: &Setup, method: &str) -> Vec<Entry> {
    let entries = stored(setup).into_iter().map(|record| record.entry);
    entries.filter(|entry| entry.call.method == method).collect()
}

fn context(entry: &Entry) -> Value {
    serde_json::from_str(entry.call.context.as_deref().unwrap()).unwrap()
}

/// The ways in which programs repeat what they were sent.
fn spellings(sent: &str) -> Vec<String> {
    let secret = SECRET;
    let escaped = |text: &str| serde_json::to_string(text).unwrap();
    let ascii = secret.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect::<Vec<_>>().concat();
    let percent = secret.bytes().map(|byte| format!("%{byte:02X}")).collect::<Vec<_>>().concat();
    vec![
        sent.to_owned(),
        secret.to_owned(),
        escaped(secret),
        escaped(&escaped(&escaped(secret))),
        ascii,
        percent,
        format!("{{\"password\":{}}}", escaped(secret)),
    ]
}

/// A backend that repeats everything it is sent, as results, as errors of tools, and as JSON-RPC errors.
fn repeats(asked: &ReceivedRequest, is_modern: bool) -> Option<Response> {
    let params = asked.message["params"].to_string();
    let texts = spellings(&params);
    let blocks: Vec<_> = texts.iter().map(|text| json!({ "type": "text", "text": text })).collect();
    let all = texts.join(" | ");
    let error = |message: &str| {
        let error = json!({ "code": -32602, "message": message, "data": { "password": SECRET, "sent": texts } });
        json_body(json!({ "jsonrpc": "2.0", "id": asked.message["id"], "error": error }).to_string())
    };
    let done = |mut value: Value| {
        if is_modern {
            value["resultType"] = json!("complete");
        }
        Some(result(asked, &value.to_string()))
    };
    match (asked.method(), asked.message["params"]["name"].as_str()) {
        ("tools/list", _) => Some(result(asked, TOOLS)),
        ("tools/call", Some("fails")) => done(json!({ "isError": true, "content": [{ "type": "text", "text": all }] })),
        ("tools/call", Some("refuses")) | ("resources/read" | "vendor/do", _) => Some(error(&all)),
        ("tools/call", _) => {
            let structured = json!({ "Pass_Word": SECRET, SECRET: [SECRET] });
            done(json!({ "content": blocks, "structuredContent": structured }))
        }
        ("prompts/get", _) => {
            let messages: Vec<_> = texts
                .iter()
                .map(|text| json!({ "role": "user", "content": { "type": "text", "text": text } }))
                .collect();
            done(json!({ "messages": messages }))
        }
        ("completion/complete", _) => done(json!({ "completion": { "values": texts } })),
        _ => None,
    }
}

/// The requests of every method that carries text of a client, with the secret in each place at which it may be.
fn requests() -> Vec<(&'static str, Value)> {
    let mut requests = Vec::new();
    for name in ["t", "fails", "refuses"] {
        for key in ["password", "Password", "pass_word", "PASS-WORD", "pa\u{17f}\u{17f}word", "\u{ff50}assword"] {
            requests.push(("tools/call", json!({ "name": name, "arguments": { key: SECRET } })));
        }
        for arguments in [
            json!({ "auth": [{ "password": SECRET }] }),
            json!({ "password": { "nested": [SECRET] } }),
            json!({ "password": SECRET, "user": "ann" }),
            json!({ "body": json!({ "password": SECRET }).to_string() }),
        ] {
            requests.push(("tools/call", json!({ "name": name, "arguments": arguments })));
        }
    }
    requests.push(("prompts/get", json!({ "name": "p", "arguments": { "password": SECRET } })));
    let reference = json!({ "type": "ref/prompt", "name": "p" });
    let argument = json!({ "name": "password", "value": SECRET });
    requests.push(("completion/complete", json!({ "ref": reference, "argument": argument })));
    let context = json!({ "arguments": { "password": SECRET } });
    let other = json!({ "name": "user", "value": "a" });
    requests.push(("completion/complete", json!({ "ref": reference, "argument": other, "context": context })));
    requests.push(("vendor/do", json!({ "password": SECRET, "a": [{ "arguments": { "PassWord": SECRET } }] })));
    requests
}

/// Sends a request with these keys of `_meta` besides those that the era demands.
async fn send(client: &Client, era: Era, method: &str, mut params: Value, meta: &Value) -> Reply {
    let name = params["name"].as_str().map(str::to_owned);
    let mut headers = vec![];
    params["_meta"] = meta.clone();
    if era == Era::Modern {
        params["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!(MODERN);
        params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({});
        headers.push(("mcp-method", method));
        headers.extend(name.as_deref().map(|name| ("mcp-name", name)));
    }
    let body = json!({ "jsonrpc": "2.0", "id": 7, "method": method, "params": params });
    client.post(body.to_string(), &headers).await.unwrap()
}

/// Sends every request in both eras to a gateway with these paths in `audit.redact`; returns all its records and log.
async fn sent_everywhere(redact: &str) -> (Vec<AuditRecord>, String, usize) {
    let (mut all, mut log, mut count) = (Vec::new(), String::new(), 0);
    // A key of the client's own is recorded in request_extra, one of the protocol in context.
    let meta = json!({
        "com.example/credentials": { "password": SECRET },
        "progressToken": 1, "baggage": json!({ "password": SECRET }).to_string(),
    });
    for is_modern in [false, true] {
        let answer =
            move |asked: &ReceivedRequest| repeats(asked, is_modern).or_else(|| is_modern.then(|| modern(asked)));
        let backend = BackendStub::start(answer).await;
        let (setup, gatepost) = backend.gateway(|setup| {
            setup.set_toml("audit.redact", redact).set_toml("audit.record_responses", r#"["far/*"]"#);
            setup.set_toml("server.pass_methods", r#"["vendor/*"]"#).set("log.filter", "gatepost=trace");
            setup.set_toml("audit.refusals_singly_max", "1000");
        });
        for era in [Era::Legacy, Era::Modern] {
            let client = gatepost.client_at("/mcp/far", era, "admin").await;
            let denied = gatepost.client_at("/mcp/far", era, "admin").await;
            for (method, params) in requests() {
                send(&client, era, method, params.clone(), &meta).await;
                count += 1;
                // The same of a caller that is refused.
                let mut unknown = params;
                unknown["name"] = json!("no-such-tool");
                send(&denied, era, method, unknown, &meta).await;
            }
        }
        let reached = backend.seen.lock().unwrap().iter().filter(|asked| asked.text.contains(LAST)).count();
        assert!(reached > 40, "the backend gets the secret itself: {reached}");
        assert_eq!(gatepost.terminate(), Some(0));
        all.extend(stored(&setup));
        log.push_str(&setup.log());
    }
    (all, log, count)
}

/// P02: neither another method nor another spelling brings a redacted value into a record.
#[tokio::test(flavor = "multi_thread")]
async fn i8_a_redacted_value_is_in_no_text_of_any_record() {
    let texts = |records: &[AuditRecord]| -> Vec<String> {
        let json = records.iter().map(|record| serde_json::to_value(record).unwrap());
        let columns = json.flat_map(|record| record.as_object().unwrap().clone());
        columns.filter(|(_, value)| value.is_string()).map(|(name, value)| format!("{name}: {value}")).collect()
    };
    let has_secret = |text: &String| PARTS.iter().any(|part| text.contains(part));
    let (records, log, count) = sent_everywhere(r#"["/**/password"]"#).await;
    let found: Vec<_> = texts(&records).into_iter().filter(has_secret).collect();
    assert!(found.is_empty(), "{found:#?}");
    assert!(!has_secret(&log));
    assert!(records.len() > 2 * count, "{} records", records.len());
    let has = |record: &&AuditRecord, column: &str| match column {
        "args" => record.entry.call.request_args.as_deref().is_some_and(|text| text.contains("[redacted]")),
        "extra" => record.entry.call.request_extra.as_deref().is_some_and(|text| text.contains("[redacted]")),
        "context" => record.entry.call.context.as_deref().is_some_and(|text| text.contains("[redacted]")),
        "response" => record.entry.response.as_deref().is_some_and(|text| text.contains("[redacted]")),
        _ => record.entry.error_message.as_deref().is_some_and(|text| text.contains("[redacted]")),
    };
    for (column, least) in
        [("args", count), ("extra", count), ("context", count), ("response", count / 2), ("error", count / 3)]
    {
        let found = records.iter().filter(|record| has(record, column)).count();
        assert!(found >= least, "{column}: {found} of {count}");
    }
    // The same requests without the path: the test finds what it looks for, in each column.
    let (records, ..) = sent_everywhere("[]").await;
    let found: Vec<_> = texts(&records).into_iter().filter(has_secret).collect();
    for column in ["request_args", "request_extra", "context", "response", "error_message"] {
        let of_column = found.iter().filter(|text| text.starts_with(&format!("{column}: "))).count();
        assert!(of_column >= count / 4, "{column}: {of_column}");
    }
}

/// A refusal's message in the record is redacted like that of a backend. Here it repeats the name of a tool that is
/// also the redacted value.
#[tokio::test(flavor = "multi_thread")]
async fn i8_a_redacted_value_is_not_in_the_reason_of_a_refusal() {
    let backend = BackendStub::start(|_| None).await;
    let (setup, gatepost) = backend.gateway(|setup| {
        setup.set_toml("audit.redact", r#"["/password"]"#).set_toml("audit.refusals_singly_max", "2");
    });
    let client = gatepost.client_at("/mcp/far", Era::Modern, "admin").await;
    for _ in 0..4 {
        let reply = client.call("S3CRET-tool", json!({ "password": "S3CRET-tool" })).await.unwrap();
        assert!(reply.text.contains("S3CRET-tool"), "the caller knows its own value: {}", reply.text);
    }
    assert_eq!(gatepost.terminate(), Some(0));
    let counted = records(&setup, "gateway/refusals");
    let refused = records(&setup, "tools/call").into_iter().chain(counted);
    let messages: Vec<_> = refused.filter_map(|entry| entry.error_message).collect();
    assert_eq!(messages.len(), 3, "two records and a count");
    for message in messages {
        assert!(message.contains("unknown tool \"[redacted]\""), "{message}");
    }
    assert!(!setup.log().lines().any(|line| line.contains("reason") && line.contains("unknown tool \\\"S3CRET")));
}

/// The reply to a call of a tool.
async fn called(gatepost: &Gatepost, era: Era, tool: &str, arguments: Value) -> Reply {
    let client = gatepost.client_at("/mcp/far", era, "admin").await;
    client.call(tool, arguments).await.unwrap()
}

/// P20: a caller cannot choose that its arguments are not recorded.
#[tokio::test(flavor = "multi_thread")]
async fn i2_arguments_are_recorded_whole_or_the_request_is_refused() {
    const BOUND: usize = 10_000;
    let backend = BackendStub::start(|_| None).await;
    let (setup, gatepost) = backend.gateway(|setup| {
        setup.set_toml("audit.params_bytes_max", &BOUND.to_string()).set_toml("audit.redact", r#"["/short"]"#);
    });
    // `{"plan":"secret plan","pad":""}` has 31 bytes.
    let padded = |bytes: usize| json!({ "pad": "x".repeat(bytes - 31), "plan": "secret plan" });
    for era in [Era::Legacy, Era::Modern] {
        for (bytes, fits) in [(31, true), (BOUND - 1, true), (BOUND, true), (BOUND + 1, false), (2_000_000, false)] {
            let (before, arguments) = (backend.seen("tools/call").len(), padded(bytes));
            assert_eq!(arguments.to_string().len(), bytes);
            let reply = called(&gatepost, era, "t", arguments.clone()).await;
            let reached = backend.seen("tools/call").len() - before;
            assert_eq!((reached == 1, reply.status), (fits, if fits { 200 } else { 413 }), "{bytes}");
            if !fits {
                let message = reply.body["error"]["message"].as_str().unwrap();
                assert!(message.contains(&bytes.to_string()) && message.contains(&BOUND.to_string()), "{message}");
            }
        }
        // Other parameters count in the same way, alone and together with the arguments.
        let client = gatepost.client_at("/mcp/far", era, "admin").await;
        // `{"_meta":{"com.example/pad":""}}` has 32 bytes.
        for (arguments, extra, fits) in [
            (31, BOUND - 31, true),
            (31, BOUND - 30, false),
            (BOUND / 2, BOUND / 2, true),
            (BOUND / 2, BOUND / 2 + 1, false),
            (BOUND - 33, 33, true),
            (BOUND - 32, 33, false),
            (31, 1_000_000, false),
        ] {
            let before = backend.seen("tools/call").len();
            let meta = json!({ "com.example/pad": "m".repeat(extra - 32) });
            let params = json!({ "name": "t", "arguments": padded(arguments) });
            let reply = send(&client, era, "tools/call", params, &meta).await;
            let reached = backend.seen("tools/call").len() - before;
            assert_eq!((reached == 1, reply.status), (fits, if fits { 200 } else { 413 }), "{arguments} {extra}");
            let sum = (arguments + extra).to_string();
            assert!(fits || reply.body["error"]["message"].as_str().unwrap().contains(&sum), "{}", reply.text);
        }
        // What is recorded counts: a redacted value may be longer than the value itself, or shorter.
        for (pad, value, fits) in [(BOUND - 25, json!("1"), false), (100, json!("x".repeat(BOUND)), true)] {
            let arguments = json!({ "pad": "x".repeat(pad), "short": value });
            assert_eq!(called(&gatepost, era, "t", arguments).await.status == 200, fits, "{pad}");
        }
    }
    assert_eq!(gatepost.terminate(), Some(0));
    let calls = records(&setup, "tools/call");
    assert_eq!(calls.len(), 28);
    for entry in calls {
        let args = entry.call.request_args.as_deref();
        assert!(!args.unwrap_or_default().contains("_gatepost"), "no marker that a caller could write");
        assert!(entry.call.args_digest.is_some());
        if entry.response_status == Status::Ok {
            let args: Value = serde_json::from_str(args.unwrap()).unwrap();
            assert!(args["plan"] == "secret plan" || args["short"] == "[redacted]");
            assert_eq!(context(&entry).get("omitted"), None);
        } else {
            assert_eq!(entry.response_status, Status::Malformed);
            let (omitted, extra) = (&context(&entry)["omitted"], entry.call.request_extra.as_deref());
            let size = |column: &str, text: Option<&str>| {
                let omitted = omitted[column].as_u64();
                assert!(omitted.is_none() || text.is_none(), "{column}: {omitted:?}");
                omitted.unwrap_or(text.map_or(0, str::len) as u64)
            };
            let sum = size("request_args", args) + size("request_extra", extra);
            assert!(sum > BOUND as u64, "{sum}");
            assert!(entry.size_bytes() < 4096, "the record of a refusal is short: {}", entry.size_bytes());
        }
    }
}

/// The default bound, with bodies that need no more memory than others: a record of 1 MiB passes ring and outbox.
#[tokio::test(flavor = "multi_thread")]
async fn i6_records_of_the_largest_size_pass_the_pipeline_while_calls_are_open() {
    const BOUND: usize = 1024 * 1024;
    let backend = BackendStub::start(|_| None).await;
    let (setup, gatepost) = backend.gateway(|setup| {
        setup.set_toml("audit.ring_bytes_max", &(5 * BOUND).to_string());
        setup.set_toml("audit.record_responses", r#"["far/*"]"#).set("audit.admission_timeout", "30s");
    });
    let arguments = json!({ "pad": "x".repeat(BOUND - 10) });
    assert_eq!(arguments.to_string().len(), BOUND);
    let client = gatepost.client_at("/mcp/far", Era::Legacy, "admin").await;
    let calls = (0..12).map(|_| client.call("t", arguments.clone()));
    for reply in futures_util::future::join_all(calls).await {
        assert_eq!(reply.unwrap().content(), "done");
    }
    assert_eq!(gatepost.terminate(), Some(0));
    let calls = records(&setup, "tools/call");
    let whole = arguments.to_string();
    assert_eq!(calls.iter().filter(|entry| entry.call.request_args.as_ref() == Some(&whole)).count(), 12);
}

/// Arguments as deep as a message may be are recorded whole.
#[tokio::test(flavor = "multi_thread")]
async fn the_deepest_arguments_are_recorded() {
    let backend = BackendStub::start(|_| None).await;
    let (setup, gatepost) = backend.gateway(|setup| {
        setup.set_toml("audit.redact", r#"["/**/password"]"#);
    });
    let client = gatepost.client_at("/mcp/far", Era::Legacy, "admin").await;
    let mut deepest = None;
    for depth in 100..140 {
        let list = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let arguments = format!(r#"{{"password":"S","a":{list}}}"#);
        let params = format!(r#"{{"name":"t","arguments":{arguments}}}"#);
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#);
        if client.post(body, &[]).await.unwrap().body.get("result").is_some() {
            deepest = Some(arguments.replace("\"S\"", "\"[redacted]\""));
        }
    }
    assert_eq!(gatepost.terminate(), Some(0));
    let calls = records(&setup, "tools/call");
    let answered: Vec<_> = calls.iter().filter(|entry| entry.response_status == Status::Ok).collect();
    assert!(answered.len() > 20 && answered.iter().all(|entry| entry.call.request_args.is_some()));
    assert_eq!(answered.last().unwrap().call.request_args, deepest);
}

/// Only the operator has values shortened, and the record says so where a caller cannot write.
#[tokio::test(flavor = "multi_thread")]
async fn only_values_that_the_operator_names_are_shortened() {
    let backend = BackendStub::start(|asked| (asked.method() == "tools/list").then(|| result(asked, TOOLS))).await;
    let (setup, gatepost) = backend.gateway(|setup| {
        setup.set_toml("audit.params_bytes_max", "10000").set_toml("audit.shorten", r#"["far/wri*:/content"]"#);
        setup.set_toml("audit.redact", r#"["/content/password"]"#);
    });
    let long = format!("begin {} end", "\u{e9}".repeat(40_000));
    let imitated = format!("{} [...] {}", "b".repeat(1024), "e".repeat(1024));
    let write = |arguments| called(&gatepost, Era::Legacy, "write", arguments);
    assert_eq!(write(json!({ "content": long, "path": "/a" })).await.status, 200);
    assert_eq!(write(json!({ "content": imitated, "shortened_values": [1] })).await.status, 200);
    assert_eq!(write(json!({ "content": { "password": SECRET, "x": "x".repeat(20_000) } })).await.status, 200);
    assert_eq!(write(json!({ "content": "short", "other": long })).await.status, 413, "another value stays whole");
    assert_eq!(called(&gatepost, Era::Legacy, "t", json!({ "content": long })).await.status, 413, "another tool");
    assert_eq!(gatepost.terminate(), Some(0));
    assert!(backend.seen("tools/call")[0].text.contains(&long), "the backend gets the whole value");
    let calls = records(&setup, "tools/call");
    let args: Value = serde_json::from_str(calls[0].call.request_args.as_deref().unwrap()).unwrap();
    let short = args["content"].as_str().unwrap();
    assert!(short.starts_with("begin \u{e9}") && short.ends_with("\u{e9} end") && short.len() < 2100, "{short}");
    let values = &context(&calls[0])["shortened_values"];
    assert_eq!((&values[0]["path"], &values[0]["bytes"]), (&json!("/content"), &json!(long.len() + 2)));
    assert_eq!(values[0]["digest"].as_str().unwrap().len(), 64);
    assert_eq!(context(&calls[1]).get("shortened_values"), None, "an imitation is no more than text");
    let redacted = calls[2].call.request_args.as_deref().unwrap();
    assert!(redacted.contains("[redacted]") && !redacted.contains(LAST), "{redacted}");
    assert_eq!(context(&calls[2])["shortened_values"][0]["path"], "/content");
}

/// Answers are recorded as the client gets them, if the operator says so; of a longer one the beginning, as a string.
#[tokio::test(flavor = "multi_thread")]
async fn answers_are_recorded_on_request_up_to_their_limit() {
    const BOUND: usize = 4096;
    let backend = BackendStub::start(|asked| {
        let text = asked.message["params"]["arguments"]["text"].as_str().unwrap_or_default();
        match (asked.method(), asked.message["params"]["name"].as_str()) {
            ("tools/list", _) => Some(result(asked, TOOLS)),
            ("tools/call", Some("refuses")) => {
                let error = json!({ "code": -5, "message": text });
                Some(json_body(json!({ "jsonrpc": "2.0", "id": asked.message["id"], "error": error }).to_string()))
            }
            ("tools/call", _) => Some(result(asked, &json!({ "content": [], "text": text }).to_string())),
            _ => None,
        }
    })
    .await;
    let (setup, gatepost) = backend.gateway(|setup| {
        setup.set_toml("audit.record_responses", r#"["far/t", "far/refuses"]"#);
        setup.set_toml("audit.response_bytes_max", &BOUND.to_string());
    });
    let of = |reply: &Reply, member: &str| {
        let (_, value) = reply.text.split_once(&format!("\"{member}\":")).unwrap();
        gatepost::upstream::without_receipt(value.strip_suffix('}').unwrap()).unwrap()
    };
    let text = |bytes: usize| json!({ "text": "\"".repeat(bytes / 2) });
    let small = called(&gatepost, Era::Legacy, "t", text(100)).await;
    let error = called(&gatepost, Era::Modern, "refuses", text(100)).await;
    let length = of(&small, "result").len();
    let largest = called(&gatepost, Era::Legacy, "t", text(100 + (BOUND - length) / 2 * 2)).await;
    let larger = called(&gatepost, Era::Legacy, "t", text(100 + (BOUND - length) / 2 * 2 + 4)).await;
    let huge = called(&gatepost, Era::Legacy, "t", text(500_000)).await;
    let unnamed = called(&gatepost, Era::Legacy, "write", text(100)).await;
    assert_eq!(gatepost.terminate(), Some(0));
    assert_eq!(unnamed.status, 200);
    let calls = records(&setup, "tools/call");
    assert_eq!(calls[0].response, Some(of(&small, "result")));
    assert_eq!(calls[1].response, Some(of(&error, "error")));
    assert_eq!(calls[2].response, Some(of(&largest, "result")));
    assert!(calls[2].response.as_ref().unwrap().len() > BOUND - 4);
    for (entry, reply) in [(&calls[3], &larger), (&calls[4], &huge)] {
        let (whole, recorded) = (of(reply, "result"), entry.response.as_deref().unwrap());
        let beginning: String = serde_json::from_str(recorded).unwrap();
        assert!(whole.starts_with(&beginning) && recorded.len() <= BOUND && recorded.len() > BOUND - 8);
        assert_eq!(entry.response_bytes, Some(whole.len() as u64), "the length is that of the whole answer");
        assert_eq!(entry.error_message.as_deref(), Some("normalised: response"));
    }
    assert_eq!(calls[5].response, None);
}

/// Lists are recorded if the operator says so, with the digest of what the caller was shown.
#[tokio::test(flavor = "multi_thread")]
async fn the_record_of_a_list_has_the_digest_of_what_the_caller_was_shown() {
    let backend = BackendStub::start(|asked| (asked.method() == "tools/list").then(|| result(asked, TOOLS))).await;
    let lists = ["tools/list", "resources/list", "resources/templates/list", "prompts/list"];
    let (setup, gatepost) = backend.gateway(|setup| {
        setup.set_toml("audit.methods", &format!("{lists:?}")).role("one", &["far/t"]);
    });
    let mut shown = Vec::new();
    for path in ["/mcp", "/mcp/far"] {
        for era in [Era::Legacy, Era::Modern] {
            for role in ["admin", "one"] {
                let client = gatepost.client_at(path, era, role).await;
                for list in lists {
                    let reply = client.request(list, json!({})).await.unwrap();
                    let member = if reply.body.get("result").is_some() { "result" } else { "error" };
                    let (_, value) = reply.text.split_once(&format!("\"{member}\":")).unwrap();
                    let value = value.strip_suffix('}').unwrap().to_owned();
                    let is_filtered = list == "tools/list" && role == "one";
                    assert!(!is_filtered || !value.contains("\"write\""), "{value}");
                    shown.push((list, reply.header("x-request-id").to_owned(), value));
                }
            }
        }
    }
    assert_eq!(gatepost.terminate(), Some(0));
    let listed: Vec<Entry> = stored(&setup).into_iter().map(|record| record.entry).collect();
    for (list, id, value) in shown {
        let is_it = |entry: &&Entry| entry.call.request_id.to_string() == id;
        let entry = listed.iter().find(is_it).unwrap_or_else(|| panic!("{list} has no record"));
        // The digest and the length are those of the value without its receipt; the command takes it with it.
        let length = gatepost::upstream::without_receipt(&value).unwrap().len() as u64;
        assert_eq!((entry.call.method.as_str(), entry.response_bytes), (list, Some(length)));
        let file = setup.dir().join("shown");
        std::fs::write(&file, &value).unwrap();
        let output = setup.command(&["audit", "match", &id, "--response", file.to_str().unwrap()]).output().unwrap();
        assert!(output.status.success(), "{list}: {value}");
    }
}
