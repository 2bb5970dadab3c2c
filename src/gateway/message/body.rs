//! The body of a request: it is read only once the caller is known and there is room for it.

use std::pin::Pin;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody as _};
use axum::http::StatusCode;

use crate::auth::Principal;
use crate::gateway::message::body_budget::{BodyBudget, COPIES, HINT_BYTES_MAX, NoRoomError, SMALL_BYTES_MAX};
use crate::gateway::message::refusal::Refusal;
use crate::mcp::envelope::{self, Hint, Malformed};
use crate::mcp::protocol::INVALID_REQUEST;
use crate::mcp::shared_text::{Room, SharedText};

/// The longest time for a body to arrive. *Chosen*: the default limit of 4 MiB at 140 KB/s.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// The longest time for the part of a refused body that its record shows. *Chosen*: what is not there by then was not
/// sent together with the head, and the refusal does not wait for it.
const HINT_TIMEOUT: Duration = Duration::from_millis(500);

/// A body that was not read yet, or only in part.
#[derive(Debug)]
pub(crate) struct UnreadBody {
    source: Source,
    /// The beginning that was read.
    read: Vec<u8>,
}

#[derive(Debug)]
enum Source {
    /// A request that has no message.
    None,
    /// A line of a client on standard input, which is in `read`, and the room for it.
    Line(Result<Room, NoRoomError>),
    /// A line that is longer than the limit; its beginning is in `read`.
    CutLine,
    Http(Body),
    /// The client sends the body only once it is asked for it (`Expect: 100-continue`).
    HttpOnDemand(Body),
}

/// The reason why a body was not read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the message is larger than {limit} bytes")]
    TooLarge { limit: usize },
    #[error("the message is incomplete")]
    Incomplete,
    #[error(transparent)]
    NotText(#[from] Malformed),
    #[error(transparent)]
    NoRoom(#[from] NoRoomError),
}

impl UnreadBody {
    /// The body of a request that has no message.
    pub(crate) fn none() -> Self {
        Self { source: Source::None, read: Vec::new() }
    }

    /// A line of a client on standard input, for which `room` was taken.
    pub(crate) fn line(line: Vec<u8>, room: Result<Room, NoRoomError>) -> Self {
        Self { source: Source::Line(room), read: line }
    }

    /// A line that is too long, of which `beginning` was read.
    pub(crate) fn cut_line(beginning: &[u8]) -> Self {
        let read = beginning.get(..HINT_BYTES_MAX).unwrap_or(beginning).to_owned();
        Self { source: Source::CutLine, read }
    }

    /// The body of an HTTP request. `is_on_demand`: the client waits to be asked for it.
    pub(crate) fn http(body: Body, is_on_demand: bool) -> Self {
        Self { source: if is_on_demand { Source::HttpOnDemand(body) } else { Source::Http(body) }, read: Vec::new() }
    }

    /// Reads the whole body of a known caller, at most `limit` bytes, once there is room for it in `budget`.
    ///
    /// # Errors
    /// [`BodyError`]. What was read until then is kept for [`Self::hint`].
    pub(crate) async fn read(
        &mut self,
        principal: &Principal,
        budget: &BodyBudget,
        limit: usize,
    ) -> Result<SharedText, BodyError> {
        let Self { source, read } = self;
        let mut room = match source {
            Source::None => budget.reserve(principal, 0).await?,
            Source::Line(room) => std::mem::replace(room, Err(NoRoomError::All))?,
            Source::CutLine => return Err(BodyError::TooLarge { limit }),
            Source::Http(body) | Source::HttpOnDemand(body) => {
                let collect = collect(body, read, principal, budget, limit);
                let collected = tokio::time::timeout(BODY_TIMEOUT, collect).await;
                collected.unwrap_or(Err(BodyError::Incomplete))?
            }
        };
        room.shrink(COPIES.saturating_mul(read.len()));
        let text = String::from_utf8(std::mem::take(read)).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            *read = error.into_bytes();
            Malformed::NotUtf8 { at }
        })?;
        Ok(SharedText::in_room(text, room))
    }

    /// The parts of the message that its first bytes show, for the record of its refusal. `None`: there is no message.
    ///
    /// What has arrived of the body is read, within `budget` for callers that are not known.
    pub(crate) async fn hint(mut self, budget: &BodyBudget) -> Option<Hint> {
        // I6: what callers that are not known send is bounded, each and in sum.
        let room = budget.reserve_hint();
        let is_whole = match &mut self.source {
            Source::None => return None,
            Source::Line(_) => true,
            Source::Http(body) if room.is_some() => {
                let beginning = read_beginning(body, &mut self.read);
                tokio::time::timeout(HINT_TIMEOUT, beginning).await.unwrap_or(false)
            }
            Source::Http(_) | Source::HttpOnDemand(_) | Source::CutLine => false,
        };
        let beginning = self.read.get(..HINT_BYTES_MAX).unwrap_or(&self.read);
        let hint = envelope::hint(beginning, is_whole && beginning.len() == self.read.len());
        drop(room);
        Some(hint)
    }
}

/// Reads `body` into `read`, at most `limit` bytes, and returns the room that it took.
async fn collect(
    body: &mut Body,
    read: &mut Vec<u8>,
    principal: &Principal,
    budget: &BodyBudget,
    limit: usize,
) -> Result<Room, BodyError> {
    let too_large = || BodyError::TooLarge { limit };
    let size = body.size_hint();
    // Content-Length is enough to refuse the body unread.
    let announced = usize::try_from(size.lower()).ok().filter(|&bytes| bytes <= limit).ok_or_else(too_large)?;
    let is_exact = size.exact().is_some();
    let mut room_bytes = if is_exact { announced } else { SMALL_BYTES_MAX.min(limit) };
    let mut room = budget.reserve(principal, room_bytes).await?;
    read.reserve_exact(announced);
    while let Some(data) = next(body).await? {
        let bytes = read.len().saturating_add(data.len());
        if bytes > limit {
            return Err(too_large()); // I6: the body is bounded.
        }
        if bytes > room_bytes {
            // A body without Content-Length that is not small may be as large as the limit.
            room_bytes = limit;
            room = budget.reserve(principal, room_bytes).await?;
            read.reserve_exact(bytes.saturating_mul(2).min(limit).saturating_sub(read.len()));
        }
        read.extend_from_slice(&data);
    }
    if !is_exact {
        read.shrink_to_fit();
    }
    Ok(room)
}

/// Reads the beginning of `body` into `read`. Returns true if that is the whole body.
async fn read_beginning(body: &mut Body, read: &mut Vec<u8>) -> bool {
    while read.len() < HINT_BYTES_MAX {
        match next(body).await {
            Ok(Some(data)) => {
                let room = HINT_BYTES_MAX - read.len();
                read.extend_from_slice(data.get(..room).unwrap_or(&data));
                if data.len() > room {
                    return false;
                }
            }
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
    false
}

/// The next data of `body`; `None` at its end.
async fn next(body: &mut Body) -> Result<Option<Bytes>, BodyError> {
    match std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
        Some(Ok(frame)) => Ok(Some(frame.into_data().unwrap_or_default())),
        Some(Err(_)) => Err(BodyError::Incomplete),
        None => Ok(None),
    }
}

impl From<BodyError> for Refusal {
    fn from(error: BodyError) -> Self {
        let http = match error {
            BodyError::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            BodyError::Incomplete => StatusCode::REQUEST_TIMEOUT,
            BodyError::NotText(rule) => return rule.into(),
            BodyError::NoRoom(error) => return error.into(),
        };
        Self::malformed(http, INVALID_REQUEST, error.to_string())
    }
}
