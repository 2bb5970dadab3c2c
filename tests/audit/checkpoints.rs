//! Checkpoints and hashes in Postgres, as the notary stores and reads them.

use gatepost::audit::record::{Digest, Epoch, GatewayId, Seq, StreamPosition};
use gatepost::audit::sink::Sink;
use gatepost::audit::sink::checkpoints::{CheckpointStore, HashesAfter};
use gatepost::audit::tree::Tree;
use gatepost::evidence::tree::{Edge, TreeHead};
use sqlx::{Connection, PgConnection};

use crate::common::postgres::{Cluster, Database};
use crate::common::wait::{SOON, until_async};
use crate::rig::{Rig, delivered, many, postgres_sink, stop};

const LOG: Epoch = Epoch(1);

fn tree(gateway_id: GatewayId, size: u64, variant: u8) -> Tree {
    let mut tree = Tree::begin(LOG);
    for seq in 1..=size {
        let hash = Digest::of(&[&seq.to_le_bytes()[..], &[variant]].concat());
        tree.push(&StreamPosition { gateway_id, epoch: LOG, seq: Seq(seq), prev_hash: Digest::ZERO, hash });
    }
    tree
}

fn head(tree: &Tree) -> TreeHead {
    TreeHead { size: tree.size(), root: tree.root() }
}

async fn prepared() -> (Database, GatewayId) {
    let database = Cluster::shared().create_database().await;
    let gateway_id = GatewayId(uuid::Uuid::new_v4());
    postgres_sink(&database).prepare(gateway_id).await.unwrap();
    (database, gateway_id)
}

#[tokio::test]
async fn a_checkpoint_is_stored_only_after_the_known_last_one() {
    let (database, gateway) = prepared().await;
    let mut sink = postgres_sink(&database);
    let [three, five, four, other] = [(3, 0), (5, 0), (4, 0), (5, 1)].map(|(size, kind)| tree(gateway, size, kind));
    let mut store = async |tree: &Tree, known| sink.store_checkpoint(gateway, tree, "note", known).await.unwrap();
    assert_eq!(store(&three, Some(head(&other))).await, None, "there is none yet");
    assert_eq!(store(&three, None).await, Some(head(&three)));
    assert_eq!(store(&five, None).await, Some(head(&three)));
    assert_eq!(store(&five, Some(head(&three))).await, Some(head(&five)));
    assert_eq!(store(&five, Some(head(&three))).await, Some(head(&five)), "the answer was lost");
    for (tree, known) in [(&four, &five), (&other, &five), (&tree(gateway, 9, 0), &other), (&five, &five)] {
        assert_eq!(store(tree, Some(head(known))).await, Some(head(&five)));
    }
    assert_eq!(sink.last_checkpoint(gateway, LOG).await.unwrap(), Some(head(&five)));
}

/// The first checkpoint of a log has no row before it that could be locked.
#[tokio::test]
async fn of_two_checkpoints_at_once_one_is_stored() {
    let (database, gateway) = prepared().await;
    let mut first = PgConnection::connect(&database.url).await.unwrap();
    let mut transaction = first.begin().await.unwrap();
    let (five, seven) = (tree(gateway, 5, 0), tree(gateway, 7, 1));
    let edge: Vec<u8> = five.edge().hashes().iter().flat_map(|hash| hash.0).collect();
    let sql = "SELECT last_size FROM gatepost_checkpoint($1, 1, 5, 1, 5, $2, $3, 'note', NULL, NULL)";
    let stored = sqlx::query_scalar(sql).bind(gateway.0).bind(five.root().0.to_vec()).bind(edge);
    assert_eq!(stored.fetch_one(&mut *transaction).await.ok(), Some(5_i64));
    let mut sink = postgres_sink(&database);
    let second = tokio::spawn(async move { sink.store_checkpoint(gateway, &seven, "note", None).await });
    let pool = database.pool().await;
    until_async("the second one waits", SOON, async || {
        let sql = "SELECT EXISTS (SELECT FROM pg_stat_activity
            WHERE wait_event_type = 'Lock' AND datname = current_database() AND query LIKE '%gatepost_checkpoint%')";
        sqlx::query_scalar(sql).fetch_one(&pool).await.unwrap()
    })
    .await;
    transaction.commit().await.unwrap();
    assert_eq!(second.await.unwrap().unwrap(), Some(head(&five)));
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM audit_checkpoint").fetch_one(&pool).await.unwrap();
    assert_eq!(count, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn hashes_come_in_pages_and_in_order() {
    let database = Cluster::shared().create_database().await;
    let (rig, mut admin) = (Rig::stored(), PgConnection::connect(&database.url).await.unwrap());
    let pipeline = rig.start_on(&database);
    many(&pipeline.audit(), 3).await;
    delivered(&pipeline.probe()).await;
    let (gateway, _) = pipeline.probe().stream();
    stop(pipeline).await;
    // A page has 65,536. The copies differ in seq, place in the order, and hash.
    let copies = "INSERT INTO audit_log SELECT c.* FROM (SELECT * FROM audit_log ORDER BY seq LIMIT 1) l,
        generate_series(1, 70000) n, LATERAL jsonb_populate_record(l::audit_log, jsonb_build_object('epoch', 2, 'seq', n,
        'hash', '\\x' || encode(sha256(n::text::bytea), 'hex'))) c";
    sqlx::raw_sql(copies).execute(&mut admin).await.unwrap();
    let sql = "SELECT hash FROM audit_log ORDER BY epoch, seq";
    let all: Vec<Vec<u8>> = sqlx::query_scalar(sql).fetch_all(&mut admin).await.unwrap();
    let mut sink = postgres_sink(&database);
    let mut read = Vec::new();
    let mut after = HashesAfter::Checkpoint(7);
    let mut pages = 0;
    loop {
        let page = sink.hashes(gateway, LOG, after).await.unwrap();
        assert_eq!(page.before, (pages == 0).then(Edge::default));
        if page.hashes.is_empty() {
            break;
        }
        read.extend(page.hashes);
        (after, pages) = (HashesAfter::Record(page.last), pages + 1);
    }
    assert!(pages == 2 && read.iter().eq(all.iter().map(Vec::as_slice)), "{pages} pages, {} hashes", read.len());
    // After a checkpoint, only what comes after it.
    let mut tree = Tree::begin(LOG);
    for (seq, hash) in (1..).zip(read.iter().take(3)) {
        tree.add((LOG, Seq(seq)), hash);
    }
    assert_eq!(sink.store_checkpoint(gateway, &tree, "note", None).await.unwrap(), Some(head(&tree)));
    let page = sink.hashes(gateway, LOG, HashesAfter::Checkpoint(100)).await.unwrap();
    assert_eq!((page.before.as_ref(), page.hashes.first()), (Some(tree.edge()), read.get(3)));
    let page = sink.hashes(gateway, LOG, HashesAfter::Checkpoint(2)).await.unwrap();
    assert_eq!(page.before, Some(Edge::default()));
}
