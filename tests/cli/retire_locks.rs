//! The locks of `gatepost audit retire`: what it counted stays as it is until it is gone, and deliveries wait for one
//! attempt at most.

use std::collections::BTreeSet;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use sqlx::postgres::PgPool;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::audit_retire::{Drill, args, call, is_delivered};
use crate::common::made_stream::month;
use crate::common::wait::{SOON, until_async};

/// Sessions that wait for the table, by the beginning of their transaction.
const WAITING: &str = "SELECT a.pid, a.xact_start::text FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
    WHERE l.relation = 'audit_log'::regclass AND l.mode = 'AccessExclusiveLock' AND NOT l.granted";

/// Starts to retire the first month.
fn retire(drill: &Drill, more: &[&str]) -> Child {
    let heads = drill.heads("heads");
    let all = drill.retire(2, &heads, &[&["--without-export"], more].concat());
    let mut command = drill.setup.command(&[&["audit"], &args(&all)[..]].concat());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Its exit code and what it said.
fn ended(child: Child) -> (Option<i32>, String) {
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).unwrap())
}

async fn owner(drill: &Drill) -> PgConnection {
    PgConnection::connect(&drill.database.url).await.unwrap()
}

async fn run(connection: &mut PgConnection, sql: &str) -> Result<u64, sqlx::Error> {
    Ok(sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await?.rows_affected())
}

/// Waits until the command waits for the table, in another transaction than `last`. Returns its server process and the
/// beginning of its transaction.
async fn waiting(pool: &PgPool, last: &str) -> (i32, String) {
    let found = Mutex::new(None);
    until_async("the command waits for the table", SOON, async || {
        let seen: Option<(i32, String)> = sqlx::query_as(WAITING).fetch_optional(pool).await.unwrap();
        *found.lock().unwrap() = seen.filter(|(_, begun)| begun != last);
        found.lock().unwrap().is_some()
    })
    .await;
    found.into_inner().unwrap().unwrap()
}

fn first_month() -> String {
    month(3).format("audit_log_%Y_%m").to_string()
}

#[tokio::test]
async fn rows_that_went_while_locks_were_waited_for_are_noticed() {
    let drill = Drill::new().await;
    let (mut owner, mut report) = (owner(&drill).await, owner(&drill).await);
    run(&mut report, "BEGIN; LOCK TABLE ONLY audit_log IN ACCESS SHARE MODE").await.unwrap();
    let child = retire(&drill, &["--lock-timeout", "200ms", "--wait", "60s"]);
    let (pid, _) = waiting(&drill.database.pool().await, "").await;
    // This waits until the command lets go of what it counted.
    let delete = format!("DELETE FROM {} WHERE gateway_id = '{}' AND seq = 2", first_month(), drill.b.gateway_id);
    assert_eq!(run(&mut owner, &delete).await.unwrap(), 1);
    let state = format!("SELECT state FROM pg_stat_activity WHERE pid = {pid}");
    let pool = drill.database.pool().await;
    // Its locks are gone with the error, before it hears of that.
    until_async("it has rolled back before it pauses", SOON, || async {
        let state: String = sqlx::query_scalar(AssertSqlSafe(state.clone())).fetch_one(&pool).await.unwrap();
        state == "idle"
    })
    .await;
    run(&mut report, "ROLLBACK").await.unwrap();
    let (code, said) = ended(child);
    assert!(code == Some(1) && said.contains("18 records before") && said.contains("17 are there now"), "{said}");
    assert!(drill.has_partition(3).await);
    assert_eq!(std::fs::read_to_string(drill.journal()).unwrap(), "");
}

#[tokio::test]
async fn nothing_is_added_to_what_was_counted_or_taken_from_it() {
    let drill = Drill::new().await;
    let (mut owner, mut report) = (owner(&drill).await, owner(&drill).await);
    let month = first_month();
    // A delivery that does not end.
    run(&mut report, &format!("BEGIN; LOCK TABLE {month} IN ROW EXCLUSIVE MODE")).await.unwrap();
    let (code, said) = ended(retire(&drill, &["--lock-timeout", "100ms", "--wait", "1ms"]));
    assert!(code == Some(1) && said.contains("other sessions kept the tables locked"), "{said}");
    run(&mut report, "ROLLBACK").await.unwrap();

    run(&mut report, "BEGIN; LOCK TABLE ONLY audit_log IN ACCESS SHARE MODE").await.unwrap();
    let child = retire(&drill, &["--lock-timeout", "10m"]);
    waiting(&drill.database.pool().await, "").await;
    run(&mut owner, "SET lock_timeout = '100ms'").await.unwrap();
    for change in [format!("INSERT INTO {month} SELECT * FROM {month} LIMIT 1"), format!("DELETE FROM {month}")] {
        let error = run(&mut owner, &change).await.unwrap_err();
        let code = error.as_database_error().and_then(|error| error.code().map(std::borrow::Cow::into_owned));
        assert_eq!(code.as_deref(), Some("55P03"), "the rows that were counted are locked: {error}");
    }
    run(&mut report, "ROLLBACK").await.unwrap();
    let (code, said) = ended(child);
    assert!(code == Some(0) && said.contains("18 records of 4 streams"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn deliveries_wait_for_one_attempt_at_most() {
    let drill = Drill::new().await;
    let gatepost = drill.setup.start();
    call(&gatepost, 1).await;
    is_delivered(&drill, 1).await;
    let (pool, mut report) = (drill.database.pool().await, owner(&drill).await);
    run(&mut report, "BEGIN; LOCK TABLE ONLY audit_log IN ACCESS SHARE MODE").await.unwrap();
    let child = retire(&drill, &["--lock-timeout", "500ms", "--wait", "5m"]);
    let watched = Arc::new(Watched::default());
    let watch = tokio::spawn(watch(pool.clone(), Arc::clone(&watched)));
    let (mut last, calls) = (String::new(), 3);
    for number in 1..=calls {
        last = waiting(&pool, &last).await.1;
        call(&gatepost, 1).await;
        is_delivered(&drill, 1 + number).await;
    }
    watched.is_over.store(true, Ordering::Relaxed);
    watch.await.unwrap();
    let (attempts, calls) = (watched.attempts.lock().unwrap().len(), usize::try_from(calls).unwrap());
    let longest = watched.longest.lock().unwrap().to_string();
    let shown = format!("{calls} deliveries in {attempts} attempts; the longest waited for a lock for {longest} s");
    assert!((calls..=2 * calls).contains(&attempts) && longest != "0", "{shown}");
    run(&mut report, "ROLLBACK").await.unwrap();
    let (code, said) = ended(child);
    assert!(code == Some(0) && said.contains("18 records of 4 streams"), "{said}");
    assert_eq!(gatepost.terminate(), Some(0));
}

/// What is seen of the command and the deliveries.
#[derive(Default)]
struct Watched {
    is_over: AtomicBool,
    attempts: Mutex<BTreeSet<String>>,
    /// In seconds.
    longest: Mutex<f64>,
}

/// Collects the attempts of the command and the longest wait of a delivery for a lock, until it is over.
async fn watch(pool: PgPool, watched: Arc<Watched>) {
    let delivering = "SELECT coalesce(max(extract(epoch FROM clock_timestamp() - query_start)), 0)::float8
        FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%gatepost_deliver(%'";
    until_async("the watch ends", 10 * SOON, async || {
        let found: Vec<(i32, String)> = sqlx::query_as(WAITING).fetch_all(&pool).await.unwrap();
        let wait: f64 = sqlx::query_scalar(delivering).fetch_one(&pool).await.unwrap();
        watched.attempts.lock().unwrap().extend(found.into_iter().map(|(_, begun)| begun));
        let mut longest = watched.longest.lock().unwrap();
        *longest = longest.max(wait);
        watched.is_over.load(Ordering::Relaxed)
    })
    .await;
}
