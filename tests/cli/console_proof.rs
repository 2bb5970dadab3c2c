//! The proof of a record, as an auditor downloads it from the console.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use gatepost::evidence::tree::Edge;
use reqwest::{Client, StatusCode};
use tempfile::TempDir;
use uuid::Uuid;

use crate::common::gatepost::{Gatepost, token};
use crate::evidence::{Signing, Witnessing, verifier};
use crate::run::run;

async fn get(gatepost: &Gatepost, path: &str, role: &str) -> (StatusCode, String, String) {
    let url = format!("{}{path}", gatepost.ops_url);
    let response = Client::new().get(url).bearer_auth(token(role)).send().await.unwrap();
    let header = response.headers().get("content-disposition").map(|value| value.to_str().unwrap().to_owned());
    (response.status(), header.unwrap_or_default(), response.text().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hashes_for_a_proof_are_read_page_by_page() {
    let signing = Signing::new().await;
    let gatepost = signing.setup.start();
    signing.call(&gatepost, 1).await;
    let sql = "SELECT gateway_id, seq FROM audit_log WHERE tool_name = 'echo'";
    crate::common::wait::until_async("a call is delivered", crate::common::wait::SOON, async || {
        sqlx::query(sql).fetch_optional(&signing.pool).await.unwrap().is_some()
    })
    .await;
    let (gateway, seq): (Uuid, i64) = sqlx::query_as(sql).fetch_one(&signing.pool).await.unwrap();
    let path = format!("/console/proof?id={gateway}/1/{seq}");
    // A perfect tree is its own edge. Such a large one is read, and not refused.
    let checkpoint = "INSERT INTO audit_checkpoint VALUES ($1, 1, 1 << 19, 9, 1, sha256('x'), sha256('x'), 'x', now())";
    let anchor = "INSERT INTO audit_anchor VALUES ($1, 1, 1 << 19, 'w', 'witness', 'x', now(), 'x', now())";
    for sql in [checkpoint, anchor] {
        sqlx::query(sql).bind(gateway).execute(&signing.pool).await.unwrap();
    }
    let (status, _, said) = get(&gatepost, &path, "auditor").await;
    assert!(status == StatusCode::CONFLICT && said.contains("are missing"), "{status} {said}");
    signing.stop(gatepost);
    sqlx::query("DELETE FROM audit_anchor").execute(&signing.pool).await.unwrap();
    sqlx::query("DELETE FROM audit_checkpoint WHERE size = 1 << 19").execute(&signing.pool).await.unwrap();
    // More than two pages of hashes after the record, and the checkpoint over them.
    let retired =
        "INSERT INTO audit_retired_hash SELECT $1, 2, n, sha256(n::text::bytea) FROM generate_series(1, 5000) n";
    sqlx::query(retired).bind(gateway).execute(&signing.pool).await.unwrap();
    let hashes = "SELECT hash FROM (SELECT epoch, seq, hash FROM audit_log WHERE gateway_id = $1
        UNION ALL SELECT epoch, seq, hash FROM audit_retired_hash WHERE gateway_id = $1) r ORDER BY epoch, seq";
    let hashes: Vec<Vec<u8>> = sqlx::query_scalar(hashes).bind(gateway).fetch_all(&signing.pool).await.unwrap();
    let mut edge = Edge::default();
    for hash in hashes {
        edge.push(&hash.try_into().unwrap(), |_, _, _| {}).unwrap();
    }
    let note = "SELECT note FROM audit_checkpoint WHERE gateway_id = $1 LIMIT 1";
    let note: String = sqlx::query_scalar(note).bind(gateway).fetch_one(&signing.pool).await.unwrap();
    let (text, signature) = note.split_once("\n\n").unwrap();
    let origin = text.lines().next().unwrap();
    let note = format!("{origin}\n{}\n{}\n\n{signature}", edge.size(), STANDARD.encode(edge.root().0));
    let checkpoint = "INSERT INTO audit_checkpoint VALUES ($1, 1, $2, 2, 5000, $3, $4, $5, now())";
    let size = i64::try_from(edge.size()).unwrap();
    let insert = sqlx::query(checkpoint).bind(gateway).bind(size).bind(edge.root().0.to_vec());
    let edge = edge.hashes().iter().flat_map(|hash| hash.0).collect::<Vec<_>>();
    insert.bind(edge).bind(note).execute(&signing.pool).await.unwrap();
    let anchor = "INSERT INTO audit_anchor VALUES ($1, 1, $2, 'w', 'witness', $3, now(), $3, now())";
    let insert = sqlx::query(anchor).bind(gateway).bind(size).bind(signature.trim_end().as_bytes());
    insert.execute(&signing.pool).await.unwrap();
    let place = format!("{gateway}/1/{seq}");
    let (code, _, stderr) = run(&signing.setup, &["audit", "prove", &place]);
    assert_eq!(code, Some(0), "{stderr}");
    // A hash that is not the one in the tree is noticed, as is one too few.
    let changed = "UPDATE audit_retired_hash SET hash = sha256('x') WHERE seq = 4999";
    for (change, said) in
        [(changed, "do not give the signed root"), ("DELETE FROM audit_retired_hash WHERE seq = 1", "are missing")]
    {
        sqlx::query(change).execute(&signing.pool).await.unwrap();
        let (code, _, stderr) = run(&signing.setup, &["audit", "prove", &place]);
        assert!(code == Some(1) && stderr.contains(said), "{stderr}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_a_record_has_its_proof_for_auditors() {
    let (mut signing, gateway) = (Signing::new().await, Uuid::from_u128(0x90));
    let mut witnessing = Witnessing::of(&mut signing, gateway);
    let gatepost = signing.setup.start();
    signing.call(&gatepost, 3).await;
    signing.all_delivered().await;
    let sql = "SELECT request_id, seq FROM audit_log WHERE tool_name = 'echo' ORDER BY seq LIMIT 1";
    crate::common::wait::until_async("a call is delivered", crate::common::wait::SOON, async || {
        sqlx::query(sql).fetch_optional(&signing.pool).await.unwrap().is_some()
    })
    .await;
    let (id, seq): (Uuid, i64) = sqlx::query_as(sql).fetch_one(&signing.pool).await.unwrap();
    let path = format!("/console/proof?id={gateway}/1/{seq}");
    let (status, _, said) = get(&gatepost, &path, "auditor").await;
    assert!(status == StatusCode::CONFLICT && said.contains("no checkpoint covers the record"), "{status} {said}");
    witnessing.start().await;
    signing.all_witnessed().await;
    let (status, _, page) = get(&gatepost, &format!("/console/record?id={gateway}/1/{seq}"), "auditor").await;
    assert_eq!(status, StatusCode::OK);
    assert!(page.contains(&format!("href=\"{path}\"")) && page.contains(&format!("{path}&amp;part=record")), "{page}");
    let (status, disposition, proof) = get(&gatepost, &path, "auditor").await;
    assert_eq!((status, disposition), (StatusCode::OK, format!("attachment; filename=\"{id}.tlog-proof\"")), "{proof}");
    let (status, disposition, record) = get(&gatepost, &format!("{path}&part=record"), "auditor").await;
    assert_eq!((status, disposition), (StatusCode::OK, format!("attachment; filename=\"{id}.json\"")), "{record}");
    let (code, policy, stderr) = run(&signing.setup, &["evidence", "policy"]);
    assert_eq!(code, Some(0), "{stderr}");
    let (code, said) = verifier(TempDir::new().unwrap().path(), &policy, &record, &proof);
    assert!(code == Some(0) && said.contains("signed by the witness w1"), "{said}");
    let (_, _, overview) = get(&gatepost, "/console/live", "auditor").await;
    assert!(overview.contains("Proven up to ") && overview.contains("witnessed by witness.example/w1."), "{overview}");
    let (_, _, status) = get(&gatepost, "/console/status", "auditor").await;
    let evidence = &serde_json::from_str::<serde_json::Value>(&status).unwrap()["evidence"];
    assert!(
        evidence["signed"]["size"].as_u64().is_some_and(|size| size > 3) && evidence["fault"].is_null(),
        "{status}"
    );
    let place = evidence["places"].as_array().unwrap().iter().find(|place| place["kind"] == "witness").unwrap();
    assert_eq!((&place["name"], &place["error"]), (&"witness.example/w1".into(), &serde_json::Value::Null), "{status}");
    assert!(place["confirmed"]["size"].as_u64() > Some(3), "{status}");
    // Others get nothing, and each download is recorded.
    assert_eq!(get(&gatepost, &path, "admin").await.0, StatusCode::FORBIDDEN);
    assert_eq!(get(&gatepost, &format!("/console/proof?id={gateway}/1/999"), "auditor").await.0, StatusCode::NOT_FOUND);
    assert_eq!(get(&gatepost, "/console/proof?id=x", "auditor").await.0, StatusCode::BAD_REQUEST);
    let reads = "SELECT count(*) FROM audit_log WHERE method = 'gateway/read' AND request_args ->> 'command' = 'prove'";
    signing.stop(gatepost);
    let reads: i64 = sqlx::query_scalar(reads).fetch_one(&signing.pool).await.unwrap();
    assert!(reads >= 3, "{reads}");
}
