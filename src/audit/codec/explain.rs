//! Explains the bytes of a record's frame, field by field, for `gatepost outbox show --raw`. It parses the layout
//! itself instead of calling the decoder, so that it can also explain the beginning of a frame that does not decode.

use super::layout::{HEADER_BYTES, MAGIC};

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

/// The encoding of a field of the body.
#[derive(Clone, Copy)]
enum Encoding {
    /// This number of bytes, unchanged.
    Bytes(usize),
    /// A variable-length integer.
    Unsigned,
    /// A variable-length integer in zigzag encoding.
    Signed,
    /// A length and UTF-8.
    Text,
    /// A 64-bit floating-point number, little-endian.
    Double,
}

/// The fields of a record's body in order, each with its encoding and whether it is optional. An optional field is
/// preceded by one byte, which is 0 if the field is absent.
const BODY: [(&str, Encoding, bool); 25] = [
    ("gateway_id", Encoding::Bytes(16), false),
    ("epoch", Encoding::Unsigned, false),
    ("seq", Encoding::Unsigned, false),
    ("prev_hash", Encoding::Bytes(32), false),
    ("hash", Encoding::Bytes(32), false),
    ("request_id", Encoding::Bytes(16), false),
    ("timestamp, microseconds", Encoding::Signed, false),
    ("method", Encoding::Text, false),
    ("client_subject", Encoding::Text, false),
    ("client_role", Encoding::Text, true),
    ("client_issuer", Encoding::Text, true),
    ("token_id", Encoding::Text, true),
    ("client_addr", Encoding::Text, true),
    ("session_id", Encoding::Text, true),
    ("rpc_id", Encoding::Text, true),
    ("tool_name", Encoding::Text, true),
    ("backend_name", Encoding::Text, true),
    ("request_args", Encoding::Text, true),
    ("args_digest", Encoding::Bytes(32), true),
    ("normalised, bits", Encoding::Unsigned, false),
    ("response_status, code", Encoding::Bytes(1), false),
    ("error_message", Encoding::Text, true),
    ("response_digest", Encoding::Bytes(32), true),
    ("response_bytes", Encoding::Unsigned, true),
    ("latency_ms", Encoding::Double, false),
];

/// The fields of the record frame in `bytes`, in order, up to the first one that is incomplete.
#[must_use]
pub fn fields(bytes: &[u8]) -> Vec<FrameField> {
    let mut parser = FieldParser { bytes, at: 0, fields: Vec::new() };
    let whole = parser
        .header()
        .and_then(|()| BODY.iter().try_for_each(|(name, encoding, optional)| parser.field(name, *encoding, *optional)));
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

    fn field(&mut self, name: &'static str, encoding: Encoding, optional: bool) -> Option<()> {
        let offset = self.at;
        let value = if optional && self.little(1)? == 0 { "-".to_owned() } else { self.value(encoding)? };
        self.push(offset, name, value);
        Some(())
    }

    fn value(&mut self, encoding: Encoding) -> Option<String> {
        Some(match encoding {
            Encoding::Bytes(1) => self.little(1)?.to_string(),
            Encoding::Bytes(count) => hex::encode(self.take(count).unwrap_or_default()),
            Encoding::Unsigned => self.integer()?.to_string(),
            Encoding::Signed => {
                let zigzag = self.integer()?;
                let half = i64::try_from(zigzag >> 1).ok()?;
                if zigzag & 1 == 0 { half } else { -half - 1 }.to_string()
            }
            Encoding::Text => {
                let count = usize::try_from(self.integer()?).ok()?;
                String::from_utf8_lossy(self.take(count)?).into_owned()
            }
            Encoding::Double => f64::from_bits(self.little(8)?).to_string(),
        })
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
        let golden = include_str!("record_v1.hex").trim();
        let bytes = hex::decode(golden).unwrap();
        let fields = fields(&bytes);
        let end = fields.iter().fold(0, |end, field| {
            assert_eq!(field.offset, end, "{}", field.name);
            end + field.length
        });
        assert_eq!((end, fields.len()), (bytes.len(), 7 + BODY.len()));
        let value = |name: &str| fields.iter().find(|field| field.name == name).map(|field| field.value.as_str());
        assert_eq!(value("request_args"), Some(r#"{"text":"hi"}"#));
        assert_eq!(value("timestamp, microseconds"), Some("1700000000000001"));
        assert_eq!(value("latency_ms"), Some("1.5"));
        assert!(value("CRC-32C").is_some_and(|text| text.ends_with("right")));
        let cut = super::fields(&bytes[..40]);
        assert_eq!(cut.last().map(|field| field.name), Some("not understood"));
    }
}
