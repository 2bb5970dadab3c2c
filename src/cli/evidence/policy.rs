//! `gatepost evidence policy`: a policy by which others check the logs of a configuration.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};

use crate::audit::outbox::fs::DiskFs;
use crate::audit::outbox::lock;
use crate::audit::query::{StoredLog, stored_logs};
use crate::audit::record::{Epoch, GatewayId};
use crate::audit::sink::postgres::registrar::registrar_id;
use crate::cli::database;
use crate::cli::exit::usage;
use crate::cli::global_args::GlobalArgs;
use crate::cli::output::{json_line, print, print_error};
use crate::cli::{notary, slots};
use crate::config::Config;
use crate::counts::plural;
use crate::escape::escape_hidden;
use crate::evidence::key::VerifierKey;
use crate::evidence::note::Note;
use crate::evidence::policy::Policy;
use crate::notary::{Memory, Signer};
use crate::ops::trail::failed;

/// The beginning of each policy.
const HEAD: &str = "\
# Whose signatures a checkpoint needs: a policy of C2SP tlog-policy, from gatepost evidence policy.
# Before you check evidence of another party by it, get the key of each witness from the operator of that witness, and
# compare: the party that runs the log could have named witnesses of its own here.
";

/// `gatepost evidence policy`
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) global: GlobalArgs,
    /// Only logs of this gateway; may be repeated
    #[arg(long = "gateway", value_name = "ID")]
    gateways: Vec<uuid::Uuid>,
    /// Only the log with this name
    #[arg(long = "log", value_name = "NAME")]
    log: Option<String>,
    /// Witnesses that suffice: majority, any, all, their number, or none
    #[arg(long, value_name = "RULE", default_value = "majority")]
    quorum: Quorum,
}

/// The rule which witnesses suffice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quorum {
    /// More than half.
    Majority,
    Any,
    All,
    None,
    Count(usize),
}

impl std::str::FromStr for Quorum {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "majority" => Ok(Self::Majority),
            "any" => Ok(Self::Any),
            "all" => Ok(Self::All),
            "none" => Ok(Self::None),
            number => number.parse().map(Self::Count).map_err(|_| "it must be majority, any, all, none or a number"),
        }
    }
}

/// A log of the policy.
struct Log {
    gateway: GatewayId,
    /// Its first epoch, which names it.
    first: Epoch,
    /// Its checkpoints in the database; `None` if it has none yet.
    stored: Option<StoredLog>,
}

pub(super) async fn run(args: &Args) -> anyhow::Result<()> {
    let (config, _) = args.global.load()?;
    let Some(signer) = notary::signer(&config)? else {
        return Err(usage("evidence.origin is not set, so nothing is signed; name the configuration with --config"));
    };
    let (mut logs, registrar) = logs(&config).await?;
    logs.retain(|log| args.gateways.is_empty() || args.gateways.contains(&log.gateway.0));
    logs.retain(|log| args.log.as_ref().is_none_or(|name| *name == signer.log_name(log.gateway, log.first)));
    if logs.is_empty() {
        bail!(
            "no log was found: the database has no checkpoint of it, and {} is not its outbox; name it with --dir, or \
             start the gateway first",
            config.audit.dir.display()
        );
    }
    let mut text = HEAD.to_owned();
    let mut names = Vec::new();
    for log in &logs {
        if push_log(&mut text, &signer, log, registrar)? {
            names.push(signer.log_name(log.gateway, log.first));
        }
    }
    push_witnesses(&mut text, &config, args.quorum)?;
    // Nothing is printed that a verifier would refuse.
    Policy::parse(text.as_bytes()).context("the keys of the configuration do not make a policy")?;
    if args.global.json {
        return Ok(print(&json_line(&serde_json::json!({ "logs": names, "policy": text }))?)?);
    }
    Ok(print(&text)?)
}

/// The logs of the database, and of the outboxes of this machine; and the registrar, if there is a database.
async fn logs(config: &Config) -> anyhow::Result<(Vec<Log>, Option<GatewayId>)> {
    let (mut logs, mut registrar) = (Vec::new(), None);
    if let Some(options) = database::reader_options(config) {
        let mut connection = database::connect(&options).await?;
        let stored = stored_logs(&mut connection).await.map_err(|error| failed("read the checkpoints", error))?;
        registrar = Some(registrar_id(&mut connection).await?);
        logs.extend(stored.into_iter().map(|it| Log { gateway: it.gateway_id, first: it.log, stored: Some(it) }));
    }
    for outbox in slots::outboxes(&config.audit.dir).unwrap_or_default() {
        let Some(gateway) = lock::last_gateway_id(&outbox) else { continue };
        let known = logs.iter().any(|log| log.gateway == gateway);
        let first = match last_log(&outbox) {
            Some(first) => first,
            None if known => continue,
            None => Epoch(1),
        };
        if !logs.iter().any(|other| (other.gateway, other.first) == (gateway, first)) {
            logs.push(Log { gateway, first, stored: None });
        }
    }
    logs.sort_by_key(|log| (log.gateway, log.first));
    Ok((logs, registrar))
}

/// The log of which the outbox's gateway signed last.
fn last_log(outbox: &Path) -> Option<Epoch> {
    match Memory::read(Arc::new(DiskFs), outbox) {
        Ok(memory) => memory.last().map(|signed| signed.log),
        Err(error) => {
            print_error(&error.to_string());
            None
        }
    }
}

/// Adds the lines of a log. Returns false if it has other keys than this configuration.
fn push_log(text: &mut String, signer: &Signer, log: &Log, registrar: Option<GatewayId>) -> anyhow::Result<bool> {
    let Log { gateway, first, stored } = log;
    let party = if registrar == Some(*gateway) { "The registrar (decisions of the owner)" } else { "Gateway" };
    let name = signer.log_name(*gateway, *first);
    let keys = signer.verifiers(&name)?;
    let Some(stored) = stored else {
        write!(text, "\n# {party} {gateway}: no checkpoint is in a database yet.\n")?;
        push_keys(text, &keys)?;
        return Ok(true);
    };
    write!(text, "\n# {party} {gateway}, log from epoch {first}: {} signed.\n", plural(stored.size, "record"))?;
    if !is_signed(&keys, &stored.last) {
        let signers = signers(&stored.last);
        write!(
            text,
            "# NOT in this policy: the newest checkpoint is not signed by a key of this configuration, but by\n\
             # {signers}. Run the command with the configuration of that gateway.\n"
        )?;
        return Ok(false);
    }
    push_keys(text, &keys)?;
    if !is_signed(&keys, &stored.first) {
        let signers = signers(&stored.first);
        write!(
            text,
            "# Older checkpoints are signed by another key, {signers}:\n\
             # keep its line of an earlier policy beside these, or they are not accepted.\n"
        )?;
    }
    Ok(true)
}

fn push_keys(text: &mut String, keys: &[VerifierKey]) -> std::fmt::Result {
    keys.iter().try_for_each(|key| writeln!(text, "log {key}"))
}

/// True if one of the keys signed the note.
fn is_signed(keys: &[VerifierKey], note: &str) -> bool {
    Note::parse(note.as_bytes()).is_ok_and(|note| note.verify(keys).is_ok_and(|found| !found.is_empty()))
}

/// The names and ids of the keys that a note says it is signed by.
fn signers(note: &str) -> String {
    let Ok(note) = Note::parse(note.as_bytes()) else { return "nothing that can be read".to_owned() };
    let names: Vec<_> = note.signatures().iter().map(|it| format!("{} (key id {})", it.name(), it.id())).collect();
    escape_hidden(&names.join(", ")).into_owned()
}

fn push_witnesses(text: &mut String, config: &Config, quorum: Quorum) -> anyhow::Result<()> {
    let keys: Vec<_> = config.evidence.witnesses.iter().map(|witness| witness.key.as_str()).collect();
    if keys.is_empty() {
        text.push_str("\n# No witness is configured: only the logs' own signatures are demanded.\nquorum none\n");
        return Ok(());
    }
    text.push('\n');
    let mut names = Vec::new();
    for (idx, key) in keys.iter().enumerate() {
        let name = format!("w{}", idx + 1);
        writeln!(text, "witness {name} {key}")?;
        names.push(name);
    }
    let majority = names.len() / 2 + 1;
    let (count, rule) = match quorum {
        Quorum::None => {
            text.push_str("# No witness is demanded.\nquorum none\n");
            return Ok(());
        }
        Quorum::Majority => (majority, majority.to_string()),
        Quorum::Any => (1, "any".to_owned()),
        Quorum::All => (names.len(), "all".to_owned()),
        Quorum::Count(count) if (1..=names.len()).contains(&count) => (count, count.to_string()),
        Quorum::Count(count) => {
            return Err(usage(format!("--quorum {count}: the configuration has {} witnesses", names.len())));
        }
    };
    if count < majority {
        writeln!(
            text,
            "# WEAK: {count} of {} witnesses is not more than half. The log can show one history to some witnesses and\n\
             # another one to the others, and this policy accepts both.",
            names.len()
        )?;
    }
    writeln!(text, "group witnesses {rule} {}\nquorum witnesses", names.join(" "))?;
    Ok(())
}
