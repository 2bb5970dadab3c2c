//! The columns of `audit_log`: one table from which the INSERT, the frame, the hash, exports and views come.
//!
//! A column is added here, in the migration, and at the place that fills it; the golden frame and docs/trail.md change
//! with it.

use super::audit_record::{AuditRecord, StreamPosition};
use super::entry::{Call, Entry, Text};
use super::ids::{Digest, Epoch, GatewayId, RequestId, Salt, Seq, Timestamp};
use super::status::Status;

/// The type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnType {
    /// `uuid`, 16 bytes.
    Uuid,
    /// `bigint`.
    Bigint,
    /// `bytea` of 32 bytes: a digest or a salt.
    Bytes32,
    /// `timestamptz`, in microseconds.
    Timestamptz,
    /// `text`.
    Text,
    /// `json`, which keeps every byte of its text.
    Json,
    /// `double precision`.
    Double,
}

/// The commitment that binds a column. *Spec*: docs/trail.md, "The hash".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Bound by the hash itself.
    Open,
    /// The caller.
    Who,
    /// The circumstances of the call.
    Circumstances,
    /// The content of the call and of its answer.
    Content,
    /// In no group: the chain's own digests, and the salts of the commitments.
    Chain,
}

/// The part of a record to which a column belongs: an intent has the columns of the call only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The position in the stream.
    Position,
    /// The columns that are known when the call begins.
    Call,
    /// The columns that are known when it has ended.
    Outcome,
}

/// The value of a column.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// NULL.
    Null,
    /// A `uuid`.
    Uuid(uuid::Uuid),
    /// A `bigint`.
    Bigint(i64),
    /// A `bytea` of 32 bytes.
    Bytes32(&'a [u8; 32]),
    /// A `timestamptz`.
    Timestamptz(Timestamp),
    /// A `text` or the text of a `json`.
    Text(&'a str),
    /// A `double precision`.
    Double(f64),
}

impl<'a> Value<'a> {
    /// The value of a `uuid`; `None` for NULL, as below.
    #[must_use]
    pub fn as_uuid(self) -> Option<uuid::Uuid> {
        if let Self::Uuid(value) = self { Some(value) } else { None }
    }

    /// The value of a `bigint`.
    #[must_use]
    pub fn as_bigint(self) -> Option<i64> {
        if let Self::Bigint(value) = self { Some(value) } else { None }
    }

    /// The value of a `bytea`.
    #[must_use]
    pub fn as_bytes(self) -> Option<&'a [u8]> {
        if let Self::Bytes32(value) = self { Some(value) } else { None }
    }

    /// The value of a `timestamptz`.
    #[must_use]
    pub fn as_timestamp(self) -> Option<Timestamp> {
        if let Self::Timestamptz(value) = self { Some(value) } else { None }
    }

    /// The value of a `text`, or the text of a `json`.
    #[must_use]
    pub fn as_text(self) -> Option<&'a str> {
        if let Self::Text(value) = self { Some(value) } else { None }
    }

    /// The value of a `double precision`.
    #[must_use]
    pub fn as_double(self) -> Option<f64> {
        if let Self::Double(value) = self { Some(value) } else { None }
    }

    fn as_bytes32(self) -> Option<[u8; 32]> {
        if let Self::Bytes32(value) = self { Some(*value) } else { None }
    }

    /// `Some(None)` for NULL; otherwise what `read` makes of the value.
    #[expect(clippy::option_option, reason = "NULL and a value of another type are two cases")]
    fn optional<T>(self, read: impl FnOnce(Self) -> Option<T>) -> Option<Option<T>> {
        if self == Self::Null { Some(None) } else { read(self).map(Some) }
    }
}

/// A column of `audit_log`.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub column_type: ColumnType,
    /// Returns true if it may be NULL.
    pub is_nullable: bool,
    /// The commitment that binds it.
    pub group: Group,
    access: Access,
}

/// The place of a column's value in a record.
#[derive(Clone, Copy, Debug)]
enum Access {
    Position(for<'a> fn(&'a StreamPosition) -> Value<'a>, for<'a> fn(&mut StreamPosition, Value<'a>) -> Option<()>),
    Call(for<'a> fn(&'a Call) -> Value<'a>, for<'a> fn(&mut Call, Value<'a>) -> Option<()>),
    Outcome(for<'a> fn(&'a Entry) -> Value<'a>, for<'a> fn(&mut Entry, Value<'a>) -> Option<()>),
}

impl Column {
    /// The column's value in `record`.
    #[must_use]
    pub fn of<'a>(&self, record: &'a AuditRecord) -> Value<'a> {
        self.in_parts(&record.position, &record.entry)
    }

    /// The column's value in a record that consists of these parts.
    #[must_use]
    pub fn in_parts<'a>(&self, position: &'a StreamPosition, entry: &'a Entry) -> Value<'a> {
        match self.access {
            Access::Position(get, _) => get(position),
            Access::Call(get, _) => get(&entry.call),
            Access::Outcome(get, _) => get(entry),
        }
    }

    /// The column's value in `call`. `None`: the column is not part of a call.
    #[must_use]
    pub fn in_call<'a>(&self, call: &'a Call) -> Option<Value<'a>> {
        match self.access {
            Access::Call(get, _) => Some(get(call)),
            _ => None,
        }
    }

    /// Sets the column in `record`. `None`: the value is not valid for the column; the record is unchanged.
    pub fn set(&self, record: &mut AuditRecord, value: Value<'_>) -> Option<()> {
        match self.access {
            Access::Position(_, set) => set(&mut record.position, value),
            Access::Call(_, set) => set(&mut record.entry.call, value),
            Access::Outcome(_, set) => set(&mut record.entry, value),
        }
    }

    /// The part of a record to which the column belongs.
    #[must_use]
    pub fn part(&self) -> Part {
        match self.access {
            Access::Position(..) => Part::Position,
            Access::Call(..) => Part::Call,
            Access::Outcome(..) => Part::Outcome,
        }
    }
}

/// A text of the call that is always there, a text that may be missing, and so on: the accessors of one field.
macro_rules! access {
    (call text $field:ident) => {
        Access::Call(
            |call| Value::Text(&call.$field),
            |call, value| {
                call.$field = Text::from(value.as_text()?);
                Some(())
            },
        )
    };
    (call text? $field:ident) => {
        Access::Call(
            |call| call.$field.as_deref().map_or(Value::Null, Value::Text),
            |call, value| {
                call.$field = value.optional(Value::as_text)?.map(Text::from);
                Some(())
            },
        )
    };
    (call json? $field:ident) => {
        Access::Call(
            |call| call.$field.as_deref().map_or(Value::Null, Value::Text),
            |call, value| {
                call.$field = value.optional(Value::as_text)?.map(str::to_owned);
                Some(())
            },
        )
    };
    (call digest? $field:ident) => {
        Access::Call(
            |call| call.$field.as_ref().map_or(Value::Null, |digest| Value::Bytes32(&digest.0)),
            |call, value| {
                call.$field = value.optional(Value::as_bytes32)?.map(Digest);
                Some(())
            },
        )
    };
    (outcome digest? $field:ident) => {
        Access::Outcome(
            |entry| entry.$field.as_ref().map_or(Value::Null, |digest| Value::Bytes32(&digest.0)),
            |entry, value| {
                entry.$field = value.optional(Value::as_bytes32)?.map(Digest);
                Some(())
            },
        )
    };
    (salt $field:ident) => {
        Access::Outcome(
            |entry| Value::Bytes32(&entry.salts.$field.0),
            |entry, value| {
                entry.salts.$field = Salt(value.as_bytes32()?);
                Some(())
            },
        )
    };
    (position $field:ident $type:ident) => {
        Access::Position(
            |position| Value::Bytes32(&position.$field.0),
            |position, value| {
                position.$field = $type(value.as_bytes32()?);
                Some(())
            },
        )
    };
    (position count $field:ident $type:ident) => {
        Access::Position(
            |position| Value::Bigint(position.$field.0.cast_signed()),
            |position, value| {
                position.$field = $type(value.as_bigint()?.cast_unsigned());
                Some(())
            },
        )
    };
}

const fn column(
    name: &'static str,
    column_type: ColumnType,
    is_nullable: bool,
    group: Group,
    access: Access,
) -> Column {
    Column { name, column_type, is_nullable, group, access }
}

/// A column that has a value in every record.
const fn required(name: &'static str, column_type: ColumnType, group: Group, access: Access) -> Column {
    column(name, column_type, false, group, access)
}

/// A column that may be NULL.
const fn nullable(name: &'static str, column_type: ColumnType, group: Group, access: Access) -> Column {
    column(name, column_type, true, group, access)
}

use ColumnType::{Bigint, Bytes32, Double, Json, Text as TextType, Timestamptz, Uuid};
use Group::{Chain, Circumstances, Content, Open, Who};

/// All columns, in the order of `audit_log`, of a frame and of the hash.
pub static COLUMNS: [Column; 39] = [
    required(
        "gateway_id",
        Uuid,
        Open,
        Access::Position(
            |position| Value::Uuid(position.gateway_id.0),
            |position, value| {
                position.gateway_id = GatewayId(value.as_uuid()?);
                Some(())
            },
        ),
    ),
    required("epoch", Bigint, Open, access!(position count epoch Epoch)),
    required("seq", Bigint, Open, access!(position count seq Seq)),
    required("prev_hash", Bytes32, Chain, access!(position prev_hash Digest)),
    required("hash", Bytes32, Chain, access!(position hash Digest)),
    required(
        "request_id",
        Uuid,
        Open,
        Access::Call(
            |call| Value::Uuid(call.request_id.0),
            |call, value| {
                call.request_id = RequestId(value.as_uuid()?);
                Some(())
            },
        ),
    ),
    nullable(
        "parent_id",
        Uuid,
        Open,
        Access::Call(
            |call| call.parent_id.map_or(Value::Null, |id| Value::Uuid(id.0)),
            |call, value| {
                call.parent_id = value.optional(Value::as_uuid)?.map(RequestId);
                Some(())
            },
        ),
    ),
    required(
        "timestamp",
        Timestamptz,
        Open,
        Access::Call(
            |call| Value::Timestamptz(call.timestamp),
            |call, value| {
                call.timestamp = value.as_timestamp()?;
                Some(())
            },
        ),
    ),
    required(
        "latency_ms",
        Double,
        Open,
        Access::Outcome(
            |entry| Value::Double(entry.latency_ms),
            |entry, value| {
                entry.latency_ms = value.as_double()?;
                Some(())
            },
        ),
    ),
    required("method", TextType, Open, access!(call text method)),
    nullable("tool_name", TextType, Open, access!(call text? tool_name)),
    nullable("backend_name", TextType, Open, access!(call text? backend_name)),
    nullable("resource_uri", TextType, Content, access!(call text? resource_uri)),
    nullable("client_role", TextType, Open, access!(call text? client_role)),
    nullable("client_issuer", TextType, Open, access!(call text? client_issuer)),
    required("client_subject", TextType, Who, access!(call text client_subject)),
    nullable("client_name", TextType, Who, access!(call text? client_name)),
    nullable("client_id", TextType, Who, access!(call text? client_id)),
    nullable("actor_subject", TextType, Who, access!(call text? actor_subject)),
    nullable("token_id", TextType, Circumstances, access!(call text? token_id)),
    nullable("client_addr", TextType, Circumstances, access!(call text? client_addr)),
    nullable("session_id", TextType, Circumstances, access!(call text? session_id)),
    nullable("rpc_id", TextType, Circumstances, access!(call text? rpc_id)),
    nullable("context", Json, Circumstances, access!(call json? context)),
    nullable("request_args", Json, Content, access!(call json? request_args)),
    nullable("request_extra", Json, Content, access!(call json? request_extra)),
    nullable("params_digest", Bytes32, Open, access!(call digest? params_digest)),
    nullable("args_digest", Bytes32, Open, access!(call digest? args_digest)),
    nullable(
        "response",
        Json,
        Content,
        Access::Outcome(
            |entry| entry.response.as_deref().map_or(Value::Null, Value::Text),
            |entry, value| {
                entry.response = value.optional(Value::as_text)?.map(str::to_owned);
                Some(())
            },
        ),
    ),
    nullable("response_digest", Bytes32, Open, access!(outcome digest? response_digest)),
    nullable(
        "response_bytes",
        Bigint,
        Open,
        Access::Outcome(
            |entry| entry.response_bytes.map_or(Value::Null, |bytes| Value::Bigint(bytes.cast_signed())),
            // No `abs`: a changed sign must show as a change.
            |entry, value| {
                entry.response_bytes = value.optional(Value::as_bigint)?.map(i64::cast_unsigned);
                Some(())
            },
        ),
    ),
    nullable(
        "error_message",
        TextType,
        Content,
        Access::Outcome(
            |entry| entry.error_message.as_deref().map_or(Value::Null, Value::Text),
            |entry, value| {
                entry.error_message = value.optional(Value::as_text)?.map(str::to_owned);
                Some(())
            },
        ),
    ),
    required(
        "response_status",
        TextType,
        Open,
        Access::Outcome(
            |entry| Value::Text(entry.response_status.as_str()),
            |entry, value| {
                entry.response_status = Status::from_word(value.as_text()?)?;
                Some(())
            },
        ),
    ),
    nullable("decided_by", TextType, Open, access!(call text? decided_by)),
    nullable("policy_digest", Bytes32, Open, access!(call digest? policy_digest)),
    nullable("tool_digest", Bytes32, Open, access!(call digest? tool_digest)),
    required("salt_who", Bytes32, Chain, access!(salt who)),
    required("salt_circumstances", Bytes32, Chain, access!(salt circumstances)),
    required("salt_content", Bytes32, Chain, access!(salt content)),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docs_trail_md_lists_every_column_with_its_type_and_group() {
        let documented = include_str!("../../../docs/trail.md");
        let (_, table) =
            documented.split_once("| column | type | group | meaning |\n| --- | --- | --- | --- |\n").unwrap();
        let rows: Vec<_> = table.lines().take_while(|line| line.starts_with('|')).collect();
        let expected = COLUMNS.iter().map(|column| {
            let column_type = match column.column_type {
                Uuid => "uuid",
                Bigint => "bigint",
                Bytes32 => "bytea",
                Timestamptz => "timestamptz",
                TextType => "text",
                Json => "json",
                Double => "double precision",
            };
            let group = match column.group {
                Open => "o",
                Who => "w",
                Circumstances => "x",
                Content => "c",
                Chain => "-",
            };
            format!("| `{}` | {column_type} | {group} | ", column.name)
        });
        let expected: Vec<_> = expected.collect();
        assert_eq!(rows.len(), expected.len());
        for (row, expected) in rows.iter().zip(expected) {
            assert!(row.starts_with(&expected), "{row} should begin with {expected}");
        }
    }
}
