//! Manipulations of a trail that real processes made: none of them passes `gatepost audit verify`.

mod certificates;
mod checks;
mod live;
mod made_trail;
mod manipulations;
pub mod tamper;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::common::gatepost::BINARY;
use crate::common::postgres::Cluster;
use certificates::Attempted;
use made_trail::{MadeTrail, make_trail};
use manipulations::{Act, Manipulation, Says, manipulations};
use tamper::Tamper;

/// Trials that run at the same time. *Chosen*: each is a copy of a small database and two short processes.
const AT_ONCE: usize = 3;

/// Manipulations that certificates do not notice: of cursors, tables and what is in no hash, and of what comes after
/// the checkpoint. All records that were signed are there as they were.
const UNNOTICED: [&str; 34] = [
    "a byte after a quarantined record",
    "a call after gateway/closed",
    "a column of another type",
    "a cursor moved beyond the last record",
    "a cursor removed",
    "a cursor set back",
    "a decision in the stream of a gateway",
    "a delivered record hidden in quarantine",
    "a generated column",
    "a made-up gateway that is in quarantine only",
    "a new epoch",
    "a new gateway",
    "a plain table in place of the partitioned one",
    "a policy that is not in force yet",
    "a quarantined record requeued by hand, unchanged",
    "a row in epoch -1",
    "a row security policy",
    "a rule",
    "a table partitioned by epoch",
    "a table that the cursors inherit from",
    "a trigger",
    "a view in place of the cursors",
    "a view of the same name in another schema",
    "all rows in the default partition, unchanged",
    "an unlogged table",
    "begun_at of a cursor",
    "calls and gateway/closed after the end of the last epoch",
    "delivered_at of a cursor",
    "row security without a policy",
    "the cursor of an epoch that never was",
    "the hash at a cursor",
    "the reason of a quarantined record",
    "the request id of a quarantined record",
    "the time of a quarantined record",
];

/// The report of a check, and its exit code.
fn verify(url: &str, heads: Option<&Path>, text: bool) -> (Option<i32>, String) {
    let mut command = Command::new(BINARY);
    // No gateway has this directory.
    command.args(["audit", "verify", "--dir", "/nowhere"]).env_clear().env("GATEPOST_POSTGRES_URL", url);
    if let Some(heads) = heads {
        command.arg("--strict").arg("--expect").arg(heads);
    }
    if !text {
        command.arg("--json");
    }
    let output = command.stdin(Stdio::null()).output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(!stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    (output.status.code(), stdout)
}

/// The checks that found the faults of a report.
fn checks_of(report: &str) -> BTreeSet<&'static str> {
    let report: Value = serde_json::from_str(report).unwrap();
    report["faults"].as_array().unwrap().iter().map(checks::check_of).collect()
}

/// The kinds of the faults, and the sentences about what is not proven.
fn findings(report: &str) -> (BTreeSet<String>, Vec<String>) {
    let report: Value = serde_json::from_str(report).unwrap();
    let texts = |list: &str, key: &str| -> Vec<String> {
        report[list].as_array().unwrap().iter().map(|found| found[key].as_str().unwrap().to_owned()).collect()
    };
    (texts("faults", "kind").into_iter().collect(), texts("unproven", "what"))
}

/// What is wrong with a result, if anything.
fn disagreement(says: Says, code: Option<i32>, report: &str) -> Option<String> {
    let (kinds, sentences) = findings(report);
    let agrees = match says {
        Says::Fault(kind) => code == Some(1) && kinds.contains(kind),
        Says::Open(text) => code == Some(4) && sentences.iter().any(|sentence| sentence.contains(text)),
    };
    (!agrees).then(|| format!("{says:?} expected, but exit {code:?}, faults {kinds:?}, not proven {sentences:#?}"))
}

/// Which checks alone found a manipulation.
type FoundAlone = BTreeMap<&'static str, String>;

/// Tries one manipulation on a copy of the trail.
async fn attempt(
    trail: &MadeTrail,
    cluster: &Cluster,
    number: usize,
    it: &Manipulation,
    attempted: &Mutex<Vec<Attempted>>,
) -> Result<Option<&'static str>, String> {
    let template = trail.database.url.rsplit('/').next().unwrap();
    let database = cluster.create_database_with(&format!("TEMPLATE {template}")).await;
    let mut tamper = Tamper::new(&database.url, trail.a, trail.b).await;
    let act = async {
        match &it.act {
            Act::Sql(sql) => tamper.sql(sql).await,
            Act::Run(act) => act(&mut tamper).await,
        }
    };
    // The other manipulations are tried all the same.
    std::panic::AssertUnwindSafe(act).catch_unwind().await.map_err(|_| format!("{number} {} panicked", it.name))?;
    tamper.connection.close().await.unwrap();
    let (url, heads) = (database.url.clone(), trail.heads.clone());
    let checks = tokio::task::spawn_blocking(move || [verify(&url, Some(&heads), false), verify(&url, None, false)]);
    let [strict, plain] = checks.await.unwrap();
    for log in &trail.signed {
        let found = log.attempt(&database.url, &it.name).await;
        attempted.lock().unwrap().extend(found);
    }
    let mut admin = PgConnection::connect(&cluster.url("postgres")).await.unwrap();
    let name = database.url.rsplit('/').next().unwrap();
    sqlx::query(AssertSqlSafe(format!("DROP DATABASE {name}"))).execute(&mut admin).await.unwrap();
    for (how, says, (code, report)) in [("with --expect", it.strict, &strict), ("without", it.plain, &plain)] {
        if let Some(wrong) = disagreement(says, *code, report) {
            return Err(format!("{number} {} {how}: {wrong}", it.name));
        }
    }
    // Heads from outside are one more check: without them, others may be alone.
    let alone = [plain, strict].into_iter().map(|(_, report)| checks_of(&report)).find(|checks| checks.len() == 1);
    Ok(alone.and_then(|checks| checks.into_iter().next()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn no_manipulation_passes_the_check_and_each_check_finds_one_alone() {
    let cluster = Cluster::shared();
    let trail = Arc::new(make_trail(cluster).await);
    untouched(&trail);
    certificates::untouched(&trail.database.url, &trail.signed);
    live::the_next_epoch_forged(&trail, cluster).await;
    // The columns differ only in their names: the short form tries some.
    let all = std::env::var_os("VERIFY_TRIALS").is_some();
    let is_tried = |(number, it): &(usize, Manipulation)| all || !it.name.starts_with("column ") || number % 6 == 0;
    let tried = manipulations().into_iter().enumerate().filter(is_tried).collect::<Vec<_>>();
    let queue = Arc::new(Mutex::new(tried));
    let attempted = Arc::new(Mutex::new(Vec::new()));
    let mut workers = Vec::new();
    for _ in 0..AT_ONCE {
        let (trail, queue, attempted) = (Arc::clone(&trail), Arc::clone(&queue), Arc::clone(&attempted));
        workers.push(tokio::spawn(async move {
            let (mut alone, mut wrong) = (FoundAlone::new(), Vec::new());
            loop {
                let next = queue.lock().unwrap().pop();
                let Some((number, it)) = next else { return (alone, wrong) };
                match attempt(&trail, cluster, number, &it, &attempted).await {
                    Ok(Some(check)) => drop(alone.insert(check, it.name)),
                    Ok(None) => {}
                    Err(error) => wrong.push(error),
                }
            }
        }));
    }
    let (mut alone, mut wrong) = (FoundAlone::new(), Vec::new());
    for worker in workers {
        let (found, errors) = worker.await.unwrap();
        alone.extend(found);
        wrong.extend(errors);
    }
    assert!(wrong.is_empty(), "{} manipulations:\n{}", wrong.len(), wrong.join("\n"));
    // Without one of these checks, a manipulation would pass.
    let never: Vec<_> = checks::NAMES.iter().filter(|name| !alone.contains_key(**name)).collect();
    assert!(never.is_empty(), "no manipulation is found by these checks alone: {never:#?}");
    let attempted = attempted.lock().unwrap();
    let unnoticed = certificates::judge(&attempted).unwrap_or_else(|wrong| panic!("certificates: {wrong}"));
    assert_eq!(unnoticed, UNNOTICED.into_iter().collect(), "certificates do not notice these");
}

/// What is said of the trail itself.
fn untouched(trail: &MadeTrail) {
    let (code, report) = verify(&trail.database.url, Some(&trail.heads), false);
    let (faults, sentences) = findings(&report);
    assert!(faults.is_empty() && code == Some(4), "{report}");
    assert_eq!(sentences.iter().filter(|sentence| sentence.contains("contents are lost")).count(), 1);
    assert_eq!(sentences.iter().filter(|sentence| sentence.contains("audit_quarantine")).count(), 2);
    assert_eq!(sentences.len(), 3, "{sentences:#?}");
    let (_, text) = verify(&trail.database.url, None, true);
    for part in [
        "checked at 20",
        ", schema public of gatepost, read as gatepost, snapshot ",
        "the ends of 9 streams rest on the word of this database alone",
        "in no hash, and so never proven: audit_stream.begun_at, ",
    ] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
}
