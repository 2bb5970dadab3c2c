//! The columns of a record, for views that show all of them: one table for CSV, `show` and the console.

use std::borrow::Cow;

use crate::audit::record::AuditRecord;

/// The value of a column.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// NULL.
    Null,
    /// A text, an id, a digest or a timestamp.
    Text(Cow<'a, str>),
    /// A number, as JSON writes it.
    Number(String),
}

/// A column of `audit_log`.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    value: for<'a> fn(&'a AuditRecord) -> Value<'a>,
}

impl Column {
    /// The column's value in `record`.
    #[must_use]
    pub fn of<'a>(&self, record: &'a AuditRecord) -> Value<'a> {
        (self.value)(record)
    }
}

const fn column(name: &'static str, value: for<'a> fn(&'a AuditRecord) -> Value<'a>) -> Column {
    Column { name, value }
}

fn text(text: &str) -> Value<'_> {
    Value::Text(Cow::Borrowed(text))
}

fn optional<'a>(value: Option<&'a (impl AsRef<str> + 'a)>) -> Value<'a> {
    value.map_or(Value::Null, |value| text(value.as_ref()))
}

fn shown(value: &impl ToString) -> Value<'static> {
    Value::Text(Cow::Owned(value.to_string()))
}

fn number(number: impl Into<serde_json::Value>) -> Value<'static> {
    Value::Number(number.into().to_string())
}

/// All columns, in the order of `audit_log`.
pub const COLUMNS: [Column; 24] = [
    column("gateway_id", |record| shown(&record.position.gateway_id)),
    column("epoch", |record| number(record.position.epoch.0)),
    column("seq", |record| number(record.position.seq.0)),
    column("prev_hash", |record| shown(&record.position.prev_hash)),
    column("hash", |record| shown(&record.position.hash)),
    column("request_id", |record| shown(&record.entry.call.request_id)),
    column("timestamp", |record| shown(&record.entry.call.timestamp)),
    column("method", |record| text(&record.entry.call.method)),
    column("client_subject", |record| text(&record.entry.call.client_subject)),
    column("client_role", |record| optional(record.entry.call.client_role.as_ref())),
    column("client_issuer", |record| optional(record.entry.call.client_issuer.as_ref())),
    column("token_id", |record| optional(record.entry.call.token_id.as_ref())),
    column("client_addr", |record| optional(record.entry.call.client_addr.as_ref())),
    column("session_id", |record| optional(record.entry.call.session_id.as_ref())),
    column("rpc_id", |record| optional(record.entry.call.rpc_id.as_ref())),
    column("tool_name", |record| optional(record.entry.call.tool_name.as_ref())),
    column("backend_name", |record| optional(record.entry.call.backend_name.as_ref())),
    column("request_args", |record| optional(record.entry.call.request_args.as_ref())),
    column("args_digest", |record| record.entry.call.args_digest.as_ref().map_or(Value::Null, shown)),
    column("response_status", |record| text(record.entry.response_status.as_str())),
    column("error_message", |record| optional(record.entry.error_message.as_ref())),
    column("response_digest", |record| record.entry.response_digest.as_ref().map_or(Value::Null, shown)),
    column("response_bytes", |record| record.entry.response_bytes.map_or(Value::Null, number)),
    column("latency_ms", |record| number(record.entry.latency_ms)),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::sample;

    #[test]
    fn the_columns_are_the_fields_of_a_record_as_json() {
        let record = sample::record(1, 2, "echo");
        let json = serde_json::to_value(&record).unwrap();
        assert_eq!(json.as_object().unwrap().len(), COLUMNS.len());
        for column in COLUMNS {
            let expected = match &json[column.name] {
                serde_json::Value::Null => Value::Null,
                serde_json::Value::String(text) => Value::Text(text.into()),
                number => Value::Number(number.to_string()),
            };
            assert_eq!(column.of(&record), expected, "{}", column.name);
        }
    }
}
