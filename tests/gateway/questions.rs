//! What backends ask people: each question is recorded with its answer, and linked to the call during which it was
//! asked, before anybody acts on it.

use gatepost::audit::record::{Entry, Status};
use serde_json::{Value, json};

use crate::common::asking_backend::{asking_backend, messages};
use crate::common::gatepost::{Gatepost, Setup, token};
use crate::common::mcp::{Client, Era};
use crate::common::wait::{SOON, until_async};
use crate::http_backend_stub::{BackendStub, modern, result};
use crate::sessions::{heard, records};

const ASK: &str = r#"{"jsonrpc":"2.0","id":7,"method":"elicitation/create","params":{"message":"Pay 12 EUR?","requestedSchema":{"type":"object","properties":{"pay":{"type":"boolean"},"pin":{"type":"string","format":"password"}}}}}"#;

/// The record of the only request of this method.
fn only<'r>(records: &'r [Entry], method: &str) -> &'r Entry {
    let found: Vec<_> = records.iter().filter(|entry| entry.call.method == method).collect();
    assert_eq!(found.len(), 1, "{method}: {found:?}");
    found[0]
}

/// The parsed JSON of a column.
fn parsed(text: Option<&String>) -> Value {
    serde_json::from_str(text.map_or("null", String::as_str)).unwrap()
}

/// The responses that a backend heard.
fn responses(file: &std::path::Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line.get("method").is_none()).collect()
}

/// A legacy client that called the backend's `ask`, and the id of the question that it was asked.
async fn asked(gatepost: &Gatepost) -> (Client, Value) {
    let client = gatepost.client(Era::Legacy, "admin").await;
    let asked = messages(&client.call("pay__ask", json!({})).await.unwrap().text);
    assert_eq!(asked[0]["method"], "elicitation/create", "it comes before the response: {asked:?}");
    (client, asked[0]["id"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_and_its_answer_are_one_record_below_the_call_that_asked() {
    let mut setup = Setup::new();
    let file = asking_backend(&mut setup, "pay", [&[ASK], &[]]);
    let gatepost = setup.start();
    let (client, id) = asked(&gatepost).await;
    let answer = json!({"action": "accept", "content": {"pay": true, "pin": "271828"}});
    // What is beside the result reaches no backend.
    let reply = json!({"jsonrpc": "2.0", "id": id, "result": answer, "also": "not recorded"});
    assert_eq!(client.post(reply.to_string(), &[]).await.unwrap().status, 202);
    until_async("the backend hears the answer", SOON, async || !responses(&file).is_empty()).await;
    assert_eq!(responses(&file), [json!({"jsonrpc": "2.0", "id": 7, "result": answer})]);
    // A second answer is nobody's.
    assert_eq!(client.post(reply.to_string(), &[]).await.unwrap().status, 202);
    assert_eq!(gatepost.terminate(), Some(0));
    let records = records(&setup);
    let (call, question) = (only(&records, "tools/call"), only(&records, "elicitation/create"));
    assert_eq!(question.call.parent_id, Some(call.call.request_id));
    assert_eq!(question.response_status, Status::Ok);
    assert_eq!((question.call.backend_name.as_deref(), question.call.tool_name.as_deref()), (Some("pay"), None));
    assert_eq!(question.call.client_subject, call.call.client_subject);
    assert_eq!(question.call.session_id, call.call.session_id);
    assert_eq!(question.call.rpc_id.as_deref(), Some(&*id.to_string()));
    assert_eq!(parsed(question.call.request_args.as_ref())["message"], "Pay 12 EUR?");
    // I8: what the form declares a secret is in no record.
    let recorded = json!({"action": "accept", "content": {"pay": true, "pin": "[redacted]"}});
    assert_eq!(parsed(question.response.as_ref()), recorded);
    assert!(question.response_digest.is_some() && question.call.args_digest.is_some());
    assert!(!format!("{records:?}").contains("271828"));
    assert_eq!(responses(&file).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_recorded_by_digest_alone_if_so_configured() {
    let mut setup = Setup::new();
    let file = asking_backend(&mut setup, "pay", [&[ASK], &[]]);
    setup.set("audit.record_answers", "digest");
    let gatepost = setup.start();
    let (client, id) = asked(&gatepost).await;
    let reply = json!({"jsonrpc": "2.0", "id": id, "result": {"action": "accept", "content": {"pay": true}}});
    client.post(reply.to_string(), &[]).await.unwrap();
    until_async("the backend hears the answer", SOON, async || !responses(&file).is_empty()).await;
    assert_eq!(gatepost.terminate(), Some(0));
    let records = records(&setup);
    let question = only(&records, "elicitation/create");
    assert_eq!((question.response.as_ref(), question.response_status), (None, Status::Ok));
    assert!(question.response_digest.is_some() && question.response_bytes.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_without_an_answer_says_what_became_of_it() {
    let cancel = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}"#;
    for (ending, status, says) in [
        ("cancelled", Status::Cancelled, "the backend cancelled its request"),
        ("closed", Status::Cancelled, "the session ended"),
        ("stopped", Status::Cancelled, "the session ended"),
        ("error", Status::Error, "the client answered with an error"),
        ("both", Status::Cancelled, "the session ended"),
    ] {
        let mut setup = Setup::new();
        let file = asking_backend(&mut setup, "pay", [&[ASK], &[cancel]]);
        setup.set_toml("audit.redact", "[\"/pin\"]");
        let gatepost = setup.start();
        let (client, id) = asked(&gatepost).await;
        match ending {
            "cancelled" => drop(client.call("pay__ask", json!({})).await.unwrap().result()),
            "closed" => {
                let leave = reqwest::Client::new().delete(format!("{}/mcp", gatepost.url()));
                let leave =
                    leave.bearer_auth(token("admin")).header("mcp-session-id", client.session.as_ref().unwrap());
                assert_eq!(leave.send().await.unwrap().status(), 204);
            }
            "error" => {
                let error = json!({"jsonrpc": "2.0", "id": id, "error": {"code": -1, "message": "no person is here", "data": {"pin": "271828"}}});
                assert_eq!(client.post(error.to_string(), &[]).await.unwrap().status, 202);
                until_async("the backend is told", SOON, async || !responses(&file).is_empty()).await;
                assert_eq!(responses(&file)[0]["error"]["message"], "no person is here");
            }
            "both" => {
                let both = json!({"jsonrpc": "2.0", "id": id, "result": {}, "error": {"code": 1, "message": ""}});
                assert_eq!(client.post(both.to_string(), &[]).await.unwrap().status, 400);
                assert_eq!(responses(&file), Vec::<Value>::new());
            }
            _ => {}
        }
        assert_eq!(gatepost.terminate(), Some(0));
        let records = records(&setup);
        let question = only(&records, "elicitation/create");
        assert_eq!(question.response_status, status, "{ending}: {question:?}");
        assert!(!format!("{question:?}").contains("271828"), "I8: {question:?}");
        let message = question.error_message.as_deref().unwrap_or_default();
        assert!(message.contains(says), "{ending}: {message}");
    }
}

/// A role whose holders may only agree to pay.
fn only_pay(setup: &mut Setup, tool: &str) {
    let when = format!(r#"[{{ tool = "{tool}", from = "inputResponses", pointer = "/content/pay", equals = true }}]"#);
    setup.set_toml("roles.admin.when", &when);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_a_condition_does_not_allow_is_not_handed_on() {
    for (answer, is_allowed) in [
        (json!({"action": "accept", "content": {"pay": true}}), true),
        (json!({"action": "accept", "content": {"pay": false}}), false),
        (json!({"action": "accept", "content": {"pay": true, "PAY": false}}), false),
        (json!({"action": "accept"}), false),
        (json!({"action": "decline"}), true),
        (json!({"action": "decline", "content": {"pay": false}}), false),
        (json!({}), false),
    ] {
        let mut setup = Setup::new();
        let file = asking_backend(&mut setup, "pay", [&[ASK], &[]]);
        only_pay(&mut setup, "pay/ask");
        let gatepost = setup.start();
        // The call itself carries no answer, and is not judged by the condition.
        let (client, id) = asked(&gatepost).await;
        let reply = json!({"jsonrpc": "2.0", "id": id, "result": answer});
        assert_eq!(client.post(reply.to_string(), &[]).await.unwrap().status, 202);
        until_async("the backend is told", SOON, async || !responses(&file).is_empty()).await;
        assert_eq!(responses(&file)[0].get("result"), is_allowed.then_some(&answer), "{answer}");
        assert_eq!(gatepost.terminate(), Some(0));
        let records = records(&setup);
        let question = only(&records, "elicitation/create");
        let (status, rule) =
            if is_allowed { (Status::Ok, None) } else { (Status::Denied, Some("roles.admin.when[0]")) };
        assert_eq!((question.response_status, question.call.decided_by.as_deref()), (status, rule), "{answer}");
        assert_eq!(parsed(question.response.as_ref()), answer, "the record has what the person said");
    }
}

/// A modern backend whose tool `t` asks before it pays, with or without a state of its own.
async fn asks_first(state: Option<&'static str>) -> BackendStub {
    BackendStub::start(move |asked| {
        let params = &asked.message["params"];
        if asked.method() != "tools/call" || params.get("inputResponses").is_some() {
            return Some(modern(asked));
        }
        let question: Value = serde_json::from_str(ASK).unwrap();
        let question = json!({"method": question["method"], "params": question["params"]});
        let mut asks = json!({"resultType": "input_required", "inputRequests": {"sum": question}});
        if let Some(state) = state {
            asks["requestState"] = state.into();
        }
        Some(result(asked, &asks.to_string()))
    })
    .await
}

fn at(gatepost: &Gatepost) -> Client {
    Client::unconnected(&format!("{}/mcp/far", gatepost.url()), Era::Modern, Some(&token("admin")))
}

/// A call of `t` with these further members.
async fn pay(client: &Client, more: Value) -> crate::common::mcp::Reply {
    let mut params = json!({"name": "t", "arguments": {"sum": 12}});
    params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    client.request("tools/call", params).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_retry_of_a_modern_client_is_linked_to_the_question_that_it_answers() {
    for state in [Some("its own"), None] {
        let backend = asks_first(state).await;
        let (setup, gatepost) = backend.gateway(|_| {});
        let client = at(&gatepost);
        let asks = pay(&client, json!({})).await;
        let bound = asks.result()["requestState"].as_str().unwrap().to_owned();
        assert_ne!(Some(&*bound), state);
        let answers = json!({"sum": {"action": "accept", "content": {"pay": true, "pin": "271828"}}});
        // Nobody asked for these.
        for more in [json!({"inputResponses": answers}), json!({"inputResponses": answers, "requestState": "its own"})]
        {
            assert_eq!(pay(&client, more).await.error_code(), -32602);
        }
        let other_sum = json!({"inputResponses": answers, "requestState": bound, "arguments": {"sum": 13}});
        assert_eq!(pay(&client, other_sum).await.error_code(), -32602);
        assert_eq!(backend.seen("tools/call").len(), 1);
        let paid = pay(&client, json!({"inputResponses": answers, "requestState": bound})).await;
        assert_eq!(paid.content(), "modern");
        let retry = backend.seen("tools/call").pop().unwrap().message;
        assert_eq!(retry["params"]["inputResponses"], answers);
        assert_eq!(retry["params"].get("requestState").and_then(Value::as_str), state, "the backend's own");
        assert_eq!(gatepost.terminate(), Some(0));
        let records = records(&setup);
        let calls: Vec<_> =
            records.iter().filter(|entry| entry.call.method == "tools/call" && entry.latency_ms > 0.0).collect();
        let [first, second] = calls[..] else { panic!("{calls:?}") };
        assert_eq!((first.call.parent_id, first.response_status), (None, Status::InputRequired));
        assert_eq!(parsed(first.response.as_ref())["inputRequests"]["sum"]["params"]["message"], "Pay 12 EUR?");
        assert!(
            !first.response.as_ref().unwrap().contains("its own") && !first.response.as_ref().unwrap().contains(&bound)
        );
        assert_eq!((second.call.parent_id, second.response_status), (Some(first.call.request_id), Status::Ok));
        let recorded = json!({"sum": {"action": "accept", "content": {"pay": true, "pin": "[redacted]"}}});
        assert_eq!(parsed(second.call.request_extra.as_ref())["inputResponses"], recorded);
        // I8: refused retries, whose state says nothing of a form, are no exception to be checked here.
        assert!(!format!("{second:?}").contains("271828"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_condition_on_answers_judges_the_retry_and_nothing_else() {
    let backend = asks_first(None).await;
    let (setup, gatepost) = backend.gateway(|setup| only_pay(setup, "far/t"));
    let client = at(&gatepost);
    let state = pay(&client, json!({})).await.result()["requestState"].clone();
    for (answers, code) in [
        (json!({"sum": {"action": "accept", "content": {"pay": false}}}), Some(-32003)),
        (json!({"sum": {"action": "accept", "content": {"pay": true}}, "x": {"action": "accept"}}), Some(-32003)),
        (json!({"sum": {"action": "decline"}}), None),
        (json!({"sum": {"action": "accept", "content": {"pay": true}}}), None),
    ] {
        let reply = pay(&client, json!({"inputResponses": answers, "requestState": state})).await;
        assert_eq!(reply.body["error"]["code"].as_i64(), code, "{answers}: {}", reply.text);
    }
    assert_eq!(gatepost.terminate(), Some(0));
    let records = records(&setup);
    let denied: Vec<_> = records.iter().filter(|entry| entry.response_status == Status::Denied).collect();
    assert_eq!(denied.len(), 2);
    assert!(denied.iter().all(|entry| entry.call.decided_by.as_deref() == Some("roles.admin.when[0]")));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_replica_asked_is_answered_at_another_after_a_restart() {
    let backend = asks_first(None).await;
    let key = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(key.path(), format!("{}\n", "5a".repeat(32))).unwrap();
    let replica = |key: Option<&std::path::Path>| {
        backend.gateway(|setup| {
            if let Some(key) = key {
                setup.set("server.state_key_file", key.to_str().unwrap());
            }
        })
    };
    let (first_setup, first) = replica(Some(key.path()));
    let state = pay(&at(&first), json!({})).await.result()["requestState"].clone();
    assert_eq!(first.terminate(), Some(0));
    let retry = json!({"inputResponses": {"sum": {"action": "decline"}}, "requestState": state});
    let (_setup, without) = replica(None);
    assert_eq!(pay(&at(&without), retry.clone()).await.error_code(), -32602);
    let (second_setup, second) = replica(Some(key.path()));
    assert_eq!(pay(&at(&second), retry).await.content(), "modern");
    assert_eq!(second.terminate(), Some(0));
    let (first, second) = (records(&first_setup), records(&second_setup));
    assert_eq!(only(&second, "tools/call").call.parent_id, Some(only(&first, "tools/call").call.request_id));
    assert_eq!(only(&first, "tools/call").response_status, Status::InputRequired, "nothing is open");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_killed_hands_on_no_answer_that_it_did_not_record() {
    for round in 0..12_u32 {
        let mut setup = Setup::new();
        let file = asking_backend(&mut setup, "pay", [&[ASK], &[]]);
        let gatepost = setup.start();
        let (client, id) = asked(&gatepost).await;
        let reply = json!({"jsonrpc": "2.0", "id": id, "result": {"action": "accept"}}).to_string();
        let post = tokio::spawn(async move { client.post(reply, &[]).await.is_ok() });
        // Killed at another moment in each round, from before the answer arrives until after it is handed on.
        for _ in 0..round * round {
            tokio::task::yield_now().await;
        }
        drop(gatepost);
        post.await.unwrap();
        let was_heard = !responses(&file).is_empty();
        let again = setup.start();
        assert_eq!(again.terminate(), Some(0));
        let records = records(&setup);
        let question = only(&records, "elicitation/create");
        if was_heard {
            assert_eq!(question.response_status, Status::Ok, "round {round}");
            assert_eq!(parsed(question.response.as_ref())["action"], "accept");
        } else {
            let is_told = matches!(question.response_status, Status::Ok | Status::Interrupted);
            assert!(is_told, "round {round}: {question:?}");
        }
        assert!(heard(&file, "tools/call").len() == 1);
    }
}
