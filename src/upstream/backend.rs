//! One backend: how it is reached, which eras it speaks, and the conversations with it.
//!
//! A legacy session of a client has a conversation of its own, opened as the client opened it. Everything else uses the
//! shared one: stateless where the backend speaks that, else a legacy session of the gateway's, without capabilities.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, broadcast};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config;
use crate::mcp::json;
use crate::mcp::protocol::{Era, LEGACY_LATEST};

use super::connection::UpstreamConnection;
use super::http::{Endpoint, EndpointFault};
use super::message::{DISCOVER, Event, Request, Response, ServerMessageHandler, discover_params, modern_meta};
use super::stdio::StdioBackend;
use super::{CallError, Change, Timeouts, message};

/// Most pages of a list. *Chosen*: the Python SDK's own bound.
const LIST_PAGES_MAX: usize = 100;

/// Most bytes of all pages of a list. *Chosen*: as for one line.
const LIST_BYTES_MAX: usize = crate::mcp::lines::LINE_BYTES_MAX;

/// Longest time for one page of a list. *Chosen*: a list is static in most servers; a client waits for it.
const LIST_TIMEOUT: Duration = Duration::from_secs(30);

/// The fault of a list that the backend does not offer.
pub const NOT_OFFERED: &str = "is an error";

/// One backend.
#[derive(Debug)]
pub struct Backend {
    alias: String,
    limits: Timeouts,
    /// Lists that are read at once for clients of this backend alone.
    lists: Semaphore,
    transport: Transport,
    changes: Arc<Changes>,
    /// The shared legacy session of an HTTP backend, until the backend does not go on with it.
    shared: tokio::sync::Mutex<Option<Arc<UpstreamConnection>>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

#[derive(Debug)]
enum Transport {
    Stdio(Box<StdioBackend>),
    Http(Arc<Endpoint>),
}

/// A tool, resource, template or prompt as its backend lists it.
#[derive(Clone, Debug)]
pub struct Item {
    /// Its name, or its URI.
    pub name: String,
    /// The whole object, as it came.
    pub json: String,
}

/// Lists of one backend that are read at once. *Chosen*: more only wait for each other there.
const LISTS_MAX: usize = 32;

/// What is listed: the method, and which member of an item names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum List {
    /// Tools.
    Tools,
    /// Resources.
    Resources,
    /// Resource templates.
    Templates,
    /// Prompts.
    Prompts,
}

/// The tools that were last listed at the shared conversation, until the backend says that they changed.
#[derive(Debug)]
struct Changes {
    alias: String,
    tools: Mutex<Option<Arc<[Item]>>>,
    told: broadcast::Sender<Change>,
}

impl List {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Tools, Self::Resources, Self::Templates, Self::Prompts];

    /// The method that lists them.
    #[must_use]
    pub fn method(self) -> &'static str {
        match self {
            Self::Tools => "tools/list",
            Self::Resources => "resources/list",
            Self::Templates => "resources/templates/list",
            Self::Prompts => "prompts/list",
        }
    }

    /// The list that a method asks for.
    #[must_use]
    pub fn of_method(method: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|list| list.method() == method)
    }

    /// The member of the result that holds them.
    #[must_use]
    pub fn member(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::Resources => "resources",
            Self::Templates => "resourceTemplates",
            Self::Prompts => "prompts",
        }
    }

    /// The member of an item that names it.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::Tools | Self::Prompts => "name",
            Self::Resources => "uri",
            Self::Templates => "uriTemplate",
        }
    }
}

impl Changes {
    fn known(&self) -> Option<Arc<[Item]>> {
        self.tools.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, tools: Option<Arc<[Item]>>) {
        *self.tools.lock().unwrap_or_else(PoisonError::into_inner) = tools;
    }
}

impl ServerMessageHandler for Changes {
    fn on_event(&self, event: Event) -> bool {
        if event.method == "notifications/tools/list_changed" {
            self.set(None);
        }
        let is_note = event.id.is_none();
        if is_note && event.method.ends_with("/list_changed") {
            // Nobody listens where nobody has subscribed.
            self.told.send(Change { alias: self.alias.clone(), method: event.method }).ok();
        }
        is_note
    }
}

impl Backend {
    /// Nothing is started or reached yet.
    ///
    /// # Errors
    /// [`EndpointFault`]: a credential or certificate cannot be read.
    pub(super) fn new(
        alias: &str,
        config: &config::Backend,
        tasks: TaskTracker,
        stop: CancellationToken,
        told: broadcast::Sender<Change>,
    ) -> Result<Self, EndpointFault> {
        let changes = Arc::new(Changes { alias: alias.to_owned(), tools: Mutex::default(), told });
        let transport = match Endpoint::new(alias, config)? {
            Some(endpoint) => Transport::Http(Arc::new(endpoint)),
            None => Transport::Stdio(Box::new(StdioBackend::new(
                alias,
                config,
                Arc::clone(&changes) as Arc<dyn ServerMessageHandler>,
            ))),
        };
        Ok(Self {
            alias: alias.to_owned(),
            limits: Timeouts { idle: config.idle_timeout, total: config.call_timeout },
            lists: Semaphore::new(LISTS_MAX),
            transport,
            changes,
            shared: tokio::sync::Mutex::default(),
            tasks,
            stop,
        })
    }

    /// Its alias.
    #[must_use]
    pub fn alias(&self) -> &str {
        &self.alias
    }

    /// Keeps the shared child running until the gateway stops; an HTTP backend runs by itself.
    pub(super) async fn supervise(self: Arc<Self>) {
        if let Transport::Stdio(stdio) = &self.transport {
            stdio.supervise(self.stop.clone()).await;
        }
    }

    /// Whether it answers now, as far as is known.
    #[must_use]
    pub fn is_up(&self) -> bool {
        match &self.transport {
            Transport::Stdio(stdio) => stdio.is_up(),
            Transport::Http(_) => self.modern().is_some(),
        }
    }

    /// Whether it speaks the stateless era; asks it where that is not known.
    ///
    /// # Errors
    /// [`CallError`]: it cannot be asked.
    pub async fn speaks_modern(&self) -> Result<bool, CallError> {
        match &self.transport {
            Transport::Stdio(stdio) => Ok(stdio.shared_child().await?.era() == Era::Modern),
            Transport::Http(endpoint) => endpoint.speaks_modern().await,
        }
    }

    /// Whether it speaks the stateless era, as far as is known.
    #[must_use]
    pub fn modern(&self) -> Option<bool> {
        match &self.transport {
            Transport::Stdio(stdio) => stdio.is_modern(),
            Transport::Http(endpoint) => endpoint.is_modern(),
        }
    }

    /// Whether a tool is looked up in its list before it is called without a session. A stateless backend over HTTP says
    /// by itself what it has, and a list of it costs a request.
    #[must_use]
    pub fn is_looked_up(&self) -> bool {
        matches!(self.transport, Transport::Stdio(_)) || self.modern() != Some(true)
    }

    /// The conversation for requests without a session.
    ///
    /// # Errors
    /// [`CallError`]: the backend cannot be reached, or not in the time that a call may take.
    pub async fn shared(&self) -> Result<Arc<UpstreamConnection>, CallError> {
        // Boxed: every call's future has room for it.
        Box::pin(self.in_time(Instant::now(), self.shared_or_opened())).await
    }

    async fn shared_or_opened(&self) -> Result<Arc<UpstreamConnection>, CallError> {
        match &self.transport {
            Transport::Stdio(stdio) => {
                Ok(Arc::new(UpstreamConnection::child(&self.alias, stdio.shared_child().await?, self.limits, None)))
            }
            Transport::Http(endpoint) => {
                if self.speaks_modern().await? {
                    return Ok(Arc::new(UpstreamConnection::remote(&self.alias, Arc::new(endpoint.modern()))));
                }
                let mut shared = self.shared.lock().await;
                if let Some(connection) = shared.as_ref().filter(|connection| !connection.has_ended()) {
                    return Ok(Arc::clone(connection));
                }
                *shared = None;
                self.changes.set(None);
                let listener = Arc::clone(&self.changes) as Arc<dyn ServerMessageHandler>;
                let opened = endpoint.open(&crate::upstream::message::own_initialize_params(), Some(listener)).await;
                if is_refused(&opened) {
                    endpoint.forget_era();
                }
                let (remote, answer) = opened?;
                if let Response::Error { error, .. } = answer {
                    return Err(CallError::Down { reason: format!("it refused to initialize: {error}") });
                }
                remote.send(message::write(None, "notifications/initialized", None)).await?;
                remote.listen();
                let connection = Arc::new(UpstreamConnection::remote(&self.alias, remote));
                *shared = Some(Arc::clone(&connection));
                Ok(connection)
            }
        }
    }

    /// Opens a conversation for one legacy session, as the client's `initialize` asks with `initialize_params`. Gives the backend's
    /// answer too. A backend that speaks the stateless era only is asked who it is instead.
    ///
    /// # Errors
    /// [`CallError`]: it cannot be reached, or it did not come up.
    pub async fn open(
        &self,
        initialize_params: &str,
        listener: Arc<dyn ServerMessageHandler>,
    ) -> Result<(Arc<UpstreamConnection>, Response), CallError> {
        match &self.transport {
            Transport::Stdio(stdio) => {
                let stop = self.stop.child_token();
                let guard = stop.clone().drop_guard();
                let (link, answer) =
                    stdio.start_session_child(initialize_params, Some(listener), stop, &self.tasks).await?;
                if matches!(answer, Response::Error { .. }) && self.speaks_modern().await.unwrap_or(false) {
                    return Box::pin(self.open_modern()).await;
                }
                Ok((Arc::new(UpstreamConnection::child(&self.alias, link, self.limits, Some(guard))), answer))
            }
            Transport::Http(endpoint) => {
                let opened = endpoint.open(initialize_params, Some(listener)).await;
                if is_refused(&opened) {
                    endpoint.forget_era();
                    if endpoint.speaks_modern().await.unwrap_or(false) {
                        return Box::pin(self.open_modern()).await;
                    }
                }
                let (remote, answer) = opened?;
                Ok((Arc::new(UpstreamConnection::remote(&self.alias, remote)), answer))
            }
        }
    }

    /// What `initialize` would answer, from what a stateless backend says of itself.
    async fn open_modern(&self) -> Result<(Arc<UpstreamConnection>, Response), CallError> {
        let connection = self.shared().await?;
        let found = connection.request(&Request::new(DISCOVER, Some(&discover_params()))).await?;
        let Response::Result(found) = found else { return Ok((connection, found)) };
        let members = json::members(&found).unwrap_or_default();
        let find = |key: &str| members.iter().find(|member| member.key == key).map(|member| member.value.get());
        let meta = find("_meta").and_then(json::members).unwrap_or_default();
        let info = meta.iter().find(|member| member.key == "io.modelcontextprotocol/serverInfo");
        let version = json::quoted(LEGACY_LATEST);
        let alias = json::object([("name", json::quoted(&self.alias).as_str()), ("version", "\"\"")]);
        let mut result = vec![
            ("protocolVersion", version.as_str()),
            ("capabilities", find("capabilities").unwrap_or("{}")),
            ("serverInfo", info.map_or(alias.as_str(), |info| info.value.get())),
        ];
        result.extend(find("instructions").map(|text| ("instructions", text)));
        Ok((connection, Response::Result(json::object(result))))
    }

    /// Runs `work` to its end, or to the gateway's, also where nobody waits for it any more.
    ///
    /// # Errors
    /// [`CallError`], of `work`, or since the gateway stops.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, CallError>> + Send + 'static,
    ) -> Result<T, CallError> {
        let stop = self.stop.clone();
        let work = async move { stop.run_until_cancelled(work).await.unwrap_or(Err(CallError::Stopped)) };
        self.tasks.spawn(work).await.unwrap_or(Err(CallError::Died))
    }

    /// Waits for `work`, which began `begun`, no longer than a call may take.
    ///
    /// # Errors
    /// [`CallError`], of `work` or for want of time.
    pub async fn in_time<T>(
        &self,
        begun: Instant,
        work: impl Future<Output = Result<T, CallError>>,
    ) -> Result<T, CallError> {
        let total = self.limits.total;
        tokio::time::timeout_at(begun + total, work).await.unwrap_or(Err(CallError::TimedOut { after: total }))
    }

    /// Waits for a turn to read one page of a list, and reads it by `read`: one backend that does not answer holds up nobody
    /// else's lists.
    ///
    /// # Errors
    /// [`CallError`], of `read` or for want of time.
    pub async fn one_page<T>(&self, read: impl Future<Output = Result<T, CallError>>) -> Result<T, CallError> {
        let timeout = LIST_TIMEOUT.min(self.limits.total);
        let work = async {
            // I6: few lists are read at once. The semaphore is never closed.
            let _turn = self.lists.acquire().await.ok();
            read.await
        };
        tokio::time::timeout(timeout, work).await.unwrap_or(Err(CallError::TimedOut { after: timeout }))
    }

    /// Reads all pages of a list.
    ///
    /// # Errors
    /// [`CallError`]: down, or [`CallError::List`] where pages do not end or an item has no name.
    pub async fn list(&self, connection: &UpstreamConnection, list: List) -> Result<Arc<[Item]>, CallError> {
        let (mut items, mut bytes, mut cursors) = (Vec::new(), 0_usize, Vec::<String>::new());
        for _ in 0..LIST_PAGES_MAX {
            let params = cursors.last().map(|cursor| json::object([("cursor", json::quoted(cursor).as_str())]));
            let params = adapted(Era::Legacy, connection.era(), params.as_deref());
            let request = Request::new(list.method(), params.as_deref());
            let timeout = LIST_TIMEOUT.min(self.limits.total);
            let answer = tokio::time::timeout(timeout, connection.request(&request)).await;
            let page = match answer.unwrap_or(Err(CallError::TimedOut { after: timeout }))? {
                Response::Result(result) => result,
                Response::Error { .. } => return Err(CallError::List { fault: NOT_OFFERED }),
            };
            bytes = bytes.saturating_add(page.len());
            if bytes > LIST_BYTES_MAX {
                return Err(CallError::List { fault: "is too long" });
            }
            let (found, next) = read_page(&page, list)?;
            items.extend(found);
            let Some(cursor) = next else { return Ok(items.into()) };
            if cursors.contains(&cursor) {
                return Err(CallError::List { fault: "comes back to a page it had" });
            }
            cursors.push(cursor);
        }
        Err(CallError::List { fault: "has too many pages" })
    }

    /// All tools of the shared conversation, remembered until the backend says that they changed.
    ///
    /// # Errors
    /// As for [`Backend::list`].
    pub async fn tools(&self) -> Result<Arc<[Item]>, CallError> {
        let tools = self.list(&*self.shared().await?, List::Tools).await?;
        self.changes.set(Some(Arc::clone(&tools)));
        Ok(tools)
    }

    /// Whether it has a tool: `Some(false)` only where its list was read just now and lacks it.
    pub async fn has_tool(&self, tool: &str) -> Option<bool> {
        if self.changes.known().is_some_and(|tools| tools.iter().any(|known| known.name == tool)) {
            return Some(true);
        }
        Some(self.tools().await.ok()?.iter().any(|known| known.name == tool))
    }
}

/// Whether `initialize` was refused in a way that says that the older era is not spoken.
fn is_refused<T>(opened: &Result<(T, Response), CallError>) -> bool {
    match opened {
        Ok((_, answer)) => matches!(answer, Response::Error { .. }),
        Err(CallError::Http { status }) => super::http::refuses(*status),
        Err(_) => false,
    }
}

/// A page's items and its `nextCursor`.
///
/// # Errors
/// [`CallError::List`].
pub fn read_page(page: &str, list: List) -> Result<(Vec<Item>, Option<String>), CallError> {
    let members = json::members(page).ok_or(CallError::Garbled)?;
    let find = |key: &str| members.iter().find(|member| member.key == key).map(|member| member.value);
    let found = find(list.member()).ok_or(CallError::List { fault: "has no such member" })?;
    let found: Vec<&serde_json::value::RawValue> =
        serde_json::from_str(found.get()).map_err(|_| CallError::List { fault: "is no list" })?;
    let mut items = Vec::with_capacity(found.len());
    for item in found {
        let members = json::members(item.get()).unwrap_or_default();
        let name =
            members.iter().find(|member| member.key == list.key()).and_then(|member| json::raw_string(member.value));
        let name = name.ok_or(CallError::List { fault: "has an item without a name" })?;
        items.push(Item { name, json: item.get().to_owned() });
    }
    Ok((items, find("nextCursor").and_then(json::raw_string)))
}

/// Parameters of one era, for a backend of another: the stateless era's own keys in `_meta` are added or left out.
#[must_use]
pub fn adapted(from: Era, to: Era, params: Option<&str>) -> Option<String> {
    let meta = || {
        let members = params.and_then(json::members).unwrap_or_default();
        members.iter().find(|member| member.key == "_meta").map(|member| member.value.get().to_owned())
    };
    match (from, to) {
        (Era::Legacy, Era::Modern) => {
            let meta = modern_meta(meta().as_deref().unwrap_or("{}"));
            Some(json::with_members(params.unwrap_or("{}"), &[("_meta", &meta)]))
        }
        (Era::Modern, Era::Legacy) => {
            let params = params?;
            let members = json::members(params).unwrap_or_default();
            let meta = meta().and_then(|meta| without_protocol(&meta));
            let kept = members.iter().filter_map(|member| match (member.key.as_str(), &meta) {
                ("_meta", None) => None,
                ("_meta", Some(meta)) => Some(("_meta", meta.as_str())),
                (key, _) => Some((key, member.value.get())),
            });
            Some(json::object(kept))
        }
        _ => params.map(str::to_owned),
    }
}

/// `meta` without the protocol's own keys; `None` where nothing is left.
fn without_protocol(meta: &str) -> Option<String> {
    let members = json::members(meta)?;
    let kept: Vec<_> = members
        .iter()
        .filter(|member| !member.key.starts_with(crate::mcp::protocol::META_PREFIX))
        .map(|member| (member.key.as_str(), member.value.get()))
        .collect();
    (!kept.is_empty()).then(|| json::object(kept))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_carried_between_the_eras() {
        let modern = adapted(Era::Legacy, Era::Modern, Some(r#"{"name": "x","_meta":{"progressToken":1}}"#)).unwrap();
        assert!(
            modern.contains("\"2026-07-28\"") && modern.contains(r#""progressToken":1"#) && modern.contains(r#""x""#)
        );
        let legacy = adapted(Era::Modern, Era::Legacy, Some(&modern)).unwrap();
        assert!(!legacy.contains("modelcontextprotocol") && legacy.contains(r#""progressToken":1"#), "{legacy}");
        let bare = adapted(Era::Modern, Era::Legacy, adapted(Era::Legacy, Era::Modern, None).as_deref());
        assert_eq!(bare.as_deref(), Some("{}"));
        let same = Some(r#"{ "a":1 }"#);
        assert_eq!(adapted(Era::Legacy, Era::Legacy, same).as_deref(), same);
    }

    #[test]
    fn a_page_gives_items_with_their_bytes() {
        let page = r#"{"resources":[{"uri":"a:b", "x": 1.0}],"nextCursor":"n"}"#;
        let (items, next) = read_page(page, List::Resources).unwrap();
        assert_eq!((items[0].name.as_str(), items[0].json.as_str()), ("a:b", r#"{"uri":"a:b", "x": 1.0}"#));
        assert_eq!(next.as_deref(), Some("n"));
        assert!(read_page(page, List::Tools).is_err() && read_page(r#"{"tools":[{}]}"#, List::Tools).is_err());
    }
}
