//! Calls with `Mcp-Param-*` headers that the gateway makes, for clients that cannot send them.
//!
//! *Spec*, "Custom Headers from Tool Parameters": a stateless backend may require some parameters of a tool in headers
//! too. It rejects a call without them, with 400 and -32020, before it does anything. Most backends require none, so
//! the tools are not listed before the first such rejection. After it, the tools that require headers are remembered
//! until the next rejection.

use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderMap;

use crate::mcp::json::{self, Object};
use crate::mcp::lines::LINE_BYTES_MAX;
use crate::mcp::protocol::{Era, HEADER_MISMATCH, TOOLS_CALL};
use crate::upstream::error::CallError;
use crate::upstream::message::{self, Request, Response};

use super::connection::HttpConnection;
use super::param_headers::{ParamHeaders, read_tools};

/// Longest time to read all pages of the list of tools. *Chosen*: a call waits for it.
const LIST_TIMEOUT: Duration = Duration::from_secs(30);

/// Most pages of the list. *Chosen*: as for every list.
const PAGES_MAX: usize = 100;

/// Returns whether the backend rejected a call because of its headers, before it did anything.
fn is_header_rejection(answer: &Result<Response, CallError>) -> bool {
    let Ok(Response::Error { error, http: Some(400) }) = answer else { return false };
    message::error_code(error) == Some(HEADER_MISMATCH)
}

impl HttpConnection {
    /// The headers for the parameters of `request`, as far as the requirements of its tool are known. `None`: the
    /// gateway does not make headers for this request.
    pub(super) fn mirrored_headers(&self, request: &Request<'_>) -> Option<HeaderMap> {
        if self.era != Era::Modern || !request.mirrors || request.method != TOOLS_CALL || !request.headers.is_empty() {
            return None;
        }
        let tool = request.name.as_deref()?;
        let required = self.endpoint.param_headers.lock().get(tool).map(Arc::clone);
        let Some(required) = required else { return Some(HeaderMap::new()) };
        let params = request.params.as_deref().and_then(|params| Object::parse_path(params, &["arguments"]));
        let arguments = params.as_ref().and_then(|params| params.object("arguments"));
        let Some(arguments) = arguments else { return Some(HeaderMap::new()) };
        Some(required.iter().filter_map(|param| param.header(&arguments)).collect())
    }

    /// Makes one request with `headers`, and makes it again if the backend rejects these and requires others.
    ///
    /// # Errors
    /// [`CallError`].
    pub(super) async fn request_with_mirrored_headers(
        self: &Arc<Self>,
        request: &Request<'_>,
        headers: HeaderMap,
    ) -> Result<Response, CallError> {
        let answer = self.request_in_session(&request.with_headers(headers.clone())).await;
        if !is_header_rejection(&answer) || self.update_param_headers().await.is_err() {
            return answer;
        }
        let required = self.mirrored_headers(request).unwrap_or_default();
        if required == headers {
            return answer;
        }
        // The backend has not processed the request, so it can be sent again.
        self.request_in_session(&request.with_headers(required)).await
    }

    /// Reads from the list of tools which of them require parameters in headers.
    ///
    /// # Errors
    /// [`CallError`]; the previous requirements stay.
    async fn update_param_headers(self: &Arc<Self>) -> Result<(), CallError> {
        let read = tokio::time::timeout(LIST_TIMEOUT, self.read_param_headers()).await;
        let found = read.unwrap_or(Err(CallError::TimedOut { after: LIST_TIMEOUT }))?;
        *self.endpoint.param_headers.lock() = found;
        Ok(())
    }

    async fn read_param_headers(self: &Arc<Self>) -> Result<ParamHeaders, CallError> {
        let (mut found, mut bytes, mut cursor) = (ParamHeaders::new(), 0_usize, None::<String>);
        for _ in 0..PAGES_MAX {
            let meta = message::modern_meta(&Object::default());
            let quoted = cursor.as_deref().map(json::quoted);
            let members = [("_meta", Some(meta.as_str())), ("cursor", quoted.as_deref())];
            let params = json::object(members.into_iter().filter_map(|(key, value)| Some((key, value?))));
            let page = match self.request_without_session(&Request::new("tools/list", Some(params.into()))).await? {
                Response::Result(page) => page,
                Response::Error { .. } => return Err(CallError::List { fault: "it is an error response" }),
            };
            bytes = bytes.saturating_add(page.text().len());
            // I6: a part of the pages is remembered, and the pages are bounded.
            if bytes > LINE_BYTES_MAX {
                return Err(CallError::List { fault: "it is too long" });
            }
            cursor = read_tools(page.text(), &mut found)?;
            if cursor.is_none() {
                return Ok(found);
            }
        }
        Err(CallError::List { fault: "it has too many pages" })
    }
}
