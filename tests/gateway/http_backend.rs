//! HTTP backends that behave in every way that one may meet, behind the real gateway.
//!
//! The backend is the test's own, so that it can answer with exact bytes, forget sessions, break connections and count
//! what reaches it.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::common::gatepost::token;
use crate::common::mcp::{Client, Era};
use crate::common::pause::pause_async;
use crate::common::tool_names::tool_names;
use crate::common::wait::{SOON, until_async};
use crate::http_backend_stub::{BackendStub, event, json_body, result, stream};
use axum::body::{Body, Bytes};
use axum::http::{Method, StatusCode};
use axum::response::IntoResponse;
use serde_json::{Value, json};

/// What only a relay that builds no tree leaves as it is.
const EXACT: &str = concat!(
    r#""zeta":1,"content":[{"type":"text","text":"caf\u00e9 \ud83d\ude00","_x":{"b":2,"a":1}}],"#,
    r#""unknown":{"n":12345678901234567890123,"f":1.0e400,"deep":[[],{}]},"isError":false,"#,
    r#""_meta" : { "o\u0077n":1.50, "x": [ ]}, "spaced" : true"#
);

/// Without what the gateway puts into `_meta`.
fn without_request_id(text: &str) -> String {
    let text = &gatepost::upstream::without_receipt(text).unwrap_or_else(|| panic!("no receipt: {text}"));
    let key = "\"io.gatepost/request_id\":\"";
    let begin = text.find(key).unwrap_or_else(|| panic!("no request id: {text}"));
    // A UUID, the quote and the comma.
    format!("{}{}", &text[..begin], &text[begin + key.len() + 36 + 2..])
}

#[tokio::test(flavor = "multi_thread")]
async fn results_are_relayed_byte_for_byte_from_json_and_streams() {
    let streams = Arc::new(AtomicUsize::new(0));
    let turn = Arc::clone(&streams);
    let backend = BackendStub::start(move |asked| {
        let is_call = asked.method() == "tools/call";
        let streamed = is_call && turn.fetch_add(1, Ordering::SeqCst) % 2 == 1;
        let text = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{{EXACT}}}}}"#, asked.message["id"]);
        is_call.then(|| if streamed { stream(vec![Ok(event(&text))]) } else { json_body(text) })
    })
    .await;
    let (setup, gatepost) = backend.gateway(|_| {});
    let arguments = r#"{ "s":"\u0041", "n": 1.00,"big":12345678901234567890123 }"#;
    for era in [Era::Legacy, Era::Modern] {
        for (path, prefix) in [("/mcp/far", ""), ("/mcp", "far__")] {
            let client = gatepost.client_at(path, era, "admin").await;
            for _ in 0..2 {
                let reply = client.call(&format!("{prefix}t"), json!({})).await.unwrap();
                assert!(without_request_id(&reply.text).contains(EXACT), "{era:?} {path}: {}", reply.text);
            }
        }
    }
    let client = gatepost.client_at("/mcp/far", Era::Legacy, "admin").await;
    let params = format!(r#"{{"name":"t","arguments":{arguments},"_meta":{{"x-own":[ 1.0 ]}}}}"#);
    client.post(format!(r#"{{"jsonrpc":"2.0","id":"i","method":"tools/call","params":{params}}}"#), &[]).await.unwrap();
    let calls = backend.seen("tools/call");
    // Only the gateway's own key comes after what the client sent.
    let want = format!(r#""params":{},"io.gatepost/request_id":""#, params.trim_end_matches("}}"));
    assert!(calls.last().unwrap().text.contains(&want), "{}", calls.last().unwrap().text);
    drop((setup, gatepost));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_session_is_reopened_and_the_call_made_once() {
    let forget = Arc::new(AtomicUsize::new(0));
    let forgets = Arc::clone(&forget);
    let backend = BackendStub::start(move |asked| {
        let is_old = asked.header("mcp-session-id") == Some("s0") && forgets.load(Ordering::SeqCst) == 1;
        is_old.then(|| StatusCode::NOT_FOUND.into_response())
    })
    .await;
    let (_setup, gatepost) = backend.gateway(|_| {});
    let client = gatepost.client_at("/mcp/far", Era::Legacy, "admin").await;
    assert_eq!(client.call("t", json!({})).await.unwrap().content(), "done");
    forget.store(1, Ordering::SeqCst);
    assert_eq!(client.call("t", json!({})).await.unwrap().content(), "done");
    let calls = backend.seen("tools/call");
    let sessions: Vec<_> = calls.iter().map(|call| call.header("mcp-session-id").unwrap()).collect();
    // The gateway's own session, in which it listed the tools, is between them.
    assert_eq!(sessions, ["s0", "s0", "s2"], "the one that was refused was never made");
    let hello = |opened: &crate::http_backend_stub::ReceivedRequest| {
        opened.message["params"]["clientInfo"]["name"] == "gatepost-tests"
    };
    let opened: Vec<_> = backend.seen("initialize").iter().map(hello).collect();
    assert_eq!(opened, [true, false, true], "as the client opened it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reopened_backend_session_has_its_stream_read_again() {
    let forget = Arc::new(AtomicUsize::new(0));
    let forgets = Arc::clone(&forget);
    let changed = r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#;
    let backend = BackendStub::start(move |asked| {
        let is_old = asked.header("mcp-session-id") == Some("s0");
        match (asked.verb.as_str(), is_old) {
            (_, true) if forgets.load(Ordering::SeqCst) == 1 => Some(StatusCode::NOT_FOUND.into_response()),
            ("GET", true) => Some(stream(vec![Ok("retry: 1\n\n".to_owned())])),
            ("GET", false) => Some(stream(vec![Ok(event(changed))])),
            _ => None,
        }
    })
    .await;
    let (_setup, gatepost) = backend.gateway(|_| {});
    let client = gatepost.client_at("/mcp/far", Era::Legacy, "admin").await;
    let streams = |session: &str| {
        let seen = backend.seen.lock().unwrap();
        seen.iter().filter(|asked| asked.verb == Method::GET && asked.header("mcp-session-id") == Some(session)).count()
    };
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let listen = http.get(format!("{}/mcp/far", gatepost.url())).bearer_auth(token("admin"));
    let listen =
        listen.header("mcp-session-id", client.session.as_deref().unwrap()).header("accept", "text/event-stream");
    let mut told = listen.send().await.unwrap();
    until_async("the session's stream is read", SOON, async || streams("s0") > 0).await;
    forget.store(1, Ordering::SeqCst);
    let before = streams("s0");
    until_async("the backend has refused its stream", SOON, async || streams("s0") > before).await;
    assert_eq!(client.call("t", json!({})).await.unwrap().content(), "done");
    until_async("the new session's stream is read", SOON, async || streams("s1") > 0).await;
    let told = tokio::time::timeout(SOON, told.chunk()).await.unwrap().unwrap().unwrap();
    assert!(String::from_utf8_lossy(&told).contains("list_changed"), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_on_a_broken_connection_is_not_retried() {
    let calls = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&calls);
    let backend = BackendStub::start(move |asked| {
        let is_first = asked.method() == "tools/call" && count.fetch_add(1, Ordering::SeqCst) == 0;
        is_first.then(|| stream(vec![Ok(": begun\n\n".to_owned()), Err(())]))
    })
    .await;
    let (setup, gatepost) = backend.gateway(|_| {});
    let client = gatepost.client_at("/mcp/far", Era::Legacy, "admin").await;
    let broken = client.call("t", json!({})).await.unwrap();
    assert_eq!(broken.error_code(), -32012, "{}", broken.text);
    assert_eq!(client.call("t", json!({})).await.unwrap().content(), "done");
    assert_eq!(calls.load(Ordering::SeqCst), 2);
    let shown = setup.command(&["audit", "query", "--tool", "t", "--json"]).output().unwrap();
    let records: Vec<Value> =
        String::from_utf8(shown.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let mut statuses: Vec<_> = records.iter().map(|record| record["response_status"].as_str().unwrap()).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, ["error", "ok"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_stream_resumes_after_its_last_event() {
    let backend = BackendStub::start(|asked| {
        let progress =
            r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"p","progress":1}}"#;
        match (asked.verb.as_str(), asked.method(), asked.header("last-event-id")) {
            ("POST", "tools/call", _) => {
                let first = format!("id: e1-{}\nretry: 1\ndata: {progress}\n\n", asked.message["id"]);
                Some(stream(vec![Ok(first), Err(())]))
            }
            ("GET", _, Some(last)) => {
                let id = last.strip_prefix("e1-").unwrap();
                let text = format!(
                    r#"{{"jsonrpc":"2.0","id":{id},"result":{{"content":[{{"type":"text","text":"late"}}]}}}}"#
                );
                Some(stream(vec![Ok(event(&text))]))
            }
            _ => None,
        }
    })
    .await;
    let (_setup, gatepost) = backend.gateway(|_| {});
    let client = gatepost.client_at("/mcp/far", Era::Legacy, "admin").await;
    let reply = client.request("tools/call", json!({"name": "t", "_meta": {"progressToken": "p"}})).await.unwrap();
    assert_eq!(reply.content(), "late");
    assert!(reply.text.contains("notifications/progress"), "what came before the break was relayed: {}", reply.text);
    assert_eq!(backend.seen("tools/call").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn backends_get_the_operators_credentials_and_no_client_header() {
    let backend = BackendStub::start(|_| None).await;
    let key = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(key.path(), "from a file\n").unwrap();
    let (_setup, gatepost) = backend.gateway(|setup| {
        setup.set("backends.far.header_env.Authorization", "FAR_TOKEN");
        setup.env.insert("FAR_TOKEN".to_owned(), "Bearer the operator's".to_owned());
        setup.set("backends.far.header_file.X-Key", key.path().to_str().unwrap());
    });
    for era in [Era::Legacy, Era::Modern] {
        let client = gatepost.client_at("/mcp/far", era, "admin").await;
        assert_eq!(client.call("t", json!({})).await.unwrap().content(), "done");
        let body = r#"{"jsonrpc":"2.0","id":"x","method":"tools/call","params":{"name":"t"}}"#;
        client.post(body, &[("cookie", "c=1"), ("x-own", "1"), ("last-event-id", "1-1")]).await.unwrap();
    }
    for asked in backend.seen.lock().unwrap().iter() {
        assert_eq!(asked.header("authorization"), Some("Bearer the operator's"), "{asked:?}");
        assert_eq!(asked.header("x-key"), Some("from a file"), "{asked:?}");
        assert!(asked.header("cookie").is_none() && asked.header("x-own").is_none(), "{asked:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_reaches_the_backend_by_header_and_meta() {
    let backend = BackendStub::start(|_| None).await;
    let (_setup, gatepost) = backend.gateway(|_| {});
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let (zero, later) = (parent.replace("00f067aa0ba902b7", "0000000000000000"), parent.replacen("00", "cc", 1));
    let long = "a=".to_owned() + &"b".repeat(511);
    for era in [Era::Legacy, Era::Modern] {
        let client = gatepost.client_at("/mcp/far", era, "admin").await;
        let call = async |headers: &[(&str, &str)]| {
            let before = backend.seen("tools/call").len();
            let mut params =
                json!({"name": "t", "arguments": {}, "_meta": {"traceparent": parent, "tracestate": "a=1"}});
            if era == Era::Modern {
                params["_meta"]["io.modelcontextprotocol/protocolVersion"] = json!("2026-07-28");
                params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({});
            }
            let body = json!({"jsonrpc": "2.0", "id": "x", "method": "tools/call", "params": params}).to_string();
            let own = [("mcp-method", "tools/call"), ("mcp-name", "t")];
            let own: &[_] = if era == Era::Modern { &own } else { &[] };
            let reply = client.post(body, &[own, headers].concat()).await.unwrap();
            assert_eq!(reply.content(), "done", "{headers:?}");
            backend.seen("tools/call").split_off(before).remove(0)
        };
        let asked = call(&[("traceparent", parent), ("tracestate", "a=1")]).await;
        assert_eq!((asked.header("traceparent"), asked.header("tracestate")), (Some(parent), Some("a=1")));
        assert_eq!(asked.message["params"]["_meta"]["traceparent"], parent);
        assert_eq!(asked.message["params"]["_meta"]["tracestate"], "a=1");
        assert!(call(&[("traceparent", parent), ("tracestate", &long)]).await.header("tracestate").is_none());
        for bad in ["", "00", &zero, &later, &parent.to_uppercase(), &format!("{parent}-")] {
            let asked = call(&[("traceparent", bad), ("tracestate", "a=1")]).await;
            assert!(asked.header("traceparent").is_none() && asked.header("tracestate").is_none(), "{bad}");
        }
        let twice = call(&[("traceparent", parent), ("traceparent", parent)]).await;
        assert!(twice.header("traceparent").is_none());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_times_out_a_call_and_progress_does_not() {
    let backend = BackendStub::start(|asked| {
        let progress =
            r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"p","progress":1}}"#;
        let id = asked.message["id"].clone();
        let name = asked.message["params"]["name"].as_str().unwrap_or_default().to_owned();
        (asked.method() == "tools/call").then(|| {
            let pieces = futures_util::stream::unfold(0, move |at| {
                let (id, name) = (id.clone(), name.clone());
                async move {
                    if name == "silent" {
                        std::future::pending::<()>().await;
                    }
                    pause_async(Duration::from_millis(300)).await;
                    let text = match at {
                        0..8 => event(progress),
                        8 => event(&format!(
                            r#"{{"jsonrpc":"2.0","id":{id},"result":{{"content":[{{"type":"text","text":"done"}}]}}}}"#
                        )),
                        _ => return None,
                    };
                    Some((Ok::<_, Infallible>(text), at + 1))
                }
            });
            ([("content-type", "text/event-stream")], Body::from_stream(pieces)).into_response()
        })
    })
    .await;
    let (_setup, gatepost) = backend.gateway(|setup| {
        setup.set("backends.far.idle_timeout", "2s").set("backends.far.call_timeout", "30s");
    });
    let client = gatepost.client_at("/mcp/far", Era::Legacy, "admin").await;
    let params = |name: &str| json!({"name": name, "_meta": {"progressToken": "p"}});
    assert_eq!(client.request("tools/call", params("busy")).await.unwrap().content(), "done");
    let silent = client.request("tools/call", params("silent")).await.unwrap();
    assert_eq!(silent.error_code(), -32012);
    assert!(silent.text.contains("did not answer within 2s"), "{}", silent.text);
    until_async("the backend is told", SOON, async || !backend.seen("notifications/cancelled").is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backends_refusal_is_an_error_without_secrets() {
    let backend = BackendStub::start(|asked| {
        let refused = (StatusCode::UNAUTHORIZED, "the operator's token is wrong");
        (asked.method() == "tools/call").then(|| refused.into_response())
    })
    .await;
    let (_setup, gatepost) = backend.gateway(|_| {});
    for era in [Era::Legacy, Era::Modern] {
        let client = gatepost.client_at("/mcp/far", era, "admin").await;
        let refused = client.call("t", json!({})).await.unwrap();
        assert_eq!((refused.status, refused.error_code()), (200, -32012));
        assert!(refused.text.contains("HTTP status 401") && !refused.text.contains("operator"), "{}", refused.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backends_refusal_is_not_relayed_as_the_clients_own() {
    for speaks_modern in [false, true] {
        let backend = BackendStub::start(move |asked| {
            let error = |status, code| {
                let error = format!(r#"{{"code":{code},"message":"no"}}"#);
                let body = json_body(format!(r#"{{"jsonrpc":"2.0","id":{},"error":{error}}}"#, asked.message["id"]));
                (status, body).into_response()
            };
            match (asked.method(), asked.message["params"]["name"].as_str()) {
                ("server/discover", _) if speaks_modern => {
                    Some(result(asked, r#"{"supportedVersions":["2026-07-28"],"capabilities":{"tools":{}}}"#))
                }
                ("tools/call", Some("guarded")) => Some(error(StatusCode::UNAUTHORIZED, -32001)),
                ("tools/call", Some("broken")) => Some(error(StatusCode::BAD_GATEWAY, -32603)),
                ("tools/call", Some("wrong")) => Some(error(StatusCode::BAD_REQUEST, -32602)),
                ("tools/list", _) => {
                    let tool = |name| format!(r#"{{"name":"{name}","inputSchema":{{"type":"object"}}}}"#);
                    Some(result(
                        asked,
                        &format!(r#"{{"tools":[{}]}}"#, ["guarded", "broken", "wrong"].map(tool).join(",")),
                    ))
                }
                _ => None,
            }
        })
        .await;
        let (_setup, gatepost) = backend.gateway(|_| {});
        for era in [Era::Legacy, Era::Modern] {
            let client = gatepost.client_at("/mcp/far", era, "admin").await;
            for (tool, code) in [("guarded", -32001), ("broken", -32603)] {
                let refused = client.call(tool, json!({})).await.unwrap();
                assert_eq!((refused.status, refused.error_code()), (200, code), "{era:?} {tool} {speaks_modern}");
            }
            // The stateless era's own statuses pass where it is spoken on both legs.
            let wrong = client.call("wrong", json!({})).await.unwrap();
            let want = if speaks_modern && era == Era::Modern { 400 } else { 200 };
            assert_eq!((wrong.status, wrong.error_code()), (want, -32602), "{era:?} {speaks_modern}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_answer_does_not_decide_the_era() {
    let busy = Arc::new(AtomicUsize::new(1));
    let is_busy = Arc::clone(&busy);
    let backend = BackendStub::start(move |asked| {
        if is_busy.load(Ordering::SeqCst) == 1 {
            return Some(StatusCode::TOO_MANY_REQUESTS.into_response());
        }
        match asked.method() {
            "server/discover" => {
                Some(result(asked, r#"{"supportedVersions":["2026-07-28"],"capabilities":{"tools":{}}}"#))
            }
            "initialize" => Some(StatusCode::BAD_REQUEST.into_response()),
            _ => None,
        }
    })
    .await;
    let (_setup, gatepost) = backend.gateway(|_| {});
    let client = Client::unconnected(&format!("{}/mcp/far", gatepost.url()), Era::Modern, Some(&token("admin")));
    assert!(client.call("t", json!({})).await.unwrap().error_code() < 0);
    busy.store(0, Ordering::SeqCst);
    assert_eq!(client.call("t", json!({})).await.unwrap().content(), "done");
}

#[tokio::test(flavor = "multi_thread")]
async fn request_state_reaches_the_backend_without_auditing() {
    let backend = BackendStub::start(move |asked| match asked.method() {
        "server/discover" => Some(result(asked, r#"{"supportedVersions":["2026-07-28"],"capabilities":{}}"#)),
        "prompts/get" if asked.message["params"]["requestState"] == "its own" => {
            Some(result(asked, r#"{"messages":[]}"#))
        }
        "prompts/get" => {
            let asks = r#"{"resultType":"input_required","inputRequests":{},"requestState":"its own"}"#;
            Some(result(asked, asks))
        }
        _ => None,
    })
    .await;
    let (_setup, gatepost) = backend.gateway(|setup| {
        setup.set_toml("audit.methods", "[]").set_toml("roles.admin.prompts", r#"["*/*"]"#);
    });
    let client = gatepost.client_at("/mcp/far", Era::Modern, "admin").await;
    let asks = client.request("prompts/get", json!({"name": "p"})).await.unwrap();
    let state = asks.result()["requestState"].as_str().unwrap_or_else(|| panic!("{}", asks.text)).to_owned();
    assert_ne!(state, "its own", "what another caller could use was given away");
    let again = json!({"name": "p", "inputResponses": {}, "requestState": state});
    assert_eq!(client.request("prompts/get", again).await.unwrap().result()["messages"], json!([]));
    assert_eq!(backend.seen("prompts/get").len(), 2);
    let older = gatepost.client_at("/mcp/far", Era::Legacy, "admin").await;
    assert_eq!(older.request("prompts/get", json!({"name": "p"})).await.unwrap().error_code(), -32012);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_does_not_list_delays_no_other_list() {
    let (asked_for, told) = tokio::sync::watch::channel(0);
    let backend = BackendStub::start(move |asked| {
        (asked.method() == "tools/list").then(|| {
            asked_for.send_modify(|count| *count += 1);
            (
                [("content-type", "text/event-stream")],
                Body::from_stream(futures_util::stream::pending::<Result<Bytes, Infallible>>()),
            )
                .into_response()
        })
    })
    .await;
    let (_setup, gatepost) = backend.gateway(|_| {});
    let far = Client::unconnected(&format!("{}/mcp/far", gatepost.url()), Era::Modern, Some(&token("admin")));
    // As many as are read at once.
    let held: Vec<_> = (0..32)
        .map(|_| {
            let far = far.clone();
            tokio::spawn(async move { far.request("tools/list", json!({})).await })
        })
        .collect();
    let mut told = told;
    tokio::time::timeout(SOON, told.wait_for(|count| *count >= 32)).await.unwrap().unwrap();
    let example = Client::unconnected(&format!("{}/mcp/example", gatepost.url()), Era::Modern, Some(&token("admin")));
    assert!(tool_names(&example).await.contains(&"echo".to_owned()));
    assert!(held.iter().all(|list| !list.is_finished()), "the others were waited for");
    for list in held {
        list.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_backend_is_opened_only_once() {
    let (open, opened) = tokio::sync::watch::channel(false);
    let backend = BackendStub::start(move |asked| {
        let id = &asked.message["id"];
        (asked.method() == "initialize").then(|| {
            let hello = r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"far","version":"1"}}"#;
            let text = event(&format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{hello}}}"#));
            let mut opened = opened.clone();
            let late = futures_util::stream::once(async move {
                opened.wait_for(|open| *open).await.unwrap();
                Ok::<_, Infallible>(text)
            });
            ([("content-type", "text/event-stream")], Body::from_stream(late)).into_response()
        })
    })
    .await;
    let (_setup, gatepost) = backend.gateway(|_| {});
    let client = gatepost.client_at("/mcp", Era::Legacy, "admin").await;
    // A list waits for it for a while, and goes without it.
    let list = tool_names(&client).await;
    assert!(list.contains(&"example__echo".to_owned()) && !list.contains(&"far__t".to_owned()), "{list:?}");
    // Nor does it hold up the session's stream, whose head comes while it is still being opened.
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let listen = http.get(format!("{}/mcp", gatepost.url())).bearer_auth(token("admin"));
    let listen =
        listen.header("mcp-session-id", client.session.as_deref().unwrap()).header("accept", "text/event-stream");
    assert_eq!(listen.send().await.unwrap().status(), 200);
    open.send(true).unwrap();
    until_async("its tools are there", SOON, async || tool_names(&client).await.contains(&"far__t".to_owned())).await;
    let own = backend.seen("initialize");
    let own = own.iter().filter(|asked| asked.message["params"]["clientInfo"]["name"] == "gatepost-tests");
    assert_eq!(own.count(), 1, "begun again by every list");
}

#[tokio::test(flavor = "multi_thread")]
async fn opening_a_session_counts_towards_the_call_timeout() {
    let backend = BackendStub::start(|asked| {
        (asked.method() == "initialize").then(|| {
            let body = Body::from_stream(futures_util::stream::pending::<Result<Bytes, Infallible>>());
            ([("content-type", "text/event-stream")], body).into_response()
        })
    })
    .await;
    let (_setup, gatepost) = backend.gateway(|setup| {
        setup.set("backends.far.call_timeout", "1s");
    });
    let begun = Instant::now();
    // Each would have its own second with the backend, one after another.
    let calls = (0..8).map(|_| {
        let far = Client::unconnected(&format!("{}/mcp/far", gatepost.url()), Era::Modern, Some(&token("admin")));
        async move { far.call("t", json!({})).await.unwrap() }
    });
    for reply in futures_util::future::join_all(calls).await {
        assert!(reply.text.contains("1s"), "{}", reply.text);
    }
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}
