//! An auditor's view: whether a trail is whole and unchanged, from the rows alone.
//!
//! The hash is computed from docs/trail.md, by its text and its table of columns, not by the code of the gateway.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;
use std::time::Duration;

use chrono::NaiveDateTime;
use gatepost::audit::codec;
use gatepost::audit::query::TrailSnapshot;
use gatepost::audit::record::{AuditRecord, Timestamp};
use gatepost::audit::sink::postgres::Connection;
use gatepost::audit::verify::{Expect, FaultKind, Heads, Options, Selection};
use serde_json::Value as Json;
use sha2::{Digest, Sha256};
use sqlx::postgres::{PgPool, PgRow};
use sqlx::{FromRow, Row};
use uuid::Uuid;

/// The columns of `audit_log` by the table of docs/trail.md: name, type and group.
static COLUMNS: LazyLock<Vec<[&str; 3]>> = LazyLock::new(|| {
    let (_, table) = include_str!("../../docs/trail.md").split_once("| column | type | group |").unwrap();
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let cells = |row: &'static str| row.split('|').skip(1).map(|cell| cell.trim().trim_matches('`'));
    rows.map(|row| cells(row).take(3).collect::<Vec<_>>().try_into().unwrap()).collect()
});

/// One place of a stream.
#[derive(Clone, Debug)]
pub struct Entry {
    pub gateway_id: Uuid,
    pub epoch: i64,
    pub seq: i64,
    pub prev_hash: Vec<u8>,
    pub hash: Vec<u8>,
    pub request_id: Uuid,
    pub method: String,
    pub response_status: String,
    pub error_message: Option<String>,
    pub latency_ms: f64,
    /// The bytes of each column as they are hashed.
    columns: BTreeMap<&'static str, Option<Vec<u8>>>,
    pub quarantined: bool,
}

impl Entry {
    pub fn args(&self) -> Option<&str> {
        self.text("request_args")
    }

    /// A `text` or `json` column.
    pub fn text(&self, column: &str) -> Option<&str> {
        self.columns[column].as_deref().map(|bytes| std::str::from_utf8(bytes).unwrap())
    }

    /// Whether this says that it stands in for a lost record.
    fn stands_in(&self) -> bool {
        let details = || serde_json::from_str::<Json>(self.args()?).ok();
        self.method == "gateway/gap" && details().is_some_and(|details| details.get("lost").is_some())
    }

    /// Whether it is, column by column, the stand-in that belongs into this run of lost records.
    fn belongs_into(&self, run: &Run) -> bool {
        let details = |hash: Option<&str>| {
            let hash = hash.map_or("null".to_owned(), |hash| format!("\"{hash}\""));
            format!("{{\"lost\":1,\"epoch\":{},\"seq\":{},\"hash\":{hash}}}", self.epoch, self.seq)
        };
        let is_last = self.seq == run.last;
        let hash = run.hash.as_deref().filter(|_| is_last);
        let is_linked = self.seq != run.first || run.prev_hash.as_ref().is_none_or(|hash| hex(hash) == self.prev_hash);
        let is_hashed = hash.map_or_else(|| self.computed_hash(), hex) == self.hash;
        let position = [self.gateway_id.as_bytes(), &self.epoch.to_le_bytes()[..], &self.seq.to_le_bytes()].concat();
        let derived = Sha256::digest(position).to_vec();
        let id = uuid::Builder::from_custom_bytes(derived[..16].try_into().unwrap()).into_uuid();
        let time = NaiveDateTime::parse_from_str(&run.timestamp, "%Y-%m-%dT%H:%M:%S%.6fZ").unwrap();
        let message = "the record at this place is lost: its bytes in the outbox are damaged";
        let expected: BTreeMap<_, _> = [
            ("request_id", id.as_bytes().to_vec()),
            ("timestamp", time.and_utc().timestamp_micros().to_le_bytes().to_vec()),
            ("latency_ms", 0_f64.to_le_bytes().to_vec()),
            ("method", b"gateway/gap".to_vec()),
            ("client_subject", b"gatepost".to_vec()),
            ("request_args", details(hash).into_bytes()),
            ("error_message", message.as_bytes().to_vec()),
            ("response_status", b"error".to_vec()),
            ("salt_who", derived.clone()),
            ("salt_circumstances", derived.clone()),
            ("salt_content", derived),
        ]
        .into();
        let position = ["gateway_id", "epoch", "seq", "prev_hash", "hash"];
        let of_contents = self.columns.iter().filter(|(name, _)| !position.contains(name));
        (run.first..=run.last).contains(&self.seq)
            && is_linked
            && is_hashed
            && of_contents.into_iter().all(|(name, value)| value.as_ref() == expected.get(name))
    }

    /// The runs of lost records that this names, if it is a damage record.
    fn lost_runs(&self) -> Vec<((Uuid, i64), Run)> {
        if self.method != "gateway/damage" || self.computed_hash() != self.hash {
            return Vec::new();
        }
        let details: Json = serde_json::from_str(self.args().unwrap()).unwrap();
        let text = |run: &Json, name: &str| run[name].as_str().map(str::to_owned);
        let run = |run: &Json| {
            let number = |name: &str| run[name].as_i64().unwrap();
            let (prev_hash, hash) = (text(run, "prev_hash"), text(run, "hash"));
            let timestamp = text(run, "timestamp").unwrap();
            let (first, last) = (number("first"), number("last"));
            ((self.gateway_id, number("epoch")), Run { first, last, prev_hash, hash, timestamp })
        };
        details["runs"].as_array().unwrap().iter().map(run).collect()
    }

    fn computed_hash(&self) -> Vec<u8> {
        let salted = |name, group, salt: &str| {
            let mut hash = Sha256::new_with_prefix(format!("gatepost.v2.{name}"));
            hash.update(self.columns[salt].as_deref().unwrap());
            self.fields(&mut hash, group);
            hash.finalize()
        };
        let mut hash = Sha256::new_with_prefix("gatepost.v2.record");
        hash.update(&self.prev_hash);
        self.fields(&mut hash, "o");
        hash.update(salted("who", "w", "salt_who"));
        hash.update(salted("circumstances", "x", "salt_circumstances"));
        hash.update(salted("content", "c", "salt_content"));
        hash.finalize().to_vec()
    }

    fn fields(&self, hash: &mut Sha256, group: &str) {
        for [name, _, _] in COLUMNS.iter().filter(|[_, _, of]| *of == group) {
            match self.columns[name].as_deref() {
                None => hash.update(0xffff_ffff_u32.to_le_bytes()),
                Some(bytes) => {
                    hash.update(u32::try_from(bytes.len()).unwrap().to_le_bytes());
                    hash.update(bytes);
                }
            }
        }
    }

    fn new(columns: BTreeMap<&'static str, Option<Vec<u8>>>) -> Self {
        let bytes = |name: &str| columns[name].clone().unwrap();
        let number = |name: &str| i64::from_le_bytes(bytes(name).try_into().unwrap());
        let text = |name: &str| columns[name].clone().map(|bytes| String::from_utf8(bytes).unwrap());
        Self {
            gateway_id: Uuid::from_slice(&bytes("gateway_id")).unwrap(),
            epoch: number("epoch"),
            seq: number("seq"),
            prev_hash: bytes("prev_hash"),
            hash: bytes("hash"),
            request_id: Uuid::from_slice(&bytes("request_id")).unwrap(),
            method: text("method").unwrap(),
            response_status: text("response_status").unwrap(),
            error_message: text("error_message"),
            latency_ms: f64::from_le_bytes(bytes("latency_ms").try_into().unwrap()),
            columns,
            quarantined: false,
        }
    }
}

/// A run of lost records, as a damage record names it.
#[derive(Clone, Debug)]
struct Run {
    first: i64,
    last: i64,
    prev_hash: Option<String>,
    hash: Option<String>,
    timestamp: String,
}

impl<'r> FromRow<'r, PgRow> for Entry {
    /// From the binary format of Postgres, whose numbers are big-endian and whose time counts from 2000.
    fn from_row(row: &'r PgRow) -> Result<Self, sqlx::Error> {
        let bytes = |name: &str, column_type: &str| {
            let raw = row.try_get_raw(name).unwrap();
            let mut bytes = raw.as_bytes().ok()?.to_vec();
            match column_type {
                "bigint" | "double precision" => bytes.reverse(),
                "timestamptz" => {
                    let micros = i64::from_be_bytes(bytes.try_into().unwrap()) + 946_684_800_000_000;
                    bytes = micros.to_le_bytes().to_vec();
                }
                _ => {}
            }
            Some(bytes)
        };
        Ok(Self::new(COLUMNS.iter().map(|[name, column_type, _]| (*name, bytes(name, column_type))).collect()))
    }
}

impl From<&AuditRecord> for Entry {
    /// From the record as JSON.
    fn from(record: &AuditRecord) -> Self {
        let record = serde_json::to_value(record).unwrap();
        let bytes = |name: &str, column_type: &str| {
            let text = || record[name].as_str().unwrap();
            let bytes = match (&record[name], column_type) {
                (Json::Null, _) => return None,
                (_, "uuid") => Uuid::parse_str(text()).unwrap().as_bytes().to_vec(),
                (_, "bytea") => hex(text()),
                (Json::Number(number), "bigint") => number.as_i64().unwrap().to_le_bytes().to_vec(),
                (Json::Number(number), _) => number.as_f64().unwrap().to_le_bytes().to_vec(),
                (_, "timestamptz") => {
                    let time = NaiveDateTime::parse_from_str(text(), "%Y-%m-%dT%H:%M:%S%.6fZ").unwrap();
                    time.and_utc().timestamp_micros().to_le_bytes().to_vec()
                }
                _ => text().as_bytes().to_vec(),
            };
            Some(bytes)
        };
        Self::new(COLUMNS.iter().map(|[name, column_type, _]| (*name, bytes(name, column_type))).collect())
    }
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// Reads and checks the whole trail in Postgres, also as `gatepost audit verify` does; returns it in its order.
pub async fn verify_postgres(pool: &PgPool) -> Vec<Entry> {
    let mut connection = Connection::new(pool.acquire().await.unwrap().detach(), Duration::from_mins(1));
    let snapshot = TrailSnapshot::begin(&mut connection, Selection::default()).await.unwrap();
    let options = Options {
        findings_max: 100,
        now: Timestamp::now(),
        settle: Duration::ZERO,
        expect: Expect::Nothing,
        vouched: false,
        replica: false,
        live: Vec::new(),
    };
    let mut faults = snapshot.check(Heads::default(), options, |_| {}).await.unwrap().faults;
    // Some tests change the tables, to see what a gateway does then.
    faults.retain(|fault| fault.kind != FaultKind::Table);
    assert!(faults.is_empty(), "audit verify: {faults:#?}");
    drop(connection);
    // A json column gives its text back byte for byte.
    let mut entries: Vec<Entry> = sqlx::query_as("SELECT * FROM audit_log").fetch_all(pool).await.unwrap();
    let quarantined = sqlx::query("SELECT * FROM audit_quarantine").fetch_all(pool).await.unwrap();
    for row in quarantined {
        let frame: Vec<u8> = row.get("frame");
        let (record, length) = codec::decode_record(&frame).unwrap();
        assert_eq!(length, frame.len());
        let mut entry = Entry::from(&record);
        entry.quarantined = true;
        let columns: (Uuid, i64, i64, Vec<u8>, Vec<u8>, Uuid) = FromRow::from_row(&row).unwrap();
        let Entry { gateway_id, epoch, seq, prev_hash, hash, request_id, .. } = entry.clone();
        assert_eq!(columns, (gateway_id, epoch, seq, prev_hash, hash, request_id), "the columns repeat the frame");
        entries.push(entry);
    }
    verify(entries)
}

/// Every stream is gapless from 1, linked and unchanged; every call has one record, and every loss a damage record that
/// names it.
pub fn verify(mut entries: Vec<Entry>) -> Vec<Entry> {
    entries.sort_by_key(|entry| (entry.gateway_id, entry.epoch, entry.seq));
    let mut heads: BTreeMap<(Uuid, i64), (i64, Vec<u8>)> = BTreeMap::new();
    let mut calls = BTreeSet::new();
    let mut lost: BTreeMap<(Uuid, i64), Vec<Run>> = BTreeMap::new();
    for (stream, run) in entries.iter().flat_map(Entry::lost_runs) {
        lost.entry(stream).or_default().push(run);
    }
    for entry in &entries {
        let head = heads.entry((entry.gateway_id, entry.epoch)).or_insert_with(|| (0, vec![0; 32]));
        assert_eq!(entry.seq, head.0 + 1, "I3: epoch {} has a gap or a repetition", entry.epoch);
        assert_eq!(entry.prev_hash, head.1, "the chain is broken before seq {}", entry.seq);
        if entry.stands_in() {
            let runs = lost.get(&(entry.gateway_id, entry.epoch)).map(Vec::as_slice).unwrap_or_default();
            let explained = runs.iter().any(|run| entry.belongs_into(run));
            assert!(explained, "no damage record explains {}/{}: {entry:?}\n{runs:?}", entry.epoch, entry.seq);
        } else {
            assert!(entry.computed_hash() == entry.hash, "seq {} was changed", entry.seq);
        }
        assert!(entry.latency_ms >= 0.0 && entry.error_message.as_deref() != Some(""), "seq {}", entry.seq);
        assert!(calls.insert(entry.request_id), "I2: call {} has two records", entry.request_id);
        *head = (entry.seq, entry.hash.clone());
    }
    entries
}
