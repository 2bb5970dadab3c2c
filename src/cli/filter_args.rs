//! The options by which `gatepost audit` and `gatepost outbox` select records.

use uuid::Uuid;

use crate::audit::query::Filter;
use crate::audit::record::Status;
use crate::cli::exit::usage;
use crate::ops::time_arg::{TimeArg, Zone};

/// The help of `--since` and `--until` of all commands that select records.
const SINCE_HELP: &str = "Only records since this time: an age (2h, 7d), a day (yesterday, 2026-11-24), a time of \
    today (09:00), both (2026-11-24 09:00) or an RFC 3339 timestamp";
const UNTIL_HELP: &str = "Only records before this time, written as for --since";

/// Options that select records.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Filters")]
pub(super) struct FilterArgs {
    /// Only records of this subject or name; * stands for any characters
    #[arg(long, value_name = "WHO")]
    who: Option<String>,
    /// Only records of this application, by its id or the name it gives itself; * stands for any characters
    #[arg(long, value_name = "CLIENT")]
    client: Option<String>,
    /// Only records of calls by this actor on behalf of another subject; * stands for any characters
    #[arg(long, value_name = "ACTOR")]
    actor: Option<String>,
    /// Only records of this role
    #[arg(long, value_name = "ROLE")]
    role: Option<String>,
    /// Only records of this tool, prompt or resource, with or without its backend: TOOL or BACKEND/TOOL
    #[arg(long, value_name = "TOOL")]
    tool: Option<String>,
    /// Only records of this resource, by its URI; * stands for any characters
    #[arg(long, value_name = "URI")]
    resource: Option<String>,
    /// Only records of this backend
    #[arg(long, value_name = "BACKEND")]
    backend: Option<String>,
    // Not a doc comment: clippy would require Markdown in it, and the help would print the Markdown unchanged.
    #[arg(
        long,
        value_name = "STATUS",
        value_parser = parse_status,
        help = "Only records with this status: ok, tool_error, error, denied, ...; may be repeated"
    )]
    status: Vec<String>,
    /// Only records of this method: tools/call, gateway/opened, ...
    #[arg(long, value_name = "METHOD")]
    method: Option<String>,
    /// Only records of this session
    #[arg(long, value_name = "ID")]
    session: Option<String>,
    /// Only records that belong to the request with this id: answers to its questions, retries
    #[arg(long, value_name = "ID")]
    parent: Option<Uuid>,
    /// Only records of this gateway
    #[arg(long, value_name = "ID")]
    gateway: Option<Uuid>,
    /// Only records whose arguments contain this exact text
    #[arg(long, value_name = "TEXT")]
    args: Option<String>,
    /// Only records of callers whose token is from this issuer
    #[arg(long, value_name = "ISSUER")]
    issuer: Option<String>,
    /// Only records of calls with this token, by its id (jti)
    #[arg(long, value_name = "ID")]
    token_id: Option<String>,
    /// Only records of calls from this address, with its port or without; * stands for any characters
    #[arg(long, value_name = "ADDRESS")]
    addr: Option<String>,
    #[arg(long, value_name = "TIME", help = SINCE_HELP)]
    since: Option<TimeArg>,
    #[arg(long, value_name = "TIME", help = UNTIL_HELP)]
    until: Option<TimeArg>,
}

fn parse_status(word: &str) -> Result<String, String> {
    let known = || Status::ALL.map(Status::as_str).join(", ");
    Status::from_word(word).map(|_| word.to_owned()).ok_or_else(|| format!("unknown status; use one of {}", known()))
}

/// The moment that an option names.
///
/// # Errors
/// There was no such time in the zone.
pub(super) fn micros(option: &str, time: Option<TimeArg>, zone: Zone) -> anyhow::Result<Option<i64>> {
    time.map(|time| time.micros(zone)).transpose().map_err(|reason| usage(format!("{option}: {reason}")))
}

impl FilterArgs {
    /// The filter, with the default limit.
    ///
    /// # Errors
    /// A time does not exist in the zone.
    pub(super) fn filter(&self, zone: Zone) -> anyhow::Result<Filter> {
        Ok(Filter {
            who: self.who.clone(),
            client: self.client.clone(),
            actor: self.actor.clone(),
            session_id: self.session.clone(),
            parent_id: self.parent,
            gateway_id: self.gateway,
            role: self.role.clone(),
            tool: self.tool.clone(),
            resource: self.resource.clone(),
            backend: self.backend.clone(),
            status: self.status.clone(),
            method: self.method.clone(),
            args: self.args.clone(),
            issuer: self.issuer.clone(),
            token_id: self.token_id.clone(),
            addr: self.addr.clone(),
            since_micros: micros("--since", self.since, zone)?,
            until_micros: micros("--until", self.until, zone)?,
            ..Filter::default()
        })
    }
}
