//! `gatepost audit accept`: records that the owner knows of something that `audit verify` reports.

use anyhow::ensure;
use uuid::Uuid;

use super::decision_args::{DecisionArgs, append, commit, with_remedy};
use super::journal::Journal;
use super::registrar_log;
use crate::audit::record::{Epoch, GatewayId, Seq};
use crate::audit::sink::postgres::registrar::{ACCEPTED, LockedRegistrar};
use crate::audit::verify::{FaultKind, UnprovenKind};
use crate::cli::database;
use crate::config::Config;

/// `gatepost audit accept`
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "gatepost audit accept [OPTIONS] --kind <KIND> --gateway <ID>\n       --reason <TEXT> --journal <FILE>"
)]
pub(super) struct Args {
    // Not a doc comment: clippy would ask for Markdown in it, which the help prints as it is.
    #[arg(help = "The kind of what verify reports, for example gap or lost_contents", long, value_name = "KIND", value_parser = kind)]
    kind: String,
    /// The gateway
    #[arg(long, value_name = "ID")]
    gateway: Uuid,
    /// The epoch [default: what verify reports of the gateway as a whole]
    #[arg(long, value_name = "EPOCH", value_parser = clap::value_parser!(u64).range(1..))]
    epoch: Option<u64>,
    /// The first record [default: the whole epoch]
    #[arg(long, value_name = "SEQ", requires_all = ["last", "epoch"], value_parser = clap::value_parser!(u64).range(1..))]
    first: Option<u64>,
    /// The last record
    #[arg(long, value_name = "SEQ", requires = "first", value_parser = clap::value_parser!(u64).range(1..))]
    last: Option<u64>,
    #[command(flatten)]
    decision: DecisionArgs,
}

/// A word as `verify` prints it.
fn kind(text: &str) -> Result<String, String> {
    let mut words =
        FaultKind::ALL.iter().map(|kind| kind.as_str()).chain(UnprovenKind::ALL.iter().map(|kind| kind.as_str()));
    if words.any(|word| word == text) {
        Ok(text.to_owned())
    } else {
        Err("it is not a kind as gatepost audit verify prints it".to_owned())
    }
}

pub(super) async fn run(config: &Config, args: &Args, json: bool) -> anyhow::Result<()> {
    let range = args.first.zip(args.last).map(|(first, last)| (Seq(first), Seq(last)));
    ensure!(range.is_none_or(|(first, last)| first <= last), "--first is after --last");
    let options = database::required(config, ", so there is no trail to decide about")?;
    let mut journal = Journal::open(&args.decision.journal)?;
    let mut connection = database::connect(&options).await?;
    let mut registrar = LockedRegistrar::lock(&mut connection).await.map_err(with_remedy)?;
    journal.check(&registrar)?;
    let decision = args.decision.decision(&args.kind, GatewayId(args.gateway), args.epoch.map(Epoch), range);
    let record = append(&mut registrar, &mut journal, ACCEPTED, &decision).await?;
    commit(registrar, &[record], &args.decision, json).await?;
    registrar_log::sign(config).await;
    Ok(())
}
