//! Reading the trail leaves a record, where a gateway runs that can make one.

use crate::common::gatepost::Setup;
use crate::common::postgres::Cluster;
use crate::common::wait::{SOON, until};
use crate::run::run;
use serde_json::{Value, json};

/// The details and readers of the `gateway/read` records, without those of this question.
fn reads(setup: &Setup) -> Vec<(Value, String)> {
    let (code, stdout, stderr) =
        run(setup, &["audit", "query", "--method", "gateway/read", "--limit", "1000", "--json"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    let record = |line: &str| {
        let record: Value = serde_json::from_str(line).unwrap();
        let details = serde_json::from_str(record["request_args"].as_str().unwrap()).unwrap();
        (details, record["client_subject"].as_str().unwrap().to_owned())
    };
    stdout.lines().map(record).collect()
}

fn each_command_is_recorded(setup: &Setup, from: &str) {
    for args in [&["query", "--status", "denied"][..], &["show", "1/1"], &["tail", "-n", "1"], &["verify"]] {
        let (code, _, stderr) = run(setup, &[&["audit"], args].concat());
        let says = if args[0] == "query" { "gatepost: 0 records\n" } else { "" };
        assert_eq!((code, stderr.as_str()), (Some(0), says), "{args:?}");
    }
    until("the reads are delivered", SOON, || reads(setup).len() >= 4);
    let reads = reads(setup);
    let me = nix::unistd::User::from_uid(nix::unistd::getuid()).unwrap().unwrap();
    for ((details, who), command) in reads.iter().zip(["query", "show", "tail", "verify"]) {
        assert_eq!((details["command"].as_str(), details["from"].as_str()), (Some(command), Some(from)));
        assert_eq!((who, details["uid"].as_u64()), (&me.name, Some(u64::from(me.uid.as_raw()))));
    }
    assert_eq!((&reads[0].0["filter"]["status"], &reads[0].0["rows"]), (&json!(["denied"]), &Value::from(0)));
    assert_eq!(reads[1].0["rows"], 1);
}

#[test]
fn reading_a_live_outbox_is_recorded() {
    let setup = Setup::new();
    let gatepost = setup.start();
    each_command_is_recorded(&setup, "outbox");
    assert_eq!(gatepost.terminate(), Some(0));
    let (code, stdout, _) = run(&setup, &["audit", "verify"]);
    assert!(code == Some(0) && stdout.ends_with("the trail is complete and unchanged\n"), "{stdout}");
}

#[tokio::test]
async fn reading_postgres_beside_a_live_gateway_is_recorded() {
    let database = Cluster::shared().create_database().await;
    let mut setup = Setup::new();
    setup.set("postgres.url", &database.url);
    let gatepost = setup.start();
    let pool = database.pool().await;
    let opened = "SELECT count(*) FROM audit_log";
    crate::common::wait::until_async("the opening record is delivered", SOON, || async {
        sqlx::query_scalar::<_, i64>(opened).fetch_one(&pool).await.is_ok_and(|count| count == 1)
    })
    .await;
    each_command_is_recorded(&setup, "postgres");
    assert_eq!(gatepost.terminate(), Some(0));
    let (code, _, stderr) = run(&setup, &["audit", "query"]);
    assert_eq!(code, Some(0));
    assert!(stderr.contains("this read is not recorded: no live gateway in "), "{stderr}");
}
