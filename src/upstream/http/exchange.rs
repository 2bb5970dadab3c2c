//! One request to an HTTP backend and its response, which is a JSON body or an event stream.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::http::{HeaderMap, HeaderName, StatusCode};

use crate::mcp::lines::LINE_BYTES_MAX;
use crate::mcp::protocol::{Era, METHOD_HEADER, NAME_HEADER};
use crate::upstream::error::CallError;
use crate::upstream::frame::Frame;
use crate::upstream::message::{self, Message, Request, Response};
use crate::upstream::oauth::{AccessToken, CallerToken};
use crate::upstream::sent_credentials::SentCredentials;
use crate::upstream::timeouts::{RequestTimer, Timeouts};

use super::connection::{ACCEPT_ANY, HttpConnection, RequestGuard, SEND_TIMEOUT, SESSION, Session};
use super::convert::{header_value, is_event_stream, read_body, with_status};
use super::era::{self, EraEvidence};
use super::lost_session::{self, SessionSign};
use super::sse::{self, ResumePoint};

/// Most attempts to resume a broken response stream without a new event. *Chosen*: enough for a proxy that restarts,
/// and the client does not wait for a backend that has lost the request.
const RESUMES_MAX: u32 = 5;

/// Longest part of a refusal's text that is logged, in bytes. *Chosen*: a sentence.
const REFUSAL_SHOWN_MAX: usize = 200;

/// The failure of one exchange.
enum ExchangeError {
    /// The backend does not know the session, and answered so.
    SessionGone {
        /// The answer, if the request may have been dispatched and must not be sent again.
        answer: Option<Result<Response, CallError>>,
        status: StatusCode,
    },
    Call(CallError),
}

impl From<CallError> for ExchangeError {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

impl From<ExchangeError> for CallError {
    fn from(error: ExchangeError) -> Self {
        match error {
            ExchangeError::SessionGone { status, .. } => Self::Http { status: status.as_u16() },
            ExchangeError::Call(error) => error,
        }
    }
}

impl HttpConnection {
    /// Makes one request, and makes it again only if the backend no longer knows the session.
    pub(super) async fn request_in_session(self: &Arc<Self>, request: &Request<'_>) -> Result<Response, CallError> {
        let (session, mut evidence) = (self.session(), EraEvidence::Consistent);
        let answer = match self.exchange(&session, request, &mut evidence).await {
            Ok(response) => Ok(response),
            Err(ExchangeError::Call(error)) => Err(error),
            Err(ExchangeError::SessionGone { answer, .. }) => {
                let renewed = self.renew_session(&session, request.caller.as_ref()).await;
                if let Some(answer) = answer {
                    answer
                } else {
                    renewed?;
                    evidence = EraEvidence::Consistent;
                    // The backend has refused the request for its session, so it can be sent again.
                    self.exchange(&self.session(), request, &mut evidence).await.map_err(CallError::from)
                }
            }
        };
        if evidence != EraEvidence::Consistent {
            Box::pin(self.act_on_evidence(evidence, request.caller.as_ref())).await;
        }
        answer
    }

    /// Makes one request that belongs to no session. The evidence about the era is ignored: the caller reads the
    /// answer.
    ///
    /// # Errors
    /// As for [`HttpConnection::request`].
    pub(super) async fn request_without_session(
        self: &Arc<Self>,
        request: &Request<'_>,
    ) -> Result<Response, CallError> {
        self.exchange(&Session::default(), request, &mut EraEvidence::Consistent).await.map_err(CallError::from)
    }

    /// Sends one request and reads its response. Sets `evidence` to the evidence about the era in the response.
    async fn exchange(
        self: &Arc<Self>,
        session: &Session,
        request: &Request<'_>,
        evidence: &mut EraEvidence,
    ) -> Result<Response, ExchangeError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let body = Frame::new(Some(id), request.method, request.params.as_ref());
        let mut headers = self.request_headers(session, request);
        let mut timer = match request.method {
            message::LISTEN => RequestTimer::unlimited(),
            _ => RequestTimer::new(self.endpoint.timeouts).started_at(request.begun),
        };
        let caller = self.caller_of(request)?;
        let token = match self.endpoint.oauth {
            Some(_) => timer.run(self.authorize(&mut headers, caller)).await??,
            None => None,
        };
        let own = SentCredentials::default();
        let sent = request.sent.as_deref().unwrap_or(&own);
        self.note_sent(&headers, sent);
        let mut guard = RequestGuard::new(self, id, request);
        let mut response = timer.run(self.post(body, headers)).await?;
        if let (Ok(refused), Some(token), Some(oauth)) = (&response, token, &self.endpoint.oauth)
            && refused.status() == StatusCode::UNAUTHORIZED
            && oauth.reject(caller, &token)
        {
            let again = Box::pin(self.post_with_new_token(id, session, request, token, sent));
            response = timer.run(again).await?;
        }
        if matches!(response, Err(CallError::Down { .. })) {
            guard.is_done = true;
            // Another server may answer when the backend is back. A client's session may still be valid then.
            self.endpoint.forget_era();
            if !self.is_client_session() {
                self.ended.cancel();
            }
        }
        let response = response?;
        if request.method == "initialize" && self.era == Era::Legacy && response.status().is_success() {
            guard.is_done = true; // `initialize` must not be cancelled.
            let session_id = response.headers().get(SESSION).cloned();
            let (answer, _) = self.read_answer(id, response, request, sent, &mut timer, evidence).await;
            let answer = answer?;
            self.store_session(session_id, &answer);
            return Ok(answer);
        }
        let status = response.status();
        let (answer, sign) = self.read_answer(id, response, request, sent, &mut timer, evidence).await;
        guard.is_done = !matches!(answer, Err(CallError::TimedOut { .. } | CallError::TooLong { .. }));
        if session.id.is_none() || *evidence == EraEvidence::Contradictory && self.is_client_session() {
            return Ok(answer?);
        }
        let is_repeatable = match sign {
            SessionSign::Known => return Ok(answer?),
            SessionSign::Refused => true,
            SessionSign::Answered => false,
            SessionSign::Unclear if self.is_known(session, caller).await => return Ok(answer?),
            SessionSign::Unclear => !status.is_server_error(),
        };
        Err(ExchangeError::SessionGone { answer: (!is_repeatable).then_some(answer), status })
    }

    /// Sends a request again, with another token than `rejected`, which has been forgotten. The backend has refused the
    /// request for that one, so that it did nothing.
    async fn post_with_new_token(
        &self,
        id: u64,
        session: &Session,
        request: &Request<'_>,
        rejected: Arc<AccessToken>,
        sent: &SentCredentials,
    ) -> Result<reqwest::Response, CallError> {
        let (mut headers, caller) = (self.request_headers(session, request), request.caller.as_ref());
        let token = self.authorize(&mut headers, caller).await?;
        // The record names the subject of the first one.
        if token.is_some_and(|token| token.subject() != rejected.subject()) {
            return Err(self.endpoint.status_error(StatusCode::UNAUTHORIZED.as_u16(), caller));
        }
        self.note_sent(&headers, sent);
        self.post(Frame::new(Some(id), request.method, request.params.as_ref()), headers).await
    }

    /// Returns false if the backend refuses a ping in `session`, too.
    async fn is_known(self: &Arc<Self>, session: &Session, caller: Option<&Arc<CallerToken>>) -> bool {
        let ping = Request::new("ping", None);
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let body = Frame::new(Some(id), ping.method, None);
        let mut timer = RequestTimer::new(Timeouts { idle: SEND_TIMEOUT, total: SEND_TIMEOUT });
        let mut headers = self.request_headers(session, &ping);
        if !matches!(timer.run(self.authorize(&mut headers, caller)).await, Ok(Ok(_))) {
            return true;
        }
        let sent = SentCredentials::default();
        self.note_sent(&headers, &sent);
        let Ok(Ok(response)) = timer.run(self.post(body, headers)).await else {
            return true;
        };
        if response.status().is_success() {
            return true;
        }
        let mut evidence = EraEvidence::Consistent;
        let (_, sign) = self.read_answer(id, response, &ping, &sent, &mut timer, &mut evidence).await;
        sign == SessionSign::Known
    }

    /// The headers of `request`: the gateway's own, and those that `request` has.
    fn request_headers(&self, session: &Session, request: &Request<'_>) -> HeaderMap {
        let mut headers = self.headers(session, ACCEPT_ANY);
        // A header that the operator has configured takes precedence.
        let is_configured = |name: &HeaderName| self.endpoint.headers.contains(name);
        let forwarded = request.headers.iter().filter(|(name, _)| !is_configured(name));
        headers.extend(forwarded.map(|(name, value)| (name.clone(), value.clone())));
        if self.era == Era::Modern {
            let method = header_value(request.method);
            headers.extend(method.map(|method| (HeaderName::from_static(METHOD_HEADER), method)));
            let name = request.name.as_deref().and_then(header_value);
            headers.extend(name.map(|name| (HeaderName::from_static(NAME_HEADER), name)));
        }
        headers
    }

    /// Reads the response to request `id` from an HTTP response, and what it says of the request's session. Sets
    /// `evidence`. `sent` are the credentials that the backend may repeat.
    async fn read_answer(
        &self,
        id: u64,
        response: reqwest::Response,
        request: &Request<'_>,
        sent: &SentCredentials,
        timer: &mut RequestTimer,
        evidence: &mut EraEvidence,
    ) -> (Result<Response, CallError>, SessionSign) {
        let status = response.status();
        if status.is_success() && is_event_stream(&response) {
            if let Some(events) = &request.events {
                events.on_stream_start();
            }
            let answer = self.read_response_stream(id, response, request, sent, timer).await;
            return (answer.map(|answer| answer.without(sent, request.method)), SessionSign::Known);
        }
        let body = match read_body(response, timer).await {
            Ok(body) => body,
            Err(error) => return (Err(error), SessionSign::Known),
        };
        let message = message::read(body.trim());
        let sign = lost_session::sign(status, id, &body, &message);
        if self.session().id.is_some() && sign != SessionSign::Known {
            // I8: without credentials, before it is cut.
            let body = sent.redacted(&body);
            let (backend, shown) = (&self.endpoint.alias, &body[..body.floor_char_boundary(REFUSAL_SHOWN_MAX)]);
            tracing::info!(backend, method = request.method, %status, answer = shown, "a refused request may have lost its session");
        }
        let code = match &message {
            Message::Response { response: Some(Response::Error { error, .. }), .. } => message::error_code(error),
            _ => None,
        };
        *evidence = era::evidence(self.era, self.is_client_session(), request.method, status, code);
        let answer = match message {
            // The answer of a proxy or an access check to `server/discover` does not say which era is spoken.
            _ if request.method == message::DISCOVER && era::is_inconclusive(status) => {
                Err(self.endpoint.status_error(status.as_u16(), request.caller.as_ref()))
            }
            // The id of an error may be null, if the backend could not read the id of the request.
            Message::Response { id: found, response: Some(answer) }
                if message::own_id(&found) == Some(id) || matches!(answer, Response::Error { .. }) =>
            {
                Ok(with_status(answer.without(sent, request.method), status, self.era))
            }
            _ if status.is_success() => Err(CallError::Garbled),
            _ => Err(self.endpoint.status_error(status.as_u16(), request.caller.as_ref())),
        };
        (answer, sign)
    }

    /// Reads the response to request `id` from an event stream, and passes on the other messages in it.
    async fn read_response_stream(
        &self,
        id: u64,
        mut response: reqwest::Response,
        request: &Request<'_>,
        sent: &SentCredentials,
        timer: &mut RequestTimer,
    ) -> Result<Response, CallError> {
        let mut resume_point = ResumePoint::default();
        let mut resumes = 0;
        loop {
            let before = resume_point.last_event_id.clone();
            let mut on_message = |message| match message {
                Message::Response { id: found, response } if message::own_id(&found) == Some(id) => {
                    Some(response.ok_or(CallError::Garbled))
                }
                Message::Event(event) => {
                    self.handle_event(event, Some(request), sent);
                    None
                }
                Message::Response { .. } | Message::Garbled => None,
            };
            let answer = read_messages(&mut response, &mut resume_point, timer, &mut on_message).await?;
            if let Some(answer) = answer {
                return answer;
            }
            // The stream ended without the response. The request is not sent again, because it may be a tool call.
            resumes = if resume_point.last_event_id == before { resumes + 1 } else { 1 };
            if resume_point.last_event_id.is_none() || self.era == Era::Modern || resumes > RESUMES_MAX {
                return Err(CallError::Died);
            }
            timer.run(tokio::time::sleep(resume_point.pause())).await?;
            let opened =
                timer.run(self.get_stream(&self.session(), &resume_point, request.caller.as_ref(), sent)).await?;
            response = match opened {
                // The backend has the request, also if the caller's token has ended meanwhile.
                Err(CallError::Credential(_)) => return Err(CallError::Died),
                opened => opened?,
            };
            if !response.status().is_success() || !is_event_stream(&response) {
                return Err(CallError::Died);
            }
        }
    }
}

/// Reads messages from an event stream until `on_message` returns a value. `None`: the stream ended first.
///
/// # Errors
/// [`CallError::TimedOut`], or [`CallError::TooLong`] for an event.
pub(super) async fn read_messages<T>(
    response: &mut reqwest::Response,
    resume_point: &mut ResumePoint,
    timer: &mut RequestTimer,
    on_message: &mut (dyn FnMut(Message) -> Option<T> + Send),
) -> Result<Option<T>, CallError> {
    let mut parser = sse::Parser::default();
    loop {
        let events = match timer.run(response.chunk()).await? {
            Ok(Some(chunk)) => parser.feed(&chunk).map_err(|_| CallError::TooLong { limit: LINE_BYTES_MAX })?,
            // Some servers end the stream without the empty line that completes an event.
            Ok(None) => {
                let last = parser.finish().map(|event| message::read(&event.data));
                return Ok(last.and_then(on_message));
            }
            // A stream that breaks is treated as one that ends: the caller resumes either.
            Err(_) => return Ok(None),
        };
        for event in events {
            resume_point.advance(&event);
            if event.data.is_empty() {
                continue;
            }
            timer.reset_idle();
            if let Some(found) = on_message(message::read(&event.data)) {
                return Ok(Some(found));
            }
        }
    }
}
