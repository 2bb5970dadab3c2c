//! `gatepost outbox stats`

use std::path::Path;

use super::{ask, fields, json_lines};
use crate::cli::print;
use crate::ops::inspect::Question;

pub(super) async fn run(dir: &Path, json: bool) -> anyhow::Result<()> {
    let lines = ask(dir, &Question::Stats).await?;
    let text = || lines.iter().map(|line| fields(line, "")).collect();
    Ok(print(&if json { json_lines(&lines) } else { text() })?)
}
