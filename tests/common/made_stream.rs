//! Streams of records with times of one's choice, as a gateway would have written them, delivered to Postgres.

use std::time::Duration;

use chrono::{DateTime, Datelike, Months, NaiveDate, Utc};
use gatepost::audit::chain::{self, Head};
use gatepost::audit::record::{
    AuditRecord, Call, Digest, Entry, Epoch, GatewayId, Outcome, PolicyText, RequestId, Status, StreamPosition,
    Timestamp,
};
use gatepost::audit::sink::postgres::{Options, PostgresSink};
use gatepost::audit::sink::{CursorUpdate, Sink};
use serde_json::{Value, json};
use uuid::{NoContext, Uuid};

/// A stream in the making.
#[derive(Clone, Debug)]
pub struct MadeStream {
    pub gateway_id: GatewayId,
    pub epoch: Epoch,
    pub records: Vec<AuditRecord>,
}

/// The first moment of the month so many months before this one.
pub fn month(before: u32) -> DateTime<Utc> {
    let today = Utc::now().date_naive();
    let first = NaiveDate::from_ymd_opt(today.year(), today.month(), 1).unwrap();
    (first - Months::new(before)).and_hms_opt(0, 0, 0).unwrap().and_utc()
}

/// The month as `2026-08`.
pub fn month_name(before: u32) -> String {
    month(before).format("%Y-%m").to_string()
}

impl MadeStream {
    /// Begins an epoch at this time, after the end of the previous one.
    pub fn open(gateway_id: GatewayId, previous: Option<&Self>, time: DateTime<Utc>) -> Self {
        let epoch = previous.map_or(Epoch(1), |previous| previous.epoch.next());
        let mut details = json!({ "format": 2, "level": "stored", "interrupted": 0 });
        if let Some(previous) = previous {
            let last = previous.records.last().unwrap();
            details["previous_epoch"] = json!(previous.epoch);
            details["previous_seq"] = json!(last.position.seq);
            details["previous_hash"] = json!(last.position.hash);
            details["previous_closed"] = json!(last.entry.call.method == "gateway/closed");
        }
        let mut stream = Self { gateway_id, epoch, records: Vec::new() };
        let policy = PolicyText::new(&json!({ "of": gateway_id, "epoch": epoch }));
        policy.state_in(details.as_object_mut().unwrap());
        let event = Call::gateway_event("opened", &details);
        stream.push(event.with_definitions(Some(policy.digest()), None), time);
        stream
    }

    /// The digest of the policy that the opening record states.
    pub fn policy(&self) -> Digest {
        self.records[0].entry.call.policy_digest.unwrap()
    }

    /// An event of the gateway itself.
    pub fn event(&mut self, event: &str, details: &Value, time: DateTime<Utc>) -> StreamPosition {
        self.push(Call::gateway_event(event, details), time)
    }

    /// A call of a tool.
    pub fn call(&mut self, time: DateTime<Utc>) -> StreamPosition {
        let call = Call::new(RequestId::new(), "tools/call").with_target(Some("example"), Some("echo"));
        let mut call = call.with_definitions(Some(self.policy()), None);
        call.decided_by = Some("epoch".into());
        self.push(call.with_arguments(Some(r#"{"text":"hello",  "n":1.50}"#.to_owned()), None), time)
    }

    /// So many calls, a second apart.
    pub fn calls(&mut self, count: usize, time: DateTime<Utc>) {
        for number in 0..count {
            self.call(time + Duration::from_secs(number as u64));
        }
    }

    /// Ends the epoch.
    pub fn close(&mut self, time: DateTime<Utc>) {
        let records = self.records.len() + 1;
        self.event("closed", &json!({ "records": records }), time);
    }

    fn push(&mut self, mut call: Call, time: DateTime<Utc>) -> StreamPosition {
        let since_1970 = u64::try_from(time.timestamp()).unwrap();
        let made = uuid::Timestamp::from_unix(NoContext, since_1970, time.timestamp_subsec_nanos());
        call.request_id = RequestId(Uuid::new_v7(made));
        call.timestamp = Timestamp::from_micros(time.timestamp_micros());
        let entry = Entry::new(call, Outcome::of(Status::Ok), Duration::from_millis(1));
        let head = self.records.last().map_or(Head::START, |last| Head::after(&last.position));
        let position = chain::link(self.gateway_id, self.epoch, head, &entry);
        self.records.push(AuditRecord { position, entry });
        position
    }

    /// Delivers all records that Postgres does not have yet.
    pub async fn deliver(&self, url: &str) {
        let options = Options {
            url: url.to_owned(),
            password_file: None,
            statement_timeout: Duration::from_secs(20),
            migrate: false,
        };
        let mut sink = PostgresSink::new(&options).unwrap();
        let head = sink.cursor(self.gateway_id, self.epoch).await.unwrap();
        let rest = &self.records[usize::try_from(head.seq.0).unwrap()..];
        for batch in rest.chunks(500) {
            assert_eq!(sink.deliver(batch).await.unwrap(), CursorUpdate::Moved);
        }
    }
}
