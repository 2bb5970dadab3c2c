//! Tests of redaction.

use super::*;
use crate::audit::redact::values::REPLACEMENT;

fn redaction(paths: &[&str]) -> Redaction {
    let paths: Vec<String> = paths.iter().map(|&path| path.to_owned()).collect();
    Redaction::new(&paths).unwrap()
}

fn redact(paths: &[&str], json: &str) -> String {
    redaction(paths).arguments(json, &mut RedactedValues::default()).into_owned()
}

/// The values that are redacted in `json` if `/secret` is.
fn values(json: &str) -> RedactedValues {
    let mut found = RedactedValues::default();
    let _redacted = redaction(&["/secret"]).arguments(&format!(r#"{{"secret":{json}}}"#), &mut found);
    found
}

#[test]
fn only_the_value_at_the_path_changes() {
    let json = r#"{ "user" : "ann", "password":{"a": [1]},  "n":1.0e3 }"#;
    let want = r#"{ "user" : "ann", "password":"[redacted]",  "n":1.0e3 }"#;
    assert_eq!(redact(&["/password"], json), want);
    assert!(matches!(redaction(&["/x"]).arguments(json, &mut RedactedValues::default()), Cow::Borrowed(_)));
    assert!(matches!(Redaction::none().anywhere("not JSON", &mut RedactedValues::default()), Cow::Borrowed(_)));
}

#[test]
fn star_matches_every_element_and_member() {
    let json = r#"{"items":[{"token":"a","x":1},{"token":"b"}]}"#;
    let want = r#"{"items":[{"token":"[redacted]","x":1},{"token":"[redacted]"}]}"#;
    assert_eq!(redact(&["/items/*/token"], json), want);
    assert_eq!(redact(&["/items/0/token", "/*"], json), r#"{"items":"[redacted]"}"#);
    assert_eq!(redact(&["/items/1/token"], json), json.replace("\"b\"", REDACTED));
}

#[test]
fn two_stars_match_at_every_depth() {
    let json = r#"{"pin":1,"a":{"pin":2,"b":[[{"pin":3}],{"c":4}]}}"#;
    let want = r#"{"pin":"[redacted]","a":{"pin":"[redacted]","b":[[{"pin":"[redacted]"}],{"c":4}]}}"#;
    assert_eq!(redact(&["/**/pin"], json), want);
    assert_eq!(redact(&["/**/**/pin"], json), want);
    assert_eq!(redact(&["/a/**/pin"], json), want.replacen(REDACTED, "1", 1));
    assert_eq!(redact(&["/**/b/*/*/pin"], json), json.replace('3', REDACTED));
    assert_eq!(redact(&["/**/b/**/c"], json), json.replace('4', REDACTED));
}

#[test]
fn names_match_in_every_spelling_that_a_decoder_may_confuse() {
    for name in [
        "password",
        "Password",
        "PASSWORD",
        "pass_word",
        "pass-word",
        "_passWord",
        r"p\u0061ssword",
        "pa\u{17f}\u{17f}word",
        r"pas\u017fword",
        "\u{ff50}assword",
        "pass\u{ff3f}word",
        r"\ud835\udc29assword",
    ] {
        let json = format!(r#"{{"x":[{{"{name}":"S"}}]}}"#);
        assert_eq!(redact(&["/**/password"], &json), json.replace("\"S\"", REDACTED), "{name}");
    }
    assert_eq!(redact(&["/pass~1word"], r#"{"p\u0061ss/word":1}"#), r#"{"p\u0061ss/word":"[redacted]"}"#);
    assert_eq!(redact(&["/~01"], r#"{"~1":1}"#), r#"{"~1":"[redacted]"}"#);
}

#[test]
fn repeated_names_are_all_redacted() {
    assert_eq!(redact(&["/k"], r#"{"k":1,"k":2,"K":3}"#), r#"{"k":"[redacted]","k":"[redacted]","K":"[redacted]"}"#);
}

#[test]
fn json_inside_of_a_string_is_looked_into() {
    let json = r#"{"body":" {\"user\":\"ann\",\"password\":\"S\"}\n","other":"{\"password\":1"}"#;
    let want = r#"{"body":" {\"user\":\"ann\",\"password\":\"[redacted]\"}\n","other":"{\"password\":1"}"#;
    for path in ["/body/password", "/**/password"] {
        let got: serde_json::Value = serde_json::from_str(&redact(&[path], json)).unwrap();
        assert_eq!(got, serde_json::from_str::<serde_json::Value>(want).unwrap(), "{path}");
    }
    let twice = serde_json::json!({ "a": serde_json::json!({ "b": r#"[{"password":"S3CRET"}]"# }).to_string() });
    assert!(!redact(&["/**/password"], &twice.to_string()).contains("S3CRET"));
    assert_eq!(redact(&["/password"], json), json, "the path begins at the root");
}

#[test]
fn a_path_that_is_not_one_is_refused() {
    for path in ["password", "", "**/password", "/**", "/a/**"] {
        assert!(Redaction::new(&[path.to_owned()]).is_err(), "{path}");
    }
}

#[test]
fn i8_text_in_which_paths_cannot_be_followed_is_replaced_as_a_whole() {
    let deep = format!("{}\"S3CRET\"{}", "[".repeat(5000), "]".repeat(5000));
    for json in ["S3CRET", "{\"a\":S3CRET", "[1", "{\"a\" 1}", "[1]2", &deep] {
        assert_eq!(redact(&["/**/x"], json), REDACTED, "{json:.20}");
    }
    let inside = serde_json::json!({ "a": deep }).to_string();
    assert_eq!(redact(&["/**/x"], &inside), inside, "a string with any text in it stays a string");
}

#[test]
fn paths_are_relative_to_the_arguments_of_every_method() {
    let params = |method: &str, params: &str| {
        let params =
            redaction(&["/password"]).request_args(method, params, &mut RedactedValues::default()).into_owned();
        serde_json::from_str::<serde_json::Value>(&params).unwrap()
    };
    let redacted = serde_json::json!("[redacted]");
    let arguments = params("tools/call", r#"{"Password":"S","x":{"password":"kept"}}"#);
    assert_eq!((&arguments["Password"], &arguments["x"]["password"]), (&redacted, &serde_json::json!("kept")));
    let prompt = params("prompts/get", r#"{"name":"password","arguments":{"Password":"S","x":{"password":"kept"}}}"#);
    assert_eq!((&prompt["arguments"]["Password"], &prompt["name"]), (&redacted, &serde_json::json!("password")));
    assert_eq!(prompt["arguments"]["x"]["password"], "kept");
    let completed = |name: &str| {
        let text = r#"{"ref":{"type":"ref/prompt","name":"p"},"argument":{"name":"NAME","value":"S"},
            "context":{"arguments":{"password":"S","user":"ann"}}}"#;
        params("completion/complete", &text.replace("NAME", name))
    };
    for name in ["password", "Pass_word"] {
        assert_eq!(completed(name)["argument"], serde_json::json!({ "name": name, "value": "[redacted]" }));
    }
    let other = completed("user");
    assert_eq!(other["argument"]["value"], "S");
    let arguments = serde_json::json!({ "password": "[redacted]", "user": "ann" });
    assert_eq!(other["context"]["arguments"], arguments);
    for method in ["initialize", "vendor/anything", "resources/read"] {
        let params = params(method, r#"{"password":"S","a":[{"arguments":{"PASSWORD":"S"}}]}"#);
        assert_eq!((&params["password"], &params["a"][0]["arguments"]["PASSWORD"]), (&redacted, &redacted), "{method}");
    }
}

#[test]
fn a_redacted_value_is_replaced_in_texts_in_every_spelling() {
    let found = values(r#""p\"a\\s/\u00e9\ud83d\ude00 1""#);
    let spellings = [
        r#"p"a\s/é😀 1"#,
        r#"p\"a\\s/é😀 1"#,
        r#"p\"a\\s\/\u00E9\ud83d\uDE00 1"#,
        r"\u0070\u0022a\u005cs/\xe9\U0001f600 1",
        r#"p\\\"a\\\\s/\\u00e9\\ud83d\\ude00 1"#,
        r#"p\"a\\s/\u{e9}\u{1f600} 1"#,
        "p%22a%5Cs%2F%C3%A9%F0%9F%98%80%201",
        "p%22a%5cs/%c3%a9%f0%9f%98%80 1",
    ];
    for spelling in spellings {
        let text = format!("wrong: {spelling}; {spelling}");
        assert_eq!(found.replaced_in_text(&text), format!("wrong: {REPLACEMENT}; {REPLACEMENT}"));
    }
    let deep = (0..6).fold(spellings[0].to_owned(), |text, _| serde_json::json!(text).to_string());
    assert!(!found.replaced_in_text(&deep).contains('p'), "escaped six times");
    let deeper = (0..9).fold(spellings[0].to_owned(), |text, _| serde_json::json!(text).to_string());
    assert_eq!(found.replaced_in_text(&deeper), REPLACEMENT, "escaped more often than anyone needs");
    for text in ["nothing", r"C:\new\table", "100 %", "%zz \\", "\\u12", "\\ud800", "\\u{110000}"] {
        assert!(matches!(found.replaced_in_text(text), Cow::Borrowed(_)), "{text}");
    }
}

#[test]
fn strings_numbers_and_long_values_are_found_and_short_ones_are_not() {
    let long = "k".repeat(5000);
    let found = values(&format!(r#"{{"member":["abcd","abc","  padded ", 730914, 12, 1e6, true, "{long}"]}}"#));
    let text = |text: &str| found.replaced_in_text(text).into_owned();
    assert_eq!(text("abcd abc padded 12 true member"), "[redacted] abc [redacted] 12 true member");
    assert_eq!(text("pin=730914, n=1000000"), "pin=[redacted], n=[redacted]");
    assert_eq!(text(&format!("<{long}>")), "<[redacted]>");
    assert_eq!(text("xabcdefg"), "x[redacted]efg", "in the middle of a word");
    let umlauts = values("\"\u{fc}\u{fc}\u{fc}\u{fc}\"");
    assert_eq!(umlauts.replaced_in_text("\u{fc}\u{fc}\u{fc}\u{fc}"), REPLACEMENT);
    assert!(values("\"\u{fc}\u{fc}\u{fc}\"").is_empty(), "three characters");
    assert!(!format!("{found:?}").contains("abcd"), "I8: not in a log");
}

#[test]
fn a_response_has_no_redacted_value_in_any_string_name_or_number() {
    let mut found = values(r#"["S3\"CRET", 730914]"#);
    let response = r#"{"content":[{"type":"text","text":"bad: S3\"CRET"},{"S3\u0022CRET":730914.0,"n":[7.30914e5,1730914,5]},
        "{\"echo\":\"S3\\\"CRET\"}","\nnS3\u0022C\u0052ET"],"isError":true,"structuredContent":{"secret":"found too"},"t":"was found too"}"#;
    let redacted = redaction(&["/secret"]).response(response, &mut found).into_owned();
    let json: serde_json::Value = serde_json::from_str(&redacted).unwrap();
    assert_eq!(json["content"][0]["text"], "bad: [redacted]");
    assert_eq!(
        json["content"][1],
        serde_json::json!({ "[redacted]": "[redacted]", "n": ["[redacted]", "[redacted]", 5] })
    );
    assert_eq!(json["content"][2], r#"{"echo":"[redacted]"}"#);
    assert_eq!(json["content"][3], "\nn[redacted]");
    assert_eq!((&json["structuredContent"]["secret"], &json["t"]), (&"[redacted]".into(), &"was [redacted]".into()));
    assert_eq!(found.replaced_in_text("found too"), REPLACEMENT, "a value that only the response had");
    let clean = r#"{"a" : "\u0041"}"#;
    assert!(matches!(redaction(&["/x"]).response(clean, &mut found), Cow::Borrowed(_)));
}

mod any_text {
    use proptest::prelude::*;

    use super::*;

    /// A value with a secret at some places, and JSON text inside of its strings at others.
    fn value() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::json!("s3cr\"et")),
            Just(serde_json::json!(730_914)),
            Just(serde_json::json!("abc")),
            ".{0,6}".prop_map(serde_json::Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            let members = proptest::collection::btree_map("[pP]in|[a-c~/_]{0,2}", inner.clone(), 0..4);
            let object = members.prop_map(|map| serde_json::Value::Object(map.into_iter().collect()));
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
                object,
                inner.prop_map(|inner| serde_json::json!(inner.to_string())),
            ]
        })
    }

    /// The texts and numbers at `pin` at every depth, as plain recursion finds them.
    fn has_pin(value: &serde_json::Value) -> bool {
        match value {
            serde_json::Value::Object(members) => members.iter().any(|(name, value)| {
                if name.eq_ignore_ascii_case("pin") { *value != "[redacted]" } else { has_pin(value) }
            }),
            serde_json::Value::Array(items) => items.iter().any(has_pin),
            serde_json::Value::String(text) => match serde_json::from_str(text) {
                Ok(inner @ (serde_json::Value::Object(_) | serde_json::Value::Array(_))) => has_pin(&inner),
                _ => false,
            },
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn i8_no_value_at_a_path_and_no_redacted_value_remains(value in value(), is_pretty: bool) {
            let text = if is_pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) };
            let text = text.unwrap();
            let redaction = redaction(&["/**/pin"]);
            let redacted = redaction.arguments(&text, &mut RedactedValues::default());
            let read: serde_json::Value = serde_json::from_str(&redacted).unwrap();
            prop_assert!(!has_pin(&read), "{redacted}");
            prop_assert_eq!(has_pin(&value), read != value);
            let mut found = values(r#"["s3cr\"et", 730914]"#);
            let response = redaction.response(&text, &mut found);
            prop_assert!(serde_json::from_str::<serde_json::Value>(&response).is_ok(), "{response}");
            for part in ["s3cr", "730914"] {
                prop_assert!(!response.contains(part), "{response}");
            }
            let plain = found.replaced_in_text(&text).into_owned();
            prop_assert!(!plain.contains("s3cr") && !plain.contains("730914"), "{plain}");
        }
    }
}

#[test]
fn more_values_than_can_be_looked_for_redact_the_whole_text() {
    let many: Vec<String> = (0..20_000).map(|number| format!("value-{number}")).collect();
    let found = values(&serde_json::json!(many).to_string());
    assert_eq!(found.replaced_in_text("anything"), REPLACEMENT);
    assert_eq!(found.replaced_in_json(r#"{"a":"anything"}"#), format!("{{{REDACTED}:{REDACTED}}}"));
    let mut other = RedactedValues::default();
    other.extend(&found);
    assert_eq!(other.replaced_in_text("anything"), REPLACEMENT);
}

#[test]
fn answers_are_redacted_by_their_schema_and_by_the_paths() {
    let schema = r##"{"type":"object","properties":{"pin":{"type":"string","format":"password"},"user":{"type":"string"},
        "key":{"allOf":[{"type":"string"},{"writeOnly":true}]},"ref":{"$ref":"#/$defs/secret"},
        "loop":{"$ref":"#"},"pins":{"type":"array","items":{"format":"Password"}}},"$defs":{"secret":{"writeOnly":true}}}"##;
    let answer = r#"{"action":"accept","content":{"pin":"12","user":"ann","key":"k","ref":"r","P_in":"x","pins":["a"],"otp":"1"}}"#;
    let mut found = RedactedValues::default();
    let redacted = redaction(&["/otp"]).answer(Some(schema), answer, &mut found);
    let json: serde_json::Value = serde_json::from_str(&redacted).unwrap();
    let r = "[redacted]";
    let content = serde_json::json!({ "pin": r, "user": "ann", "key": r, "ref": r, "P_in": r, "pins": r, "otp": r });
    assert_eq!(json, serde_json::json!({ "action": "accept", "content": content }));
    let none = Redaction::none();
    assert_eq!(none.answer(None, answer, &mut found), answer);
    assert_eq!(none.answer(Some(r#"{"properties":{"user":{"format":"email"}}}"#), answer, &mut found), answer);
    let all = r#"{"additionalProperties":{"format":"password"}}"#;
    assert_eq!(none.answer(Some(all), answer, &mut found), r#"{"action":"accept","content":"[redacted]"}"#);
    assert_eq!(none.answer(Some(all), r#"{"pin":1}"#, &mut found), REDACTED);
}
