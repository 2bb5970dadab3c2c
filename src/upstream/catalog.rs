//! The contents of a backend's lists: the items of a page, the names that exist, and the parameters that tools require
//! in headers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::http::HeaderMap;
use tokio::time::Instant;

use crate::audit::record::Digest;
use crate::mcp::json::Object;
use crate::mcp::lines::LINE_BYTES_MAX;
use crate::mcp::methods::List;
use crate::mcp::params::Params;
use crate::mcp::protocol::Era;

use super::backend::{Backend, Transport};
use super::connection::UpstreamConnection;
use super::conversations::Owner;
use super::definitions::DefinitionChanges;
use super::era_params::forwarded;
use super::error::CallError;
use super::http::{HeaderParam, contradicted, of_tool};
use super::known_names::READ_TIMEOUT;
use super::list::{Collector, Item, Items, NOT_OFFERED, Page, read_page};
use super::message::{Request, Response};
use super::oauth::CallerToken;

/// Most pages of a list. *Chosen*: some servers have one item on a page.
const LIST_PAGES_MAX: usize = 1000;

/// Most bytes of all pages of a list. *Chosen*: as for one line.
const LIST_BYTES_MAX: usize = LINE_BYTES_MAX;

/// The longest time that one backend may delay what a client asks of all backends. *Chosen*: a client has its list
/// within 5 s; a stdio server that is starting takes 1 to 3 s.
const PATIENCE: Duration = Duration::from_secs(4);

/// The same for a backend that was late and has not answered a list since. *Chosen*: long for a server that works,
/// short for a client. Clients hear of the backend when it answers.
const PATIENCE_WHEN_LATE: Duration = Duration::from_millis(250);

/// Longest time for one page of a list. *Chosen*: most servers have static lists, and a client waits for the answer.
const LIST_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest time that a call waits for the list that has its tool's definition. *Chosen*: a list takes milliseconds, and
/// a backend that answers no lists delays one call in [`DEFINITIONS_KEPT`].
const DEFINITIONS_TIMEOUT: Duration = Duration::from_secs(2);

/// The time after which a list that did not have a tool, or could not be read, is read again for its definition.
/// *Chosen*: as for names; a call of a tool that is never listed does not cost a list each time.
const DEFINITIONS_KEPT: Duration = Duration::from_secs(10);

impl Backend {
    /// Runs `read`, which reads one page of a list, when few enough others are being read from this backend. A backend
    /// that does not answer does not delay the lists of others.
    ///
    /// # Errors
    /// The error of `read`, or [`CallError::TimedOut`].
    pub async fn one_page<T>(&self, read: impl Future<Output = Result<T, CallError>>) -> Result<T, CallError> {
        let timeout = LIST_TIMEOUT.min(self.timeouts.total);
        let work = async {
            // I6: the number of concurrent reads is bounded. The semaphore is never closed.
            let _permit = self.list_permits.acquire().await.ok();
            read.await
        };
        tokio::time::timeout(timeout, work).await.unwrap_or(Err(CallError::TimedOut { after: timeout }))
    }

    /// The longest time that the backend may delay what a client asks of all backends.
    #[must_use]
    pub fn patience(&self) -> Duration {
        if self.is_late.load(Ordering::Relaxed) { PATIENCE_WHEN_LATE } else { PATIENCE }
    }

    /// Remembers that the backend did not answer a list in time. Nothing changes if the gateway does not look at the
    /// backend by itself: nothing would show that it answers again.
    pub fn set_late(&self) {
        self.is_late.store(self.probe_interval.is_some(), Ordering::Relaxed);
    }

    /// Reads all pages of a list. If a later page cannot be read, the earlier ones are kept. `caller` is the token of
    /// the caller that asks, if the `connection` is used on its behalf.
    ///
    /// # Errors
    /// [`CallError`]: the first page cannot be read, or the backend does not offer the list.
    pub async fn list(
        &self,
        connection: &UpstreamConnection,
        caller: Option<&Arc<CallerToken>>,
        list: List,
    ) -> Result<Items, CallError> {
        self.list_until(connection, caller, list, None).await
    }

    /// The same, without the pages that are not there at the `deadline`.
    ///
    /// # Errors
    /// As for [`Backend::list`]. [`CallError::TimedOut`]: the first page was not there.
    pub async fn list_until(
        &self,
        connection: &UpstreamConnection,
        caller: Option<&Arc<CallerToken>>,
        list: List,
        deadline: Option<Instant>,
    ) -> Result<Items, CallError> {
        if !connection.greeting().offer.has_list(list) {
            return Err(CallError::List { fault: NOT_OFFERED });
        }
        let (mut read, mut bytes, mut cursor) = (Collector::default(), 0_usize, None::<String>);
        for _ in 0..LIST_PAGES_MAX {
            let next = {
                let params = cursor.as_deref().map(|cursor| Params::own(&[("cursor", cursor)])).unwrap_or_default();
                let params = forwarded(&params, connection.era(), None, None);
                let request = Request::new(list.method(), params).on_behalf_of(caller);
                self.page(connection, &request, deadline).await
            };
            let added = next.and_then(|page| {
                bytes = bytes.saturating_add(page.text().len());
                if bytes > LIST_BYTES_MAX {
                    return Err(CallError::List { fault: "it is too long" });
                }
                let page = self.read_page(&page, list)?;
                read.add(page).map_err(|fault| CallError::List { fault })
            });
            if added.is_ok() {
                self.is_late.store(false, Ordering::Relaxed);
            }
            cursor = match added {
                Ok(None) => return Ok(read.finish(true)),
                Ok(next) => next,
                Err(error) if read.is_empty() => return Err(error),
                Err(error) => {
                    let (backend, list) = (&self.alias, list.method());
                    tracing::warn!(backend, list, %error, "a later page cannot be read; the list ends before it");
                    return Ok(read.finish(false));
                }
            };
        }
        tracing::warn!(backend = self.alias, list = list.method(), LIST_PAGES_MAX, "a list has too many pages; cut it");
        Ok(read.finish(false))
    }

    async fn page(
        &self,
        connection: &UpstreamConnection,
        request: &Request<'_>,
        deadline: Option<Instant>,
    ) -> Result<Object<'static>, CallError> {
        let mut timeout = LIST_TIMEOUT.min(self.timeouts.total);
        if let Some(deadline) = deadline {
            timeout = timeout.min(deadline.saturating_duration_since(Instant::now()));
        }
        let answer = tokio::time::timeout(timeout, connection.request(request)).await;
        match answer.unwrap_or(Err(CallError::TimedOut { after: timeout }))? {
            Response::Result(result) => Ok(result),
            Response::Error { .. } => Err(CallError::List { fault: NOT_OFFERED }),
        }
    }

    /// Reads all tools on the shared connection, and remembers them until the backend reports a change.
    ///
    /// # Errors
    /// As for [`Backend::list`].
    pub async fn tools(&self) -> Result<Items, CallError> {
        let tools = self.list(&*self.shared().await?, None, List::Tools).await?;
        self.definitions.listed(None, &tools.items, tools.is_whole);
        self.list_changes.set_tools(Some(Arc::clone(&tools.items)));
        Ok(tools)
    }

    /// Returns whether the backend has a tool, for everyone or in the conversation of `owner`. `Some(false)` means that
    /// the list has just been read; `None`, that it cannot be read, or not to its end.
    pub async fn has_tool(&self, tool: &str, owner: impl FnOnce() -> Owner) -> Option<bool> {
        let has = |tools: &[Item]| tools.iter().any(|known| known.name == tool);
        if self.list_changes.tools().is_some_and(|tools| has(&tools)) {
            return Some(true);
        }
        let tools = self.tools().await.ok()?;
        if has(&tools.items) {
            return Some(true);
        }
        let owner = owner();
        let Some(connection) = self.open_conversation_of(|| owner.clone()) else { return tools.lacks_item() };
        let tools = self.list(&connection, None, List::Tools).await.ok()?;
        self.definitions.listed(Some(&owner), &tools.items, tools.is_whole);
        if has(&tools.items) { Some(true) } else { tools.lacks_item() }
    }

    /// Reads one page of a list. Items that are left out are counted and logged.
    ///
    /// # Errors
    /// [`CallError::List`]: the page cannot be read.
    pub fn read_page(&self, page: &Object<'_>, list: List) -> Result<Page, CallError> {
        let page = read_page(page, list)?;
        if let Some(reason) = page.reason {
            self.items_omitted.fetch_add(page.omitted as u64, Ordering::Relaxed);
            let (backend, list, count) = (&self.alias, list.method(), page.omitted);
            tracing::warn!(backend, list, count, reason, "items of a backend's list omitted");
        }
        Ok(page)
    }

    /// The tools that the backend listed last to everyone, unless they have changed since.
    #[must_use]
    pub fn known_tools(&self) -> Option<Arc<[Item]>> {
        self.list_changes.tools()
    }

    /// The number of items that were left out of the backend's lists.
    #[must_use]
    pub fn items_omitted(&self) -> u64 {
        self.items_omitted.load(Ordering::Relaxed)
    }

    /// The name of the first `Mcp-Param-*` header in `headers` that contradicts the `arguments` of a call of `tool`. A
    /// header that the tool's schema does not mirror contradicts nothing. The schema is the one that is listed to the
    /// `owner`; `caller` is the owner's token, if the backend is called on its behalf.
    pub async fn contradicted_header(
        self: &Arc<Self>,
        tool: &str,
        arguments: Option<&str>,
        headers: &HeaderMap,
        owner: impl FnOnce() -> Owner,
        caller: Option<&Arc<CallerToken>>,
    ) -> Option<String> {
        let read = async { Ok(self.header_params(tool, owner, caller).await) };
        let params = self.in_time(Instant::now(), read).await.ok()??;
        contradicted(&params, arguments, headers).map(ToString::to_string)
    }

    async fn header_params(
        self: &Arc<Self>,
        tool: &str,
        owner: impl FnOnce() -> Owner,
        caller: Option<&Arc<CallerToken>>,
    ) -> Option<Arc<[HeaderParam]>> {
        if let Transport::Http(endpoint) = &self.transport
            && endpoint.speaks_modern(caller).await.ok()?
        {
            return Arc::new(endpoint.stateless_connection(caller)).header_params(tool, caller).await;
        }
        let tools = match (caller, self.list_changes.tools()) {
            (Some(_), _) => {
                let connection = self.conversation(owner, caller).await.ok()?;
                self.list(&connection, caller, List::Tools).await.ok()?.items
            }
            (None, Some(tools)) => tools,
            (None, None) => self.tools().await.ok()?.items,
        };
        of_tool(&tools.iter().find(|known| known.name == tool)?.json)
    }

    /// Takes up the definitions of tools that were listed on `connection` for the `owner`. `is_whole`: they are all
    /// tools.
    pub fn tools_listed(&self, connection_era: Era, owner: impl FnOnce() -> Owner, tools: &[Item], is_whole: bool) {
        // Only a server of the stateless era answers all callers in one way, unless it knows who they are.
        let owner = (connection_era == Era::Legacy || self.is_on_behalf()).then(owner);
        self.definitions.listed(owner.as_ref(), tools, is_whole);
    }

    /// The digest of the definition of `tool` as it was last listed to the `owner`, otherwise to everyone. Tools that
    /// were never listed on the shared connection, or not since they changed, are listed first. `None`: the tool is not
    /// listed, or the list cannot be read.
    pub async fn tool_digest(&self, tool: &str, owner: &Owner) -> Option<Digest> {
        let known = self.definitions.digest(owner, tool);
        if known.is_some() && self.list_changes.tools().is_some() {
            return known;
        }
        let has_tool = |tools: &[Item]| tools.iter().any(|known| known.name == tool);
        // One at a time: those who wait find the list of the first.
        let mut missed_at = self.definitions_missed_at.lock().await;
        let is_current = self.list_changes.tools().is_some_and(|tools| has_tool(&tools));
        if !is_current && missed_at.is_none_or(|at| at.elapsed() >= DEFINITIONS_KEPT) {
            let tools = tokio::time::timeout(DEFINITIONS_TIMEOUT, self.tools()).await.ok().and_then(Result::ok);
            *missed_at = tools.is_none_or(|tools| !has_tool(&tools.items)).then(Instant::now);
        }
        drop(missed_at);
        self.definitions.digest(owner, tool)
    }

    /// The definitions of the tools that were last listed to everyone.
    #[must_use]
    pub fn definitions(&self) -> BTreeMap<String, Digest> {
        self.definitions.shared()
    }

    /// Takes the changes of definitions since the last time, if there are any.
    #[must_use]
    pub fn take_definition_changes(&self) -> Option<DefinitionChanges> {
        self.definitions.take_changes()
    }

    /// Returns whether the backend lists `name`, as far as it is known. `reads`: the list is read if that was not done
    /// in the last seconds.
    pub async fn lists(&self, list: List, name: &str, reads: bool) -> bool {
        let is_listed = |tools: Arc<[Item]>| tools.iter().any(|known| known.name == name);
        if list == List::Tools && self.list_changes.tools().is_some_and(is_listed) {
            return true;
        }
        if let Some(known) = self.known_names.has(list, name) {
            return known;
        }
        if !reads {
            return false;
        }
        let read = async { self.list(&*self.shared().await?, None, list).await };
        let items = tokio::time::timeout(READ_TIMEOUT, read).await.ok().and_then(Result::ok);
        self.known_names.set(list, items.as_ref().map(|found| &*found.items));
        if let Some(tools) = items.as_ref().filter(|_| list == List::Tools) {
            self.definitions.listed(None, &tools.items, tools.is_whole);
        }
        items.is_some_and(|found| is_listed(found.items))
    }
}
