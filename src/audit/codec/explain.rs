//! Explains the bytes of a record's frame, field by field, for `gatepost outbox show --raw`. It parses the layout
//! itself instead of calling the decoder, so that it can also explain the beginning of a frame that does not decode.

use super::layout::{HEADER_BYTES, MAGIC};
use crate::audit::record::Timestamp;
use crate::audit::record::column::{COLUMNS, Column, ColumnType};

/// A field of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameField {
    /// The offset from the start of the frame, in bytes.
    pub offset: usize,
    /// The length in bytes.
    pub length: usize,
    /// The name of the field.
    pub name: &'static str,
    /// The value as text.
    pub value: String,
}

/// The fields of the record frame in `bytes`, in order, up to the first one that is incomplete.
#[must_use]
pub fn fields(bytes: &[u8]) -> Vec<FrameField> {
    let mut parser = FieldParser { bytes, at: 0, fields: Vec::new() };
    let whole = parser.header().and_then(|()| COLUMNS.iter().try_for_each(|column| parser.column(column)));
    if whole.is_none() {
        let (offset, length) = (parser.at, bytes.len().saturating_sub(parser.at));
        parser.fields.push(FrameField {
            offset,
            length,
            name: "not understood",
            value: hex::encode(bytes.get(parser.at..).unwrap_or_default()),
        });
    }
    parser.fields
}

struct FieldParser<'a> {
    bytes: &'a [u8],
    at: usize,
    fields: Vec<FrameField>,
}

impl<'a> FieldParser<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(taken)
    }

    /// A little-endian integer of `count` bytes.
    fn little(&mut self, count: usize) -> Option<u64> {
        Some(self.take(count)?.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    fn push(&mut self, offset: usize, name: &'static str, value: String) {
        self.fields.push(FrameField { offset, length: self.at - offset, name, value });
    }

    fn header(&mut self) -> Option<()> {
        let magic = self.take(MAGIC.len())?;
        self.push(0, "magic", String::from_utf8_lossy(magic).into_owned());
        for (name, count) in [
            ("format version", 1),
            ("codec, 1 = bincode 2", 1),
            ("encoding, 1 = record, 2 = intent", 1),
            ("reserved", 1),
            ("length of the body", 4),
        ] {
            let offset = self.at;
            let value = self.little(count)?.to_string();
            self.push(offset, name, value);
        }
        let offset = self.at;
        let found = self.little(4)?;
        let (head, body) = (self.bytes.get(..12)?, self.bytes.get(HEADER_BYTES..)?);
        let computed = u64::from(crc32c::crc32c_append(crc32c::crc32c(head), body));
        let verdict = if found == computed { "right".to_owned() } else { format!("its bytes give {computed:#010x}") };
        self.push(offset, "CRC-32C", format!("{found:#010x}, {verdict}"));
        Some(())
    }

    fn column(&mut self, column: &Column) -> Option<()> {
        let offset = self.at;
        let is_null = column.is_nullable && self.little(1)? == 0;
        let value = if is_null { "-".to_owned() } else { self.value(column.column_type)? };
        self.push(offset, column.name, value);
        Some(())
    }

    fn value(&mut self, column_type: ColumnType) -> Option<String> {
        Some(match column_type {
            ColumnType::Uuid => hex::encode(self.take(16)?),
            ColumnType::Bytes32 => hex::encode(self.take(32)?),
            ColumnType::Bigint => self.signed()?.to_string(),
            ColumnType::Timestamptz => Timestamp::from_micros(self.signed()?).to_string(),
            ColumnType::Text | ColumnType::Json => {
                let count = usize::try_from(self.integer()?).ok()?;
                String::from_utf8_lossy(self.take(count)?).into_owned()
            }
            ColumnType::Double => f64::from_bits(self.little(8)?).to_string(),
        })
    }

    /// A signed integer in zigzag encoding.
    fn signed(&mut self) -> Option<i64> {
        let zigzag = self.integer()?;
        let half = i64::try_from(zigzag >> 1).ok()?;
        Some(if zigzag & 1 == 0 { half } else { -half - 1 })
    }

    /// A variable-length integer of bincode 2: one byte up to 250; 251, 252 and 253 precede two, four and eight bytes.
    fn integer(&mut self) -> Option<u64> {
        match self.little(1)? {
            251 => self.little(2),
            252 => self.little(4),
            253 => self.little(8),
            small => (small < 251).then_some(small),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_of_the_golden_frame_is_in_one_field() {
        let golden = include_str!("record_v2.hex").trim();
        let bytes = hex::decode(golden).unwrap();
        let fields = fields(&bytes);
        let end = fields.iter().fold(0, |end, field| {
            assert_eq!(field.offset, end, "{}", field.name);
            end + field.length
        });
        assert_eq!((end, fields.len()), (bytes.len(), 7 + COLUMNS.len()));
        let value = |name: &str| fields.iter().find(|field| field.name == name).map(|field| field.value.as_str());
        assert_eq!(value("request_args"), Some(r#"{"text":"hi"}"#));
        assert_eq!(value("timestamp"), Some("2023-11-14T22:13:20.000001Z"));
        assert_eq!(value("latency_ms"), Some("1.5"));
        assert!(value("CRC-32C").is_some_and(|text| text.ends_with("right")));
        let cut = super::fields(&bytes[..40]);
        assert_eq!(cut.last().map(|field| field.name), Some("not understood"));
    }
}
