//! The same manipulations against signed checkpoints: `gatepost audit certify` on each changed database, and the
//! independent verifier with the policy from before. Then the attacker computes the checkpoints again, and signs them
//! with the log's own key.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use gatepost::audit::query::{Filter, Pager};
use gatepost::audit::record::{AuditRecord, GatewayId, StreamPosition};
use gatepost::audit::sink::postgres::Connection;
use gatepost::evidence::note::Note;
use gatepost::evidence::tree::Edge;
use gatepost::ops::export_line::{Shown, certificate_line};
use sqlx::{Connection as _, PgConnection, PgPool};

use crate::common::gatepost::BINARY;
use crate::common::verifier::{Parties, edge, verdicts};
use crate::common::wait::SOON;

/// The end of the range: before the witness signed.
const UNTIL: &str = "2026-01-02T00:00:00Z";

/// A gateway's records when the witness signed.
pub struct SignedLog {
    gateway: GatewayId,
    parties: Parties,
    last: StreamPosition,
    lines: Vec<String>,
    note: Note,
}

/// A certificate of one manipulation.
pub struct Attempted {
    name: String,
    policy: String,
    /// The certificate, or the reason why none was made.
    certificate: Result<String, String>,
    /// True if what the witness signed is there, unchanged.
    is_unchanged: bool,
}

/// The records of a gateway in both tables, or the error that hides them.
async fn records(url: &str, gateway: GatewayId) -> Result<Vec<AuditRecord>, String> {
    let mut connection = Connection::new(PgConnection::connect(url).await.unwrap(), SOON);
    let filter = Filter { gateway_id: Some(gateway.0), until_micros: Some(i64::MAX), ..Filter::default() };
    let mut found = Vec::new();
    let mut pager = Pager::begin(&mut connection, &filter, None).await.map_err(|error| error.to_string())?;
    while let Some(page) = pager.next(&mut connection).await.map_err(|error| error.to_string())? {
        found.extend(page.into_iter().map(|exported| exported.record));
    }
    Ok(found)
}

/// Every column of a record. Two floats that are equal may have different bytes.
fn whole_line(record: &AuditRecord) -> String {
    certificate_line(0, record, Shown::Whole).unwrap()
}

/// Signs all records of a gateway, and stores the checkpoint as its notary and its witness would.
pub async fn sign(url: &str, pool: &PgPool, gateway: GatewayId) -> SignedLog {
    let parties = Parties::new(&format!("example.com/gatepost/{gateway}"));
    let records = records(url, gateway).await.unwrap();
    let edge = edge(&records);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let note = parties.note(&edge, now);
    let own = Note::new(note.text().to_owned(), note.signatures()[..1].to_vec()).unwrap();
    store(pool, gateway, &edge, records.last().unwrap(), &own.to_string()).await;
    let anchor = "INSERT INTO audit_anchor (gateway_id, log, size, anchor, kind, first_proof, last_proof)
        VALUES ($1, 1, $2, 'w1', 'witness', $3, $3)";
    let line = format!("{}\n", note.signatures()[1]).into_bytes();
    sqlx::query(anchor).bind(gateway.0).bind(edge.size().cast_signed()).bind(line).execute(pool).await.unwrap();
    let last = records.last().unwrap().position;
    SignedLog { gateway, parties, last, lines: records.iter().map(whole_line).collect(), note }
}

async fn store(pool: &PgPool, gateway: GatewayId, edge: &Edge, last: &AuditRecord, note: &str) {
    let sql = "INSERT INTO audit_checkpoint (gateway_id, log, size, epoch, seq, root, edge, note)
        VALUES ($1, 1, $2, $3, $4, $5, $6, $7)";
    let (root, hashes) = (edge.root().0.to_vec(), edge.hashes().iter().flat_map(|hash| hash.0).collect::<Vec<u8>>());
    let query = sqlx::query(sql).bind(gateway.0).bind(edge.size().cast_signed());
    let query = query.bind(last.position.epoch.0.cast_signed()).bind(last.position.seq.0.cast_signed());
    query.bind(root).bind(hashes).bind(note).execute(pool).await.unwrap();
}

fn certify(url: &str, gateway: GatewayId, file: &Path, more: &[&str]) -> Result<String, String> {
    let mut command = Command::new(BINARY);
    let gateway = gateway.to_string();
    command.args(["audit", "certify", "--dir", "/nowhere", "--since", "2020-01-01T00:00:00Z", "--until", UNTIL]);
    command.args(["--gateway", &gateway, "--output"]).arg(file).args(more);
    let output = command.env_clear().env("GATEPOST_POSTGRES_URL", url).stdin(Stdio::null()).output().unwrap();
    let certificate = std::fs::read_to_string(file).ok();
    std::fs::remove_file(file).ok();
    assert_eq!(certificate.is_some(), output.status.success(), "nothing is left behind by a failure");
    certificate.ok_or_else(|| String::from_utf8(output.stderr).unwrap())
}

impl SignedLog {
    /// The certificates that a manipulated database gives, and that one whose checkpoints the attacker made again.
    pub async fn attempt(&self, url: &str, name: &str) -> Vec<Attempted> {
        let found = records(url, self.gateway).await;
        let last = self.last;
        let covered = found.as_ref().map(|found| {
            let is_covered =
                |record: &&AuditRecord| (record.position.epoch, record.position.seq) <= (last.epoch, last.seq);
            found.iter().filter(is_covered).map(whole_line).collect::<Vec<_>>()
        });
        let is_unchanged = covered.as_ref().is_ok_and(|covered| *covered == self.lines);
        let dir = tempfile::tempdir().unwrap();
        let (file, gateway, url) = (dir.path().join("certificate"), self.gateway, url.to_owned());
        let attempt =
            |certificate| Attempted { name: name.to_owned(), policy: self.parties.policy(), certificate, is_unchanged };
        let (of, to) = (url.clone(), file.clone());
        let made = tokio::task::spawn_blocking(move || certify(&of, gateway, &to, &[])).await.unwrap();
        let mut attempts = vec![attempt(made)];
        if !is_unchanged
            && let Ok(found) = &found
            && let Some(last) = found.last()
        {
            let tree = edge(found);
            let note = self.parties.forged(&self.parties.log, &tree, &self.note);
            let own = Note::new(note.text().to_owned(), note.signatures()[..1].to_vec()).unwrap().to_string();
            let pool = PgPool::connect(&url).await.unwrap();
            let clear = "DELETE FROM audit_checkpoint WHERE gateway_id = $1";
            sqlx::query(clear).bind(gateway.0).execute(&pool).await.unwrap();
            store(&pool, gateway, &tree, last, &own).await;
            let fit = "UPDATE audit_anchor SET size = $2 WHERE gateway_id = $1";
            sqlx::query(fit).bind(gateway.0).bind(tree.size().cast_signed()).execute(&pool).await.unwrap();
            pool.close().await;
            let made = tokio::task::spawn_blocking(move || certify(&url, gateway, &file, &[])).await.unwrap();
            attempts.push(attempt(made));
        }
        attempts
    }
}

/// The trail itself: gateway A has a lost record, of which the hash is known, so that no certificate for a person can
/// be made.
pub fn untouched(url: &str, signed: &[SignedLog; 2]) {
    let dir = tempfile::tempdir().unwrap();
    let [a, b] = signed.each_ref().map(|log| certify(url, log.gateway, &dir.path().join("file"), &[]).unwrap());
    let said = verdicts(&[(signed[0].parties.policy(), a.clone()), (signed[1].parties.policy(), b)]);
    assert!(said.iter().all(|said| said.starts_with("proven: no record is missing")), "{said:?}");
    let hash_only = a.lines().skip(1).filter(|line| !line.contains("\"method\"")).count();
    assert_eq!(hash_only, 1, "the lost record");
    let person = |log: &SignedLog| certify(url, log.gateway, &dir.path().join("file"), &["--subject", "tester"]);
    let refused = person(&signed[0]).unwrap_err();
    assert!(refused.contains("was lost on the gateway's disk, so it cannot be shown that it is not of"), "{refused}");
    assert!(person(&signed[1]).is_ok());
}

/// Checks the attempts: a certificate of changed records is not made, or not accepted; one of unchanged records is.
/// Returns the manipulations that evidence does not notice in any gateway.
pub fn judge(attempted: &[Attempted]) -> Result<BTreeSet<&str>, String> {
    let made: Vec<_> = attempted.iter().filter_map(|it| Some((it, it.certificate.as_ref().ok()?))).collect();
    let said = verdicts(&made.iter().map(|(it, made)| (it.policy.clone(), (*made).clone())).collect::<Vec<_>>());
    let proven = |it: &Attempted| {
        made.iter().zip(&said).any(|((other, _), said)| std::ptr::eq(*other, it) && said.starts_with("proven: "))
    };
    let wrong: Vec<_> = attempted.iter().filter(|it| proven(it) != it.is_unchanged).collect();
    if let Some(first) = wrong.first() {
        let names: BTreeSet<_> = wrong.iter().map(|it| (&it.name, it.is_unchanged)).collect();
        return Err(format!("{names:#?}; {:?}", first.certificate.as_ref().map(String::len)));
    }
    let refused = made.len() - attempted.iter().filter(|it| proven(it)).count();
    assert!(refused > 20 && made.len() < attempted.len(), "{refused} of {} were refused", made.len());
    let noticed: BTreeSet<_> = attempted.iter().filter(|it| !it.is_unchanged).map(|it| &it.name[..]).collect();
    Ok(attempted.iter().map(|it| &it.name[..]).filter(|name| !noticed.contains(name)).collect())
}
