//! Rules of `[evidence]` that concern more than one setting.

use std::time::Duration;

use super::evidence::OnMissing;
use super::sections::Config;
use crate::evidence::key::{NAME_BYTES_MAX, SignatureType, VerifierKey, checked_name};

/// Takes the key and message of an error.
type Report<'a> = &'a mut dyn FnMut(&str, String);

/// The most bytes that follow the origin in a log's name: a UUID and an epoch, each after a slash.
const SUFFIX_BYTES_MAX: usize = 36 + 20 + 2;

/// The longest wait for the outbox if calls are refused without evidence. *Derived*: twice this, and all else that a
/// look may take, is less than `LOOK_MAX_AGE` of src/notary/task.rs, after which calls are refused.
const STORE_TIMEOUT_MAX: Duration = Duration::from_mins(1);

/// The names that an anchor cannot have. *Derived*: the other places that confirm checkpoints.
const TAKEN: &str = "postgres";

/// Evidence needs records, a key of its own, and anchors that differ.
pub(super) fn check(config: &Config, report: Report<'_>) {
    let evidence = &config.evidence;
    let Some(origin) = &evidence.origin else { return without_origin(config, report) };
    if origin.len() > NAME_BYTES_MAX - SUFFIX_BYTES_MAX {
        let (found, limit) = (origin.len(), NAME_BYTES_MAX - SUFFIX_BYTES_MAX);
        report("evidence.origin", format!("has {found} bytes, limit {limit}: the logs' names begin with it"));
    } else if let Err(error) = checked_name(origin) {
        report("evidence.origin", error.to_string());
    }
    let has_command = !evidence.sign_command.is_empty();
    match (&evidence.key_file, has_command) {
        (None, false) => {
            let message = "is missing: make a key by `gatepost evidence keygen`, and name its file here";
            report("evidence.key_file", message.to_owned());
        }
        (Some(_), true) => {
            report("evidence.sign_command", "excludes evidence.key_file: set only one of them".to_owned());
        }
        _ => {}
    }
    match &evidence.verifier_key {
        None if has_command => {
            let message = "is missing: the public half of the key of evidence.sign_command, NAME+ID+KEY";
            report("evidence.verifier_key", message.to_owned());
        }
        Some(_) if !has_command => {
            report("evidence.verifier_key", "has no effect without evidence.sign_command".to_owned());
        }
        Some(key) => match VerifierKey::parse(key) {
            Err(error) => report("evidence.verifier_key", error.to_string()),
            Ok(key) if key.signature_type() != SignatureType::Ed25519 => {
                let found = key.signature_type().byte();
                report("evidence.verifier_key", format!("has type {found:#04x}: the key of a log has type 0x01"));
            }
            Ok(_) => {}
        },
        None => {}
    }
    if !config.audit.enabled {
        let message = "needs audit.enabled = true: without records there is nothing to sign";
        report("evidence.origin", message.to_owned());
    }
    // Each look of the notary may wait twice for it.
    if evidence.on_failure == OnMissing::Refuse && config.audit.store_timeout > STORE_TIMEOUT_MAX {
        let (found, limit) = (config.audit.store_timeout, STORE_TIMEOUT_MAX);
        let message = format!(
            "is {found:?}, limit {limit:?} with evidence.on_failure = \"refuse\": a slow disk would stop the notary for so \
             long that calls are refused (they are 5 min after its last look)"
        );
        report("audit.store_timeout", message);
    }
    anchors(config, report);
}

fn without_origin(config: &Config, report: Report<'_>) {
    let evidence = &config.evidence;
    let keys = [
        ("evidence.key_file", evidence.key_file.is_some()),
        ("evidence.second_key_file", evidence.second_key_file.is_some()),
        ("evidence.sign_command", !evidence.sign_command.is_empty()),
        ("evidence.verifier_key", evidence.verifier_key.is_some()),
        ("evidence.witnesses", !evidence.witnesses.is_empty()),
        ("evidence.time_stamps", !evidence.time_stamps.is_empty()),
        ("evidence.buckets", !evidence.buckets.is_empty()),
        ("evidence.commands", !evidence.commands.is_empty()),
    ];
    for (key, _) in keys.into_iter().filter(|(_, is_set)| *is_set) {
        report(key, "has no effect without evidence.origin: set that, or remove this".to_owned());
    }
}

/// Each anchor has a name of its own: its state, its alarm and its rows in `audit_anchor` go by it.
fn anchors(config: &Config, report: Report<'_>) {
    let evidence = &config.evidence;
    let mut names: Vec<(String, String)> = vec![("the database".to_owned(), TAKEN.to_owned())];
    for (idx, witness) in evidence.witnesses.iter().enumerate() {
        let path = format!("evidence.witnesses[{idx}].key");
        match VerifierKey::parse(&witness.key) {
            Ok(key) => names.push((path, key.name().to_owned())),
            Err(error) => report(&path, error.to_string()),
        }
    }
    let of_section =
        |section: &'static str| move |(idx, name): (usize, &String)| (format!("{section}[{idx}].name"), name.clone());
    names.extend(evidence.time_stamps.iter().map(|tsa| &tsa.name).enumerate().map(of_section("evidence.time_stamps")));
    names.extend(evidence.buckets.iter().map(|bucket| &bucket.name).enumerate().map(of_section("evidence.buckets")));
    names
        .extend(evidence.commands.iter().map(|command| &command.name).enumerate().map(of_section("evidence.commands")));
    for (idx, (path, name)) in names.iter().enumerate() {
        if let Some((other, _)) = names.iter().take(idx).find(|(_, other)| other == name) {
            report(path, format!("{name:?} is the name of {other} too: each anchor needs a name of its own"));
        }
    }
}
