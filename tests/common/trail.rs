//! An auditor's view: whether a trail is whole and unchanged, from the rows alone.
//!
//! The hash is computed by the text at the head of `src/audit/chain.rs`, not by its code.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use gatepost::audit::codec;
use gatepost::audit::record::{AuditRecord, Text};
use sha2::{Digest, Sha256};
use sqlx::postgres::{PgPool, PgRow};
use sqlx::{FromRow, Row};
use uuid::Uuid;

/// One place of a stream.
#[derive(Clone, Debug)]
pub struct Entry {
    pub gateway_id: Uuid,
    pub epoch: i64,
    pub seq: i64,
    pub prev_hash: Vec<u8>,
    pub hash: Vec<u8>,
    pub request_id: Uuid,
    pub at: DateTime<Utc>,
    pub method: String,
    pub client_subject: String,
    /// `client_role` to `request_args`, in the order of the columns.
    pub texts: [Option<String>; 9],
    pub args_digest: Option<Vec<u8>>,
    pub response_status: String,
    pub error_message: Option<String>,
    pub response_digest: Option<Vec<u8>>,
    pub response_bytes: Option<i64>,
    pub latency_ms: f64,
    pub quarantined: bool,
}

impl Entry {
    pub fn args(&self) -> Option<&str> {
        self.texts[8].as_deref()
    }

    /// Whether this is the gap record of a lost one, which bears and names the hash of that one.
    fn stands_in_for(&self) -> bool {
        let named =
            || serde_json::from_str::<serde_json::Value>(self.args()?).ok()?["hash"].as_str().map(str::to_owned);
        let hex = self.hash.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        self.method == "gateway/gap" && named() == Some(hex)
    }

    fn computed_hash(&self) -> Vec<u8> {
        let mut hash = Sha256::new();
        hash.update(b"gatepost.v1");
        hash.update(&self.prev_hash);
        let mut field = |value: Option<&[u8]>| match value {
            None => hash.update(0xffff_ffff_u32.to_le_bytes()),
            Some(bytes) => {
                hash.update(u32::try_from(bytes.len()).unwrap().to_le_bytes());
                hash.update(bytes);
            }
        };
        field(Some(self.gateway_id.as_bytes()));
        field(Some(&self.epoch.to_le_bytes()));
        field(Some(&self.seq.to_le_bytes()));
        field(Some(self.request_id.as_bytes()));
        field(Some(&self.at.timestamp_micros().to_le_bytes()));
        field(Some(self.method.as_bytes()));
        field(Some(self.client_subject.as_bytes()));
        for text in &self.texts {
            field(text.as_deref().map(str::as_bytes));
        }
        field(self.args_digest.as_deref());
        field(Some(self.response_status.as_bytes()));
        field(self.error_message.as_deref().map(str::as_bytes));
        field(self.response_digest.as_deref());
        field(self.response_bytes.map(i64::to_le_bytes).as_ref().map(<[u8; 8]>::as_slice));
        field(Some(&self.latency_ms.to_le_bytes()));
        hash.finalize().to_vec()
    }
}

impl<'r> FromRow<'r, PgRow> for Entry {
    fn from_row(row: &'r PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            gateway_id: row.try_get("gateway_id")?,
            epoch: row.try_get("epoch")?,
            seq: row.try_get("seq")?,
            prev_hash: row.try_get("prev_hash")?,
            hash: row.try_get("hash")?,
            request_id: row.try_get("request_id")?,
            at: row.try_get("timestamp")?,
            method: row.try_get("method")?,
            client_subject: row.try_get("client_subject")?,
            texts: [
                row.try_get("client_role")?,
                row.try_get("client_issuer")?,
                row.try_get("token_id")?,
                row.try_get("client_addr")?,
                row.try_get("session_id")?,
                row.try_get("rpc_id")?,
                row.try_get("tool_name")?,
                row.try_get("backend_name")?,
                row.try_get("args")?,
            ],
            args_digest: row.try_get("args_digest")?,
            response_status: row.try_get("response_status")?,
            error_message: row.try_get("error_message")?,
            response_digest: row.try_get("response_digest")?,
            response_bytes: row.try_get("response_bytes")?,
            latency_ms: row.try_get("latency_ms")?,
            quarantined: false,
        })
    }
}

impl From<&AuditRecord> for Entry {
    fn from(record: &AuditRecord) -> Self {
        let (position, entry, call) = (record.position, &record.entry, &record.entry.call);
        let text = |text: &Option<Text>| text.as_ref().map(ToString::to_string);
        Self {
            gateway_id: position.gateway_id.0,
            epoch: position.epoch.0.cast_signed(),
            seq: position.seq.0.cast_signed(),
            prev_hash: position.prev_hash.0.to_vec(),
            hash: position.hash.0.to_vec(),
            request_id: call.request_id.0,
            at: call.timestamp.to_datetime(),
            method: call.method.to_string(),
            client_subject: call.client_subject.to_string(),
            texts: [
                text(&call.client_role),
                text(&call.client_issuer),
                text(&call.token_id),
                text(&call.client_addr),
                text(&call.session_id),
                text(&call.rpc_id),
                text(&call.tool_name),
                text(&call.backend_name),
                call.request_args.clone(),
            ],
            args_digest: call.args_digest.map(|digest| digest.0.to_vec()),
            response_status: entry.response_status.to_string(),
            error_message: entry.error_message.clone(),
            response_digest: entry.response_digest.map(|digest| digest.0.to_vec()),
            response_bytes: entry.response_bytes.map(u64::cast_signed),
            latency_ms: entry.latency_ms,
            quarantined: false,
        }
    }
}

/// Reads and checks the whole trail in Postgres; returns it in its order.
pub async fn verify_postgres(pool: &PgPool) -> Vec<Entry> {
    // A json column gives its text back byte for byte.
    let mut entries: Vec<Entry> =
        sqlx::query_as("SELECT *, request_args::text AS args FROM audit_log").fetch_all(pool).await.unwrap();
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
        assert!(calls.insert(entry.request_id), "I2: call {} has two records", entry.request_id);
        *head = (entry.seq, entry.hash.clone());
    }
    entries
}
