//! What somebody can do who may write all tables: change rows, and compute hashes from docs/trail.md.

use gatepost::audit::chain::{self, Head};
use gatepost::audit::codec;
use gatepost::audit::query::{Filter, query};
use gatepost::audit::record::column::{ColumnType, Value};
use gatepost::audit::record::{AuditRecord, COLUMNS, Epoch, GatewayId, RequestId, Seq, StreamPosition, Timestamp};
use gatepost::audit::sink::postgres::Connection;
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row};

/// A connection to a copy of the trail.
pub struct Tamper {
    pub connection: Connection,
    pub a: GatewayId,
    pub b: GatewayId,
    /// The seq of the denied call in A/1, and of that epoch's `gateway/closed`.
    pub denied: i64,
    pub closed: i64,
}

async fn connect(url: &str) -> Connection {
    Connection::new(PgConnection::connect(url).await.unwrap(), crate::common::wait::SOON)
}

impl Tamper {
    pub async fn new(url: &str, a: GatewayId, b: GatewayId) -> Self {
        let mut connection = connect(url).await;
        let seq = "SELECT seq FROM audit_log WHERE gateway_id = $1 AND epoch = 1 AND ";
        let mut find = async |condition: &str| {
            let sql = AssertSqlSafe(format!("{seq}{condition}"));
            sqlx::query_scalar::<_, i64>(sql).bind(a.0).fetch_one(&mut *connection).await.unwrap()
        };
        let denied = find("response_status = 'denied'").await;
        let closed = find("method = 'gateway/closed'").await;
        Self { connection, a, b, denied, closed }
    }

    /// A trail with one gateway.
    pub async fn on(url: &str, gateway: GatewayId) -> Self {
        let connection = connect(url).await;
        Self { connection, a: gateway, b: gateway, denied: 0, closed: 0 }
    }

    /// Executes statements, in which `:A` and `:B` are the gateways, `:denied` and `:closed` the seqs in A/1.
    pub async fn sql(&mut self, sql: &str) {
        let sql = sql
            .replace(":A", &format!("'{}'", self.a))
            .replace(":B", &format!("'{}'", self.b))
            .replace(":denied", &self.denied.to_string())
            .replace(":closed", &self.closed.to_string());
        sqlx::raw_sql(AssertSqlSafe(sql.clone())).execute(&mut *self.connection).await.unwrap_or_else(|error| {
            panic!("{error}: {sql}");
        });
    }

    /// The rows of a stream, without those in quarantine.
    pub async fn rows(&mut self, gateway: GatewayId, epoch: u64) -> Vec<AuditRecord> {
        let filter = Filter {
            gateway_id: Some(gateway.0),
            epoch: Some(epoch),
            after: Some((epoch, 0)),
            limit: 10_000,
            ..Filter::default()
        };
        query(&mut self.connection, &filter).await.unwrap()
    }

    /// Inserts rows as they are.
    pub async fn insert(&mut self, rows: &[AuditRecord]) {
        let value = |index: usize, column_type| match column_type {
            ColumnType::Uuid => format!("${index}::text::uuid"),
            ColumnType::Bigint => format!("${index}::text::bigint"),
            ColumnType::Bytes32 => format!("decode(${index}, 'hex')"),
            ColumnType::Timestamptz => format!("${index}::text::timestamptz"),
            ColumnType::Text => format!("${index}"),
            ColumnType::Json => format!("${index}::text::json"),
            ColumnType::Double => format!("${index}::text::double precision"),
        };
        let names: Vec<String> = COLUMNS.iter().map(|column| format!("\"{}\"", column.name)).collect();
        let values: Vec<String> =
            COLUMNS.iter().enumerate().map(|(index, column)| value(index + 1, column.column_type)).collect();
        let sql = format!("INSERT INTO audit_log ({}) VALUES ({})", names.join(", "), values.join(", "));
        for row in rows {
            let mut insert = sqlx::query(AssertSqlSafe(sql.clone()));
            for column in COLUMNS {
                insert = insert.bind(match column.of(row) {
                    Value::Null => None,
                    Value::Uuid(value) => Some(value.to_string()),
                    Value::Bigint(value) => Some(value.to_string()),
                    Value::Bytes32(value) => Some(hex::encode(value)),
                    Value::Timestamptz(value) => Some(value.to_string()),
                    Value::Text(value) => Some(value.to_owned()),
                    Value::Double(value) => Some(value.to_string()),
                });
            }
            insert.execute(&mut *self.connection).await.unwrap();
        }
    }

    /// Removes the rows of a stream.
    pub async fn remove(&mut self, gateway: GatewayId, epoch: u64) {
        let sql = "DELETE FROM audit_log WHERE gateway_id = $1 AND epoch = $2";
        let query = sqlx::query(sql).bind(gateway.0).bind(epoch.cast_signed());
        query.execute(&mut *self.connection).await.unwrap();
    }

    /// Moves the cursor of a stream, which is made if there is none.
    pub async fn move_cursor(&mut self, position: &StreamPosition) {
        let sql = "INSERT INTO audit_stream (gateway_id, epoch, delivered_seq, head_hash, delivered_at)
            VALUES ($1, $2, $3, $4, now())
            ON CONFLICT (gateway_id, epoch) DO UPDATE SET delivered_seq = $3, head_hash = $4";
        let StreamPosition { gateway_id, epoch, seq, hash, .. } = position;
        let query = sqlx::query(sql).bind(gateway_id.0).bind(epoch.0.cast_signed()).bind(seq.0.cast_signed());
        query.bind(&hash.0[..]).execute(&mut *self.connection).await.unwrap();
    }

    /// Replaces the rows of the stream of `rows`, and moves its cursor to the last one.
    pub async fn write(&mut self, rows: &[AuditRecord]) {
        let last = rows.last().unwrap().position;
        self.remove(last.gateway_id, last.epoch.0).await;
        self.insert(rows).await;
        self.move_cursor(&last).await;
    }

    /// Rewrites a stream: `change` changes its rows, then `gateway/closed` and all hashes are fitted.
    pub async fn rewrite(
        &mut self,
        gateway: GatewayId,
        epoch: u64,
        change: impl FnOnce(Vec<AuditRecord>) -> Vec<AuditRecord>,
    ) {
        let mut rows = change(self.rows(gateway, epoch).await);
        for row in &mut rows {
            row.position = StreamPosition { gateway_id: gateway, epoch: Epoch(epoch), ..row.position };
        }
        chain_from(Head::START, &mut rows);
        self.write(&rows).await;
    }

    /// Appends rows to a stream.
    pub async fn append(&mut self, mut rows: Vec<AuditRecord>, gateway: GatewayId, epoch: u64) {
        let last = self.rows(gateway, epoch).await.pop().unwrap();
        for row in &mut rows {
            row.position = StreamPosition { gateway_id: gateway, epoch: Epoch(epoch), ..row.position };
        }
        chain_from(Head::after(&last.position), &mut rows);
        self.insert(&rows).await;
        self.move_cursor(&rows.last().unwrap().position).await;
    }

    /// Replaces a row by another one, without a hash.
    pub async fn replace(&mut self, row: &AuditRecord) {
        let StreamPosition { gateway_id, epoch, seq, .. } = row.position;
        let sql = "DELETE FROM audit_log WHERE gateway_id = $1 AND epoch = $2 AND seq = $3";
        let query = sqlx::query(sql).bind(gateway_id.0).bind(epoch.0.cast_signed()).bind(seq.0.cast_signed());
        query.execute(&mut *self.connection).await.unwrap();
        self.insert(std::slice::from_ref(row)).await;
    }

    /// Puts a record into quarantine.
    pub async fn quarantine(&mut self, record: &AuditRecord) {
        let mut frame = Vec::new();
        codec::encode_record(record, &mut frame).unwrap();
        let StreamPosition { gateway_id, epoch, seq, prev_hash, hash } = record.position;
        let sql = "INSERT INTO audit_quarantine
            (gateway_id, epoch, seq, prev_hash, hash, request_id, frame, sqlstate, error)
            VALUES ($1, $2, $3, $4, $5, $6, $7, '23514', 'new row violates a constraint')";
        let query = sqlx::query(sql).bind(gateway_id.0).bind(epoch.0.cast_signed()).bind(seq.0.cast_signed());
        let query = query.bind(&prev_hash.0[..]).bind(&hash.0[..]).bind(record.entry.call.request_id.0);
        query.bind(frame).execute(&mut *self.connection).await.unwrap();
        let sql = "DELETE FROM audit_log WHERE gateway_id = $1 AND epoch = $2 AND seq = $3";
        let query = sqlx::query(sql).bind(gateway_id.0).bind(epoch.0.cast_signed()).bind(seq.0.cast_signed());
        query.execute(&mut *self.connection).await.unwrap();
    }

    /// Takes the first quarantined record out.
    pub async fn take_quarantined(&mut self) -> AuditRecord {
        let row = sqlx::query(
            "DELETE FROM audit_quarantine WHERE seq = (SELECT min(seq) FROM audit_quarantine)
            RETURNING frame",
        );
        let row = row.fetch_one(&mut *self.connection).await.unwrap();
        codec::decode_record(row.get("frame")).unwrap().0
    }
}

/// Gives rows the positions after `head`, with their hashes. `gateway/closed` counts its rows.
pub fn chain_from(mut head: Head, rows: &mut [AuditRecord]) {
    for row in rows {
        if row.entry.call.method == "gateway/closed" {
            row.entry.call.request_args = Some(format!("{{\"records\":{}}}", head.seq.next()));
        }
        let StreamPosition { gateway_id, epoch, .. } = row.position;
        row.position = chain::link(gateway_id, epoch, head, &row.entry);
        head = Head::after(&row.position);
    }
}

/// A copy of a record as another call of `subject`.
pub fn another(row: &AuditRecord, subject: &str) -> AuditRecord {
    let mut row = row.clone();
    row.entry.call.request_id = RequestId::new();
    row.entry.call.timestamp = Timestamp::now();
    row.entry.call.client_subject = subject.into();
    row
}

/// The record with another subject and other arguments.
pub fn altered(mut row: AuditRecord) -> AuditRecord {
    row.entry.call.request_args = Some(r#"{"text": "harmless"}"#.to_owned());
    row.entry.call.client_subject = "mallory".into();
    row
}

/// The stand-in that a lost record would have, as far as its text goes.
pub fn stand_in(row: &AuditRecord) -> AuditRecord {
    let mut out = AuditRecord { position: row.position, entry: row.entry.clone() };
    for column in COLUMNS.iter().filter(|column| !matches!(column.name, "request_id" | "timestamp" | "hash")) {
        column.set(&mut out, Value::Null);
    }
    out.position = row.position;
    let details = json!({ "lost": 1, "epoch": row.position.epoch, "seq": row.position.seq, "hash": row.position.hash });
    let call = gatepost::audit::record::Call::gateway_event("gap", &details);
    let text = |record: &mut AuditRecord, name: &str, value: &str| {
        let column = COLUMNS.iter().find(|column| column.name == name).unwrap();
        column.set(record, Value::Text(value)).unwrap();
    };
    text(&mut out, "method", "gateway/gap");
    text(&mut out, "client_subject", "gatepost");
    text(&mut out, "request_args", call.request_args.as_ref().unwrap());
    text(&mut out, "response_status", "error");
    text(&mut out, "error_message", "the record at this place is lost: its bytes in the outbox are damaged");
    out.entry.latency_ms = 0.0;
    out
}

/// Sets members of the arguments of a row.
pub fn set_details(row: &mut AuditRecord, members: &serde_json::Value) {
    let mut details: serde_json::Value = serde_json::from_str(row.entry.call.request_args.as_ref().unwrap()).unwrap();
    for (name, value) in members.as_object().unwrap() {
        details[name] = value.clone();
    }
    row.entry.call.request_args = Some(details.to_string());
}

/// The members of `gateway/opened` that name the end of the previous epoch.
pub fn previous(epoch: u64, end: &StreamPosition, closed: bool) -> serde_json::Value {
    json!({
        "previous_epoch": epoch, "previous_seq": end.seq, "previous_hash": end.hash, "previous_closed": closed,
    })
}

/// The seq of a row.
pub fn seq(row: &AuditRecord) -> Seq {
    row.position.seq
}
