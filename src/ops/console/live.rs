//! The trail as it grows: new records that match, as server-sent events. *Spec*: HTML Living Standard, section 9.2.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use maud::html;
use tokio::sync::OwnedSemaphorePermit;

use super::page::refused;
use super::query::LiveOutbox;
use super::search::Search;
use super::state::Console;
use super::table::row;
use crate::audit::query::Filter;
use crate::connections::Peer;
use crate::escape::escape_hidden;
use crate::ops::follow::Follower;
use crate::ops::read_log::{ReadCommand, ReadOrigin, TrailRead, record_read};
use crate::ops::trail::TrailReader;

/// Interval between two looks at the trail. *Chosen*: a person sees a new record at once, and each look is a statement.
const INTERVAL: Duration = Duration::from_secs(1);

/// The trail that one browser follows.
struct Following {
    console: Console,
    peer: Peer,
    headers: HeaderMap,
    search: Search,
    filter: Filter,
    trail: TrailReader<LiveOutbox>,
    follower: Follower,
    _permit: OwnedSemaphorePermit,
}

/// `GET /console/trail/live`: recorded once, when it begins.
pub(super) async fn stream(
    State(console): State<Console>,
    Extension(peer): Extension<Peer>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let viewer = match console.viewer(&headers, peer).await {
        Ok(viewer) => viewer,
        Err(refusal) => return refusal.plain(),
    };
    let search = Search::parse(&query.unwrap_or_default());
    let filter = match search.page_filter() {
        Ok(filter) => Filter { before: None, until_micros: None, ..filter },
        Err(fault) => return refused(StatusCode::BAD_REQUEST, &fault),
    };
    let Some(probe) = console.sources.probe.clone() else {
        return refused(StatusCode::SERVICE_UNAVAILABLE, "auditing is off: this gateway has no trail");
    };
    // I6: the number of streams is bounded.
    let Ok(permit) = Arc::clone(&console.streams).try_acquire_owned() else {
        return refused(StatusCode::SERVICE_UNAVAILABLE, "too many browsers follow the trail already");
    };
    let opened = async {
        let mut trail = TrailReader::open(console.postgres.as_ref(), LiveOutbox(probe.clone())).await?;
        let follower = Follower::new(&mut trail).await?;
        Ok::<_, crate::ops::trail::TrailError>((trail, follower))
    };
    let (trail, follower) = match Box::pin(opened).await {
        Ok(opened) => opened,
        Err(error) => return refused(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
    };
    let read =
        TrailRead { command: ReadCommand::TailFollow, from: trail.source(), filter: Some(filter.clone()), rows: 0 };
    if let Err(error) = record_read(&probe, &viewer.caller(), ReadOrigin::Console, &read).await {
        let reason = format!("this read cannot be recorded (gateway/read), so nothing is shown: {error}");
        return refused(StatusCode::SERVICE_UNAVAILABLE, &reason);
    }
    let following = Following { console, peer, headers, search, filter, trail, follower, _permit: permit };
    let events = stream::unfold(Some(Box::new(following)), |following| async {
        let mut following = following?;
        let event = Box::pin(following.next()).await;
        let text = event.text();
        Some((Ok::<_, Infallible>(text), (!matches!(event, Event::End(_))).then_some(following)))
    });
    // A proxy such as nginx would keep the events back.
    let kinds = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    (kinds, [("x-accel-buffering", "no")], Body::from_stream(events)).into_response()
}

/// An event of the stream.
enum Event {
    /// Nothing new. It shows whether the browser is still there.
    Nothing,
    /// Rows of the table, the newest first.
    Rows(String),
    /// The stream has ended, and why.
    End(String),
}

impl Event {
    fn text(&self) -> String {
        let (name, data) = match self {
            Self::Nothing => return ":\n\n".to_owned(),
            Self::Rows(rows) => ("rows", rows),
            Self::End(reason) => ("end", reason),
        };
        let lines: String = data.lines().flat_map(|line| ["data: ", line, "\n"]).collect();
        format!("event: {name}\n{lines}\n")
    }
}

impl Following {
    async fn next(&mut self) -> Event {
        tokio::select! {
            () = self.console.stop.cancelled() => return Event::End("the gateway stops".to_owned()),
            () = tokio::time::sleep(INTERVAL) => {}
        }
        // The token or the role may have been withdrawn, or have expired.
        if self.console.viewer(&self.headers, self.peer).await.is_err() {
            return Event::End("the session has ended: sign in again".to_owned());
        }
        match self.follower.next(&mut self.trail, &self.filter).await {
            Ok(records) if records.is_empty() => Event::Nothing,
            Ok(mut records) => {
                records.sort_by_key(|record| record.entry.call.timestamp);
                let rows = html! { @for record in records.iter().rev() { (row(record, &self.search)) } };
                Event::Rows(rows.into_string())
            }
            Err(error) => Event::End(escape_hidden(&error.to_string()).into_owned()),
        }
    }
}
