//! The counts beside a search: exact ones, estimates of many records, and the same of an outbox.

use gatepost::audit::query::{Basis, Effort, Filter, Summary, query, summary, summary_of};
use gatepost::audit::record::{GatewayId, Status};
use gatepost::audit::sink::postgres::{self, Connection, Options, connect};
use sqlx::PgPool;
use uuid::Uuid;

use crate::common::made_stream::{MadeStream, month};
use crate::common::postgres::Cluster;

/// Records in many hours: of 2 callers, 7 tools, and every tenth denied.
const MANY: &str = r#"INSERT INTO audit_log (gateway_id, epoch, seq, prev_hash, hash, request_id, "timestamp", latency_ms,
    method, tool_name, backend_name, client_subject, response_status, salt_who, salt_circumstances, salt_content)
    SELECT gen_random_uuid(), 1, n, h, h, gen_random_uuid(), $1 + n * interval '7 seconds', 1, 'tools/call',
    't' || n % 7, 'b', CASE WHEN n % 4 = 0 THEN 'ann' ELSE 'bob' END,
    CASE WHEN n % 10 = 0 THEN 'denied' ELSE 'ok' END, h, h, h
    FROM generate_series(1, 20000) n, sha256('x') AS h"#;

/// An empty trail, and a connection that reads it.
async fn trail() -> (String, PgPool, Connection) {
    let database = Cluster::shared().create_database().await;
    let pool = database.pool().await;
    postgres::migrate(&mut pool.acquire().await.unwrap()).await.unwrap();
    let options = Options {
        url: database.url.clone(),
        password_file: None,
        statement_timeout: std::time::Duration::from_secs(20),
        migrate: false,
    };
    (database.url.clone(), pool, connect(&options).await.unwrap())
}

fn count(summary: &Summary, facet: &str, value: &str) -> u64 {
    let facet = summary.facets.iter().find(|known| known.name == facet).unwrap();
    facet.values.iter().find(|known| known.value == value).map_or(0, |known| known.count)
}

fn of_status(summary: &Summary, wanted: Status) -> u64 {
    summary.intervals.values().flatten().filter(|(status, _)| *status == wanted).map(|(_, number)| number).sum()
}

#[tokio::test]
async fn few_records_are_counted_and_of_many_the_counts_are_estimated() {
    let (_, pool, mut reader) = trail().await;
    sqlx::query(MANY).bind(month(3)).execute(&pool).await.unwrap();
    sqlx::query("ANALYZE").execute(&pool).await.unwrap();
    let all = Filter::default();
    let exact = summary(&mut reader, &all, Effort::PAGE).await.unwrap();
    assert_eq!((exact.total, exact.basis), (20_000, Basis::All));
    assert_eq!((of_status(&exact, Status::Denied), of_status(&exact, Status::Ok)), (2_000, 18_000));
    assert_eq!((count(&exact, "who", "ann"), count(&exact, "status", "denied")), (5_000, 2_000));
    assert_eq!(count(&exact, "tool", "b/t3"), 2_857);
    let narrow = Filter { who: Some("ann".into()), status: vec!["denied".into()], ..Filter::default() };
    assert_eq!(summary(&mut reader, &narrow, Effort::PAGE).await.unwrap().total, 1_000);

    let little = Effort { exact_max: 1_000, sample: 4_000 };
    let estimate = summary(&mut reader, &all, little).await.unwrap();
    let Basis::Sample(counted) = estimate.basis else { panic!("{estimate:?}") };
    assert!((3_000..5_000).contains(&counted), "{counted}");
    let near = |found: u64, right: u64| found.abs_diff(right) * 8 < right;
    assert!(near(estimate.total, 20_000), "{}", estimate.total);
    assert!(near(count(&estimate, "who", "ann"), 5_000) && near(of_status(&estimate, Status::Denied), 2_000));
    // What the planner takes for few is counted, and found to be many.
    sqlx::query("DELETE FROM pg_statistic").execute(&pool).await.unwrap();
    let known = Effort { exact_max: 15_000, sample: 4_000 };
    let text = Filter { method: Some("tools/call".into()), ..Filter::default() };
    assert!(matches!(summary(&mut reader, &text, known).await.unwrap().basis, Basis::Sample(_)));
}

#[tokio::test]
async fn an_outbox_is_counted_as_postgres_is() {
    let (url, pool, mut reader) = trail().await;
    let mut stream = MadeStream::open(GatewayId(Uuid::new_v4()), None, month(2));
    for number in 0..40 {
        stream.call(month(2) + chrono::Duration::minutes(number * number));
    }
    stream.deliver(&url).await;
    let names = "UPDATE audit_log SET client_name = 'Ann', client_subject = 'a', tool_name = NULL,
        resource_uri = 'file:///' || seq WHERE seq % 3 = 0";
    sqlx::query(names).execute(&pool).await.unwrap();
    let micros = |days| (month(2) + chrono::Duration::days(days)).timestamp_micros();
    for hides_reads in [false, true] {
        let filter = Filter {
            since_micros: Some(micros(0)),
            until_micros: Some(micros(3)),
            hides_reads,
            limit: 1_000,
            ..Filter::default()
        };
        let records = query(&mut reader, &filter).await.unwrap();
        let counted = summary(&mut reader, &filter, Effort::PAGE).await.unwrap();
        assert_eq!(counted, summary_of(&records, &filter, true));
        assert!(counted.total > 40 && counted.facets.iter().any(|facet| facet.has_more), "{counted:?}");
    }
    let read = "UPDATE audit_log SET method = 'gateway/read' WHERE seq = 5";
    sqlx::query(read).execute(&pool).await.unwrap();
    let without = Filter { hides_reads: true, ..Filter::default() };
    let all = summary(&mut reader, &Filter::default(), Effort::PAGE).await.unwrap().total;
    assert_eq!(summary(&mut reader, &without, Effort::PAGE).await.unwrap().total, all - 1);
}
