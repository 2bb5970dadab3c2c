//! Records that Postgres refuses, past everything that makes them deliverable: each is set aside in its place.

use std::sync::Arc;
use std::time::Duration;

use crate::common::postgres::Cluster;
use crate::common::trail;
use crate::rig::{Rig, call, one, stop};
use gatepost::audit::pipeline::Pipeline;
use gatepost::audit::record::{Call, Outcome, Status};
use gatepost::audit::sink::postgres::{Options, PostgresSink};
use sqlx::Row;

/// Spoils a call past everything that makes it deliverable.
type Spoil = fn(&mut Call);

#[tokio::test]
async fn i9_raw_records_refused_by_postgres_are_quarantined() {
    let database = Cluster::shared().create_database().await;
    let rig = Rig::stored();
    let options = Options {
        url: database.url.clone(),
        password_file: None,
        statement_timeout: Duration::from_secs(30),
        migrate: true,
    };
    let sink = PostgresSink::new(&options).unwrap();
    let pipeline = Pipeline::start(&rig.config, Arc::new(rig.disk.clone()), Some(sink)).unwrap();
    let audit = pipeline.audit();
    let poison: [(&str, Spoil); 7] = [
        ("22021", |call| call.client_subject = "a\0b".into()),
        ("22021", |call| call.tool_name = Some("x\0y".into())),
        ("22P02", |call| call.request_args = Some("{no json".to_owned())),
        ("22P02", |call| call.request_args = Some(String::new())),
        ("54001", |call| call.request_args = Some("[".repeat(20_000) + &"]".repeat(20_000))),
        ("54000", |call| call.client_subject = noise(20_000).into()),
        ("54000", |call| call.tool_name = Some(noise(20_000).into())),
    ];
    for (_, spoil) in poison {
        one(&audit, "before").await;
        let mut spoilt = call("spoilt");
        spoil(&mut spoilt);
        audit.record_once(spoilt, Outcome::failed(Status::Denied, "no"), ()).await.unwrap().into_inner();
    }
    one(&audit, "behind").await;
    let ended = stop(pipeline).await;
    assert_eq!((ended.lost, ended.delivered), (0, ended.last));
    let pool = database.pool().await;
    let entries = trail::verify_postgres(&pool).await;
    assert_eq!(entries.len(), 1 + 2 * poison.len() + 1 + 1);
    assert_eq!(entries.iter().filter(|entry| entry.quarantined).count(), poison.len());
    let quarantined = sqlx::query("SELECT sqlstate, error FROM audit_quarantine ORDER BY seq");
    let quarantined = quarantined.fetch_all(&pool).await.unwrap();
    for (row, (sqlstate, _)) in quarantined.iter().zip(poison) {
        assert_eq!(row.get::<Option<&str>, _>("sqlstate"), Some(sqlstate), "{}", row.get::<&str, _>("error"));
    }
}

/// Text that does not compress: an index entry is compressed before it is found too large.
fn noise(length: usize) -> String {
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'!' + u8::try_from((state >> 33) % 90).unwrap())
    };
    (0..length).map(|_| next()).collect()
}
