//! The contents of a backend's lists: the items of a page, the names that exist, and the parameters that tools require
//! in headers.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::http::HeaderMap;
use tokio::time::Instant;

use crate::mcp::json::Object;
use crate::mcp::methods::List;

use super::backend::{Backend, Transport};
use super::error::CallError;
use super::http::{HeaderParam, contradicted, of_tool};
use super::known_names::READ_TIMEOUT;
use super::list::{Item, Page, read_page};

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
        items.is_some_and(is_listed)
    }
}
