//! The values of a record's columns for display: CSV, `show` and the console.

use std::borrow::Cow;

use crate::audit::record::AuditRecord;
use crate::audit::record::column::{self, Column};

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

/// The value of `column` in `record`, for display.
#[must_use]
pub fn displayed<'a>(column: &Column, record: &'a AuditRecord) -> Value<'a> {
    match column.of(record) {
        column::Value::Null => Value::Null,
        column::Value::Uuid(value) => shown(&value),
        // A count is never negative; a changed row may be.
        column::Value::Bigint(value) => Value::Number(value.to_string()),
        column::Value::Bytes32(value) => Value::Text(Cow::Owned(hex::encode(value))),
        column::Value::Timestamptz(value) => shown(&value),
        column::Value::Text(value) => Value::Text(Cow::Borrowed(value)),
        column::Value::Double(value) => Value::Number(serde_json::Value::from(value).to_string()),
    }
}

fn shown(value: &impl ToString) -> Value<'static> {
    Value::Text(Cow::Owned(value.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::record::COLUMNS;
    use crate::ops::sample;

    #[test]
    fn the_columns_are_the_fields_of_a_record_as_json() {
        let record = sample::record(1, 2, "echo");
        let json = serde_json::to_value(&record).unwrap();
        assert_eq!(json.as_object().unwrap().len(), COLUMNS.len());
        for column in &COLUMNS {
            let expected = match &json[column.name] {
                serde_json::Value::Null => Value::Null,
                serde_json::Value::String(text) => Value::Text(text.into()),
                number => Value::Number(number.to_string()),
            };
            assert_eq!(displayed(column, &record), expected, "{}", column.name);
        }
    }
}
