//! Calls with `Mcp-Param-*` headers. The gateway makes them from the arguments that were authorized, for every client;
//! a client's own are compared with these ([`super::param_headers`]) and not forwarded.
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
use crate::upstream::oauth::CallerToken;

use super::connection::HttpConnection;
use super::param_headers::{HeaderParam, ParamHeaders, read_tools};

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
    /// Makes one request, with the headers for the parameters that its tool requires in headers, as far as these are
    /// known. If the backend rejects it because of its headers, the requirements are read and it is made again.
    ///
    /// # Errors
    /// [`CallError`].
    ///
    /// # Cancel safety
    /// If the future is dropped, the request is cancelled at the backend.
    pub(in crate::upstream) async fn request(self: &Arc<Self>, request: &Request<'_>) -> Result<Response, CallError> {
        self.take_up(request.caller.as_ref());
        if self.era != Era::Modern || request.method != TOOLS_CALL {
            return self.request_in_session(request).await;
        }
        let made = self.mirrored_headers(request);
        // Boxed: headers are rare, and would make the future of every call larger.
        let answer = match &made {
            None => self.request_in_session(request).await,
            Some(made) => Box::pin(self.request_in_session(&request.with_headers(made))).await,
        };
        if !is_header_rejection(&answer) {
            return answer;
        }
        Box::pin(self.request_again(request, made, answer)).await
    }

    /// The headers for the parameters of `request`, as far as the requirements of its tool are known.
    fn mirrored_headers(&self, request: &Request<'_>) -> Option<HeaderMap> {
        let required = self.endpoint.param_headers.of(request.caller.as_ref(), request.name.as_deref()?)?;
        let params = Object::parse_path(request.params.as_deref()?, &["arguments"])?;
        let arguments = params.object("arguments")?;
        Some(required.iter().filter_map(|param| param.header(&arguments)).collect())
    }

    /// Makes a rejected request again if its tool requires other headers than those that were `made`.
    async fn request_again(
        self: &Arc<Self>,
        request: &Request<'_>,
        made: Option<HeaderMap>,
        answer: Result<Response, CallError>,
    ) -> Result<Response, CallError> {
        if self.update_param_headers(request.caller.as_ref()).await.is_err() {
            return answer;
        }
        let required = self.mirrored_headers(request);
        if required.as_ref().is_none_or(HeaderMap::is_empty) && made.as_ref().is_none_or(HeaderMap::is_empty)
            || required == made
        {
            return answer;
        }
        // The backend has not processed the request, so it can be sent again.
        self.request_in_session(&request.with_headers(&required.unwrap_or_default())).await
    }

    /// The parameters that `tool` requires in headers; reads the list of tools if that has not been done, on behalf of
    /// a `caller` or of the gateway. `None`: it requires none, or the list cannot be read.
    pub(in crate::upstream) async fn header_params(
        self: &Arc<Self>,
        tool: &str,
        caller: Option<&Arc<CallerToken>>,
    ) -> Option<Arc<[HeaderParam]>> {
        if !self.endpoint.param_headers.are_known(caller) {
            self.update_param_headers(caller).await.ok()?;
        }
        self.endpoint.param_headers.of(caller, tool)
    }

    /// Reads from the list of tools which of them require parameters in headers, on behalf of a `caller` or of the
    /// gateway.
    ///
    /// # Errors
    /// [`CallError`]; the previous requirements stay.
    async fn update_param_headers(self: &Arc<Self>, caller: Option<&Arc<CallerToken>>) -> Result<(), CallError> {
        let read = tokio::time::timeout(LIST_TIMEOUT, self.read_param_headers(caller)).await;
        let found = read.unwrap_or(Err(CallError::TimedOut { after: LIST_TIMEOUT }))?;
        self.endpoint.param_headers.set(caller, found);
        Ok(())
    }

    async fn read_param_headers(
        self: &Arc<Self>,
        caller: Option<&Arc<CallerToken>>,
    ) -> Result<ParamHeaders, CallError> {
        let (mut found, mut bytes, mut cursor) = (ParamHeaders::new(), 0_usize, None::<String>);
        for _ in 0..PAGES_MAX {
            let meta = message::modern_meta(&Object::default());
            let quoted = cursor.as_deref().map(json::quoted);
            let members = [("_meta", Some(meta.as_str())), ("cursor", quoted.as_deref())];
            let params = json::object(members.into_iter().filter_map(|(key, value)| Some((key, value?))));
            let request = Request::new("tools/list", Some(params.into())).on_behalf_of(caller);
            let page = match self.request_without_session(&request).await? {
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
