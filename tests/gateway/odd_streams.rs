//! Event streams of HTTP backends that keep to the specification less than clients do.

use axum::response::Response;
use serde_json::{Value, json};

use crate::common::gatepost::token;
use crate::common::mcp::Era;
use crate::http_backend_stub::{BackendStub, ReceivedRequest, event, stream};

fn progress(token: &Value) -> String {
    let params = json!({"progressToken": token, "progress": 1, "message": format!("of {token}")});
    event(&json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": params}).to_string())
}

fn done(asked: &ReceivedRequest) -> String {
    let result = json!({"content": [{"type": "text", "text": "done"}]});
    event(&json!({"jsonrpc": "2.0", "id": asked.message["id"], "result": result}).to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_of_no_open_request_does_not_reach_clients() {
    let answer = |asked: &ReceivedRequest| -> Option<Response> {
        let changed = json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"});
        match (asked.verb.as_str(), asked.method()) {
            ("GET", _) => Some(stream(vec![Ok(progress(&json!("ended"))), Ok(event(&changed.to_string()))])),
            (_, "tools/call") => {
                let own = &asked.message["params"]["_meta"]["progressToken"];
                let pieces = [
                    progress(&json!("made up")),
                    progress(&json!(7)),
                    progress(&Value::Null),
                    progress(own),
                    done(asked),
                    progress(own),
                ];
                Some(stream(pieces.map(Ok).to_vec()))
            }
            _ => None,
        }
    };
    let backend = BackendStub::start(answer).await;
    let (_setup, gatepost) = backend.gateway(|_| {});
    for era in [Era::Legacy, Era::Modern] {
        let client = gatepost.client_at("/mcp/far", era, "admin").await;
        let call = json!({"name": "t", "arguments": {}, "_meta": {"progressToken": "own"}});
        let reply = client.request("tools/call", call).await.unwrap();
        assert_eq!(reply.content(), "done");
        // The modern client of the tests sends `_meta` of its own, without a token.
        let own = usize::from(era == Era::Legacy);
        assert_eq!(reply.text.matches("notifications/progress").count(), own, "{}", reply.text);
        assert_eq!(reply.text.matches(r#"of \"own\""#).count(), own, "{}", reply.text);
    }
    let client = gatepost.client_at("/mcp/far", Era::Legacy, "admin").await;
    let request = reqwest::Client::builder().no_proxy().build().unwrap().get(format!("{}/mcp/far", gatepost.url()));
    let request = request.bearer_auth(token("admin")).header("accept", "text/event-stream");
    let mut listening = request.header("mcp-session-id", client.session.as_deref().unwrap()).send().await.unwrap();
    let mut text = String::new();
    while !text.contains("list_changed") {
        text.push_str(&String::from_utf8_lossy(&listening.chunk().await.unwrap().unwrap()));
    }
    assert!(!text.contains("notifications/progress"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_ends_its_stream_without_an_empty_line_is_taken() {
    for end in ["\n", "", "\r\n"] {
        let backend = BackendStub::start(move |asked| {
            let whole = || format!("{}{end}", done(asked).trim_end());
            (asked.method() == "tools/call").then(|| stream(vec![Ok(whole())]))
        })
        .await;
        let (_setup, gatepost) = backend.gateway(|_| {});
        for era in [Era::Legacy, Era::Modern] {
            let client = gatepost.client_at("/mcp/far", era, "admin").await;
            assert_eq!(client.call("t", json!({})).await.unwrap().content(), "done", "{end:?}");
        }
    }
    // A message that was cut is none.
    let backend = BackendStub::start(|asked| {
        let cut = || done(asked).trim_end().trim_end_matches('}').to_owned();
        (asked.method() == "tools/call").then(|| stream(vec![Ok(cut())]))
    })
    .await;
    let (_setup, gatepost) = backend.gateway(|_| {});
    let client = gatepost.client_at("/mcp/far", Era::Legacy, "admin").await;
    assert_eq!(client.call("t", json!({})).await.unwrap().error_code(), -32012);
}
