//! A restore drill: the database goes back to a base backup while its gateways run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use gatepost::audit::record::GatewayId;
use gatepost::audit::sink::postgres;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use uuid::Uuid;

use crate::common::gatepost::{Gatepost, Setup};
use crate::common::made_stream::{MadeStream, month, month_name};
use crate::common::mcp::Era;
use crate::common::postgres::{Cluster, Database};
use crate::common::wait::{SOON, until, until_async};
use crate::common::{command, process};
use crate::run::run;

const DAY: Duration = Duration::from_hours(24);

/// A server of its own, its database, and where the backup is.
struct Drill {
    cluster: Cluster,
    database: Database,
    calls: i64,
}

impl Drill {
    async fn new() -> Self {
        let cluster = Cluster::start();
        let database = cluster.create_database().await;
        let mut owner = PgConnection::connect(&database.url).await.unwrap();
        postgres::migrate(&mut owner).await.unwrap();
        sqlx::query("SELECT gatepost_partitions($1, 3)").bind(month(3)).execute(&mut owner).await.unwrap();
        Self { cluster, database, calls: 0 }
    }

    /// A gateway that delivers here.
    fn setup(&self, settings: &[(&str, &str)]) -> Setup {
        let mut setup = Setup::new();
        setup.set("postgres.url", &self.database.url);
        for (key, value) in settings {
            setup.set(key, value);
        }
        setup
    }

    async fn call(&mut self, gatepost: &Gatepost, count: usize) {
        let client = gatepost.client_at("/mcp/example", Era::Modern, "admin").await;
        for _ in 0..count {
            client.call("echo", json!({ "text": "drill" })).await.unwrap();
        }
        self.calls += i64::try_from(count).unwrap();
    }

    /// Waits until Postgres has all calls, or all but those that are lost.
    async fn delivered(&self, lost: i64) {
        let sql = "SELECT count(*) FROM audit_log WHERE tool_name = 'echo' AND client_subject <> 'anonymous'";
        until_async("all calls are delivered", 3 * SOON, || async { self.count(sql).await == self.calls - lost }).await;
    }

    async fn count(&self, sql: &str) -> i64 {
        let mut connection = PgConnection::connect(&self.database.url).await.unwrap();
        let count = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        count
    }

    fn data(&self, name: &str) -> PathBuf {
        self.cluster.dir.join(name)
    }

    fn stop(&mut self) {
        process::signal(self.cluster.pid(), Signal::SIGINT);
        self.cluster.reap();
    }

    /// Takes a base backup; the gateways wait meanwhile.
    fn back_up(&mut self) {
        self.stop();
        command::run(Command::new("cp").arg("-a").arg(self.data("data")).arg(self.data("backup")));
        self.cluster.restart();
    }

    /// Restores the backup under the gateways.
    fn restore(&mut self) {
        self.stop();
        fs::remove_dir_all(self.data("data")).unwrap();
        fs::rename(self.data("backup"), self.data("data")).unwrap();
        self.cluster.restart();
    }
}

fn succeeds(setup: &Setup, args: &[&str]) -> String {
    let (code, stdout, stderr) = run(setup, args);
    assert_eq!(code, Some(0), "{args:?}: {stdout}{stderr}");
    stdout
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What `audit verify` says, with the heads in a file.
fn verify(setup: &Setup, heads: &Path) -> (Option<i32>, Value) {
    let (code, stdout, stderr) = run(setup, &["audit", "verify", "--json", "--expect", path(heads)]);
    (code, serde_json::from_str(&stdout).unwrap_or_else(|_| panic!("{stdout}{stderr}")))
}

/// The places of findings of this kind, as epoch, first and last.
fn places(report: &Value, list: &str, kind: &str) -> Vec<(u64, u64, u64)> {
    let number = |finding: &Value, key: &str| finding[key].as_u64().unwrap_or(0);
    let of_kind = report[list].as_array().unwrap().iter().filter(|finding| finding["kind"] == kind);
    let mut places: Vec<_> = of_kind
        .map(|finding| {
            let place = if finding["place"].is_object() { &finding["place"] } else { finding };
            (number(place, "epoch"), number(place, "first"), number(place, "last"))
        })
        .collect();
    places.sort_unstable();
    places
}

#[tokio::test(flavor = "multi_thread")]
async fn restored_database_gets_again_what_its_gateways_keep() {
    let mut drill = Drill::new().await;
    let mut old = MadeStream::open(GatewayId(Uuid::from_u128(9)), None, month(2) + DAY);
    old.calls(5, month(2) + 2 * DAY);
    old.close(month(2) + 3 * DAY);
    old.deliver(&drill.database.url).await;
    let (a, b, c) = (drill.setup(&[]), drill.setup(&[]), drill.setup(&[]));
    let (mut gateway_a, gateway_b) = (a.start(), b.start());
    for gateway in [&gateway_a, &gateway_b] {
        drill.call(gateway, 10).await;
    }
    drill.delivered(0).await;
    drill.back_up();

    // A thousand calls: of a gateway that is restarted in between, of another one, and of one that is new.
    drill.call(&gateway_a, 300).await;
    assert_eq!(gateway_a.terminate(), Some(0));
    gateway_a = a.start();
    let gateway_c = c.start();
    drill.call(&gateway_a, 300).await;
    drill.call(&gateway_b, 300).await;
    drill.call(&gateway_c, 100).await;
    drill.delivered(0).await;
    // A hold and a retirement, whose journal and export are not in the database.
    let (journal, export, heads) = (a.dir().join("journal"), a.dir().join("export"), a.dir().join("heads"));
    fs::write(&heads, succeeds(&a, &["audit", "heads"])).unwrap();
    let decision = ["--journal", path(&journal), "--reason", "case 12"];
    let since = (month(0) - DAY).to_rfc3339();
    succeeds(&a, &[&["audit", "hold", "add", "--since", &since][..], &decision].concat());
    let before = month_name(1);
    let retire = ["audit", "retire", "--before", &before, "--heads", path(&heads), "--export", path(&export)];
    succeeds(&a, &[&retire[..], &decision].concat());
    fs::write(&heads, succeeds(&a, &["audit", "heads"])).unwrap();

    drill.restore();
    for gateway in [&gateway_a, &gateway_b, &gateway_c] {
        drill.call(gateway, 1).await;
    }
    drill.delivered(0).await;
    for (gateway, streams) in [(&gateway_a, 2), (&gateway_b, 1), (&gateway_c, 1)] {
        until("it delivers", SOON, || !gateway.get_ops("/readyz").1.contains("forked"));
        until("it is counted", SOON, || {
            let metrics = gateway.get_ops("/metrics").1;
            metrics.contains(&format!("gatepost_streams_restored_total {streams}\n"))
                && metrics.contains("gatepost_alarm{alarm=\"database_restored\"} 1")
        });
    }
    let restored = "SELECT count(*) FROM audit_log WHERE method = 'gateway/restored'";
    until_async("it is recorded", SOON, || async { drill.count(restored).await == 4 }).await;

    // The decisions are in the journal only, until they are recorded again.
    let (code, report) = verify(&a, &heads);
    assert_eq!(code, Some(1), "the registrar's head is not there: {report}");
    assert!(!succeeds(&a, &["audit", "hold", "list"]).contains("case 12"));
    succeeds(&a, &["audit", "decisions", "replay", path(&journal)]);
    assert!(succeeds(&a, &["audit", "hold", "list"]).contains("case 12"));
    succeeds(&a, &["audit", "verify-export", path(&export)]);
    let (code, report) = verify(&a, &heads);
    assert_eq!(code, Some(0), "{report:#}");
    assert_eq!(places(&report, "unproven", "restored").len(), 4, "{report:#}");
    // The month is retired again, with the rows that came back.
    fs::write(&heads, succeeds(&a, &["audit", "heads"])).unwrap();
    let again = ["audit", "retire", "--before", &before, "--heads", path(&heads), "--without-export"];
    succeeds(&a, &[&again[..], &decision].concat());
    fs::write(&heads, succeeds(&a, &["audit", "heads"])).unwrap();
    let (code, report) = verify(&a, &heads);
    assert_eq!(code, Some(0), "{report:#}");
    for gateway in [gateway_a, gateway_b, gateway_c] {
        assert_eq!(gateway.terminate(), Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_gateway_keeps_is_lost_by_one_recorded_command() {
    for settings in [&[("audit.keep_delivered", "0s")][..], &[("audit.level", "queued")]] {
        let mut drill = Drill::new().await;
        let setup = drill.setup(settings);
        let mut gateway = setup.start();
        drill.call(&gateway, 10).await;
        drill.delivered(0).await;
        drill.back_up();
        drill.call(&gateway, 15).await;
        assert_eq!(gateway.terminate(), Some(0));
        gateway = setup.start();
        drill.call(&gateway, 15).await;
        drill.delivered(0).await;
        drill.restore();
        drill.call(&gateway, 1).await;
        until("the loss is noticed", SOON, || {
            let ready = gateway.get_ops("/readyz").1;
            ready.contains("records 12 to 27 are in neither outbox nor Postgres")
                && ready.contains("records 1 to 16 are in neither outbox nor Postgres")
        });
        let (heads, journal) = (setup.dir().join("heads.jsonl"), setup.dir().join("journal.jsonl"));
        fs::write(&heads, succeeds(&setup, &["outbox", "heads"])).unwrap();
        let resolve = ["audit", "resolve-fork", "--heads", path(&heads), "--journal", path(&journal)];
        let said = succeeds(&setup, &[&resolve[..], &["--reason", "restored from the backup of the night"]].concat());
        assert!(said.contains("no row for seq 12 to 27") && said.contains("no row for seq 1 to 16"), "{said}");
        drill.delivered(30).await;
        until("the alarm is lowered", SOON, || !gateway.get_ops("/readyz").1.contains("forked"));
        assert_eq!(gateway.terminate(), Some(0));
        let trail = setup.dir().join("trail.jsonl");
        fs::write(&trail, succeeds(&setup, &["audit", "heads"])).unwrap();
        let (code, report) = verify(&setup, &trail);
        assert!(code == Some(0) || code == Some(4), "{report:#}");
        let decisions = report["decisions"].to_string();
        assert!(decisions.contains("the backup of the night") && decisions.contains("gap"), "{report:#}");
    }
}
