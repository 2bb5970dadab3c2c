//! A sink in memory that keeps the cursor rule and can misbehave in every way that Postgres can.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use gatepost::audit::chain::Head;
use gatepost::audit::record::{AuditRecord, Epoch, GatewayId, StreamPosition};
use gatepost::audit::sink::{CursorUpdate, ErrorClass, Sink, SinkError};
use tokio::sync::Notify;

/// The sink. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct MemorySink(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    changed: Notify,
    inspector: Mutex<Inspector>,
}

/// Called with each record before it takes effect.
#[derive(Default)]
struct Inspector(Option<Box<Inspect>>);

type Inspect = dyn Fn(&AuditRecord) + Send;

impl fmt::Debug for Inspector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Inspector").finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct State {
    cursors: BTreeMap<(GatewayId, Epoch), Head>,
    /// In the order of delivery.
    records: Vec<AuditRecord>,
    quarantined: Vec<AuditRecord>,
    mood: Mood,
    refused_tool: Option<String>,
    /// Every statement fails as an operator's error does once so many records were delivered.
    held_after: Option<usize>,
    /// Batches of more records than this take too long.
    too_many: Option<usize>,
    /// The size of each batch that took effect.
    batches: Vec<usize>,
    /// The last refused batch of more than one record takes effect after all, before the next quarantining.
    commits_late: bool,
    late: Vec<AuditRecord>,
    /// Times that it was to prepare, and whether that fails.
    prepared: usize,
    unprepared: bool,
    pause: Duration,
    reply_lost: bool,
    /// State of the random numbers of [`Mood::Lossy`].
    rng: u64,
    calls: usize,
}

/// How the sink behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mood {
    #[default]
    Healthy,
    /// Every statement fails with a transient error.
    Down,
    /// Every statement fails with an error that an operator has to mend.
    Held,
    /// Every row is refused.
    RefuseAll,
    /// Nothing answers.
    Blocked,
    /// At random a delivery is lost before it takes effect, or its reply after it did.
    Lossy,
}

impl MemorySink {
    /// Changes how it behaves.
    pub fn turn(&self, mood: Mood) {
        self.state().mood = mood;
        self.0.changed.notify_waiters();
    }

    /// Refuses rows with this tool.
    pub fn refuse_tool(&self, tool: &str) {
        self.state().refused_tool = Some(tool.to_owned());
    }

    /// Fails as with an operator's error once `count` records were delivered.
    pub fn hold_after(&self, count: usize) {
        self.state().held_after = Some(count);
    }

    /// Fails as at the server's statement timeout where a batch has more records than this.
    pub fn time_out_above(&self, count: Option<usize>) {
        self.state().too_many = count;
    }

    /// The size of each batch that took effect, in order.
    pub fn batches(&self) -> Vec<usize> {
        self.state().batches.clone()
    }

    /// Lets the next delivery take effect and its reply be lost.
    pub fn lose_next_reply(&self) {
        self.state().reply_lost = true;
    }

    /// Commits the last refused batch after all, at the moment when one of its records is to be quarantined. This
    /// simulates a reply that arrived after the shipper stopped waiting for it.
    pub fn commit_late(&self) {
        self.state().commits_late = true;
    }

    /// From now on fails to prepare, as an operator's error does.
    pub fn refuse_to_prepare(&self) {
        self.state().unprepared = true;
    }

    /// Times that it was to prepare.
    pub fn prepared(&self) -> usize {
        self.state().prepared
    }

    /// Lets every delivery take this long.
    pub fn slow_down(&self, pause: Duration) {
        self.state().pause = pause;
    }

    /// Puts a stream's cursor where somebody else would leave it.
    pub fn set_cursor(&self, gateway_id: GatewayId, epoch: Epoch, head: Head) {
        self.state().cursors.insert((gateway_id, epoch), head);
    }

    /// Forgets everything after `last` in its stream, and all later epochs.
    pub fn cut_after(&self, last: &StreamPosition) {
        let mut state = self.state();
        let kept = |position: &StreamPosition| (position.epoch, position.seq) <= (last.epoch, last.seq);
        state.records.retain(|record| kept(&record.position));
        state.cursors.retain(|(_, epoch), _| *epoch <= last.epoch);
        state.cursors.insert((last.gateway_id, last.epoch), Head::after(last));
    }

    /// Forgets everything after `last` in its stream, and has all other streams as before.
    pub fn forget_after(&self, last: &StreamPosition) {
        let mut state = self.state();
        let is_kept = |at: &StreamPosition| at.epoch != last.epoch || at.seq <= last.seq;
        state.records.retain(|record| is_kept(&record.position));
        state.cursors.insert((last.gateway_id, last.epoch), Head::after(last));
    }

    /// Is as it was when the first `count` records had been delivered.
    pub fn go_back(&self, count: usize) {
        let mut state = self.state();
        state.records.truncate(count);
        let positions: Vec<_> = state.records.iter().map(|record| record.position).collect();
        state.cursors = positions.iter().map(|at| ((at.gateway_id, at.epoch), Head::after(at))).collect();
    }

    /// Shows each record to `inspect` before it takes effect.
    pub fn inspect(&self, inspect: impl Fn(&AuditRecord) + Send + 'static) {
        *self.0.inspector.lock().unwrap() = Inspector(Some(Box::new(inspect)));
    }

    fn show<'a>(&self, records: impl Iterator<Item = &'a AuditRecord>) {
        if let Inspector(Some(inspect)) = &*self.0.inspector.lock().unwrap() {
            records.for_each(inspect);
        }
    }

    /// What was delivered, in order.
    pub fn records(&self) -> Vec<AuditRecord> {
        self.state().records.clone()
    }

    pub fn count(&self) -> usize {
        self.state().records.len()
    }

    pub fn quarantined(&self) -> Vec<AuditRecord> {
        self.state().quarantined.clone()
    }

    /// Statements so far.
    pub fn calls(&self) -> usize {
        self.state().calls
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap()
    }

    async fn gate(&self) -> Result<(), SinkError> {
        self.state().calls += 1;
        loop {
            let mut changed = std::pin::pin!(self.0.changed.notified());
            changed.as_mut().enable();
            match self.state().mood {
                Mood::Down => return Err(error(ErrorClass::Transient, "57P03")),
                Mood::Held => return Err(error(ErrorClass::Operator, "42501")),
                Mood::Blocked => {}
                _ => return Ok(()),
            }
            changed.await;
        }
    }
}

impl State {
    fn refuses(&self, record: &AuditRecord) -> bool {
        let tool = record.entry.call.tool_name.as_deref();
        self.mood == Mood::RefuseAll || (tool.is_some() && tool == self.refused_tool.as_deref())
    }

    /// A number from 0 to 3. *Chosen*: Knuth's MMIX generator, so that a run can be repeated.
    fn throw(&mut self) -> u64 {
        self.rng = self.rng.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.rng >> 62
    }

    fn take<R: AsRef<AuditRecord>>(&mut self, batch: &[R], quarantine: bool) -> CursorUpdate {
        let (first, last) = (batch[0].as_ref().position, batch[batch.len() - 1].as_ref().position);
        // Before the cursor is read, nothing can be delivered: the stream may have been forgotten.
        let Some(cursor) = self.cursors.get_mut(&(first.gateway_id, first.epoch)) else {
            return CursorUpdate::Unchanged;
        };
        if cursor.seq.next() != first.seq || cursor.hash != first.prev_hash {
            return CursorUpdate::Unchanged;
        }
        *cursor = Head::after(&last);
        self.batches.push(batch.len());
        let records = batch.iter().map(|record| record.as_ref().clone());
        let place = if quarantine { &mut self.quarantined } else { &mut self.records };
        place.extend(records);
        CursorUpdate::Moved
    }
}

fn error(class: ErrorClass, sqlstate: &str) -> SinkError {
    SinkError { operation: "deliver", class, sqlstate: Some(sqlstate.to_owned()), message: "injected".to_owned() }
}

impl Sink for MemorySink {
    async fn prepare(&mut self, _: GatewayId) -> Result<(), SinkError> {
        self.gate().await?;
        let mut state = self.state();
        state.prepared += 1;
        if state.unprepared { Err(error(ErrorClass::Operator, "42501")) } else { Ok(()) }
    }

    async fn cursor(&mut self, gateway_id: GatewayId, epoch: Epoch) -> Result<Head, SinkError> {
        self.gate().await?;
        Ok(*self.state().cursors.entry((gateway_id, epoch)).or_insert(Head::START))
    }

    async fn deliver<R: AsRef<AuditRecord> + Sync>(&mut self, batch: &[R]) -> Result<CursorUpdate, SinkError> {
        self.gate().await?;
        let pause = self.state().pause;
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        self.show(batch.iter().map(AsRef::as_ref));
        let mut state = self.state();
        if state.held_after.is_some_and(|count| state.records.len() >= count) {
            return Err(error(ErrorClass::Operator, "42501"));
        }
        if state.too_many.is_some_and(|count| batch.len() > count) {
            return Err(error(ErrorClass::TooMuch, "57014"));
        }
        if batch.iter().any(|record| state.refuses(record.as_ref())) {
            if state.commits_late && batch.len() > 1 {
                state.late = batch.iter().map(|record| record.as_ref().clone()).collect();
            }
            return Err(error(ErrorClass::Row, "23514"));
        }
        let lost = (state.mood == Mood::Lossy).then(|| state.throw());
        if lost == Some(0) {
            return Err(error(ErrorClass::Transient, "08006"));
        }
        let moved = state.take(batch, false);
        if std::mem::take(&mut state.reply_lost) || lost == Some(1) {
            Err(error(ErrorClass::Transient, "08006"))
        } else {
            Ok(moved)
        }
    }

    async fn dry_run(&mut self, record: &AuditRecord) -> Result<(), SinkError> {
        self.gate().await?;
        if self.state().refuses(record) { Err(error(ErrorClass::Row, "23514")) } else { Ok(()) }
    }

    async fn quarantine(&mut self, record: &AuditRecord, _reason: &SinkError) -> Result<CursorUpdate, SinkError> {
        self.gate().await?;
        self.show(std::iter::once(record));
        let mut state = self.state();
        let late = std::mem::take(&mut state.late);
        if !late.is_empty() {
            assert_eq!(state.take(&late, false), CursorUpdate::Moved);
        }
        Ok(state.take(std::slice::from_ref(record), true))
    }
}
