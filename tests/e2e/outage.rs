//! Postgres stopped under load, as the operator sees it: callers notice nothing, and at each moment `/readyz`,
//! `/metrics`, `gatepost outbox stats`, the log and the console in Chromium report the state to the operator.
//!
//! `OUTAGE_SECONDS=600` is the long form, from which `docs/outage.md` was made. The commands and their output are in
//! `target/outage/transcript.md`, with screenshots beside it.

mod load;
mod operator;
mod transcript;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::browser::Browser;
use crate::common::gatepost::Setup;
use crate::common::pause::pause_async;
use crate::common::postgres::{Cluster, Database};
use crate::common::postgres_control::stop_server;
use crate::common::wait::{SOON, until};
use load::{Call, Load};
use operator::{BEHIND, Console, NEXT_RETRY, OLDEST, Operator, STORED};
use serde_json::json;
use transcript::Transcript;

/// How long Postgres is stopped in CI, seconds. *Chosen*: each look has its time.
const SECONDS: u64 = 10;

/// `alarms.delivery_behind_after` by default. Longer outages reach it; for others it is a third of them.
const BEHIND_AFTER: Duration = Duration::from_mins(5);

/// What the console says.
const WELL: &str = "All is well: calls are audited, and records are delivered to Postgres.";
const WAITS: &str = "Postgres is not accepting records. Calls are audited; records wait in the outbox";

/// Most records that wait while all is well. *Chosen*: of some seconds, which a loaded machine may need.
const FEW: usize = 1_000;

/// When is what.
struct Times {
    /// Before the outage, and after the backlog is gone.
    around: Duration,
    /// From the stop to the first look.
    first_look: Duration,
    /// From the stop to the alarm, by the settings.
    behind_after: Duration,
    outage: Duration,
}

/// When was what.
struct Moments {
    begun: Instant,
    stopped: Instant,
    back: Instant,
    caught_up: Instant,
    ended: Instant,
}

impl Times {
    fn given() -> Self {
        let seconds = std::env::var("OUTAGE_SECONDS").map_or(SECONDS, |seconds| seconds.parse().unwrap());
        let outage = Duration::from_secs(seconds);
        Self {
            around: (outage / 20).max(Duration::from_secs(2)),
            first_look: (outage / 100).max(Duration::from_secs(1)),
            behind_after: if outage > BEHIND_AFTER { BEHIND_AFTER } else { Duration::from_secs((seconds / 3).max(1)) },
            outage,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgres_outage_is_visible_only_to_the_operator() {
    let times = Times::given();
    let mut cluster = Cluster::start();
    let database = cluster.create_database().await;
    let mut setup = Setup::new();
    setup.set("postgres.url", &database.url).set("auth.role_claim", "role");
    if times.behind_after < BEHIND_AFTER {
        setup.set("alarms.delivery_behind_after", &format!("{}s", times.behind_after.as_secs()));
    }
    let gatepost = setup.start();
    let browser = Browser::start("outage.mjs", &gatepost, "outage");
    let transcript = Transcript::new(&browser.shots, &setup, &gatepost);
    let load = Load::start(&gatepost).await;
    let mut operator = Operator { gatepost: &gatepost, load, browser, transcript };
    assert_eq!(operator.browser.hears().as_deref(), Some("open"), "what the driver said is above");

    let begun = Instant::now();
    all_is_well(&mut operator, &times).await;
    stop_server(&mut cluster);
    let stopped = Instant::now();
    records_wait(&mut operator, stopped, &times).await;
    cluster.restart();
    let back = Instant::now();
    let caught_up = it_recovers(&mut operator, back).await;
    pause_async(times.around).await;
    let moments = Moments { begun, stopped, back, caught_up, ended: Instant::now() };

    let Operator { load, browser, mut transcript, .. } = operator;
    let calls = load.stop().await;
    transcript.mark("the load is over");
    transcript.write(&table(&calls, &moments));
    let faults: Vec<_> = calls.iter().filter_map(|call| call.answer.as_ref().err()).collect();
    assert!(faults.is_empty(), "callers notice nothing; {} were told {:?}", faults.len(), faults[0]);
    until("all is delivered", SOON, || gatepost.get_ops("/metrics").1.contains(&format!("\n{STORED} 0.0\n")));
    transcript.run("gatepost audit verify --config gatepost.toml");
    each_answer_has_its_row(&database, &calls).await;
    transcript.write(&format!("{0} calls answered, {0} rows in audit_log, each once\n", calls.len()));
    let ended = browser.end();
    assert!(ended.success(), "tests/e2e/outage.mjs ended with {ended}: its output is above");
    assert_eq!(gatepost.terminate(), Some(0));
    // Once each, however often delivery was tried.
    let log = setup.log();
    for line in ["alarm raised", "alarm cleared", "delivery to Postgres failed"] {
        assert_eq!(log.matches(line).count(), 1, "{line}\n{log}");
    }
}

async fn all_is_well(operator: &mut Operator<'_>, times: &Times) {
    pause_async(times.around).await;
    operator.transcript.mark("all is well");
    let seen = operator.look("healthy", &Console { sentence: WELL, texts: &[], alarms: &[], waiting: (0, FEW) });
    assert_eq!((&seen.readyz["status"], seen.metrics.state()), (&json!("ready"), "delivering"));
    assert!(!seen.metrics.stands(BEHIND));
}

/// From the stop of Postgres to the last look before it is started: a first look, one when the alarm is raised.
async fn records_wait(operator: &mut Operator<'_>, stopped: Instant, times: &Times) {
    operator.transcript.count_from(stopped);
    operator.transcript.mark("Postgres is stopped");
    let (answered_before, _) = operator.load.so_far();
    let told = |operator: &Operator<'_>| operator.readyz().1.to_string().contains("Connection refused");
    until("the gateway says that nobody answers", SOON, || told(operator));
    operator.outage(stopped, times.first_look).await;
    until("the next try is told", SOON, || operator.metrics().get(NEXT_RETRY) > 0.0);
    operator.transcript.mark("a first look");
    let limit = format!("s old, limit {} s", times.behind_after.as_secs());
    let texts = ["Last delivery error", "Connection refused", "retrying in", &limit];
    let shown = |texts, alarms, least| Console { sentence: WAITS, texts, alarms, waiting: (least, usize::MAX) };
    let first = operator.look("stopped", &shown(&texts[..3], &[], 1));
    first.tells_of_the_outage();

    operator.outage(stopped, times.behind_after).await;
    until("the alarm stands", SOON, || operator.metrics().stands(BEHIND));
    operator.transcript.mark("the alarm `delivery_behind` is raised");
    let then = operator.look("alarm", &shown(&texts, &["delivery_behind"], 1));
    then.tells_of_the_outage();
    assert!(then.metrics.stands(BEHIND));

    operator.outage(stopped, times.outage).await;
    operator.transcript.mark("a last look before Postgres is started");
    let answered = operator.load.so_far().0 - answered_before;
    let last = operator.look("waiting", &shown(&texts, &["delivery_behind"], answered));
    last.tells_of_the_outage();
    let waiting = [&first, &then, &last].map(|seen| seen.metrics.get(STORED));
    assert!(0.0 < waiting[0] && waiting[0] < waiting[1] && waiting[1] < waiting[2], "{waiting:?} rise");
    assert!(
        waiting[2] >= f64::from(u32::try_from(answered).unwrap()),
        "all of {answered} calls that were answered meanwhile wait: {waiting:?}"
    );
    assert!(last.metrics.get(OLDEST) >= times.outage.as_secs_f64() - 1.0, "of the first second");
}

/// From the start of Postgres to a gateway that is as before, by itself; says when the backlog was gone.
async fn it_recovers(operator: &mut Operator<'_>, back: Instant) -> Instant {
    operator.transcript.mark("Postgres is started");
    let rows = operator.drain(back).await;
    let caught_up = Instant::now();
    operator.transcript.mark("the backlog is delivered");
    operator.transcript.write(&format!("{rows}\n"));
    until("the alarm is cleared", SOON, || !operator.metrics().stands(BEHIND));
    until("nothing waits, under load", SOON, || operator.metrics().get(STORED) < 1.0);
    let (code, readyz) = operator.readyz();
    assert_eq!((code, &readyz["status"]), (200, &json!("ready")), "{readyz}");
    operator.transcript.mark("the alarm is cleared");
    let texts = ["Last delivery error (resolved)", "No active alarms."];
    operator.look("recovered", &Console { sentence: WELL, texts: &texts, alarms: &[], waiting: (0, FEW) });
    caught_up
}

fn table(calls: &[Call], at: &Moments) -> String {
    let head = "| calls | s | made | failed | a second | p50 ms | p99 ms | longest ms |\n";
    let line = "| --- | --- | --- | --- | --- | --- | --- | --- |\n";
    let rows = [
        ("before", at.begun, at.stopped),
        ("while Postgres is stopped", at.stopped, at.back),
        ("while the backlog is delivered", at.back, at.caught_up),
        ("after", at.caught_up, at.ended),
    ];
    let rows = rows.map(|(when, from, to)| load::row(when, calls, from, to)).concat();
    format!("{head}{line}{rows}\n")
}

/// Every answer bears the id of its record.
async fn each_answer_has_its_row(database: &Database, calls: &[Call]) {
    let rows: Vec<(String, String)> =
        sqlx::query_as("SELECT request_id::text, response_status FROM audit_log WHERE method = 'tools/call'")
            .fetch_all(&database.pool().await)
            .await
            .unwrap();
    assert!(rows.iter().all(|(_, status)| status == "ok"));
    let answered: BTreeSet<&str> = calls.iter().filter_map(|call| call.answer.as_deref().ok()).collect();
    assert_eq!((answered.len(), rows.len()), (calls.len(), calls.len()));
    assert_eq!(rows.iter().map(|(id, _)| id.as_str()).collect::<BTreeSet<_>>(), answered);
}
