//! `gatepost evidence`: keys that sign checkpoints, policies, and files of evidence in plain words.

mod new_log;
mod policy;

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use chrono::DateTime;
use clap::{Subcommand, ValueEnum};
use zeroize::Zeroizing;

use super::config_args::ConfigArgs;
use super::exit::usage;
use super::output::print;
use crate::counts::plural;
use crate::evidence::checkpoint::Checkpoint;
use crate::evidence::cosignature::UnixTime;
use crate::evidence::key::{KEY_TEXT_BYTES_MAX, SignatureType, SigningKey, VerifierKey};
use crate::evidence::note::Note;
use crate::evidence::policy::{Checked, POLICY_BYTES_MAX, Policy};
use crate::evidence::proof::{FIRST_LINE, LogProof, PROOF_BYTES_MAX};
use crate::file_access::{FileAccess, FileKind};

/// `gatepost evidence`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a signing key, write it to a new file, and print its verifier key
    Keygen(KeygenArgs),
    /// Print a checkpoint, proof or key in plain words
    Show(ShowArgs),
    /// Print a policy that names the logs and witnesses of a configuration, for those who check records
    Policy(policy::Args),
    /// Let a new log begin at the next start, after a contradiction to the old one
    NewLog(new_log::Args),
}

#[derive(Debug, clap::Args)]
struct KeygenArgs {
    /// Name of the key: the origin of a log, or the name of a witness, for example example.com/gatepost
    #[arg(long, value_name = "NAME")]
    name: String,
    /// File for the signing key; it must not exist
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Signatures that it makes: log (Ed25519), witness (Ed25519 with the time) or ml-dsa-44 (with the time, for a log
    /// or a witness; quantum computers do not break it)
    #[arg(long = "type", value_name = "TYPE", value_enum, default_value_t = KeyType::Log)]
    key_type: KeyType,
}

// Without doc comments on the values: the help would take its long form.
/// The use of a key.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum KeyType {
    Log,
    Witness,
    #[value(name = "ml-dsa-44")]
    MlDsa44,
}

#[derive(Debug, clap::Args)]
struct ShowArgs {
    /// A checkpoint, a proof (.tlog-proof), a signing key, a verifier key or an Ed25519 public key in PEM
    file: PathBuf,
    /// Name of a public key in PEM, for its verifier key
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Check the signatures by this policy
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
}

impl Args {
    /// The options that name the configuration, for the commands that have one.
    pub(super) fn config_args(&self) -> Option<ConfigArgs> {
        match &self.command {
            Command::Keygen(_) | Command::Show(_) => None,
            Command::Policy(args) => Some(args.global.config_args()),
            Command::NewLog(args) => Some(args.global.config_args()),
        }
    }
}

pub(super) async fn run(args: &Args) -> anyhow::Result<()> {
    match &args.command {
        Command::Keygen(args) => keygen(args),
        Command::Show(args) => show(args),
        Command::Policy(args) => policy::run(args).await,
        Command::NewLog(args) => new_log::run(args),
    }
}

/// The signing key in a file.
///
/// # Errors
/// The file cannot be read, others may read it, or it is not a signing key. The message has the path and not the key.
pub(super) fn read_signing_key(path: &Path) -> anyhow::Result<SigningKey> {
    let bytes = FileAccess::default().read(path, FileKind::Secret, KEY_TEXT_BYTES_MAX);
    let bytes = Zeroizing::new(bytes.map_err(|error| usage(error.to_string()))?);
    let wrong = |error: &dyn std::fmt::Display| usage(format!("{}: {error}", path.display()));
    SigningKey::parse(str::from_utf8(&bytes).map_err(|error| wrong(&error))?).map_err(|error| wrong(&error))
}

fn keygen(args: &KeygenArgs) -> anyhow::Result<()> {
    let signature_type = match args.key_type {
        KeyType::Log => SignatureType::Ed25519,
        KeyType::Witness => SignatureType::CosignatureEd25519,
        KeyType::MlDsa44 => SignatureType::CosignatureMlDsa44,
    };
    let (key, text) = SigningKey::generate(&args.name, signature_type).map_err(|error| usage(error.to_string()))?;
    let path = &args.out;
    // `create_new` follows no link, and never replaces a key.
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = file.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => usage(format!("{} exists: a key is never replaced", path.display())),
        _ => anyhow::Error::new(error).context(format!("cannot create {}", path.display())),
    })?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.write_all(b"\n")).and_then(|()| file.sync_all());
    if let Err(error) = written {
        // A part of a key is of no use, and would be in the way of the next attempt.
        std::fs::remove_file(path).ok();
        return Err(error).with_context(|| format!("cannot write {}", path.display()));
    }
    Ok(print(&format!("{}\n", key.verifier()))?)
}

fn show(args: &ShowArgs) -> anyhow::Result<()> {
    let policy = args.policy.as_deref().map(read_policy).transpose()?;
    let bytes = FileAccess::default().read(&args.file, FileKind::Trusted, PROOF_BYTES_MAX);
    let bytes = Zeroizing::new(bytes.map_err(|error| usage(error.to_string()))?);
    let path = args.file.display();
    let text = if bytes.starts_with(FIRST_LINE.as_bytes()) {
        shown_proof(&LogProof::parse(&bytes).with_context(|| format!("{path}"))?, policy.as_ref())?
    } else if let Some(key) = shown_key(&bytes) {
        key
    } else if bytes.starts_with(b"-----BEGIN PUBLIC KEY-----") {
        let name = args.name.as_ref().ok_or_else(|| usage(format!("{path}: give the key a name by --name")))?;
        let key = VerifierKey::from_pem(name, &String::from_utf8_lossy(&bytes));
        let key = key.map_err(|error| usage(format!("{path}: {error}")))?;
        format!("public key\n{}verifier key: {key}\n", key_lines(&key))
    } else {
        shown_note(&Note::parse(&bytes).with_context(|| format!("{path}"))?, policy.as_ref())?
    };
    Ok(print(&text)?)
}

fn read_policy(path: &Path) -> anyhow::Result<Policy> {
    let text = FileAccess::default().read(path, FileKind::Trusted, POLICY_BYTES_MAX);
    let text = text.map_err(|error| usage(error.to_string()))?;
    Policy::parse(&text).map_err(|error| usage(format!("{}: {error}", path.display())))
}

/// The words for a key, if the file holds one. A secret is not printed.
fn shown_key(bytes: &[u8]) -> Option<String> {
    let text = str::from_utf8(bytes).ok()?.trim_end();
    if let Ok(key) = SigningKey::parse(text) {
        let key = key.verifier();
        return Some(format!("signing key (secret) of {}\n{}verifier key: {key}\n", key.name(), key_lines(key)));
    }
    let key = VerifierKey::parse(text).ok()?;
    Some(format!("verifier key of {}\n{}", key.name(), key_lines(&key)))
}

fn key_lines(key: &VerifierKey) -> String {
    let signs = match key.signature_type() {
        SignatureType::Ed25519 => "notes, by Ed25519 (a log)",
        SignatureType::CosignatureEd25519 => "checkpoints with the time, by Ed25519 (a witness)",
        SignatureType::CosignatureMlDsa44 => "checkpoints with the time, by ML-DSA-44 (a witness or a log)",
    };
    format!("id {}, signs {signs}\n", key.id())
}

fn shown_proof(proof: &LogProof, policy: Option<&Policy>) -> anyhow::Result<String> {
    let (index, hashes) = (proof.index, proof.hashes.len());
    let extra = proof.extra.as_ref().map_or_else(String::new, |data| format!(", {} bytes of extra data", data.len()));
    let mut text = format!("proof that a record is number {index} (from 0) of a log: {hashes} hashes{extra}\n");
    text.push_str("to check it, the hash of the record is needed\n");
    text.push_str(&shown_note(&proof.note, policy)?);
    Ok(text)
}

fn shown_note(note: &Note, policy: Option<&Policy>) -> anyhow::Result<String> {
    let checkpoint = Checkpoint::parse(note.text())?;
    let (origin, root) = (checkpoint.origin(), checkpoint.root());
    let size = plural(checkpoint.size(), "record");
    let mut text = format!("checkpoint of the log {origin}: {size}, root {root:?}\n");
    for line in checkpoint.extensions() {
        writeln!(text, "further line: {line}")?;
    }
    let Some(policy) = policy else {
        for signature in note.signatures() {
            writeln!(text, "signed by {} (key id {}): not checked, give --policy", signature.name(), signature.id())?;
        }
        return Ok(text);
    };
    let checked = policy.check(note)?;
    text.push_str(&shown_signatures(&checked));
    // The findings are shown also if they do not suffice.
    let confirmed = checked.confirmed();
    if confirmed.is_err() {
        print(&text)?;
    }
    confirmed?;
    Ok(format!("{text}the witnesses suffice\n"))
}

fn shown_signatures(checked: &Checked<'_>) -> String {
    let by_log = checked.log_keys.iter().map(|key| format!("signed by the log (key id {})\n", key.id()));
    let by_witness = checked.witnesses.iter().map(|seen| {
        format!("signed by the witness {} ({}) at {}\n", seen.witness.name, seen.witness.key.name(), moment(seen.time))
    });
    by_log.chain(by_witness).collect()
}

/// A time as RFC 3339, or its seconds if that cannot show it.
fn moment(time: UnixTime) -> String {
    let date = i64::try_from(time.seconds()).ok().and_then(|seconds| DateTime::from_timestamp(seconds, 0));
    date.map_or_else(|| format!("{} s", time.seconds()), |date| date.to_rfc3339_opts(chrono::SecondsFormat::Secs, true))
}
