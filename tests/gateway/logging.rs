//! What the log may not do: decide about a record.

use std::sync::Arc;
use std::time::Duration;

use gatepost::audit::outbox::Reader;
use gatepost::audit::outbox::fs::DiskFs;
use gatepost::audit::pipeline::{self, Pipeline};
use gatepost::audit::record::{Digest, Status};
use gatepost::audit::scribe::{ConfigSummary, Mode};
use gatepost::audit::shipper::BatchLimits;
use gatepost::audit::sink::postgres::PostgresSink;
use gatepost::audit::{Timeouts, ring};
use gatepost::config::Config;
use gatepost::gateway::Gateway;
use gatepost::gateway::listener::stdio::TokenSource;
use gatepost::walls::Launcher;
use serde_json::json;
use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio_util::sync::CancellationToken;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::common::gatepost::{Setup, token};
use crate::common::stored_records::stored_records;
use crate::common::wait::{SOON, until_async};

/// A log that panics at every event of a call.
struct Panics;

impl Subscriber for Panics {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && metadata.target().starts_with("gatepost::gateway::")
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        panic!("the log failed at {:?}", event.metadata().name());
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

fn pipeline(setup: &Setup) -> Pipeline {
    let config = pipeline::Config {
        dir: setup.audit_dir(),
        gateway_id: None,
        mode: Mode::Stored,
        ring: ring::RingLimits { records: 1_024, bytes: 8 * 1024 * 1024 },
        outbox_bytes_max: 1 << 30,
        keep: None,
        timeouts: Timeouts { admission: Duration::from_secs(20), store: Duration::from_secs(20) },
        batch: BatchLimits { records: 2_000, bytes: 4_000_000 },
        about: ConfigSummary {
            level: "stored",
            config_digest: Digest::of(b"config"),
            digest_key: gatepost::audit::record::DigestKey::from_bytes([0; 32]),
            policy: gatepost::audit::record::PolicyText::default(),
        },
    };
    Pipeline::start::<PostgresSink>(&config, Arc::new(DiskFs), None).unwrap()
}

#[tokio::test]
async fn a_log_that_panics_changes_no_record() {
    let setup = Setup::new();
    let config = Config::load(Some(&setup.config_file()), []).unwrap();
    let pipeline = pipeline(&setup);
    let probe = pipeline.probe();
    // Everything of the gateway runs on this thread.
    let _panics = tracing::subscriber::set_default(Panics);
    let gateway = Gateway::build(&config, pipeline.audit(), &Launcher::direct()).unwrap();
    let (mut client, input) = tokio::io::duplex(65_536);
    let caller = token("admin");
    let run = gateway.run_stdio(
        "example",
        TokenSource::Given(caller),
        BufReader::new(input),
        tokio::io::sink(),
        CancellationToken::new(),
    );
    let feed = async {
        for id in 0..3 {
            let params = json!({"name": "add", "arguments": {"a": id, "b": 1}});
            let call = json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params});
            client.write_all(format!("{call}\n").as_bytes()).await.unwrap();
        }
        let unknown = json!({"jsonrpc": "2.0", "id": 9, "method": "no/such", "params": {}});
        client.write_all(format!("{unknown}\n").as_bytes()).await.unwrap();
        // No reply comes: its task has panicked.
        let stored = async || probe.meter().stored.get() > 4;
        until_async("the gateway's own record and four of requests are stored", SOON, stored).await;
        drop(client);
    };
    let (ended, ()) = tokio::join!(run, feed);
    ended.unwrap();
    pipeline.stop(Duration::from_secs(20), Duration::from_secs(20)).await;
    let records = stored_records(&Reader::offline(Arc::new(DiskFs), &setup.audit_dir()).unwrap());
    let of = |method: &str| -> Vec<_> {
        let found = records.iter().filter(|record| record.entry.call.method.as_str() == method);
        found.map(|record| (record.entry.response_status, record.entry.error_message.as_deref())).collect()
    };
    assert_eq!(of("tools/call"), [(Status::Ok, None); 3], "each record is stored before its call is logged");
    assert_eq!(of("unknown"), [(Status::Malformed, Some("method \"no/such\" is not supported"))]);
}
