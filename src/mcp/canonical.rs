//! The canonical form of JSON text (RFC 8785): texts with the same content have the same form, and so the same digest.

use std::fmt::{self, Write as _};

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// The canonical form of `json`. `None`: it has none. It is not JSON, is nested more than 127 levels deep, repeats a
/// key in an object, or has a lone surrogate or a number that is too large.
#[must_use]
pub fn canonical(json: &str) -> Option<String> {
    let node: Node = serde_json::from_str(json).ok()?;
    let mut out = String::with_capacity(json.len());
    node.write(&mut out);
    Some(out)
}

/// A JSON value whose objects have their members in canonical order, each once.
enum Node {
    Null,
    Flag(bool),
    Number(f64),
    Text(String),
    Array(Vec<Node>),
    Object(Vec<(String, Node)>),
}

impl Node {
    fn write(&self, out: &mut String) {
        match self {
            Self::Null => out.push_str("null"),
            Self::Flag(flag) => out.push_str(if *flag { "true" } else { "false" }),
            Self::Number(number) => write_number(*number, out),
            Self::Text(text) => write_text(text, out),
            Self::Array(items) => {
                for (idx, item) in items.iter().enumerate() {
                    out.push(if idx == 0 { '[' } else { ',' });
                    item.write(out);
                }
                out.push_str(if items.is_empty() { "[]" } else { "]" });
            }
            Self::Object(members) => {
                for (idx, (key, value)) in members.iter().enumerate() {
                    out.push(if idx == 0 { '{' } else { ',' });
                    write_text(key, out);
                    out.push(':');
                    value.write(out);
                }
                out.push_str(if members.is_empty() { "{}" } else { "}" });
            }
        }
    }
}

/// *Spec*: RFC 8785, 3.2.2.2.
fn write_text(text: &str, out: &mut String) {
    out.push('"');
    for char in text.chars() {
        match char {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\u{c}' => out.push_str("\\f"),
            '\r' => out.push_str("\\r"),
            '\0'..='\u{1f}' => drop(write!(out, "\\u{:04x}", u32::from(char))),
            _ => out.push(char),
        }
    }
    out.push('"');
}

/// *Spec*: RFC 8785, 3.2.2.3, which is `Number::toString` of ECMAScript.
fn write_number(number: f64, out: &mut String) {
    if number == 0.0 {
        out.push('0');
        return;
    }
    // As many digits as are needed to read the same number back; of those, the nearest and, of two, the even one.
    let shortest = format!("{:e}", number.abs());
    let fraction = shortest.find('e').unwrap_or_default().saturating_sub(2);
    let shortest = format!("{:.fraction$e}", number.abs());
    let (digits, exponent) = shortest.split_once('e').unwrap_or((&shortest, "0"));
    let digits = digits.replace('.', "");
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if number < 0.0 {
        out.push('-');
    }
    // The place of the point: after so many digits.
    let point = exponent + 1;
    let count = i32::try_from(digits.len()).unwrap_or(i32::MAX);
    let zeros = |count: i32| "0".repeat(usize::try_from(count).unwrap_or_default());
    match point {
        _ if count <= point && point <= 21 => out.extend([digits.as_str(), &zeros(point - count)]),
        1..=21 => {
            let (whole, fraction) = digits.split_at(usize::try_from(point).unwrap_or_default());
            out.extend([whole, ".", fraction]);
        }
        -5..=0 => out.extend(["0.", &zeros(-point), &digits]),
        _ => {
            let (first, rest) = digits.split_at(1);
            let (dot, sign) = (if rest.is_empty() { "" } else { "." }, if exponent < 0 { "-" } else { "+" });
            out.extend([first, dot, rest, "e", sign, &exponent.unsigned_abs().to_string()]);
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }

    fn visit_bool<E: Error>(self, flag: bool) -> Result<Node, E> {
        Ok(Node::Flag(flag))
    }

    // *Spec*: RFC 8785, 3.2.2.3: every number is an IEEE 754 double.
    #[expect(clippy::cast_precision_loss)]
    fn visit_i64<E: Error>(self, number: i64) -> Result<Node, E> {
        Ok(Node::Number(number as f64))
    }

    #[expect(clippy::cast_precision_loss)]
    fn visit_u64<E: Error>(self, number: u64) -> Result<Node, E> {
        Ok(Node::Number(number as f64))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Node, E> {
        Ok(Node::Number(number))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Node, E> {
        Ok(Node::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut read = Vec::new();
        while let Some(item) = items.next_element()? {
            read.push(item);
        }
        Ok(Node::Array(read))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Node, A::Error> {
        let mut read: Vec<(String, Node)> = Vec::new();
        while let Some(member) = members.next_entry()? {
            read.push(member);
        }
        // *Spec*: RFC 8785, 3.2.3: by UTF-16 code units.
        read.sort_by(|(one, _), (other, _)| one.encode_utf16().cmp(other.encode_utf16()));
        if read.windows(2).any(|pair| matches!(pair, [(one, _), (other, _)] if one == other)) {
            return Err(A::Error::custom("a key is repeated"));
        }
        Ok(Node::Object(read))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_rfc_8785_have_their_canonical_form() {
        // RFC 8785, 3.2.2 and 3.2.4.
        let json = r#"{
            "numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
            "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
            "literals": [null, true, false]
        }"#;
        let want = "{\"literals\":[null,true,false],\"numbers\":[333333333.3333333,1e+30,4.5,0.002,1e-27],\
                    \"string\":\"\u{20ac}$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"}";
        assert_eq!(canonical(json).unwrap(), want);
        // RFC 8785, 3.2.3.
        let json = r#"{"\u20ac": "Euro Sign", "\r": "Carriage Return", "\ufb33": "Hebrew Letter Dalet With Dagesh",
            "1": "One", "\ud83d\ude00": "Emoji: Grinning Face", "\u0080": "Control",
            "\u00f6": "Latin Small Letter O With Diaeresis"}"#;
        let read = canonical(json).unwrap();
        let places =
            ["Carriage", "One", "Control", "Latin", "Euro", "Emoji", "Hebrew"].map(|name| read.find(name).unwrap());
        assert!(places.is_sorted(), "{read}");
        assert_eq!(canonical(r#" [ {} , [ ] , { "b" : [ 1 ] , "a" : -0 } ] "#).unwrap(), r#"[{},[],{"a":0,"b":[1]}]"#);
    }

    #[test]
    fn numbers_are_written_as_in_appendix_b_of_rfc_8785() {
        let samples: [(u64, &str); 24] = [
            (0x0000_0000_0000_0000, "0"),
            (0x8000_0000_0000_0000, "0"),
            (0x0000_0000_0000_0001, "5e-324"),
            (0x8000_0000_0000_0001, "-5e-324"),
            (0x7fef_ffff_ffff_ffff, "1.7976931348623157e+308"),
            (0xffef_ffff_ffff_ffff, "-1.7976931348623157e+308"),
            (0x4340_0000_0000_0000, "9007199254740992"),
            (0xc340_0000_0000_0000, "-9007199254740992"),
            (0x4430_0000_0000_0000, "295147905179352830000"),
            (0x44b5_2d02_c7e1_4af5, "9.999999999999997e+22"),
            (0x44b5_2d02_c7e1_4af6, "1e+23"),
            (0x44b5_2d02_c7e1_4af7, "1.0000000000000001e+23"),
            (0x444b_1ae4_d6e2_ef4e, "999999999999999700000"),
            (0x444b_1ae4_d6e2_ef4f, "999999999999999900000"),
            (0x444b_1ae4_d6e2_ef50, "1e+21"),
            (0x3eb0_c6f7_a0b5_ed8c, "9.999999999999997e-7"),
            (0x3eb0_c6f7_a0b5_ed8d, "0.000001"),
            (0x41b3_de43_5555_5553, "333333333.3333332"),
            (0x41b3_de43_5555_5554, "333333333.33333325"),
            (0x41b3_de43_5555_5555, "333333333.3333333"),
            (0x41b3_de43_5555_5556, "333333333.3333334"),
            (0x41b3_de43_5555_5557, "333333333.33333343"),
            (0xbecb_f647_612f_3696, "-0.0000033333333333333333"),
            (0x4314_3ff3_c1cb_0959, "1424953923781206.2"),
        ];
        for (bits, want) in samples {
            let mut out = String::new();
            write_number(f64::from_bits(bits), &mut out);
            assert_eq!(out, want);
        }
    }

    #[test]
    fn ambiguous_texts_have_no_canonical_form() {
        let deep = "[".repeat(200) + &"]".repeat(200);
        for json in [r#"{"a":1,"a":1}"#, r#"{"a":1,"\u0061":2}"#, r#""\ud800""#, "1e999", "{", "", "1 2", deep.as_str()]
        {
            assert_eq!(canonical(json), None, "{json}");
        }
    }
}
