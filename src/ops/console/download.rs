//! The download of all records that a search finds, in the forms of `gatepost audit export`.

use std::collections::VecDeque;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Extension, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::sync::OwnedSemaphorePermit;

use super::page::refused;
use super::search::Search;
use super::state::Console;
use super::viewer::Viewer;
use crate::audit::pipeline::Probe;
use crate::audit::query::{Exported, Pager};
use crate::audit::sink::postgres::{self, Connection};
use crate::connections::Peer;
use crate::ops::csv::{self, CellText};
use crate::ops::export_line::export_line;
use crate::ops::read_log::{ReadCommand, ReadOrigin, TrailRead, TrailSource, record_read};
use crate::ops::trail::failed;

/// The form of the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// JSON lines, each of which the hash of its record can be computed from.
    Jsonl,
    /// CSV that a spreadsheet opens without executing what clients wrote.
    Csv,
}

impl Format {
    fn line(self, exported: &Exported) -> serde_json::Result<String> {
        match self {
            Self::Jsonl => export_line(&exported.record, exported.quarantined.as_deref()),
            Self::Csv => Ok(csv::line(&exported.record, CellText::SafeInSpreadsheets)),
        }
    }
}

/// A download under way.
struct Download {
    console: Console,
    viewer: Viewer,
    probe: Probe,
    format: Format,
    connection: Box<Connection>,
    pager: Pager,
    records: u64,
    /// Texts that are sent before the next page is read.
    ready: VecDeque<String>,
    is_read: bool,
    _permit: OwnedSemaphorePermit,
}

/// `GET /console/trail/export?format=jsonl|csv`: recorded when it begins and when it ends. If it breaks off, so does
/// the response: a browser does not take a part for the whole.
pub(super) async fn export(
    State(console): State<Console>,
    Extension(peer): Extension<Peer>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let viewer = match console.viewer(&headers, peer).await {
        Ok(viewer) => viewer,
        Err(refusal) => return refusal.plain(),
    };
    let query = query.unwrap_or_default();
    let format = url::form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "format");
    let (format, kind, name) = match format.as_ref().map(|(_, format)| &**format) {
        Some("jsonl") => (Format::Jsonl, "application/x-ndjson", "trail.jsonl"),
        Some("csv") => (Format::Csv, "text/csv; charset=utf-8", "trail.csv"),
        _ => return refused(StatusCode::BAD_REQUEST, "format: must be jsonl or csv"),
    };
    let filter = match Search::parse(&query).page_filter() {
        Ok(filter) => filter,
        Err(fault) => return refused(StatusCode::BAD_REQUEST, &fault),
    };
    let (Some(probe), Some(options)) = (console.sources.probe.clone(), &console.postgres) else {
        let reason = "the trail is in the outbox: export it with gatepost outbox export";
        return refused(StatusCode::CONFLICT, reason);
    };
    // I6: the number of downloads is bounded.
    let Ok(permit) = Arc::clone(&console.streams).try_acquire_owned() else {
        return refused(StatusCode::SERVICE_UNAVAILABLE, "too many browsers read the trail already: try again later");
    };
    let begun = async {
        let mut connection = Box::new(postgres::connect(options).await.map_err(|error| error.to_string())?);
        let pager = Pager::begin(&mut connection, &filter, None).await;
        Ok::<_, String>((connection, pager.map_err(|error| failed("read the trail", error).to_string())?))
    };
    let (connection, pager) = match Box::pin(begun).await {
        Ok(begun) => begun,
        Err(error) => return refused(StatusCode::SERVICE_UNAVAILABLE, &error),
    };
    let ready = VecDeque::from([if format == Format::Csv { csv::header() } else { String::new() }]);
    let download = Download {
        console,
        viewer,
        probe,
        format,
        connection,
        pager,
        records: 0,
        ready,
        is_read: false,
        _permit: permit,
    };
    if let Err(error) = download.record(0).await {
        return refused(StatusCode::SERVICE_UNAVAILABLE, &error);
    }
    let texts = stream::try_unfold(Box::new(download), |mut download| async {
        let text = Box::pin(download.next()).await.map_err(std::io::Error::other)?;
        Ok::<_, std::io::Error>(text.map(|text| (text, download)))
    });
    let kinds = [
        (header::CONTENT_TYPE, kind.to_owned()),
        (header::CONTENT_DISPOSITION, format!("attachment; filename=\"{name}\"")),
    ];
    (kinds, Body::from_stream(texts)).into_response()
}

impl Download {
    /// The next part of the body; `None` at its end, which is recorded.
    async fn next(&mut self) -> Result<Option<String>, String> {
        loop {
            if let Some(text) = self.ready.pop_front() {
                return Ok(Some(text));
            }
            if self.is_read {
                return Ok(None);
            }
            let page = tokio::select! {
                () = self.console.stop.cancelled() => return Err("the gateway stops".to_owned()),
                page = self.pager.next(&mut self.connection) => page,
            };
            if let Some(page) = page.map_err(|error| failed("read the trail", error).to_string())? {
                self.records += page.len() as u64;
                let lines = page.iter().map(|exported| self.format.line(exported));
                self.ready.push_back(lines.collect::<Result<String, _>>().map_err(|error| error.to_string())?);
            } else {
                self.record(self.records).await?;
                self.is_read = true;
            }
        }
    }

    async fn record(&self, rows: u64) -> Result<(), String> {
        let filter = Some(self.pager.filter().clone());
        let read = TrailRead { command: ReadCommand::Export, from: TrailSource::Postgres, filter, rows };
        let recorded = record_read(&self.probe, &self.viewer.caller(), ReadOrigin::Console, &read).await;
        recorded.map_err(|error| format!("this read cannot be recorded (gateway/read), so nothing is shown: {error}"))
    }
}
