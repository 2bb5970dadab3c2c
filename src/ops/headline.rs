//! A record as a sentence.

use crate::audit::record::{AuditRecord, Call, Status, client_info, is_own_method};
use crate::ops::format::target;

/// A sentence: `alice (subject 7f3c), which calls itself Claude Desktop, called files/write_file: allowed by
/// roles.engineers.allow[0], answered in 6.8 ms.` Names are as clients and backends chose them, not escaped.
pub(crate) fn headline(record: &AuditRecord) -> String {
    let call = &record.entry.call;
    if is_own_method(&call.method) {
        let by = if call.client_subject == "anonymous" { String::new() } else { format!(", for {}", caller(call)) };
        return format!("The gateway recorded {}{by}.", call.method);
    }
    let deed = match &*call.method {
        "tools/call" => format!("called {}", target(call)),
        "resources/read" => format!("read {}", target(call)),
        "prompts/get" => format!("got the prompt {}", target(call)),
        method if target(call) == method => format!("sent {method}"),
        method => format!("sent {method} for {}", target(call)),
    };
    format!("{} {deed}: {}.", caller(call), ending(record))
}

/// The caller, with the application and the actor.
fn caller(call: &Call) -> String {
    let subject = &call.client_subject;
    let mut text =
        call.client_name.as_ref().map_or_else(|| subject.to_string(), |name| format!("{name} (subject {subject})"));
    if let Some(actor) = &call.actor_subject {
        text = format!("{actor}, on behalf of {text},");
    }
    if let Some(id) = &call.client_id {
        text = format!("{text} with the application {id}");
    }
    let context = call.context.as_deref().and_then(|context| serde_json::from_str::<serde_json::Value>(context).ok());
    let info = context.as_ref().and_then(|context| context.get("client_info"));
    match info.and_then(|info| client_info(&info.to_string())) {
        Some((name, _)) if !name.is_empty() => format!("{}, which calls itself {name},", text.trim_end_matches(',')),
        _ => text,
    }
}

/// The decision and the outcome.
fn ending(record: &AuditRecord) -> String {
    let (call, entry) = (&record.entry.call, &record.entry);
    let rule = call.decided_by.as_deref();
    let by = rule.map(|rule| format!(" by {rule}")).unwrap_or_default();
    let after = format!("{:.1} ms", entry.latency_ms);
    let allowed = rule.map_or_else(String::new, |rule| format!("allowed by {rule}, "));
    match entry.response_status {
        Status::Denied => format!("denied{by}"),
        Status::Unauthenticated => "refused, because the caller is not authenticated".to_owned(),
        Status::Malformed => "refused, because the request is malformed".to_owned(),
        Status::RateLimited => "refused, because of a limit".to_owned(),
        Status::AuditUnavailable => "refused, because it could not be audited".to_owned(),
        Status::Ok => format!("{allowed}answered in {after}"),
        Status::ToolError => format!("{allowed}the tool answered with an error after {after}"),
        Status::Error => format!("{allowed}failed after {after}"),
        Status::Timeout => format!("{allowed}no answer within {after}"),
        Status::Cancelled => format!("{allowed}cancelled by the caller after {after}"),
        Status::InputRequired => format!("{allowed}the tool asked for input after {after}"),
        Status::Interrupted => format!("{allowed}interrupted, so that its outcome is not known"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::sample;

    #[test]
    fn a_record_is_told_in_a_sentence() {
        let mut record = sample::record(1, 2, "write_file");
        record.entry.latency_ms = 6.84;
        assert_eq!(headline(&record), "anonymous called example/write_file: answered in 6.8 ms.");
        let call = &mut record.entry.call;
        (call.client_subject, call.client_name) = ("7f3c".into(), Some("alice".into()));
        call.context = Some(r#"{"client_info":{"name":"Claude Desktop","version":"1"}}"#.to_owned());
        call.decided_by = Some("roles.engineers.allow[0]".into());
        assert_eq!(
            headline(&record),
            "alice (subject 7f3c), which calls itself Claude Desktop, called example/write_file: \
            allowed by roles.engineers.allow[0], answered in 6.8 ms."
        );
        let call = &mut record.entry.call;
        (call.actor_subject, call.client_id, call.context) = (Some("bot".into()), Some("app".into()), None);
        record.entry.response_status = Status::Denied;
        let text = headline(&record);
        assert!(text.starts_with("bot, on behalf of alice (subject 7f3c), with the application app called"), "{text}");
        assert!(text.ends_with(": denied by roles.engineers.allow[0]."), "{text}");
        record.entry.call.method = "gateway/read".into();
        assert!(headline(&record).starts_with("The gateway recorded gateway/read, for bot, on behalf of"));
    }
}
