//! A backend receives what was authorized and what the record has, for every method and member, in both eras, at both
//! endpoints, over HTTP and stdio.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use axum::http::HeaderName;
use axum::response::Response;
use gatepost::audit::outbox::Reader;
use gatepost::audit::outbox::fs::DiskFs;
use gatepost::audit::record::{AuditRecord, DigestKey, Entry, Status};
use gatepost::mcp::json::{self, Object};
use serde_json::{Value, json};

use crate::common::gatepost::{Gatepost, Setup, token};
use crate::common::mcp::{Client, Era, Reply};
use crate::common::python::python_program;
use crate::common::stored_records::stored_records;
use crate::common::wait::{SOON, until};
use crate::http_backend_stub::{BackendStub, ReceivedRequest, modern, result};

/// The keys of `_meta` that the gateway writes: docs/trail.md lists them.
const WRITTEN: [&str; 7] = [
    "progressToken",
    "io.modelcontextprotocol/protocolVersion",
    "io.modelcontextprotocol/clientCapabilities",
    "io.modelcontextprotocol/clientInfo",
    "io.modelcontextprotocol/logLevel",
    "traceparent",
    "io.gatepost/request_id",
];

const MODERN_KEYS: &str = r#""io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{ "roots":{}, "tasks":{}},"#;
const META: &str = r#""progressToken":"t","traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01","com.example/x":[ 1.0e0, "\u00e9" ],"tracestate":"a=b""#;
const ARGUMENTS: &str = r#"{ "b":  1.0, "a":"\u00e9", "nested":[ {"x":null} ] }"#;
const HINT: &str = r#"{ "why" : [1, 2.50] }"#;

/// Backends that keep what reaches them: `child` over stdio, `old` over HTTP, and `new` of the stateless era.
struct Recorders {
    child: PathBuf,
    old: BackendStub,
    new: BackendStub,
    setup: Setup,
    gatepost: Gatepost,
}

fn lists(asked: &ReceivedRequest, alias: &str) -> Option<Response> {
    let list = match asked.method() {
        "prompts/list" => r#"{"prompts":[{"name":"p"}]}"#.to_owned(),
        "resources/list" => format!(r#"{{"resources":[{{"uri":"a:{alias}","name":"r"}}]}}"#),
        "resources/templates/list" => r#"{"resourceTemplates":[]}"#.to_owned(),
        "prompts/get"
        | "resources/read"
        | "completion/complete"
        | "resources/subscribe"
        | "resources/unsubscribe"
        | "logging/setLevel"
        | "example/run" => "{}".to_owned(),
        _ => return None,
    };
    Some(result(asked, &list))
}

impl Recorders {
    async fn start() -> Self {
        let old = BackendStub::start(|asked| lists(asked, "old")).await;
        let new = BackendStub::start(|asked| Some(lists(asked, "new").unwrap_or_else(|| asks_or_serves(asked)))).await;
        let mut setup = Setup::new();
        let (script, python) =
            (concat!(env!("CARGO_MANIFEST_DIR"), "/tests/gateway/recorder.py"), python_program("python"));
        let child = setup.work_dir().join("received by child");
        setup.backend("child", &[python.to_str().unwrap(), script, child.to_str().unwrap(), "child"]);
        setup.set("backends.old.url", &old.url).set("backends.new.url", &new.url);
        setup.set_toml(
            "audit.methods",
            r#"["resources/read", "prompts/get", "completion/complete", "resources/subscribe", "resources/unsubscribe",
                "tools/list", "resources/list", "resources/templates/list", "prompts/list", "logging/setLevel"]"#,
        );
        setup.set_toml("server.pass_methods", r#"["example/*", "notifications/example/*"]"#);
        setup.set_toml("server.pass_params", r#"["tools/call/hint", "prompts/get/hint", "resources/read/hint"]"#);
        setup.role("reader", &["*/t"]);
        let gatepost = setup.start();
        Self { child, old, new, setup, gatepost }
    }

    /// The messages that reached the backend, as they came.
    fn received(&self, alias: &str) -> Vec<String> {
        let of = |stub: &BackendStub| stub.seen.lock().unwrap().iter().map(|asked| asked.text.clone()).collect();
        match alias {
            "child" => std::fs::read_to_string(&self.child).unwrap_or_default().lines().map(str::to_owned).collect(),
            "old" => of(&self.old),
            _ => of(&self.new),
        }
    }

    /// The parameters of the request `id` as the backend got them.
    fn params(&self, alias: &str, id: &str) -> Vec<String> {
        let has_id = |params: &Object<'_>| {
            params.object("_meta").is_some_and(|meta| meta.string("io.gatepost/request_id").as_deref() == Some(id))
        };
        let received = self.received(alias);
        let params = received.iter().filter_map(|text| {
            let message = Object::parse(text)?;
            message.object("params").filter(has_id).map(|params| params.text().to_owned())
        });
        params.collect()
    }

    /// Ends the gateway and reads its records.
    fn records(self) -> BTreeMap<String, Entry> {
        assert_eq!(self.gatepost.terminate(), Some(0));
        records(&self.setup)
            .into_iter()
            .map(|record| (record.entry.call.request_id.to_string(), record.entry))
            .collect()
    }

    fn digest_key(&self) -> DigestKey {
        digest_key(&self.setup)
    }
}

fn records(setup: &Setup) -> Vec<AuditRecord> {
    stored_records(&Reader::offline(Arc::new(DiskFs), &setup.audit_dir()).unwrap())
}

fn digest_key(setup: &Setup) -> DigestKey {
    let text = std::fs::read_to_string(setup.audit_dir().join("digest.key")).unwrap();
    DigestKey::from_bytes(hex::decode(text.trim()).unwrap().try_into().unwrap())
}

/// A modern backend whose tool asks for input before it does anything.
fn asks_or_serves(asked: &ReceivedRequest) -> Response {
    let params = &asked.message["params"];
    if asked.method() == "tools/call" && params["arguments"]["ask"] == true && params["inputResponses"].is_null() {
        let question = r#"{"resultType":"input_required","inputRequests":{"q":{"method":"elicitation/create","params":{"message":"ok?","requestedSchema":{"type":"object","properties":{}}}}},"requestState":"its own"}"#;
        return result(asked, question);
    }
    modern(asked)
}

/// The parameters as the gateway forwards them, without the keys that it writes itself: what the digest covers.
fn covered(params: &str) -> String {
    let object = Object::parse_path(params, &["_meta"]).unwrap();
    let meta = object.object("_meta").unwrap();
    // Nothing is between the members, where a decoder and the digest could disagree.
    let exact = |object: &Object<'_>| {
        let members: Vec<_> =
            object.members().map(|member| (member.key.into_owned(), member.value.to_owned())).collect();
        json::object(members.iter().map(|(key, value)| (key.as_str(), value.as_str())))
    };
    assert_eq!((exact(&object).as_str(), exact(&meta).as_str()), (params, meta.text()));
    let kept = meta.without(|key| WRITTEN.contains(&key));
    if kept == "{}" { object.without(|key| key == "_meta").into_owned() } else { object.replaced("_meta", &kept) }
}

struct Case {
    method: &'static str,
    params: String,
    header: Option<String>,
}

fn cases(era: Era, alias: &str, is_of_all: bool) -> Vec<Case> {
    let meta = if era == Era::Modern { format!("{MODERN_KEYS}{META}") } else { META.to_owned() };
    let prefix = if is_of_all { format!("{alias}__") } else { String::new() };
    let (tool, prompt, uri) = (format!("{prefix}t"), format!("{prefix}p"), format!("a:{alias}"));
    let case = |method, members: String, header: Option<&str>| Case {
        method,
        params: format!(r#"{{ {members} ,"_meta" : {{{meta}}}}}"#),
        header: header.map(str::to_owned),
    };
    let mut cases = vec![
        case(
            "tools/call",
            format!(r#""name":"{tool}", "hint":{HINT},"argum\u0065nts" : {ARGUMENTS},"task":{{"ttl":1}}"#),
            Some(&tool),
        ),
        case("tools/call", format!(r#""name":"{tool}","arguments":null"#), Some(&tool)),
        case("prompts/get", format!(r#""arguments":{{ "x" : "y" }},"hint":{HINT},"name":"{prompt}""#), Some(&prompt)),
        case("resources/read", format!(r#""uri":"{uri}","hint":{HINT}"#), Some(&uri)),
        case(
            "completion/complete",
            format!(
                r#""ref":{{"type":"ref/prompt", "name":"{prompt}","title":null}},"argument":{{ "name":"a","value":"b"}},"context":{{"arguments":{{ "c":"d" }}}}"#
            ),
            None,
        ),
    ];
    if era == Era::Legacy {
        cases.push(case("resources/subscribe", format!(r#""uri":"{uri}""#), None));
        cases.push(case("resources/unsubscribe", format!(r#""uri":"{uri}""#), None));
    }
    if !is_of_all {
        let lists = ["tools/list", "resources/list", "resources/templates/list", "prompts/list"];
        cases.extend(lists.map(|method| case(method, r#""cursor":"c","Cursor":"d","other":1"#.to_owned(), None)));
        cases.push(case("example/run", r#""anything":[1, 2.0],"task":"x""#.to_owned(), None));
        if era == Era::Legacy {
            cases.push(case("logging/setLevel", r#""level":"debug""#.to_owned(), None));
        }
    }
    cases
}

async fn send(client: &Client, method: &str, params: &str, name: Option<&str>, more: &[(&str, &str)]) -> Reply {
    let body = format!(r#"{{"jsonrpc":"2.0","id":"{method}","method":"{method}","params":{params}}}"#);
    let mut headers = vec![("mcp-method", method)];
    headers.extend(name.map(|name| ("mcp-name", name)));
    headers.extend(more);
    client.post(body, &headers).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_backend_receives_is_in_the_record_and_under_its_digest() {
    let recorders = Recorders::start().await;
    let mut sent = Vec::new();
    for era in [Era::Legacy, Era::Modern] {
        for alias in ["child", "old", "new"] {
            for path in [format!("/mcp/{alias}"), "/mcp".to_owned()] {
                let client = recorders.gatepost.client_at(&path, era, "admin").await;
                for case in cases(era, alias, path == "/mcp") {
                    let reply = send(&client, case.method, &case.params, case.header.as_deref(), &[]).await;
                    assert!(reply.body.get("result").is_some(), "{era:?} {path} {} {}", case.method, reply.text);
                    let id = reply.header("x-request-id").to_owned();
                    let received = recorders.params(alias, &id);
                    assert_eq!(received.len(), 1, "{era:?} {path} {} {id}", case.method);
                    sent.push((case, era, alias, id, received.into_iter().next().unwrap()));
                }
            }
        }
    }
    // Over HTTP the id is also in a header.
    for (_, _, alias, id, _) in sent.iter().filter(|sent| sent.2 != "child") {
        let stub = if *alias == "old" { &recorders.old } else { &recorders.new };
        let seen = stub.seen.lock().unwrap();
        assert!(seen.iter().any(|asked| asked.header("x-request-id") == Some(id)), "{id}");
    }
    let key = recorders.digest_key();
    let records = recorders.records();
    for (case, era, alias, id, received) in sent {
        let entry = &records[&id];
        check(entry, &key, &received);
        let call = &entry.call;
        assert_eq!((call.method.as_str(), call.backend_name.as_deref()), (case.method, Some(alias)), "{id}");
        let received = Object::parse_path(&received, &["_meta"]).unwrap();
        let meta = received.object("_meta").unwrap();
        let is_modern = alias == "new";
        assert_eq!(meta.get(WRITTEN[1]).is_some(), is_modern, "{case:?}", case = case.method);
        let capabilities = if era == Era::Modern { r#"{"roots":{}}"# } else { "{}" };
        assert_eq!(meta.get(WRITTEN[2]), is_modern.then_some(capabilities));
        let context: Value = serde_json::from_str(call.context.as_deref().unwrap()).unwrap();
        assert_eq!(context["meta"]["progressToken"], "t");
        assert_eq!(context["meta"]["tracestate"], "a=b");
        if case.params.contains("hint") {
            assert_eq!(received.get("hint"), Some(HINT));
        }
        if case.params.contains("\"task\":{") {
            assert!(context["removed"].as_array().unwrap().contains(&json!("task")), "{context}");
            assert_eq!((received.get("task"), received.get("arguments")), (None, Some(ARGUMENTS)));
            assert_eq!(call.request_args.as_deref(), Some(ARGUMENTS));
        }
        if case.method.starts_with("resources/") && !case.method.ends_with("list") {
            assert_eq!(
                (call.tool_name.as_deref(), call.resource_uri.as_deref()),
                (None, received.string("uri").as_deref())
            );
        }
    }
}

/// Asserts that the record `entry` has everything of the parameters `received`, and its digest covers them.
fn check(entry: &Entry, key: &DigestKey, received: &str) {
    let call = &entry.call;
    let covered = covered(received);
    let digest = key.record_key(call.request_id).digest(covered.as_bytes());
    assert_eq!(call.params_digest, Some(digest), "{covered}");
    let (extra, args) = (call.request_extra.as_deref().unwrap_or("{}"), call.request_args.as_deref().unwrap_or("{}"));
    let (extra, args) = (Object::parse_path(extra, &["_meta"]).unwrap(), Object::parse(args).unwrap());
    let is_tool_call = call.method == "tools/call";
    let covered = Object::parse_path(&covered, &["_meta"]).unwrap();
    for member in covered.members() {
        let recorded = match member.key.as_ref() {
            "name" if is_tool_call => call.tool_name.as_deref().map(json::quoted),
            "name" => call.tool_name.as_deref().map(json::quoted),
            "ref" => {
                let name = Object::parse(member.value).unwrap().string("name");
                assert_eq!(name.as_deref(), call.tool_name.as_deref());
                continue;
            }
            "arguments" if is_tool_call => Some(args.text().to_owned()),
            "requestState" => {
                let state: Value = serde_json::from_str(extra.get("requestState").unwrap()).unwrap();
                let digest = key.record_key(call.request_id).digest(member.value.as_bytes());
                assert_eq!(state, json!({"bytes": member.value.len(), "digest": digest.to_string()}));
                continue;
            }
            "_meta" => {
                let context: Value = serde_json::from_str(call.context.as_deref().unwrap()).unwrap();
                for entry in covered.object("_meta").unwrap().members() {
                    let in_extra = extra.object("_meta").and_then(|meta| meta.get(&entry.key).map(str::to_owned));
                    let in_context = context["meta"].get(entry.key.as_ref()).map(Value::to_string);
                    assert_eq!(in_extra.or(in_context).as_deref(), Some(entry.value), "{}", entry.key);
                }
                continue;
            }
            key => extra.get(key).or_else(|| args.get(key)).map(str::to_owned),
        };
        assert_eq!(recorded.as_deref(), Some(member.value), "{} of {}", member.key, call.method);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_a_person_and_long_keys_are_recorded_whole() {
    let recorders = Recorders::start().await;
    let client = recorders.gatepost.client_at("/mcp/new", Era::Modern, "admin").await;
    let long = format!(r#"{{"roots":{{ }},"x":"{}"}}"#, "y".repeat(300));
    let meta = format!(
        r#""_meta":{{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{long},"baggage":"{}"}}"#,
        "b".repeat(257)
    );
    let asked =
        send(&client, "tools/call", &format!(r#"{{"name":"t","arguments":{{"ask":true}},{meta}}}"#), Some("t"), &[])
            .await;
    let state = asked.result()["requestState"].to_string();
    let answers = r#"{ "q" : {"action":"accept","content":{"confirm": true}} }"#;
    let params = format!(
        r#"{{"name":"t","arguments":{{"ask":true}},"inputResponses":{answers},"requestState":{state},{meta}}}"#
    );
    let reply = send(&client, "tools/call", &params, Some("t"), &[]).await;
    assert_eq!(reply.content(), "modern");
    let id = reply.header("x-request-id").to_owned();
    let received = recorders.params("new", &id).remove(0);
    let key = recorders.digest_key();
    let records = recorders.records();
    check(&records[&id], &key, &received);
    let received = Object::parse(&received).unwrap();
    assert_eq!((received.get("inputResponses"), received.get("requestState")), (Some(answers), Some("\"its own\"")));
    let call = &records[&id].call;
    let extra = call.request_extra.as_deref().unwrap();
    assert!(extra.contains(answers) && extra.contains(&"y".repeat(300)) && extra.contains(&"b".repeat(257)), "{extra}");
    let context: Value = serde_json::from_str(call.context.as_deref().unwrap()).unwrap();
    assert_eq!(context["meta_in_extra"], json!(["io.modelcontextprotocol/clientCapabilities", "baggage"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_and_look_alike_members_reach_no_backend() {
    let recorders = Recorders::start().await;
    let mut refused = Vec::new();
    for (era, meta) in [(Era::Legacy, ""), (Era::Modern, MODERN_KEYS)] {
        for alias in ["child", "old", "new"] {
            let client = recorders.gatepost.client_at(&format!("/mcp/{alias}"), era, "admin").await;
            for (member, named) in [
                ("\"argument\u{17f}\":{\"path\":\"SECRET\"}", r#"params has an unknown member "argument\u{17f}""#),
                ("\"Arguments\":{\"path\":\"SECRET\"}", r#"params has an unknown member "Arguments""#),
                ("\"_name\":\"SECRET\"", r#"params has an unknown member "_name""#),
                ("\"anything\":\"SECRET\"", r#"params has an unknown member "anything""#),
            ] {
                let params = format!(r#"{{"name":"t","arguments":{{}},{member},"_meta":{{{meta}"x":1}}}}"#);
                let reply = send(&client, "tools/call", &params, Some("t"), &[]).await;
                assert_eq!((reply.status, reply.error_code()), (400, -32602), "{}", reply.text);
                let message = reply.body["error"]["message"].as_str().unwrap();
                assert!(message.starts_with(named), "{message}");
                refused.push((reply.header("x-request-id").to_owned(), message.to_owned()));
            }
            assert!(!recorders.received(alias).concat().contains("SECRET"));
        }
    }
    let records = recorders.records();
    for (id, message) in &refused[..8] {
        let entry = &records[id];
        assert_eq!(
            (entry.response_status, entry.error_message.as_deref()),
            (Status::Malformed, Some(message.as_str()))
        );
        assert_eq!(entry.call.params_digest, None, "nothing was forwarded");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_known_notifications_pass_and_others_need_a_setting_and_a_role() {
    let recorders = Recorders::start().await;
    for alias in ["child", "old"] {
        for role in ["reader", "admin"] {
            let client = recorders.gatepost.client_at(&format!("/mcp/{alias}"), Era::Legacy, role).await;
            let notify = async |method: &str, params: &str| {
                let body = format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{params}}}"#);
                client.post(body, &[]).await.unwrap()
            };
            assert_eq!(client.call("t", json!({})).await.unwrap().content(), "done");
            assert_eq!(notify("notifications/roots/list_changed", r#"{"_meta":{"x":1}}"#).await.status, 202);
            assert_eq!(notify("notifications/run", r#"{"command":"SECRET"}"#).await.error_code(), -32601);
            assert_eq!(notify("notifications/tasks/status", r#"{"command":"SECRET"}"#).await.error_code(), -32601);
            assert_eq!(notify("notifications/progress", r#"{"command":"SECRET"}"#).await.error_code(), -32602);
            let passed = notify("notifications/example/run", &format!(r#"{{"for":"{role}"}}"#)).await;
            match role {
                "admin" => assert_eq!(passed.status, 202, "{}", passed.text),
                _ => assert_eq!(passed.error_code(), -32003, "{}", passed.text),
            }
        }
        until("the notifications arrive", SOON, || {
            let text = recorders.received(alias).concat();
            text.contains("roots/list_changed") && text.contains("notifications/example/run")
        });
        let text = recorders.received(alias).concat();
        assert!(!text.contains("SECRET") && !text.contains(r#""for":"reader""#), "{text}");
    }
    let records = recorders.records();
    let of = |method: &str| records.values().filter(move |entry| entry.call.method == method).collect::<Vec<_>>();
    let passed: BTreeSet<_> =
        of("notifications/example/run").iter().map(|entry| entry.response_status.to_string()).collect();
    assert_eq!(passed, BTreeSet::from(["denied".to_owned(), "ok".to_owned()]));
    let known = of("notifications/example/run").into_iter().find(|entry| entry.response_status == Status::Ok).unwrap();
    assert_eq!(known.call.request_args.as_deref(), Some(r#"{"for":"admin"}"#));
    assert_eq!(known.call.decided_by.as_deref(), Some("roles.admin.allow[0]"));
    // A method that does not exist is not a name: the caller's text is beside it.
    let unknown = of("unknown");
    assert!(
        unknown.iter().any(|entry| {
            entry.call.request_extra.as_deref() == Some(r#"{"method":"notifications/run"}"#)
                && entry.response_status == Status::Malformed
        }),
        "{unknown:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_a_refusal_exist_and_other_text_is_beside_them() {
    let recorders = Recorders::start().await;
    let client = recorders.gatepost.client_at("/mcp/child", Era::Legacy, "reader").await;
    let mut ids = Vec::new();
    for (method, params) in [
        ("prompts/get", r#"{"name":"p"}"#),
        ("prompts/get", r#"{"name":"none"}"#),
        ("tools/call", r#"{"name":"none"}"#),
        ("tools/call", r#"{"name":"t","Name":"x"}"#),
        ("resources/read", r#"{"uri":"secret:x"}"#),
        ("no/such", "{}"),
    ] {
        ids.push(send(&client, method, params, None, &[]).await.header("x-request-id").to_owned());
    }
    let all = recorders.gatepost.client_at("/mcp", Era::Legacy, "reader").await;
    ids.push(send(&all, "tools/call", r#"{"name":"nowhere__t"}"#, None, &[]).await.header("x-request-id").to_owned());
    let records = recorders.records();
    let found: Vec<_> = ids
        .iter()
        .map(|id| {
            let call = &records[id].call;
            let text = |text: &Option<gatepost::audit::record::Text>| text.as_deref().unwrap_or("-").to_owned();
            let extra = call.request_extra.as_deref().unwrap_or("-");
            let (backend, tool, uri) = (text(&call.backend_name), text(&call.tool_name), text(&call.resource_uri));
            format!("{} {backend} {tool} {uri} {extra}", call.method)
        })
        .collect();
    assert_eq!(
        found,
        [
            "prompts/get child p - -",
            r#"prompts/get child unknown - {"name":"none"}"#,
            r#"tools/call child unknown - {"name":"none"}"#,
            "tools/call child t - -",
            "resources/read child - secret:x -",
            r#"unknown child - - {"method":"no/such"}"#,
            r#"tools/call unknown unknown - {"backend":"nowhere","name":"t"}"#,
        ]
    );
}

/// Answers as a modern backend with a tool whose schema mirrors `region` in a header.
fn mirrors(asked: &ReceivedRequest) -> Response {
    match asked.method() {
        "tools/list" => result(
            asked,
            r#"{"tools":[{"name":"t","inputSchema":{"type":"object","properties":{"region":{"type":"string","x-mcp-header":"Region"},"n":{"type":"integer"}}}}]}"#,
        ),
        _ => modern(asked),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_of_parameters_are_made_from_what_was_authorized() {
    let backend = BackendStub::start(|asked| Some(mirrors(asked))).await;
    let (setup, gatepost) = backend.gateway(|_| {});
    let trace = ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    for (era, meta) in [(Era::Legacy, ""), (Era::Modern, MODERN_KEYS)] {
        let client = gatepost.client_at("/mcp/far", era, "admin").await;
        let params = format!(r#"{{"name":"t","arguments":{{"region":"eu","n":7}},"_meta":{{{meta}"x":1}}}}"#);
        let call = async |headers: &[(&str, &str)]| send(&client, "tools/call", &params, Some("t"), headers).await;
        let calls = backend.seen("tools/call").len();
        for forged in [("mcp-param-region", "us"), ("mcp-param-region", "=?base64?ZXU?=")] {
            let refused = call(&[forged, trace]).await;
            assert_eq!((refused.status, refused.error_code()), (400, -32020), "{}", refused.text);
        }
        assert_eq!(backend.seen("tools/call").len(), calls, "nothing was forwarded");
        for headers in [
            &[trace][..],
            &[trace, ("mcp-param-region", "eu")],
            &[trace, ("mcp-param-region", "=?base64?ZXU=?=")],
            &[trace, ("mcp-param-n", "8"), ("mcp-param-other", "x")],
        ] {
            assert_eq!(call(headers).await.content(), "modern");
            let seen = backend.seen("tools/call").pop().unwrap();
            let found: Vec<_> =
                seen.headers.keys().map(HeaderName::as_str).filter(|name| name.starts_with("mcp-param")).collect();
            assert_eq!((found, seen.header("mcp-param-region")), (vec!["mcp-param-region"], Some("eu")), "{headers:?}");
            assert_eq!(seen.header("traceparent"), Some(trace.1));
        }
    }
    drop(gatepost);
    let refused =
        records(&setup).into_iter().filter(|record| record.entry.response_status == Status::Malformed).count();
    assert_eq!(refused, 4);
}

/// Answers as a backend that takes part in tasks.
fn with_tasks(asked: &ReceivedRequest) -> Option<Response> {
    let answer = match asked.method() {
        "initialize" => {
            let hello = r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{},"resources":{},"prompts":{},"completions":{},"logging":{},"tasks":{"list":{},"requests":{}}},"serverInfo":{"name":"far","version":"1"}}"#;
            return Some(result(asked, hello));
        }
        "tools/list" => {
            r#"{"tools":[{"name":"must","inputSchema":{"type":"object"},"execution":{"taskSupport":"required"}},
                {"name":"may","inputSchema":{"type":"object"},"execution":{"taskSupport":"optional"}},
                {"title":"no name"},{"name":"t","inputSchema":{"type":"object"}}]}"#
        }
        "tools/call" if asked.message["params"]["name"] == "may" => r#"{"task":{"taskId":"1","status":"working"}}"#,
        "resources/list" => r#"{"resources":7}"#,
        _ => return None,
    };
    Some(result(asked, answer))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_takes_no_part_in_tasks() {
    let backend = BackendStub::start(with_tasks).await;
    let (setup, gatepost) = backend.gateway(|setup| {
        setup.set_toml("server.pass_methods", "[\"*\"]");
    });
    for (path, prefix) in [("/mcp/far", ""), ("/mcp", "far__")] {
        let client = Client::unconnected(&format!("{}{path}", gatepost.url()), Era::Legacy, Some(&token("admin")));
        let capabilities = json!({"tasks": {"list": {}}, "roots": {},
            "extensions": {"io.modelcontextprotocol/tasks": {}, "x/y": {}}});
        let hello = json!({"protocolVersion": "2025-11-25", "capabilities": capabilities,
            "clientInfo": {"name": "c", "version": "1"}, "other": 1});
        let hello = client.request("initialize", hello).await.unwrap();
        assert_eq!(hello.result()["capabilities"]["tasks"], Value::Null, "{}", hello.text);
        let mut client = client;
        client.session = Some(hello.header("mcp-session-id").to_owned());
        let list = client.request("tools/list", json!({})).await.unwrap();
        let mut tools: Vec<Value> = list.result()["tools"].as_array().unwrap().clone();
        tools.retain(|tool| path != "/mcp" || tool["name"].as_str().unwrap().starts_with("far__"));
        let names: Vec<_> = tools.iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect();
        assert_eq!(names, [format!("{prefix}may"), format!("{prefix}t")], "{}", list.text);
        assert!(!list.text.contains("taskSupport"));
        let task = json!({"name": format!("{prefix}may"), "arguments": {}, "task": {"ttl": 1}});
        let started = client.request("tools/call", task).await.unwrap();
        assert!(started.body["error"]["message"].as_str().unwrap().contains("may still be working on it"));
        assert_eq!(client.request("tasks/get", json!({"taskId": "1"})).await.unwrap().error_code(), -32601);
        if path == "/mcp/far" {
            // A page that cannot be read cannot be filtered.
            assert_eq!(client.request("resources/list", json!({})).await.unwrap().error_code(), -32012);
        }
    }
    assert!(backend.seen("tasks/get").is_empty());
    let seen = backend.seen("initialize");
    let offered = |asked: &ReceivedRequest| asked.message["params"]["capabilities"].clone();
    assert!(seen.iter().any(|asked| offered(asked) == json!({"roots": {}, "extensions": {"x/y": {}}})), "{seen:?}");
    assert!(seen.iter().all(|asked| asked.message["params"]["other"].is_null() && !asked.text.contains("tasks")));
    assert!(backend.seen("tools/call").iter().all(|asked| asked.message["params"]["task"].is_null()));
    setup.wait_for_log("a tool can only be called as a task");
    assert!(gatepost.get_ops("/metrics").1.contains(r#"gatepost_list_items_omitted_total{backend="far"}"#));
    assert_eq!(gatepost.terminate(), Some(0));
    let records = records(&setup);
    let calls: Vec<_> = records.iter().filter(|record| record.entry.call.method == "tools/call").collect();
    assert_eq!(calls.len(), 2);
    for record in calls {
        assert_eq!(record.entry.response_status, Status::Error);
        assert!(record.entry.call.context.as_deref().unwrap().contains(r#""removed":["task"]"#));
    }
}
