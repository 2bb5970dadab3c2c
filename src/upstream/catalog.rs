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
use crate::mcp::methods::List;
use crate::mcp::protocol::Era;

use super::backend::{Backend, Transport};
use super::conversations::Owner;
use super::definitions::DefinitionChanges;
use super::error::CallError;
use super::http::{HeaderParam, contradicted, of_tool};
use super::known_names::READ_TIMEOUT;
use super::list::{Item, Page, read_page};

/// Longest time that a call waits for the list that has its tool's definition. *Chosen*: a list takes milliseconds, and
/// a backend that answers no lists delays one call in [`DEFINITIONS_KEPT`].
const DEFINITIONS_TIMEOUT: Duration = Duration::from_secs(2);

/// The time after which a list that did not have a tool, or could not be read, is read again for its definition.
/// *Chosen*: as for names; a call of a tool that is never listed does not cost a list each time.
const DEFINITIONS_KEPT: Duration = Duration::from_secs(10);

impl Backend {
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

    /// The number of items that were left out of the backend's lists.
    #[must_use]
    pub fn items_omitted(&self) -> u64 {
        self.items_omitted.load(Ordering::Relaxed)
    }

    /// The name of the first `Mcp-Param-*` header in `headers` that contradicts the `arguments` of a call of `tool`. A
    /// header that the tool's schema does not mirror contradicts nothing.
    pub async fn contradicted_header(
        &self,
        tool: &str,
        arguments: Option<&str>,
        headers: &HeaderMap,
    ) -> Option<String> {
        let params = self.in_time(Instant::now(), async { Ok(self.header_params(tool).await) }).await.ok()??;
        contradicted(&params, arguments, headers).map(ToString::to_string)
    }

    async fn header_params(&self, tool: &str) -> Option<Arc<[HeaderParam]>> {
        if let Transport::Http(endpoint) = &self.transport
            && endpoint.speaks_modern().await.ok()?
        {
            return Arc::new(endpoint.stateless_connection()).header_params(tool).await;
        }
        let known = self.list_changes.tools();
        let tools = match known {
            Some(tools) => tools,
            None => self.tools().await.ok()?,
        };
        of_tool(&tools.iter().find(|known| known.name == tool)?.json)
    }

    /// Takes up the definitions of tools that were listed on `connection` for the `owner`. `is_whole`: they are all
    /// tools.
    pub fn tools_listed(&self, connection_era: Era, owner: impl FnOnce() -> Owner, tools: &[Item], is_whole: bool) {
        // Only a server of the stateless era answers all callers in one way.
        let owner = (connection_era == Era::Legacy).then(owner);
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
            *missed_at = tools.is_none_or(|tools| !has_tool(&tools)).then(Instant::now);
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
        let read = async { self.list(&*self.shared().await?, list).await };
        let items = tokio::time::timeout(READ_TIMEOUT, read).await.ok().and_then(Result::ok);
        self.known_names.set(list, items.as_deref());
        if let Some(tools) = items.as_deref().filter(|_| list == List::Tools) {
            self.definitions.listed(None, tools, true);
        }
        items.is_some_and(is_listed)
    }
}
