//! What `gatepost audit` and the console ask of the trail, wherever it is read from.

pub mod moment;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::audit::query::Filter;

/// Requests of one user-visible call that are shown. *Chosen*: a person answers fewer questions.
const RELATED_MAX: usize = 100;

/// Records of one place or id that are shown: gateways may have the same epoch and seq.
const FOUND_MAX: usize = 10;

/// Where the trail is read: Postgres, or an outbox.
pub trait Source {
    /// Why it could not be read.
    type Error;

    /// The newest records that match, as JSON, oldest first.
    fn records(&mut self, filter: Filter) -> impl Future<Output = Result<Vec<Value>, Self::Error>>;

    /// What of this call or place stands in quarantine: the record, and why it is there.
    fn quarantined(&mut self, filter: &Filter) -> impl Future<Output = Result<Vec<(Value, String)>, Self::Error>>;
}

/// The filter of one call: a request id, EPOCH/SEQ, or GATEWAY/EPOCH/SEQ.
///
/// # Errors
/// In words, where `id` is none of these.
pub fn which(id: &str) -> Result<Filter, String> {
    if let Ok(id) = id.parse::<Uuid>() {
        return Ok(Filter { request_id: Some(id), limit: FOUND_MAX, ..Filter::default() });
    }
    let parse = || {
        let mut parts = id.rsplit('/');
        let (seq, epoch) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let gateway_id = parts.next().map(str::parse::<Uuid>).transpose().ok()?;
        let filter = Filter { gateway_id, epoch: Some(epoch), seq: Some(seq), limit: FOUND_MAX, ..Filter::default() };
        parts.next().is_none().then_some(filter)
    };
    parse().ok_or_else(|| format!("{id:?} is neither a request id nor EPOCH/SEQ, as in 3/1024, nor GATEWAY/EPOCH/SEQ"))
}

/// Everything about the calls that [`which`] names: each an object with its `record`, why it is `quarantined` if it is,
/// its `neighbours` up to `reach` places away in its stream, and the requests of the `same_call`.
///
/// # Errors
/// The source's.
pub async fn calls<S: Source>(source: &mut S, filter: &Filter, reach: u64) -> Result<Vec<Value>, S::Error> {
    let mut calls = Vec::new();
    for (record, why) in source.quarantined(filter).await? {
        calls.push(json!({ "record": record, "quarantined": why }));
    }
    for record in source.records(filter.clone()).await? {
        calls.push(json!({ "record": record }));
    }
    for call in &mut calls {
        let record = call.get("record").cloned().unwrap_or_default();
        let neighbours = neighbours(source, &record, reach).await?;
        let related = related(source, &record).await?;
        if let Some(object) = call.as_object_mut() {
            object.insert("neighbours".to_owned(), neighbours.into());
            object.insert("same_call".to_owned(), related.into());
        }
    }
    Ok(calls)
}

fn number(record: &Value, key: &str) -> u64 {
    record.get(key).and_then(Value::as_u64).unwrap_or(0)
}

fn uuid(record: &Value, key: &str) -> Option<Uuid> {
    record.get(key)?.as_str()?.parse().ok()
}

async fn neighbours<S: Source>(source: &mut S, record: &Value, reach: u64) -> Result<Vec<Value>, S::Error> {
    if reach == 0 {
        return Ok(Vec::new());
    }
    let (epoch, seq) = (number(record, "epoch"), number(record, "seq"));
    let (gateway_id, first) = (uuid(record, "gateway_id"), seq.saturating_sub(reach).max(1));
    let limit = usize::try_from(2 * reach + 1).unwrap_or(usize::MAX);
    let after = Some((epoch, first - 1));
    let filter = Filter { gateway_id, epoch: Some(epoch), after, limit, ..Filter::default() };
    let mut found = source.records(filter).await?;
    found.retain(|record| number(record, "seq") <= seq.saturating_add(reach));
    Ok(found)
}

/// A call that needs input is several requests: the later ones bear the id of the first one as their session.
async fn related<S: Source>(source: &mut S, record: &Value) -> Result<Vec<Value>, S::Error> {
    let (Some(gateway_id), Some(own)) = (uuid(record, "gateway_id"), uuid(record, "request_id")) else {
        return Ok(Vec::new());
    };
    let gateway_id = Some(gateway_id);
    let asks = |record: &Value| record.get("response_status").and_then(Value::as_str) == Some("input_required");
    for origin in uuid(record, "session_id").into_iter().chain([own]) {
        let filter = Filter { gateway_id, request_id: Some(origin), limit: 1, ..Filter::default() };
        let first = source.records(filter).await?;
        // Otherwise it is the id of a legacy session, or the call asked for nothing.
        if !first.first().is_some_and(asks) {
            continue;
        }
        let since_micros = origin.get_timestamp().map(|time| time.to_unix().0.cast_signed().saturating_mul(1_000_000));
        let session_id = Some(origin.to_string());
        let filter = Filter { gateway_id, session_id, since_micros, limit: RELATED_MAX, ..Filter::default() };
        let later = source.records(filter).await?;
        return Ok(first.into_iter().chain(later).collect());
    }
    Ok(Vec::new())
}
