//! What a record has to be: the arguments by which `gatepost audit` and `gatepost outbox` filter.

use crate::audit::query::Filter;
use crate::audit::record::Status;
use crate::ops::trail::moment::moment;

/// What a record has to be.
#[derive(Debug, clap::Args)]
pub(super) struct Matching {
    /// The token's subject
    #[arg(long)]
    who: Option<String>,
    /// The role
    #[arg(long)]
    role: Option<String>,
    /// The tool, without its backend
    #[arg(long)]
    tool: Option<String>,
    /// The backend
    #[arg(long)]
    backend: Option<String>,
    /// ok, `tool_error`, error, denied, ...
    #[arg(long, value_parser = status)]
    status: Option<String>,
    /// tools/call, gateway/opened, ...
    #[arg(long)]
    method: Option<String>,
    /// Text in the arguments, letter for letter
    #[arg(long, value_name = "TEXT")]
    args: Option<String>,
    /// Not before this: an age, as 90s, 2h or 7d, or a moment, as 2026-11-26T10:00:00Z
    #[arg(long, value_parser = moment)]
    since: Option<i64>,
}

fn status(word: &str) -> Result<String, String> {
    let words = || Status::ALL.map(Status::as_str).join(", ");
    Status::from_word(word).map(|_| word.to_owned()).ok_or_else(|| format!("no such status; one of {}", words()))
}

impl Matching {
    /// The same for the one who answers, as many as there are by default.
    pub(super) fn filter(&self) -> Filter {
        Filter {
            subject: self.who.clone(),
            role: self.role.clone(),
            tool: self.tool.clone(),
            backend: self.backend.clone(),
            status: self.status.clone(),
            method: self.method.clone(),
            args: self.args.clone(),
            since_micros: self.since,
            ..Filter::default()
        }
    }
}
