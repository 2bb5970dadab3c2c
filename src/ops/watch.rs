//! The watcher: checks the gateway once a second, raises an alarm when its condition begins and clears it when it ends.
//!
//! It only reads the numbers of the pipeline, so it never delays a call. Alarms go to the log, to the [`Board`] and,
//! through a bounded queue, to the operator's command or webhook, one notification at a time.

mod notify;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::alarm::{Alarm, Board};
use super::format::plural;
use super::status::Sources;
use crate::accept::open_files_max;
use crate::audit::record::{GatewayId, Timestamp};
use crate::audit::shipper::ShipperState;
use crate::certificate_end::{CertificateEnd, KnownCertificate};
use crate::config;
use crate::notary::{self, EvidenceState};
use notify::{Notification, Notifier};

/// Interval between checks. *Chosen*: soon enough for a person, rare enough to cost nothing.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Time that the alarm of an event stays active after the last such event. *Chosen*: every scraper sees it, and the
/// next event raises it again.
const EVENT_ACTIVE: Duration = Duration::from_mins(15);

/// Time that the alarm of a resource stays active after the resource was last found wanting. *Chosen*: more than a few
/// checks, so that a resource at its limit does not raise the alarm repeatedly; short, because it ends by itself.
const SHORTAGE_ACTIVE: Duration = Duration::from_secs(10);

/// Distance below an alarm's percentage at which the alarm is cleared, in percent of the quota. *Chosen*: with less,
/// one file of the smallest quota would raise and clear the alarm repeatedly.
const CAPACITY_HYSTERESIS: u64 = 5;

/// Largest change of the wall clock against the monotonic clock between two checks that is not an alarm. *Chosen*: time
/// servers adjust a clock slowly; a larger step comes from a person, a restored machine, or one that was suspended.
const CLOCK_STEP_MAX: Duration = Duration::from_secs(5);

/// Most certificates that a message names. *Derived*: they fit [`MESSAGE_BYTES_MAX`].
const CERTIFICATES_MAX: usize = 18;

/// Most notifications in the queue. *Derived*: each alarm raised and cleared three times.
const NOTIFICATIONS_MAX: usize = 96;

/// Longest message of an alarm, in bytes. *Chosen*: fills a screen, and far below the limit of an environment variable.
const MESSAGE_BYTES_MAX: usize = 2_048;

/// The numbers that the alarms depend on, at one check.
#[derive(Clone, Debug, Default)]
struct Observation {
    percent: u64,
    disk_full: bool,
    outbox_failed: bool,
    set_aside: u64,
    quarantined: u64,
    /// Streams of which Postgres had less than was delivered.
    restored: u64,
    /// Gateways that have not renewed their leases although their streams are open.
    silent_gateways: Vec<GatewayId>,
    /// The error, if a stream is forked.
    forked: Option<String>,
    /// The error, if delivery is blocked until an operator fixes it.
    held: Option<String>,
    oldest: Option<Duration>,
    /// Log lines that were dropped, and those of them that no written line counts yet.
    log_dropped: u64,
    log_unreported: u64,
    /// Failures to accept a connection.
    accepts_failed: u64,
    /// Changed definitions of tools, and the last change.
    tools_changed: (u64, String),
    /// The tools that are not as they were accepted.
    tools_not_accepted: Option<String>,
    /// The certificates whose ends are known.
    certificates: Vec<KnownCertificate>,
    /// The notary's state, if there is one.
    evidence: Option<EvidenceState>,
}

/// The conditions of the alarms, and the state that they keep from check to check.
#[derive(Debug)]
struct Conditions {
    delivery_behind_after: Duration,
    set_aside: u64,
    quarantined: u64,
    restored: u64,
    log_dropped: u64,
    accepts_failed: u64,
    tools_changed: u64,
    started: Instant,
    /// The wall clock less the monotonic one, in microseconds.
    clock_offset: Option<i64>,
    /// For each event, the time until which its alarm is active, and the message.
    events: BTreeMap<Alarm, (Instant, String)>,
}

/// Watches one gateway.
#[derive(Debug)]
pub struct Watcher {
    sources: Sources,
    conditions: Conditions,
    notifier: Notifier,
}

impl Watcher {
    /// A watcher that notifies as `config` says.
    #[must_use]
    pub fn new(sources: Sources, config: &config::Alarms) -> Self {
        let gateway_id = sources.probe.as_ref().map(|probe| probe.stream().0);
        let notifier = Notifier::new(config, gateway_id);
        Self { sources, conditions: Conditions::new(config.delivery_behind_after), notifier }
    }

    /// Watches until `stop`, which also cancels a notification in progress.
    pub async fn run(self, stop: CancellationToken) {
        let Self { sources, mut conditions, notifier } = self;
        let (queue, notifications) = mpsc::channel(NOTIFICATIONS_MAX);
        let board = sources.board.clone();
        let notifying = notifier.run(notifications, board.clone());
        let looking = async {
            let mut ticks = tokio::time::interval(LOOK_INTERVAL);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let found = conditions.evaluate(&observe(&sources), &board, Instant::now(), Timestamp::now());
                update(&board, &found, &queue);
            }
        };
        let both = async { tokio::join!(notifying, looking) };
        stop.run_until_cancelled(both).await;
    }
}

fn observe(sources: &Sources) -> Observation {
    let process = Observation {
        log_dropped: sources.log.count(),
        log_unreported: sources.log.unreported(),
        accepts_failed: sources.gateway.accept_failures().count(),
        tools_changed: sources.gateway.tools_changed(),
        tools_not_accepted: sources.gateway.tools_not_accepted(),
        certificates: sources.certificates(),
        evidence: sources.evidence.as_ref().map(notary::Status::get),
        ..Observation::default()
    };
    let (Some(probe), Some(pipeline)) = (&sources.probe, sources.status().pipeline) else { return process };
    let meter = probe.meter();
    let error = match &pipeline.postgres {
        ShipperState::Retrying { error } | ShipperState::Held { error } | ShipperState::Forked { error } => {
            error.clone()
        }
        ShipperState::StoreOnly | ShipperState::Starting | ShipperState::Delivering => String::new(),
    };
    Observation {
        percent: pipeline.outbox.percent,
        disk_full: pipeline.outbox.disk_full,
        outbox_failed: pipeline.outbox.failed,
        set_aside: pipeline.outbox.set_aside,
        quarantined: meter.quarantined.get(),
        restored: meter.restored.get(),
        silent_gateways: meter.silent_gateways(),
        forked: meter.forked.load(Ordering::Relaxed).then(|| error.clone()),
        held: matches!(pipeline.postgres, ShipperState::Held { .. }).then_some(error),
        oldest: pipeline.oldest_undelivered_seconds.map(Duration::from_secs_f64),
        ..process
    }
}

/// Raises the alarms in `found` that are not active, and clears the active ones that are not in `found`. The others get
/// their message of now; if it names other things than before, there is a notification.
fn update(board: &Board, found: &BTreeMap<Alarm, String>, queue: &mpsc::Sender<Notification>) {
    let notify = |notification: Notification| {
        // I6: the queue is bounded; the log and the metric have the notifications that do not fit.
        if queue.try_send(notification).is_err() {
            board.notifications_failed().add(1);
        }
    };
    for alarm in Alarm::ALL {
        match found.get(&alarm) {
            Some(message) => {
                let message = message.get(..message.floor_char_boundary(MESSAGE_BYTES_MAX)).unwrap_or_default();
                if board.raise(alarm, message) {
                    tracing::error!(alarm = alarm.name(), reason = message, "alarm raised; see docs/runbook.md");
                } else if board.set_message(alarm, message) && alarm.names_things() {
                    tracing::error!(
                        alarm = alarm.name(),
                        reason = message,
                        "alarm has another reason; see docs/runbook.md"
                    );
                } else {
                    continue;
                }
                notify(Notification { alarm, raised: true, message: message.to_owned() });
            }
            None if board.clear(alarm) => {
                tracing::info!(alarm = alarm.name(), "alarm cleared");
                notify(Notification { alarm, raised: false, message: "the alarm is cleared".to_owned() });
            }
            _ => {}
        }
    }
}

impl Conditions {
    fn new(delivery_behind_after: Duration) -> Self {
        Self {
            delivery_behind_after,
            set_aside: 0,
            quarantined: 0,
            restored: 0,
            log_dropped: 0,
            accepts_failed: 0,
            tools_changed: 0,
            started: Instant::now(),
            clock_offset: None,
            events: BTreeMap::new(),
        }
    }

    /// The alarms whose conditions are met now, with their messages.
    fn evaluate(
        &mut self,
        seen: &Observation,
        board: &Board,
        now: Instant,
        wall: Timestamp,
    ) -> BTreeMap<Alarm, String> {
        self.note_events(seen, now, wall);
        self.events.retain(|_, (until, _)| *until > now);
        Alarm::ALL.into_iter().filter_map(|alarm| Some((alarm, self.condition(alarm, (seen, wall), board)?))).collect()
    }

    /// The alarm's message, if its condition is met.
    fn condition(&self, alarm: Alarm, (seen, wall): (&Observation, Timestamp), board: &Board) -> Option<String> {
        let fuller_than = |percent: u64| {
            let limit = if board.is_active(alarm) { percent - CAPACITY_HYSTERESIS } else { percent };
            (seen.percent >= limit).then(|| format!("the outbox uses {} % of its quota", seen.percent))
        };
        match alarm {
            Alarm::Capacity75 => fuller_than(75),
            Alarm::Capacity90 if seen.disk_full => Some(format!(
                "the disk of the outbox is full, which uses {} % of its quota: free space on the disk",
                seen.percent
            )),
            Alarm::Capacity90 => fuller_than(90),
            Alarm::OutboxFailed => seen.outbox_failed.then(|| {
                "the outbox cannot store: calls are refused, or continue unaudited if audit.on_failure says so"
                    .to_owned()
            }),
            Alarm::Fork => seen.forked.as_ref().map(|error| format!("a stream is forked and not delivered: {error}")),
            Alarm::OperatorError => {
                seen.held.as_ref().map(|error| format!("delivery is blocked until an operator fixes this: {error}"))
            }
            Alarm::DeliveryBehind => seen.oldest.filter(|age| *age > self.delivery_behind_after).map(|age| {
                let (age, limit) = (age.as_secs(), self.delivery_behind_after.as_secs());
                format!("the oldest undelivered record is {age} s old, limit {limit} s")
            }),
            Alarm::GatewaySilent if seen.silent_gateways.is_empty() => None,
            Alarm::GatewaySilent => {
                let gateways = plural(seen.silent_gateways.len() as u64, "gateway");
                let ids: Vec<_> = seen.silent_gateways.iter().map(ToString::to_string).collect();
                Some(format!("{gateways} did not end and no longer renewed the lease: {}", ids.join(", ")))
            }
            Alarm::CertificateExpires => ends(&seen.certificates, CertificateEnd::is_near, ("expires", wall)),
            Alarm::CertificateExpired => ends(&seen.certificates, CertificateEnd::has_passed, ("expired", wall)),
            Alarm::EvidenceFork => seen.evidence.as_ref().and_then(EvidenceState::contradicted),
            Alarm::EvidenceUnsigned => seen.evidence.as_ref().and_then(EvidenceState::unsigned),
            Alarm::EvidenceUnanchored => seen.evidence.as_ref().and_then(EvidenceState::unanchored),
            Alarm::ToolsChanged if seen.tools_not_accepted.is_some() => seen.tools_not_accepted.clone(),
            Alarm::GenerationSetAside
            | Alarm::DatabaseRestored
            | Alarm::Quarantine
            | Alarm::ClockStepped
            | Alarm::LogDropped
            | Alarm::OpenFiles
            | Alarm::ToolsChanged => self.events.get(&alarm).map(|(_, message)| message.clone()),
        }
    }

    fn note_events(&mut self, seen: &Observation, now: Instant, wall: Timestamp) {
        let until = now + EVENT_ACTIVE;
        if seen.set_aside > self.set_aside {
            let files = plural(seen.set_aside, "damaged outbox file");
            self.events
                .insert(Alarm::GenerationSetAside, (until, format!("{files} set aside in quarantine/ since startup")));
        }
        if seen.quarantined > self.quarantined {
            let records = plural(seen.quarantined, "record");
            self.events.insert(Alarm::Quarantine, (until, format!("{records} quarantined in Postgres since startup")));
        }
        if seen.restored > self.restored {
            let streams = plural(seen.restored, "stream");
            let message = format!(
                "Postgres had less than was delivered, as after a restore or a failover that lost transactions; the kept \
                 records of {streams} were delivered again since startup"
            );
            self.events.insert(Alarm::DatabaseRestored, (until, message));
        }
        if seen.log_dropped > self.log_dropped || seen.log_unreported > 0 {
            let lines = plural(seen.log_dropped, "log line");
            let message = format!("{lines} dropped since startup, because they could not be written");
            self.events.insert(Alarm::LogDropped, (now + SHORTAGE_ACTIVE, message));
        }
        if seen.accepts_failed > self.accepts_failed {
            let limit = open_files_max().map_or_else(|| "no limit".to_owned(), |limit| format!("limit {limit}"));
            let message = format!("connections cannot be accepted; the log has the error (open files: {limit})");
            self.events.insert(Alarm::OpenFiles, (now + SHORTAGE_ACTIVE, message));
        }
        if seen.tools_changed.0 > self.tools_changed {
            self.events.insert(Alarm::ToolsChanged, (until, seen.tools_changed.1.clone()));
        }
        self.tools_changed = seen.tools_changed.0;
        (self.set_aside, self.quarantined, self.restored) = (seen.set_aside, seen.quarantined, seen.restored);
        (self.log_dropped, self.accepts_failed) = (seen.log_dropped, seen.accepts_failed);
        let elapsed = i64::try_from(now.saturating_duration_since(self.started).as_micros()).unwrap_or(i64::MAX);
        let offset = wall.micros().saturating_sub(elapsed);
        let step = offset.saturating_sub(self.clock_offset.replace(offset).unwrap_or(offset));
        if u128::from(step.unsigned_abs()) > CLOCK_STEP_MAX.as_micros() {
            let message = format!("the wall clock was set by {} s", step / 1_000_000);
            self.events.insert(Alarm::ClockStepped, (until, message));
        }
    }
}

/// The certificates for which `is_due` is true at `wall`, those that end first first, as a sentence with `verb`.
fn ends(
    certificates: &[KnownCertificate],
    is_due: fn(CertificateEnd, i64) -> bool,
    (verb, wall): (&str, Timestamp),
) -> Option<String> {
    let now = wall.micros().div_euclid(1_000_000);
    let mut due: Vec<_> = certificates.iter().filter(|known| is_due(known.end, now)).collect();
    due.sort_by_key(|known| known.end.at);
    let sentence = |KnownCertificate { owner, end }: &&KnownCertificate| {
        let at = Timestamp::from_micros(end.at.saturating_mul(1_000_000));
        format!("the certificate of {owner} {verb} at {at}")
    };
    let mut sentences: Vec<_> = due.iter().take(CERTIFICATES_MAX).map(sentence).collect();
    if due.len() > CERTIFICATES_MAX {
        sentences.push(format!("{} more; the metric has all", due.len() - CERTIFICATES_MAX));
    }
    (!due.is_empty()).then(|| sentences.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificate_end::{CertificateEnd, CertificateOwner};

    const WALL: i64 = 1_800_000_000_000_000;

    /// The active alarms `seconds` after the start, with the clock `step` seconds off.
    fn look(
        conditions: &mut Conditions,
        board: &Board,
        seen: &Observation,
        seconds: u64,
        step: i64,
    ) -> Vec<&'static str> {
        let wall = WALL + i64::try_from(seconds).unwrap() * 1_000_000 + step * 1_000_000;
        let now = conditions.started + Duration::from_secs(seconds);
        let found = conditions.evaluate(seen, board, now, Timestamp::from_micros(wall));
        let (queue, _notifications) = mpsc::channel(NOTIFICATIONS_MAX);
        update(board, &found, &queue);
        board.active().into_iter().map(|active| active.alarm.name()).collect()
    }

    fn raised(board: &Board) -> u64 {
        board.raised().map(|(_, raised)| raised.get()).sum()
    }

    fn raised_count(board: &Board, wanted: Alarm) -> u64 {
        board.raised().filter(|(alarm, _)| *alarm == wanted).map(|(_, raised)| raised.get()).sum()
    }

    #[test]
    fn an_alarm_is_raised_once_and_cleared_when_its_condition_ends() {
        let (mut conditions, board) = (Conditions::new(Duration::from_secs(10)), Board::default());
        let seen = |percent| Observation { percent, ..Observation::default() };
        for (second, percent, active) in [
            (0, 74, &[][..]),
            (1, 75, &["capacity_75"]),
            (2, 71, &["capacity_75"]),
            (3, 95, &["capacity_75", "capacity_90"]),
        ] {
            assert_eq!(look(&mut conditions, &board, &seen(percent), second, 0), active, "{percent}");
        }
        assert_eq!(look(&mut conditions, &board, &seen(84), 4, 0), ["capacity_75"]);
        assert!(look(&mut conditions, &board, &seen(69), 5, 0).is_empty());
        assert_eq!(raised(&board), 2);
    }

    #[test]
    fn a_full_disk_is_named_as_the_disk_and_not_as_the_quota() {
        let (mut conditions, board) = (Conditions::new(Duration::from_secs(10)), Board::default());
        let seen = |disk_full| Observation { percent: 1, disk_full, ..Observation::default() };
        assert_eq!(look(&mut conditions, &board, &seen(true), 0, 0), ["capacity_90"]);
        let message = board.active().remove(0).message;
        assert!(message.starts_with("the disk of the outbox is full, which uses 1 % of its quota"), "{message}");
        assert!(look(&mut conditions, &board, &seen(false), 1, 0).is_empty());
    }

    #[test]
    fn an_alarm_of_a_state_is_active_as_long_as_the_state() {
        let (mut conditions, board) = (Conditions::new(Duration::from_secs(10)), Board::default());
        let all = Observation {
            outbox_failed: true,
            forked: Some("two writers".to_owned()),
            held: Some("no table".to_owned()),
            oldest: Some(Duration::from_secs(11)),
            silent_gateways: vec![GatewayId(uuid::Uuid::nil())],
            ..Observation::default()
        };
        let names = ["outbox_failed", "fork", "delivery_behind", "operator_error", "gateway_silent"];
        assert_eq!(look(&mut conditions, &board, &all, 0, 0), names);
        assert_eq!(look(&mut conditions, &board, &all, 1, 0), names);
        let within_limit = Observation { oldest: Some(Duration::from_secs(10)), ..Observation::default() };
        assert!(look(&mut conditions, &board, &within_limit, 2, 0).is_empty());
        assert_eq!(raised(&board), 5);
    }

    #[test]
    fn an_alarm_of_an_event_stays_active_for_a_while_and_is_raised_once() {
        let (mut conditions, board) = (Conditions::new(Duration::from_secs(10)), Board::default());
        let seen = |quarantined| Observation { set_aside: 1, quarantined, ..Observation::default() };
        // A file that was set aside during startup counts too.
        assert_eq!(look(&mut conditions, &board, &seen(0), 0, 0), ["generation_set_aside"]);
        for second in 1..500 {
            assert_eq!(look(&mut conditions, &board, &seen(second), second, 0), ["generation_set_aside", "quarantine"]);
        }
        assert_eq!(look(&mut conditions, &board, &seen(499), EVENT_ACTIVE.as_secs(), 0), ["quarantine"]);
        assert!(look(&mut conditions, &board, &seen(499), EVENT_ACTIVE.as_secs() + 500, 0).is_empty());
        assert_eq!(raised(&board), 2);
    }

    #[test]
    fn a_certificate_is_an_alarm_two_weeks_before_its_end_and_another_one_after_it() {
        let (mut conditions, board) = (Conditions::new(Duration::from_secs(10)), Board::default());
        let day = 24 * 3600;
        let seen = |days: i64| {
            let certificates = vec![ending(CertificateOwner::Server, days * day), ending(backend("far"), 400 * day)];
            Observation { certificates, ..Observation::default() }
        };
        for (days, active) in [
            (15, &[][..]),
            (14, &["certificate_expires"]),
            (1, &["certificate_expires"]),
            (-1, &["certificate_expired"]),
            (90, &[]),
        ] {
            assert_eq!(look(&mut conditions, &board, &seen(days), 0, 0), active, "{days}");
            let named = board.active().iter().all(|active| active.message.contains("server.tls.cert_file expire"));
            assert!(named && board.active().iter().all(|active| !active.message.contains("far")), "{days}");
        }
        assert_eq!(raised(&board), 2);
    }

    fn backend(alias: &str) -> CertificateOwner {
        CertificateOwner::Backend(alias.to_owned())
    }

    /// A certificate of a year that ends so many seconds after the start.
    fn ending(owner: CertificateOwner, seconds: i64) -> KnownCertificate {
        let end = CertificateEnd { at: WALL / 1_000_000 + seconds, lifetime: 365 * 24 * 3600 };
        KnownCertificate { owner, end }
    }

    #[test]
    fn an_active_alarm_names_each_certificate_that_is_due_now() {
        let (mut conditions, board) = (Conditions::new(Duration::from_secs(10)), Board::default());
        let (queue, mut notifications) = mpsc::channel(NOTIFICATIONS_MAX);
        let mut look = |certificates: &[KnownCertificate], second| {
            let seen = Observation { certificates: certificates.to_vec(), percent: 80, ..Observation::default() };
            let now = conditions.started + Duration::from_secs(second);
            let wall = Timestamp::from_micros(WALL + i64::try_from(second).unwrap() * 1_000_000);
            update(&board, &conditions.evaluate(&seen, &board, now, wall), &queue);
            let active = board.active().into_iter().find(|active| active.alarm == Alarm::CertificateExpires);
            let mut told = Vec::new();
            while let Ok(notification) = notifications.try_recv() {
                if notification.alarm == Alarm::CertificateExpires {
                    told.push((notification.raised, notification.message));
                }
            }
            (active.map(|active| active.message), told)
        };
        let day = 24 * 3600;
        let (own, a, b) =
            (ending(CertificateOwner::Server, 9 * day), ending(backend("a"), 8 * day), ending(backend("b"), 7 * day));
        let text = |known: &[&KnownCertificate]| {
            let sentence = |known: &&KnownCertificate| {
                let at = Timestamp::from_micros(known.end.at * 1_000_000);
                format!("the certificate of {} expires at {at}", known.owner)
            };
            known.iter().map(sentence).collect::<Vec<_>>().join("; ")
        };
        let raised = |message: &str| (Some(message.to_owned()), vec![(true, message.to_owned())]);
        assert_eq!(look(std::slice::from_ref(&a), 0), raised(&text(&[&a])));
        assert_eq!(look(std::slice::from_ref(&a), 1), (Some(text(&[&a])), vec![]), "nothing is new");
        // Further ones, the most urgent first.
        assert_eq!(look(&[own.clone(), a.clone(), b.clone()], 2), raised(&text(&[&b, &a, &own])));
        // One is renewed.
        let renewed = ending(backend("b"), 300 * day);
        assert_eq!(look(&[own.clone(), a.clone(), renewed.clone()], 3), raised(&text(&[&a, &own])));
        let many: Vec<_> = (0..40).map(|nth| ending(backend(&format!("{nth:032}")), nth)).collect();
        let (message, _) = look(&many, 0);
        let message = message.unwrap();
        assert!(message.len() < MESSAGE_BYTES_MAX && message.ends_with("; 22 more; the metric has all"), "{message}");
        let (active, told) = look(&[renewed], 4);
        assert_eq!((active, told), (None, vec![(false, "the alarm is cleared".to_owned())]));
        assert_eq!(raised_count(&board, Alarm::CertificateExpires), 1, "another reason is not another alarm");
    }

    #[test]
    fn dropped_log_lines_are_an_alarm_until_lines_are_written_again() {
        let (mut conditions, board) = (Conditions::new(Duration::from_secs(10)), Board::default());
        let seen = |log_dropped, log_unreported| Observation { log_dropped, log_unreported, ..Observation::default() };
        assert!(look(&mut conditions, &board, &seen(0, 0), 0, 0).is_empty());
        // A burst that was over before anybody looked.
        assert_eq!(look(&mut conditions, &board, &seen(5, 0), 1, 0), ["log_dropped"]);
        assert!(look(&mut conditions, &board, &seen(5, 0), 1 + SHORTAGE_ACTIVE.as_secs(), 0).is_empty());
        // A log that nobody reads, and nobody writes to either.
        for second in 20..40 {
            assert_eq!(look(&mut conditions, &board, &seen(6, 1), second, 0), ["log_dropped"]);
        }
        assert_eq!(look(&mut conditions, &board, &seen(6, 0), 40, 0), ["log_dropped"]);
        assert!(look(&mut conditions, &board, &seen(6, 0), 40 + SHORTAGE_ACTIVE.as_secs(), 0).is_empty());
        assert_eq!(raised(&board), 2);
    }

    #[test]
    fn connections_that_cannot_be_accepted_are_an_alarm_while_they_cannot() {
        let (mut conditions, board) = (Conditions::new(Duration::from_secs(10)), Board::default());
        let seen = |accepts_failed| Observation { accepts_failed, ..Observation::default() };
        for second in 1..20 {
            assert_eq!(look(&mut conditions, &board, &seen(second), second, 0), ["open_files"]);
        }
        assert!(look(&mut conditions, &board, &seen(19), 19 + SHORTAGE_ACTIVE.as_secs(), 0).is_empty());
        assert_eq!(raised(&board), 1);
    }

    #[test]
    fn a_clock_step_raises_an_alarm_and_drift_does_not() {
        for step in [3_600, -60] {
            let (mut conditions, board) = (Conditions::new(Duration::from_secs(10)), Board::default());
            let seen = Observation::default();
            assert!(look(&mut conditions, &board, &seen, 0, 0).is_empty());
            assert!(look(&mut conditions, &board, &seen, 100, 3).is_empty());
            assert_eq!(look(&mut conditions, &board, &seen, 101, step), ["clock_stepped"]);
            assert!(look(&mut conditions, &board, &seen, 101 + EVENT_ACTIVE.as_secs(), step).is_empty());
        }
    }

    #[test]
    fn i6_notifications_that_do_not_fit_the_queue_are_counted() {
        let (board, found) = (Board::default(), [(Alarm::Fork, "x".repeat(5_000))].into());
        let (queue, mut notifications) = mpsc::channel(1);
        update(&board, &found, &queue);
        update(&board, &BTreeMap::new(), &queue);
        assert_eq!(board.notifications_failed().get(), 1);
        assert_eq!(notifications.try_recv().unwrap().message.len(), MESSAGE_BYTES_MAX);
    }
}
