//! A proxy between gateway and Postgres that cuts, holds up, slows down or swallows at any byte, in either direction.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::common::postgres::Cluster;
use crate::common::trail;
use crate::common::wait::{SOON, until_async};
use crate::fault_proxy::{Trouble, proxy};
use crate::rig::{Rig, one, stop};
use gatepost::audit::pipeline::Pipeline;
use gatepost::audit::sink::postgres::{Options, PostgresSink};

/// Makes records until there was each trouble at each offset; all are delivered after each.
async fn delivers_each_record_once(
    statement_timeout: Duration,
    troubles: &[Trouble],
    replies: Vec<i64>,
    statements: Vec<i64>,
) {
    let database = Cluster::shared().create_database().await;
    let url = url::Url::parse(&database.url).unwrap();
    let server = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap()).parse().unwrap();
    let (address, link) = proxy(server).await;
    let mut through = url.clone();
    through.set_ip_host(address.ip()).unwrap();
    through.set_port(Some(address.port())).unwrap();
    let options = Options { url: through.to_string(), password_file: None, statement_timeout, migrate: true };
    let rig = Rig::stored();
    let sink = PostgresSink::new(&options).unwrap();
    let pipeline = Pipeline::start(&rig.config, Arc::new(rig.disk.clone()), Some(sink)).unwrap();
    let (audit, probe) = (pipeline.audit(), pipeline.probe());
    let delivered = || async { probe.gauge().delivered == probe.gauge().stamped };
    until_async("the opening record is delivered", SOON, delivered).await;
    let mut expected = 0;
    for trouble in troubles {
        *link.trouble.lock().unwrap() = *trouble;
        for (left, offsets) in [(&link.to_client, &replies), (&link.to_server, &statements)] {
            for offset in offsets {
                left.store(*offset, Ordering::SeqCst);
                expected += 1;
                // Records, until the trouble has come.
                while link.troubles.load(Ordering::SeqCst) < expected {
                    one(&audit, "echo").await;
                    until_async("it is delivered or in trouble", SOON, || async {
                        delivered().await || link.troubles.load(Ordering::SeqCst) >= expected
                    })
                    .await;
                }
                until_async("all is delivered", SOON, delivered).await;
            }
        }
    }
    let ended = stop(pipeline).await;
    assert_eq!((ended.lost, ended.delivered), (0, ended.last));
    let entries = trail::verify_postgres(&database.pool().await).await;
    assert_eq!(entries.len() as u64, ended.last.0);
    assert_eq!(expected, troubles.len() * (replies.len() + statements.len()));
}

#[tokio::test]
async fn i5_a_connection_cut_at_any_byte_delivers_each_record_once() {
    // A reply to the delivery of one record has under 60 bytes, one that prepares it under 400, a login under 700; the
    // statement itself has about 3,000.
    let replies = (1..60).step_by(4).chain((60..700).step_by(40)).collect();
    let statements = (1..4000).step_by(250).collect();
    delivers_each_record_once(Duration::from_secs(30), &[Trouble::Cut], replies, statements).await;
}

#[tokio::test]
async fn i5_a_slow_connection_at_any_byte_delivers_each_record_once() {
    let replies = (1..60).step_by(7).chain([200, 600]).collect();
    let statements = (1..4000).step_by(500).collect();
    let troubles = [Trouble::Delay, Trouble::Throttle];
    delivers_each_record_once(Duration::from_secs(30), &troubles, replies, statements).await;
}

#[tokio::test]
async fn i5_a_silent_connection_at_any_byte_delivers_each_record_once() {
    let replies = vec![1, 45];
    let statements = vec![1, 1_500];
    delivers_each_record_once(Duration::from_millis(400), &[Trouble::Swallow], replies, statements).await;
}
