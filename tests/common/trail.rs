//! An auditor's view: whether a trail is whole and unchanged, from the rows alone.
//!
//! The hash is computed from docs/trail.md, by its text and its table of columns, not by the code of the gateway.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use chrono::NaiveDateTime;
use gatepost::audit::codec;
use gatepost::audit::record::AuditRecord;
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

    /// Whether this is the gap record of a lost one, which bears and names the hash of that one.
    fn stands_in_for(&self) -> bool {
        let named = || serde_json::from_str::<Json>(self.args()?).ok()?["hash"].as_str().map(str::to_owned);
        let hex = self.hash.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        self.method == "gateway/gap" && named() == Some(hex)
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

/// Reads and checks the whole trail in Postgres; returns it in its order.
pub async fn verify_postgres(pool: &PgPool) -> Vec<Entry> {
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

/// Every stream is gapless from 1, linked and unchanged; every call has one record.
pub fn verify(mut entries: Vec<Entry>) -> Vec<Entry> {
    entries.sort_by_key(|entry| (entry.gateway_id, entry.epoch, entry.seq));
    let mut heads: BTreeMap<(Uuid, i64), (i64, Vec<u8>)> = BTreeMap::new();
    let mut calls = BTreeSet::new();
    for entry in &entries {
        let head = heads.entry((entry.gateway_id, entry.epoch)).or_insert_with(|| (0, vec![0; 32]));
        assert_eq!(entry.seq, head.0 + 1, "I3: epoch {} has a gap or a repetition", entry.epoch);
        assert_eq!(entry.prev_hash, head.1, "the chain is broken before seq {}", entry.seq);
        let stands_in = entry.stands_in_for();
        assert!(stands_in || entry.computed_hash() == entry.hash, "seq {} was changed", entry.seq);
        assert!(entry.latency_ms >= 0.0 && entry.error_message.as_deref() != Some(""), "seq {}", entry.seq);
        assert!(calls.insert(entry.request_id), "I2: call {} has two records", entry.request_id);
        *head = (entry.seq, entry.hash.clone());
    }
    entries
}
