//! The watcher: looks at the gateway once a second, raises each alarm once when it begins and clears it when it ends.
//!
//! It only reads what the pipeline says of itself, so nothing of it is in the way of a call. What it finds goes to the log,
//! to the [`Board`] and, through a bounded queue, to the operator's command or webhook, one notice at a time.

mod notice;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::alarm::{Alarm, Board};
use super::status::Sources;
use crate::audit::record::Timestamp;
use crate::audit::shipper::ShipperState;
use crate::config;
use notice::{Notice, Notifier};

/// How often it looks. *Chosen*: soon enough for a person, rare enough to cost nothing.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long an alarm of something that happened stands after it happened last. *Chosen*: long enough to be seen by
/// whoever scrapes, short enough that the next one is news.
const EVENT_STANDS: Duration = Duration::from_mins(15);

/// By how many percent of the quota the outbox must have emptied again before its alarm is cleared. *Chosen*: more than one
/// file of the smallest quota would move it up and down.
const CAPACITY_SLACK: u64 = 5;

/// By how much the wall clock may differ between two looks. *Chosen*: time servers move a clock slowly; what sets it by more
/// is a person, a restored machine, or one that slept.
const CLOCK_STEP: Duration = Duration::from_secs(5);

/// Notices that wait. *Derived*: each alarm raised and cleared three times.
const NOTICES_MAX: usize = 64;

/// Longest words of an alarm, bytes. *Chosen*: a screen of them, and far below what an environment variable may hold.
const WORDS_BYTES_MAX: usize = 2_048;

/// What it looks at.
#[derive(Clone, Debug, Default)]
struct Facts {
    percent: u64,
    outbox_failed: bool,
    set_aside: u64,
    quarantined: u64,
    forked: Option<String>,
    held: Option<String>,
    oldest: Option<Duration>,
}

/// What has to be remembered from look to look.
#[derive(Debug)]
struct Rules {
    behind_after: Duration,
    set_aside: u64,
    quarantined: u64,
    began: Instant,
    /// The wall clock less the monotonic one, microseconds.
    offset: Option<i64>,
    /// Things that happened: until when they stand, and what is said of them.
    events: BTreeMap<Alarm, (Instant, String)>,
}

/// Watches one gateway.
#[derive(Debug)]
pub struct Watcher {
    sources: Sources,
    rules: Rules,
    notifier: Notifier,
}

impl Watcher {
    /// A watcher that tells as `config` says.
    #[must_use]
    pub fn new(sources: Sources, config: &config::Alarms) -> Self {
        let gateway_id = sources.probe.as_ref().map(|probe| probe.stream().0);
        let notifier = Notifier::new(config, gateway_id);
        Self { sources, rules: Rules::new(config.delivery_behind_after), notifier }
    }

    /// Watches until `stop`. A notice that is being given then is given up.
    pub async fn run(self, stop: CancellationToken) {
        let Self { sources, mut rules, notifier } = self;
        let (queue, notices) = mpsc::channel(NOTICES_MAX);
        let board = sources.board.clone();
        let told = notifier.run(notices, board.clone());
        let look = async {
            let mut ticks = tokio::time::interval(LOOK_EVERY);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let found = rules.look(&facts(&sources), &board, Instant::now(), Timestamp::now());
                turn(&board, &found, &queue);
            }
        };
        let both = async { tokio::join!(told, look) };
        stop.run_until_cancelled(both).await;
    }
}

fn facts(sources: &Sources) -> Facts {
    let (Some(probe), Some(trail)) = (&sources.probe, sources.status().trail) else { return Facts::default() };
    let meter = probe.meter();
    let said = |state: &ShipperState| match state {
        ShipperState::Retrying { error } | ShipperState::Held { error } | ShipperState::Forked { error } => {
            error.clone()
        }
        ShipperState::StoreOnly | ShipperState::Starting | ShipperState::Delivering => String::new(),
    };
    Facts {
        percent: trail.outbox.percent,
        outbox_failed: trail.outbox.failed,
        set_aside: trail.outbox.set_aside,
        quarantined: meter.quarantined.get(),
        forked: meter.forked.load(Ordering::Relaxed).then(|| said(&trail.postgres)),
        held: matches!(trail.postgres, ShipperState::Held { .. }).then(|| said(&trail.postgres)),
        oldest: trail.oldest_undelivered_seconds.map(Duration::from_secs_f64),
    }
}

/// Raises what was found and does not stand, clears what stands and was not found.
fn turn(board: &Board, found: &BTreeMap<Alarm, String>, queue: &mpsc::Sender<Notice>) {
    let tell = |notice: Notice| {
        // I6: the queue is bounded; the log and the metric have what it cannot take.
        if queue.try_send(notice).is_err() {
            board.unnoticed().add(1);
        }
    };
    for alarm in Alarm::ALL {
        match found.get(&alarm) {
            Some(words) if !board.stands(alarm) => {
                let words = words.get(..words.floor_char_boundary(WORDS_BYTES_MAX)).unwrap_or_default();
                board.raise(alarm, words);
                tracing::error!(alarm = alarm.name(), words, "alarm raised: docs/runbook.md says what to do");
                tell(Notice { alarm, raised: true, words: words.to_owned() });
            }
            None if board.clear(alarm) => {
                tracing::info!(alarm = alarm.name(), "alarm cleared");
                tell(Notice { alarm, raised: false, words: "it is over".to_owned() });
            }
            _ => {}
        }
    }
}

impl Rules {
    fn new(behind_after: Duration) -> Self {
        let (began, events) = (Instant::now(), BTreeMap::new());
        Self { behind_after, set_aside: 0, quarantined: 0, began, offset: None, events }
    }

    /// The alarms that hold now, with words.
    fn look(&mut self, facts: &Facts, board: &Board, now: Instant, wall: Timestamp) -> BTreeMap<Alarm, String> {
        let mut found = BTreeMap::new();
        for (alarm, percent) in [(Alarm::Capacity75, 75), (Alarm::Capacity90, 90)] {
            let enough = if board.stands(alarm) { percent - CAPACITY_SLACK } else { percent };
            if facts.percent >= enough {
                found.insert(alarm, format!("the outbox is {} % full", facts.percent));
            }
        }
        if facts.outbox_failed {
            let words = "the outbox cannot store: calls are refused, or go on as audit.on_failure says";
            found.insert(Alarm::OutboxFailed, words.to_owned());
        }
        if let Some(what) = &facts.forked {
            found.insert(Alarm::Fork, format!("a stream is forked and not shipped: {what}"));
        }
        if let Some(error) = &facts.held {
            found.insert(Alarm::OperatorError, format!("delivery is held until somebody mends this: {error}"));
        }
        if let Some(age) = facts.oldest.filter(|age| *age > self.behind_after) {
            let (age, limit) = (age.as_secs(), self.behind_after.as_secs());
            found.insert(
                Alarm::DeliveryBehind,
                format!("the oldest undelivered record is {age} s old, limit {limit} s"),
            );
        }
        self.note_events(facts, now, wall);
        self.events.retain(|_, (until, _)| *until > now);
        found.extend(self.events.iter().map(|(alarm, (_, words))| (*alarm, words.clone())));
        found
    }

    fn note_events(&mut self, facts: &Facts, now: Instant, wall: Timestamp) {
        let until = now + EVENT_STANDS;
        if facts.set_aside > self.set_aside {
            let words =
                format!("{} damaged outbox files were set aside in quarantine/ since the start", facts.set_aside);
            self.events.insert(Alarm::GenerationSetAside, (until, words));
        }
        if facts.quarantined > self.quarantined {
            let words = format!("{} records are in audit_quarantine since the start", facts.quarantined);
            self.events.insert(Alarm::Quarantine, (until, words));
        }
        (self.set_aside, self.quarantined) = (facts.set_aside, facts.quarantined);
        let elapsed = i64::try_from(now.saturating_duration_since(self.began).as_micros()).unwrap_or(i64::MAX);
        let offset = wall.micros().saturating_sub(elapsed);
        let step = offset.saturating_sub(self.offset.replace(offset).unwrap_or(offset));
        if u128::from(step.unsigned_abs()) > CLOCK_STEP.as_micros() {
            let words = format!("the wall clock was set by {} s", step / 1_000_000);
            self.events.insert(Alarm::ClockStepped, (until, words));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WALL: i64 = 1_800_000_000_000_000;

    /// The names of what holds `seconds` after the start, with the clock `step` seconds off; the board turns with it.
    fn look(rules: &mut Rules, board: &Board, facts: &Facts, seconds: u64, step: i64) -> Vec<&'static str> {
        let wall = WALL + i64::try_from(seconds).unwrap() * 1_000_000 + step * 1_000_000;
        let now = rules.began + Duration::from_secs(seconds);
        let found = rules.look(facts, board, now, Timestamp::from_micros(wall));
        let (queue, _notices) = mpsc::channel(NOTICES_MAX);
        turn(board, &found, &queue);
        board.standing().into_iter().map(|standing| standing.alarm.name()).collect()
    }

    fn raised(board: &Board) -> u64 {
        board.raised().map(|(_, raised)| raised.get()).sum()
    }

    #[test]
    fn an_alarm_is_raised_once_and_cleared_when_it_ends() {
        let (mut rules, board) = (Rules::new(Duration::from_secs(10)), Board::default());
        let facts = |percent| Facts { percent, ..Facts::default() };
        for (second, percent, standing) in [
            (0, 74, &[][..]),
            (1, 75, &["capacity_75"]),
            (2, 71, &["capacity_75"]),
            (3, 95, &["capacity_75", "capacity_90"]),
        ] {
            assert_eq!(look(&mut rules, &board, &facts(percent), second, 0), standing, "{percent}");
        }
        assert_eq!(look(&mut rules, &board, &facts(84), 4, 0), ["capacity_75"]);
        assert!(look(&mut rules, &board, &facts(69), 5, 0).is_empty());
        assert_eq!(raised(&board), 2);
    }

    #[test]
    fn what_goes_on_stands_while_it_does() {
        let (mut rules, board) = (Rules::new(Duration::from_secs(10)), Board::default());
        let all = Facts {
            outbox_failed: true,
            forked: Some("two writers".to_owned()),
            held: Some("no table".to_owned()),
            oldest: Some(Duration::from_secs(11)),
            ..Facts::default()
        };
        let names = ["outbox_failed", "fork", "delivery_behind", "operator_error"];
        assert_eq!(look(&mut rules, &board, &all, 0, 0), names);
        assert_eq!(look(&mut rules, &board, &all, 1, 0), names);
        let behind = Facts { oldest: Some(Duration::from_secs(10)), ..Facts::default() };
        assert!(look(&mut rules, &board, &behind, 2, 0).is_empty());
        assert_eq!(raised(&board), 4);
    }

    #[test]
    fn what_happened_stands_for_a_while_and_does_not_flood() {
        let (mut rules, board) = (Rules::new(Duration::from_secs(10)), Board::default());
        let facts = |quarantined| Facts { set_aside: 1, quarantined, ..Facts::default() };
        // A file that was set aside at the start is told of too.
        assert_eq!(look(&mut rules, &board, &facts(0), 0, 0), ["generation_set_aside"]);
        for second in 1..500 {
            assert_eq!(look(&mut rules, &board, &facts(second), second, 0), ["generation_set_aside", "quarantine"]);
        }
        assert_eq!(look(&mut rules, &board, &facts(499), EVENT_STANDS.as_secs(), 0), ["quarantine"]);
        assert!(look(&mut rules, &board, &facts(499), EVENT_STANDS.as_secs() + 500, 0).is_empty());
        assert_eq!(raised(&board), 2);
    }

    #[test]
    fn a_clock_that_is_set_is_noticed_and_one_that_drifts_is_not() {
        for step in [3_600, -60] {
            let (mut rules, board) = (Rules::new(Duration::from_secs(10)), Board::default());
            let facts = Facts::default();
            assert!(look(&mut rules, &board, &facts, 0, 0).is_empty());
            assert!(look(&mut rules, &board, &facts, 100, 3).is_empty());
            assert_eq!(look(&mut rules, &board, &facts, 101, step), ["clock_stepped"]);
            assert!(look(&mut rules, &board, &facts, 101 + EVENT_STANDS.as_secs(), step).is_empty());
        }
    }

    #[test]
    fn i6_notices_that_nobody_takes_are_counted() {
        let (board, found) = (Board::default(), [(Alarm::Fork, "x".repeat(5_000))].into());
        let (queue, mut notices) = mpsc::channel(1);
        turn(&board, &found, &queue);
        turn(&board, &BTreeMap::new(), &queue);
        assert_eq!(board.unnoticed().get(), 1);
        assert_eq!(notices.try_recv().unwrap().words.len(), WORDS_BYTES_MAX);
    }
}
