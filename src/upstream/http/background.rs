//! Requests to an HTTP backend that nothing waits for: answers of the gateway itself, cancellations, and the end of a
//! session.

use std::sync::Arc;

use axum::http::{HeaderMap, HeaderValue, header};

use crate::mcp::protocol::Era;
use crate::upstream::error::CallError;
use crate::upstream::message;

use super::connection::{ACCEPT_ANY, HttpConnection, SEND_TIMEOUT};
use super::convert::transport_error;

impl HttpConnection {
    /// Ends the session at the backend, in the background.
    pub(in crate::upstream) fn close(&self) {
        self.ended.cancel();
        if self.era == Era::Modern || self.session().id.is_none() {
            return;
        }
        let request = self.endpoint.client.get().delete(&self.endpoint.url);
        // The session is not used again, even if the backend does not get this.
        self.send_last(request, self.headers(&self.session(), "*/*"));
    }

    /// Cancels the request `id` at the backend, in the background.
    pub(super) fn cancel(&self, id: u64) {
        let (request, headers) = self.message(message::cancelled(id));
        self.send_last(request, headers);
    }

    /// Sends a message in the background.
    pub(super) fn send_in_background(&self, message: String) {
        let (request, headers) = self.message(message);
        self.spawn(request, headers, None);
    }

    fn message(&self, message: String) -> (reqwest::RequestBuilder, HeaderMap) {
        let mut headers = self.headers(&self.session(), ACCEPT_ANY);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        (self.endpoint.client.get().post(&self.endpoint.url).body(message), headers)
    }

    /// Sends what ends a request or the session. It is left out if it would cost another token on behalf of the caller.
    fn send_last(&self, request: reqwest::RequestBuilder, headers: HeaderMap) {
        let kept = self.kept_token();
        if self.is_on_behalf() && kept.is_none() {
            let backend = &self.endpoint.alias;
            tracing::debug!(
                backend,
                "no valid token on behalf of the caller is left; the backend is not told of the end of a request or session"
            );
            return;
        }
        self.spawn(request, headers, kept);
    }

    /// Sends `request` in a task, with the token `kept` or with one that is requested if it is needed.
    fn spawn(&self, request: reqwest::RequestBuilder, mut headers: HeaderMap, kept: Option<HeaderValue>) {
        let (endpoint, caller, conversation) = (Arc::clone(&self.endpoint), self.lasting_caller(), self.sent.clone());
        let send = async move {
            match kept {
                Some(token) => drop(headers.insert(header::AUTHORIZATION, token)),
                None => drop(endpoint.authorize(&mut headers, caller.as_ref()).await?),
            }
            if let Some(conversation) = conversation {
                conversation.add(&endpoint.alias, &headers);
            }
            request.headers(headers).send().await.map_err(transport_error)
        };
        let backend = self.endpoint.alias.clone();
        tokio::spawn(async move {
            let response: Result<Result<_, CallError>, _> = tokio::time::timeout(SEND_TIMEOUT, send).await;
            if !matches!(response, Ok(Ok(_))) {
                tracing::debug!(backend, "could not send a message to the backend; dropped it");
            }
        });
    }
}
