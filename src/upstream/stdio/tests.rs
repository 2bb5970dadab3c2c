//! Children that follow the protocol and children that break it. Each child is a shell script.

use std::collections::BTreeMap;
use std::io::Cursor;

use super::*;
use crate::config;
use crate::mcp::json;
use crate::mcp::lines::{Line, next_line};
use crate::upstream::message::{Event, Request};
use crate::upstream::timeouts::Timeouts;
use crate::walls::Launcher;

/// A child that answers `initialize`, reads the notification, and then runs `script`.
fn config(script: &str) -> config::Backend {
    let initialize_params =
        r#"read -r line; echo '{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-11-25"}}'; read -r line; "#;
    config::Backend {
        command: ["sh", "-c", &format!("{initialize_params}{script}")].map(str::to_owned).to_vec(),
        env: BTreeMap::from([("FROM_CONFIG".to_owned(), "yes".to_owned())]),
        call_timeout: Duration::from_secs(20),
        ..config::Backend::default()
    }
}

#[derive(Debug, Default)]
struct Recorder(std::sync::Mutex<Vec<String>>);

impl ServerMessageHandler for Recorder {
    fn on_event(&self, event: Event) -> bool {
        self.0.lock().unwrap().push(event.json);
        event.id.is_none()
    }
}

struct Running {
    backend: Arc<StdioBackend>,
    timeouts: Timeouts,
    recorder: Arc<Recorder>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    /// A backend that is known to speak the older era.
    fn start(config: &config::Backend) -> Self {
        Self::start_known(config, Some(false))
    }

    fn start_known(config: &config::Backend, modern: Option<bool>) -> Self {
        let recorder = Arc::new(Recorder::default());
        let listener = Arc::clone(&recorder) as Arc<dyn ServerMessageHandler>;
        let (backend, stop) = (
            Arc::new(StdioBackend::new("b", Launcher::direct().backend("b", config), listener)),
            CancellationToken::new(),
        );
        *backend.modern.lock() = modern;
        let (running, until) = (Arc::clone(&backend), stop.clone());
        let task = tokio::spawn(async move { running.supervise(until).await });
        let timeouts = Timeouts { idle: config.idle_timeout, total: config.call_timeout };
        Self { backend, timeouts, recorder, stop, task }
    }

    async fn call(&self) -> Result<Response, CallError> {
        self.request("{}", None).await
    }

    async fn request(
        &self,
        params: &str,
        events: Option<Arc<dyn ServerMessageHandler>>,
    ) -> Result<Response, CallError> {
        let meta = json::Object::owned(params);
        let progress_token = meta.object("_meta").and_then(|meta| meta.get("progressToken").map(str::to_owned));
        let request = Request { progress_token, events, ..Request::new("tools/call", Some(params.to_owned().into())) };
        self.backend.shared_child().await?.request(&request, self.timeouts, true).await
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

fn result(text: &str) -> Response {
    Response::result(text)
}

#[tokio::test]
async fn result_is_relayed_byte_for_byte() {
    let script =
        r#"read -r line; printf '%s\n' '{ "result" : { "x":  1.0e0,"y":"\ud800" } , "id":2,"jsonrpc":"2.0"}'; cat"#;
    let running = Running::start(&config(script));
    assert_eq!(running.call().await.unwrap(), result(r#"{ "x":  1.0e0,"y":"\ud800" }"#));
    running.end().await;
}

#[tokio::test]
async fn child_gets_only_its_configured_environment() {
    let script = r#"read -r line; echo "{\"id\":2,\"result\":{\"a\":\"$FROM_CONFIG\",\"b\":\"$CARGO\",\"c\":\"${PATH:+yes}\"}}"; cat"#;
    assert!(std::env::var_os("CARGO").is_some());
    let running = Running::start(&config(script));
    assert_eq!(running.call().await.unwrap(), result(r#"{"a":"yes","b":"","c":"yes"}"#));
    running.end().await;
}

#[tokio::test]
async fn requests_of_the_backend_are_answered_and_responses_with_unknown_ids_are_dropped() {
    let script = r#"
        read -r line; echo '{"jsonrpc":"2.0","id":"p","method":"ping"}'; read -r ping
        echo '{"jsonrpc":"2.0","id":7,"method":"sampling/createMessage","params":{}}'; read -r sampling
        echo '{"jsonrpc":"2.0","id":99,"result":{}}'; echo 'no json'; echo '[]'; echo
        echo '{"jsonrpc":"2.0","method":"notifications/message"}'
        echo "{\"jsonrpc\":\"2.0\",\"id\":2,\"result\":{\"ping\":$ping,\"sampling\":$sampling}}"; cat"#;
    let running = Running::start(&config(script));
    let Response::Result(answer) = running.call().await.unwrap() else { panic!() };
    assert!(answer.text().contains(r#""ping":{"jsonrpc":"2.0","id":"p","result":{}}"#), "{answer:?}");
    assert!(answer.text().contains(r#""id":7,"error":{"code":-32601"#), "{answer:?}");
    running.end().await;
}

#[tokio::test]
async fn error_is_an_answer_and_garbled_answer_is_a_failure() {
    let script = r#"
        read -r line; echo '{"jsonrpc":"2.0","id":2,"error":{"code":-1,"message":"m"}}'
        read -r line; echo '{"jsonrpc":"2.0","id":3}'
        read -r line; echo '{"jsonrpc":"2.0","id":4,"result":'; cat"#;
    let running = Running::start(&config(script));
    assert_eq!(
        running.call().await.unwrap(),
        Response::Error { error: r#"{"code":-1,"message":"m"}"#.to_owned(), http: None }
    );
    assert!(matches!(running.call().await, Err(CallError::Garbled)));
    assert!(matches!(running.call().await, Err(CallError::Garbled)));
    running.end().await;
}

#[tokio::test]
async fn call_whose_child_dies_fails_and_is_not_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("calls");
    let script = format!("read -r line; echo call >> {}; exit 3", log.display());
    let running = Running::start(&config(&script));
    assert!(matches!(running.call().await, Err(CallError::Died)));
    let mut states = running.backend.state.subscribe();
    // The child is started again, and does not get the call.
    states.wait_for(|state| matches!(state, State::Up(_))).await.unwrap();
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "call\n");
    running.end().await;
}

#[tokio::test]
async fn call_that_times_out_is_cancelled_at_the_backend() {
    let script = r#"read -r call; read -r cancel; read -r line; echo "{\"id\":3,\"result\":$cancel}"; cat"#;
    let config = config::Backend { call_timeout: Duration::from_secs(2), ..config(script) };
    let running = Running::start(&config);
    assert!(matches!(running.call().await, Err(CallError::TimedOut { .. })));
    let Response::Result(cancelled) = running.call().await.unwrap() else { panic!() };
    assert!(
        cancelled.text().contains(r#""method":"notifications/cancelled","params":{"requestId":2"#),
        "{cancelled:?}"
    );
    running.end().await;
}

#[tokio::test]
async fn progress_reaches_its_call_with_the_clients_own_token() {
    let script = r#"
        read -r a; read -r b
        echo '{"method":"notifications/progress","params":{"progressToken":3,"progress": 1.0}}'
        echo '{"method":"notifications/progress","params":{"progressToken":9,"progress":1}}'
        echo '{"method":"notifications/message","params":{}}'
        echo "{\"id\":2,\"result\":$a}"; echo "{\"id\":3,\"result\":$b}"; cat"#;
    let running = Running::start(&config(script));
    let (one, two) = (Arc::new(Recorder::default()), Arc::new(Recorder::default()));
    let params = r#"{"_meta":{"x":1,"progressToken":"t"}}"#;
    let first = running.request(params, Some(Arc::clone(&one) as Arc<dyn ServerMessageHandler>));
    let second = running.request(params, Some(Arc::clone(&two) as Arc<dyn ServerMessageHandler>));
    let (first, second) = tokio::join!(first, second);
    let (Response::Result(first), Response::Result(second)) = (first.unwrap(), second.unwrap()) else { panic!() };
    // Two clients with the same token are told apart.
    assert!(
        first.text().contains(r#""progressToken":2"#) && second.text().contains(r#""progressToken":3"#),
        "{first:?} {second:?}"
    );
    assert!(one.0.lock().unwrap().is_empty());
    let progress = two.0.lock().unwrap().clone();
    assert_eq!(progress.len(), 1);
    assert!(
        progress[0].contains(r#""progressToken":"t""#) && progress[0].contains(r#""progress": 1.0"#),
        "{progress:?}"
    );
    assert_eq!(running.recorder.0.lock().unwrap().len(), 1);
    running.end().await;
}

/// A child that answers `server/discover` with `discovered` (members of a response, as JSON text) and then runs
/// `script`.
fn probed(discovered: &str, script: &str) -> config::Backend {
    let command = format!(r#"read -r line; echo '{{"jsonrpc":"2.0","id":1,{discovered}}}'; {script}"#);
    config::Backend { command: ["sh", "-c", &command].map(str::to_owned).to_vec(), ..config("") }
}

#[tokio::test]
async fn stateless_era_is_spoken_with_a_child_that_supports_it() {
    let script = r#"
        read -r listen; read -r call
        echo '{"method":"notifications/x","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":2}}}'
        echo '{"method":"notifications/x","params":{"_meta":{"io.modelcontextprotocol/subscriptionId":9}}}'
        echo "{\"id\":3,\"result\":$call}"; cat"#;
    let running = Running::start_known(&probed(r#""result":{"supportedVersions":["2026-07-28"]}"#, script), None);
    let connection = running.backend.shared_child().await.unwrap();
    assert_eq!((connection.era(), running.backend.is_modern()), (Era::Modern, Some(true)));
    let recorder = Arc::new(Recorder::default());
    let events = Some(Arc::clone(&recorder) as Arc<dyn ServerMessageHandler>);
    let request = Request { events, ..Request::new("subscriptions/listen", Some("{}".to_owned().into())) };
    // A subscription has no timeouts.
    let timeouts = Timeouts { idle: Duration::ZERO, total: Duration::ZERO };
    let mut listening = Box::pin(connection.request(&request, timeouts, true));
    assert!(futures_util::poll!(&mut listening).is_pending());
    assert!(matches!(running.call().await.unwrap(), Response::Result(call) if call.text().contains("tools/call")));
    assert!(futures_util::poll!(&mut listening).is_pending());
    let recorder = recorder.0.lock().unwrap().clone();
    assert!(recorder.len() == 1 && recorder[0].contains(r#"subscriptionId":2"#), "{recorder:?}");
    drop(listening);
    running.end().await;
}

#[tokio::test]
async fn older_era_is_spoken_with_all_other_children_and_remembered() {
    let legacy = r#"
        read -r line; echo '{"id":2,"result":{"protocolVersion":"2025-11-25"}}'; read -r line
        read -r call; echo "{\"id\":3,\"result\":$call}"; cat"#;
    for discovered in [
        r#""error":{"code":-32601,"message":"unknown method"}"#,
        r#""result":{"supportedVersions":["2025-11-25"]}"#,
        r#""result":{}"#,
    ] {
        let running = Running::start_known(&probed(discovered, legacy), None);
        assert!(matches!(running.call().await, Ok(Response::Result(_))), "{discovered}");
        assert_eq!(running.backend.is_modern(), Some(false));
        running.end().await;
    }
}

#[tokio::test]
async fn child_that_exits_at_the_probe_is_initialized_in_the_older_era() {
    let script = r#"read -r line
        case "$line" in *initialize*) ;; *) exit 1 ;; esac
        echo '{"id":1,"result":{"protocolVersion":"2025-11-25"}}'; read -r line
        read -r call; echo "{\"id\":2,\"result\":{}}"; cat"#;
    let command = ["sh", "-c", script].map(str::to_owned).to_vec();
    let running = Running::start_known(&config::Backend { command, ..config("") }, None);
    assert_eq!(running.call().await.unwrap(), result("{}"));
    assert_eq!(running.backend.is_modern(), Some(false));
    running.end().await;
}

#[tokio::test]
async fn child_that_exited_for_another_reason_is_probed_again() {
    let dir = tempfile::tempdir().unwrap();
    let starts = dir.path().join("starts");
    // It speaks the stateless era only, and its first two starts fail.
    let script = format!(
        r#"echo start >> {0}; [ $(wc -l < {0}) -le 2 ] && exit 1; read -r line
        case "$line" in *server/discover*) ;; *) exit 1 ;; esac
        echo '{{"id":1,"result":{{"supportedVersions":["2026-07-28"]}}}}'; cat"#,
        starts.display()
    );
    let command = ["sh", "-c", &script].map(str::to_owned).to_vec();
    let running = Running::start_known(&config::Backend { command, ..config("") }, None);
    let mut states = running.backend.state.subscribe();
    tokio::time::timeout(Duration::from_secs(30), states.wait_for(|state| matches!(state, State::Up(_))))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(running.backend.is_modern(), Some(true));
    running.end().await;
}

#[tokio::test]
async fn child_that_answers_the_probe_late_is_probed_again() {
    let script = r#"
        read -r line; echo '{"id":2,"error":{"code":-32022,"message":"a stateless conversation"}}'
        read -r line; echo '{"id":3,"result":{"supportedVersions":["2026-07-28"]}}'; cat"#;
    let running = Running::start_known(&probed(r#""error":{"code":-1,"message":"late"}"#, script), None);
    assert_eq!(running.backend.shared_child().await.unwrap().era(), Era::Modern);
    running.end().await;
}

#[tokio::test]
async fn child_of_a_session_gets_the_clients_initialize_and_ends_with_the_session() {
    let script = r#"read -r initialize_params; echo "{\"id\":1,\"result\":$initialize_params}"; cat > /dev/null"#;
    let command = ["sh", "-c", script].map(str::to_owned).to_vec();
    let config = config::Backend { command, ..config("") };
    let stdio = StdioBackend::new("b", Launcher::direct().backend("b", &config), Arc::new(Recorder::default()));
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let opened = stdio
        .start_own_child(Some(&r#"{"capabilities":{"roots":{}}}"#.to_owned().into()), None, stop.clone(), &tasks)
        .await;
    let (connection, answer) = opened.unwrap();
    assert!(
        matches!(answer, Response::Result(initialize_params) if initialize_params.text().contains(r#""params":{"capabilities":{"roots":{}}}"#))
    );
    assert!(!connection.has_ended());
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    assert!(connection.has_ended());
    let missing = config::Backend { command: vec!["/nonexistent/program".to_owned()], ..config };
    let missing = StdioBackend::new("b", Launcher::direct().backend("b", &missing), Arc::new(Recorder::default()));
    let opened = missing.start_own_child(Some(&"{}".to_owned().into()), None, CancellationToken::new(), &tasks).await;
    assert!(matches!(opened, Err(CallError::Down { reason }) if reason.contains("/nonexistent/program")));
}

#[tokio::test]
async fn descendants_of_a_child_end_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let started = dir.path().join("pid");
    // Like npx: the server is a child of the child. It ignores the end of its input.
    let script = format!("sleep 1000 & echo $! > {}; read -r line; exit 3", started.display());
    let running = Running::start(&config(&script));
    assert!(matches!(running.call().await, Err(CallError::Died)));
    let pid: i32 = std::fs::read_to_string(&started).unwrap().trim().parse().unwrap();
    let gone = async {
        let mut states = running.backend.state.subscribe();
        states.wait_for(|state| !matches!(state, State::Up(_))).await.unwrap();
        // A killed process exists until its new parent has waited for it.
        let process = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        while !process().is_empty() && !process().contains(") Z ") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone).await.unwrap();
    running.end().await;
}

#[tokio::test]
async fn backend_that_cannot_start_is_down_with_its_reason() {
    let config = config::Backend { command: vec!["/nonexistent/program".to_owned()], ..config("") };
    let running = Running::start(&config);
    running.backend.state.subscribe().wait_for(|state| matches!(state, State::Down { .. })).await.unwrap();
    let Err(CallError::Down { reason }) = running.call().await else { panic!() };
    assert!(reason.contains("/nonexistent/program"), "{reason}");
    assert!(!running.backend.is_up());
    running.end().await;
}

#[tokio::test]
async fn backend_with_an_unknown_protocol_version_is_up() {
    let script = r#"read -r line; echo '{"id":1,"result":{"protocolVersion":"1999-01-01"}}'; cat"#;
    let command = ["sh", "-c", script].map(str::to_owned).to_vec();
    let running = Running::start(&config::Backend { command, ..config("") });
    running.backend.state.subscribe().wait_for(|state| matches!(state, State::Up(_))).await.unwrap();
    running.end().await;
}

#[tokio::test]
async fn i6_line_is_cut_at_its_limit() {
    let mut input = Cursor::new(b"abc\nabcdefgh\n\nab".to_vec());
    let mut line = Vec::new();
    assert_eq!(next_line(&mut input, &mut line, 4).await.unwrap(), Line::Whole);
    assert_eq!(line, b"abc");
    assert_eq!(next_line(&mut input, &mut line, 4).await.unwrap(), Line::Cut);
    assert_eq!(line, b"abcd");
    assert_eq!(next_line(&mut input, &mut line, 4).await.unwrap(), Line::Whole);
    assert!(line.is_empty());
    // The last line needs no end.
    assert_eq!(next_line(&mut input, &mut line, 4).await.unwrap(), Line::Whole);
    assert_eq!(line, b"ab");
    assert_eq!(next_line(&mut input, &mut line, 4).await.unwrap(), Line::End);
}
