//! `gatepost outbox heads`: the ends of the stored streams and where their delivery continues, for `gatepost audit
//! resolve-fork`.

use crate::audit::outbox_head::OutboxHead;
use crate::cli::outbox_client::OutboxClient;
use crate::cli::output::{json_lines, print};
use crate::ops::protocol::Question;

pub(super) async fn run(outboxes: &[OutboxClient]) -> anyhow::Result<()> {
    let mut heads: Vec<OutboxHead> = Vec::new();
    for client in outboxes {
        heads.extend(client.all::<OutboxHead>(&Question::OutboxHeads).await?);
    }
    Ok(print(&json_lines(&heads)?)?)
}
