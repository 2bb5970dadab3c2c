//! The body of a frame: the values of the columns, in the order of [`COLUMNS`].
//!
//! A record has all columns, an intent those of the call. A nullable column is preceded by one byte, 0 for NULL and 1
//! for a value. At its end an intent has a bit for each column that was normalised. bincode stores no names, so the
//! order and the types of the columns are the on-disk format: a change needs a new format version in byte 4.

use bincode::de::BorrowDecoder;
use bincode::enc::Encoder;
use bincode::error::{DecodeError, EncodeError};
use bincode::{BorrowDecode, Decode, Encode};
use uuid::Uuid;

use crate::audit::record::column::{COLUMNS, Column, ColumnType, Part, Value};
use crate::audit::record::{AuditRecord, Call, Timestamp};

/// The body of a record, for encoding.
pub(super) struct RecordBody<'a>(pub(super) &'a AuditRecord);

/// The body of an intent, for encoding.
pub(super) struct IntentBody<'a>(pub(super) &'a Call);

/// A decoded record.
pub(super) struct DecodedRecord(pub(super) AuditRecord);

/// A decoded intent.
pub(super) struct DecodedIntent(pub(super) Call);

impl Encode for RecordBody<'_> {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        COLUMNS.iter().try_for_each(|column| encode_value(column, column.of(self.0), encoder))
    }
}

impl Encode for IntentBody<'_> {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        for column in &COLUMNS {
            if let Some(value) = column.in_call(self.0) {
                encode_value(column, value, encoder)?;
            }
        }
        let bit = |name: &&str| COLUMNS.iter().position(|column| column.name == *name).map_or(0, |idx| 1_u64 << idx);
        self.0.normalised.iter().fold(0, |mask, name| mask | bit(name)).encode(encoder)
    }
}

impl<'de, Context> BorrowDecode<'de, Context> for DecodedRecord {
    fn borrow_decode<D: BorrowDecoder<'de, Context = Context>>(decoder: &mut D) -> Result<Self, DecodeError> {
        let mut record = AuditRecord::blank();
        for column in &COLUMNS {
            decode_column(column, &mut record, decoder)?;
        }
        if !record.entry.latency_ms.is_finite() || record.entry.latency_ms < 0.0 {
            return Err(invalid("latency_ms"));
        }
        Ok(Self(record))
    }
}

impl<'de, Context> BorrowDecode<'de, Context> for DecodedIntent {
    fn borrow_decode<D: BorrowDecoder<'de, Context = Context>>(decoder: &mut D) -> Result<Self, DecodeError> {
        let mut record = AuditRecord::blank();
        for column in COLUMNS.iter().filter(|column| column.part() == Part::Call) {
            decode_column(column, &mut record, decoder)?;
        }
        let mask = u64::decode(decoder)?;
        if mask >> COLUMNS.len() != 0 {
            return Err(invalid("normalised"));
        }
        let is_set = |(idx, _): &(usize, &Column)| mask & (1 << idx) != 0;
        let mut call = record.entry.call;
        call.normalised = COLUMNS.iter().enumerate().filter(is_set).map(|(_, column)| column.name).collect();
        Ok(Self(call))
    }
}

fn encode_value<E: Encoder>(column: &Column, value: Value<'_>, encoder: &mut E) -> Result<(), EncodeError> {
    if column.is_nullable {
        u8::from(value != Value::Null).encode(encoder)?;
    }
    match value {
        Value::Null => Ok(()),
        Value::Uuid(value) => value.as_bytes().encode(encoder),
        Value::Bigint(value) => value.encode(encoder),
        Value::Bytes32(value) => value.encode(encoder),
        Value::Timestamptz(value) => value.micros().encode(encoder),
        Value::Text(value) => value.encode(encoder),
        Value::Double(value) => value.encode(encoder),
    }
}

fn decode_column<'de, D: BorrowDecoder<'de>>(
    column: &Column,
    record: &mut AuditRecord,
    decoder: &mut D,
) -> Result<(), DecodeError> {
    let is_null = column.is_nullable
        && match u8::decode(decoder)? {
            0 => true,
            1 => false,
            _ => return Err(invalid(column.name)),
        };
    let bytes32;
    let value = match column.column_type {
        _ if is_null => Value::Null,
        ColumnType::Uuid => Value::Uuid(Uuid::from_bytes(<[u8; 16]>::decode(decoder)?)),
        ColumnType::Bigint => Value::Bigint(i64::decode(decoder)?),
        ColumnType::Bytes32 => {
            bytes32 = <[u8; 32]>::decode(decoder)?;
            Value::Bytes32(&bytes32)
        }
        ColumnType::Timestamptz => {
            let micros = i64::decode(decoder)?;
            let timestamp = Timestamp::from_micros(micros);
            if timestamp.micros() != micros {
                return Err(invalid("timestamp"));
            }
            Value::Timestamptz(timestamp)
        }
        ColumnType::Text | ColumnType::Json => Value::Text(<&str>::borrow_decode(decoder)?),
        ColumnType::Double => Value::Double(f64::decode(decoder)?),
    };
    column.set(record, value).ok_or_else(|| invalid(column.name))
}

fn invalid(column: &'static str) -> DecodeError {
    DecodeError::OtherString(format!("the value of {column} is not valid"))
}
