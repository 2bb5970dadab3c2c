//! Comparison of the trail in Postgres with the live gateway of the directory.

use std::time::Duration;

use crate::audit::chain::Head;
use crate::audit::outbox::StoredStream;
use crate::audit::query::TrailSnapshot;
use crate::audit::record::Seq;
use crate::audit::shipper::ShipperState;
use crate::audit::verify::{FaultKind, HeadSource, Heads, Place, StreamHead, StreamId, UnprovenKind};
use crate::cli::database;
use crate::cli::outbox_client::OutboxClient;
use crate::config::Config;
use crate::counts::plural;
use crate::ops::protocol::{Question, StatsAnswer};
use crate::ops::status::PipelineStatus;
use crate::ops::trail::failed;

/// Pause between two questions to the gateway. *Chosen*: a delivery is noted within milliseconds of its commit.
const ASK_PAUSE: Duration = Duration::from_millis(50);

/// Questions until the gateway must have noted what is in the database. *Derived*: five seconds, the grace that a
/// delivery has for its reply.
const ASKS_MAX: usize = 100;

/// The findings of the comparison.
#[derive(Debug, Default)]
pub(super) struct LiveFindings {
    pub(super) faults: Vec<(FaultKind, Place, String)>,
    pub(super) unproven: Vec<(UnprovenKind, Place, String)>,
    pub(super) mentions: Vec<(UnprovenKind, Place, String)>,
    /// The streams that live gateways are writing and deliver to Postgres.
    pub(super) streams: Vec<StreamId>,
}

impl LiveFindings {
    /// Asks a live gateway for its head, its undelivered records and forks, and adds its head to `heads`. It is asked
    /// after the snapshot was taken, so that it knows what it delivered by then.
    ///
    /// # Errors
    /// The gateway does not answer, or Postgres fails.
    pub(super) async fn compare(
        &mut self,
        config: &Config,
        client: &OutboxClient,
        snapshot: &TrailSnapshot<'_>,
        settle: Duration,
        heads: &mut Heads,
    ) -> anyhow::Result<()> {
        let Some((stats, live)) = ask(client, snapshot).await? else { return Ok(()) };
        if live.postgres == ShipperState::StoreOnly {
            let what = format!("the live gateway in {} does not deliver to Postgres", client.dir().display());
            self.mentions.push((UnprovenKind::Undelivered, Place::gateway(live.gateway_id), what));
            return Ok(());
        }
        let stream = (live.gateway_id, live.epoch);
        self.streams.push(stream);
        let cursor = snapshot.cursor(stream).unwrap_or(Head::START);
        let mut head = Head { seq: Seq(live.delivered), hash: live.delivered_hash };
        if cursor.seq > live.last_seq {
            let what = format!("is after {}, the last record that the live gateway made: it was added", live.last_seq);
            self.faults.push((FaultKind::Live, Place::seqs(stream, live.last_seq.next(), cursor.seq), what));
        } else if head.seq > cursor.seq {
            let options = database::required(config, "")?;
            let mut connection = database::connect(&options).await?;
            let leads = snapshot.leads_to(&mut connection, stream, head).await;
            if leads.map_err(|error| failed("read the newest records", error))? {
                // Delivered after the snapshot: its cursor leads to the gateway's head.
                head = cursor;
            }
        }
        let (gateway, epoch) = stream;
        let time = snapshot.time();
        heads.add(&StreamHead { gateway, epoch, seq: head.seq, hash: head.hash, time }, HeadSource::Gateway);
        if let ShipperState::Forked { error } | ShipperState::Held { error } = &live.postgres {
            let what = format!("the live gateway does not deliver: {error}");
            if matches!(live.postgres, ShipperState::Forked { .. }) {
                self.faults.push((FaultKind::Live, Place::gateway(live.gateway_id), what));
            } else {
                self.unproven.push((UnprovenKind::Undelivered, Place::gateway(live.gateway_id), what));
            }
        }
        undelivered(&stats, &live, settle, self);
        Ok(())
    }
}

/// The status of the gateway once it has noted everything that is in the snapshot. `None` if it has just ended.
async fn ask(
    client: &OutboxClient,
    snapshot: &TrailSnapshot<'_>,
) -> anyhow::Result<Option<(StatsAnswer, PipelineStatus)>> {
    let mut asks = 0;
    loop {
        let mut stats: StatsAnswer = client.one(&Question::Stats).await?;
        let Some(live) = stats.live.take() else { return Ok(None) };
        let cursor = snapshot.cursor((live.gateway_id, live.epoch)).map_or(Seq::ZERO, |head| head.seq);
        asks += 1;
        // The database may have a batch before the gateway has the reply.
        if cursor.0 <= live.delivered || cursor > live.last_seq || asks == ASKS_MAX {
            return Ok(Some((stats, live)));
        }
        tokio::time::sleep(ASK_PAUSE).await;
    }
}

fn undelivered(stats: &StatsAnswer, live: &PipelineStatus, settle: Duration, found: &mut LiveFindings) {
    let older = stats.files.streams.iter().filter(|stream| stream.epoch < live.epoch);
    let older: u64 = older.map(StoredStream::undelivered).sum();
    let count = older + live.last_seq.0.saturating_sub(live.delivered);
    if count == 0 {
        return;
    }
    let records = plural(count, "record");
    let verb = if count == 1 { "waits" } else { "wait" };
    let what = format!("{records} {verb} at the live gateway for delivery and cannot be checked here");
    let place = Place::gateway(live.gateway_id);
    if live.oldest_undelivered_seconds.is_some_and(|age| age > settle.as_secs_f64()) {
        found.unproven.push((UnprovenKind::Undelivered, place, what));
    } else {
        found.mentions.push((UnprovenKind::Undelivered, place, what));
    }
}
