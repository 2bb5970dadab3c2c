//! The proof of a record, as an auditor downloads it from the console.

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
async fn a_gateway_reads_a_limited_number_of_hashes_for_a_proof() {
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
    // A perfect tree is its own edge. The limit is 2^18, and the next size of a perfect tree is refused.
    let checkpoint = "INSERT INTO audit_checkpoint VALUES ($1, 1, $2, 9, 1, sha256('x'), sha256('x'), 'x', now())";
    let anchor = "INSERT INTO audit_anchor VALUES ($1, 1, $2, 'w', 'witness', 'x', now(), 'x', now())";
    for (size, reason) in [(1_i64 << 19, "this process reads at most 262144"), (1 << 18, "are missing")] {
        for sql in [checkpoint, anchor] {
            sqlx::query(sql).bind(gateway).bind(size).execute(&signing.pool).await.unwrap();
        }
        let (status, _, said) = get(&gatepost, &path, "auditor").await;
        assert!(status == StatusCode::CONFLICT && said.contains(reason), "{status} {said}");
        assert_eq!(said.contains("gatepost audit prove"), size > 1 << 18, "{said}");
    }
    // Without the limit the command reads them.
    signing.stop(gatepost);
    sqlx::query("DELETE FROM audit_anchor WHERE size = 1 << 18").execute(&signing.pool).await.unwrap();
    let place = format!("{gateway}/1/{seq}");
    let (code, _, stderr) = run(&signing.setup, &["audit", "prove", &place]);
    assert!(code == Some(1) && stderr.contains("are missing"), "{stderr}");
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
    // Others get nothing, and each download is recorded.
    assert_eq!(get(&gatepost, &path, "admin").await.0, StatusCode::FORBIDDEN);
    assert_eq!(get(&gatepost, &format!("/console/proof?id={gateway}/1/999"), "auditor").await.0, StatusCode::NOT_FOUND);
    assert_eq!(get(&gatepost, "/console/proof?id=x", "auditor").await.0, StatusCode::BAD_REQUEST);
    let reads = "SELECT count(*) FROM audit_log WHERE method = 'gateway/read' AND request_args ->> 'command' = 'prove'";
    signing.stop(gatepost);
    let reads: i64 = sqlx::query_scalar(reads).fetch_one(&signing.pool).await.unwrap();
    assert!(reads >= 3, "{reads}");
}
