//! What each byte of a record's frame means, for people who look. It reads the layout by itself, field by field, so that
//! it also explains a frame that does not decode, as far as that goes.

use super::{HEADER_BYTES, MAGIC};

/// One field of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Where it begins, bytes from the frame's start.
    pub offset: usize,
    /// How long it is, bytes.
    pub length: usize,
    /// Its name.
    pub name: &'static str,
    /// What it says.
    pub value: String,
}

/// How a field of the body is laid out.
#[derive(Clone, Copy)]
enum Kind {
    /// So many bytes as they are.
    Bytes(usize),
    /// A variable-length integer.
    Unsigned,
    /// The same, signs alternating.
    Signed,
    /// A length and UTF-8.
    Text,
    /// A double, little-endian.
    Double,
}

/// The body of a record: its fields in order, and whether one byte before says if it is there.
const BODY: [(&str, Kind, bool); 25] = [
    ("gateway_id", Kind::Bytes(16), false),
    ("epoch", Kind::Unsigned, false),
    ("seq", Kind::Unsigned, false),
    ("prev_hash", Kind::Bytes(32), false),
    ("hash", Kind::Bytes(32), false),
    ("request_id", Kind::Bytes(16), false),
    ("timestamp, microseconds", Kind::Signed, false),
    ("method", Kind::Text, false),
    ("client_subject", Kind::Text, false),
    ("client_role", Kind::Text, true),
    ("client_issuer", Kind::Text, true),
    ("token_id", Kind::Text, true),
    ("client_addr", Kind::Text, true),
    ("session_id", Kind::Text, true),
    ("rpc_id", Kind::Text, true),
    ("tool_name", Kind::Text, true),
    ("backend_name", Kind::Text, true),
    ("request_args", Kind::Text, true),
    ("args_digest", Kind::Bytes(32), true),
    ("normalised, bits", Kind::Unsigned, false),
    ("response_status, code", Kind::Bytes(1), false),
    ("error_message", Kind::Text, true),
    ("response_digest", Kind::Bytes(32), true),
    ("response_bytes", Kind::Unsigned, true),
    ("latency_ms", Kind::Double, false),
];

/// The fields of the record frame in `bytes`, in order, up to the first that is not there in full.
#[must_use]
pub fn fields(bytes: &[u8]) -> Vec<Field> {
    let mut walk = Walk { bytes, at: 0, fields: Vec::new() };
    let whole = walk
        .header()
        .and_then(|()| BODY.iter().try_for_each(|(name, kind, optional)| walk.field(name, *kind, *optional)));
    if whole.is_none() {
        let (offset, length) = (walk.at, bytes.len().saturating_sub(walk.at));
        walk.fields.push(Field { offset, length, name: "not understood", value: hex(bytes.get(walk.at..)) });
    }
    walk.fields
}

struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
    fields: Vec<Field>,
}

impl<'a> Walk<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(taken)
    }

    fn little(&mut self, count: usize) -> Option<u64> {
        Some(self.take(count)?.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    fn push(&mut self, offset: usize, name: &'static str, value: String) {
        self.fields.push(Field { offset, length: self.at - offset, name, value });
    }

    fn header(&mut self) -> Option<()> {
        let magic = self.take(MAGIC.len())?;
        self.push(0, "magic", String::from_utf8_lossy(magic).into_owned());
        for (name, count) in [
            ("format version", 1),
            ("codec, 1 = bincode 2", 1),
            ("kind, 1 = record, 2 = intent", 1),
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

    fn field(&mut self, name: &'static str, kind: Kind, optional: bool) -> Option<()> {
        let offset = self.at;
        let value = if optional && self.little(1)? == 0 { "-".to_owned() } else { self.value(kind)? };
        self.push(offset, name, value);
        Some(())
    }

    fn value(&mut self, kind: Kind) -> Option<String> {
        Some(match kind {
            Kind::Bytes(1) => self.little(1)?.to_string(),
            Kind::Bytes(count) => hex(self.take(count)),
            Kind::Unsigned => self.integer()?.to_string(),
            Kind::Signed => {
                let zigzag = self.integer()?;
                let half = i64::try_from(zigzag >> 1).ok()?;
                if zigzag & 1 == 0 { half } else { -half - 1 }.to_string()
            }
            Kind::Text => {
                let count = usize::try_from(self.integer()?).ok()?;
                String::from_utf8_lossy(self.take(count)?).into_owned()
            }
            Kind::Double => f64::from_bits(self.little(8)?).to_string(),
        })
    }

    /// bincode 2: up to 250 in one byte; 251, 252 and 253 announce two, four and eight.
    fn integer(&mut self) -> Option<u64> {
        match self.little(1)? {
            251 => self.little(2),
            252 => self.little(4),
            253 => self.little(8),
            small => (small < 251).then_some(small),
        }
    }
}

fn hex(bytes: Option<&[u8]>) -> String {
    bytes.unwrap_or_default().iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_of_the_golden_frame_belongs_to_one_field() {
        let golden = include_str!("record_v1.hex").trim();
        let byte = |at: usize| u8::from_str_radix(&golden[at * 2..at * 2 + 2], 16).unwrap();
        let bytes: Vec<u8> = (0..golden.len() / 2).map(byte).collect();
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
