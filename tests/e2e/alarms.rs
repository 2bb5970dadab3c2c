//! Alarms of the real binary: raised once, told to command and webhook, cleared.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use crate::common::gatepost::{Gatepost, Setup};
use crate::common::mcp::Era;
use crate::common::postgres::Cluster;
use crate::common::postgres_control::stop_server;
use crate::common::wait::{SOON, until};
use serde_json::{Value, json};

/// A webhook that keeps the bodies it got.
fn webhook() -> (String, Arc<Mutex<Vec<Value>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hooks/hunter2", listener.local_addr().unwrap());
    let bodies = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&bodies);
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
            let body = loop {
                let count = stream.read(&mut buffer).unwrap_or(0);
                request.extend_from_slice(&buffer[..count]);
                let text = String::from_utf8_lossy(&request).into_owned();
                let body = text.split_once("\r\n\r\n").and_then(|(_, body)| serde_json::from_str(body).ok());
                if body.is_some() || count == 0 {
                    break body;
                }
            };
            kept.lock().unwrap().extend(body);
            stream.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").ok();
        }
    });
    (url, bodies)
}

fn stands(gatepost: &Gatepost, alarm: &str) -> bool {
    gatepost.get_ops("/metrics").1.contains(&format!("gatepost_alarm{{alarm=\"{alarm}\"}} 1"))
}

#[tokio::test]
async fn a_stopped_postgres_raises_one_alarm_to_command_and_webhook() {
    let mut cluster = Cluster::start();
    let database = cluster.create_database().await;
    let (url, bodies) = webhook();
    let mut setup = Setup::new();
    let told = setup.dir().join("told");
    let script = format!("echo \"$ALARM_NAME $ALARM_STATE $ALARM_TEXT\" >>{}", told.display());
    setup.set("postgres.url", &database.url).set("alarms.delivery_behind_after", "1s").set("alarms.webhook_url", &url);
    setup.set_toml("alarms.command", &format!("[\"sh\", \"-c\", {script:?}]"));
    let gatepost = setup.start();
    stop_server(&mut cluster);
    let client = gatepost.client_at("/mcp/example", Era::Modern, "admin").await;
    assert_eq!(client.call("echo", json!({"text": "x"})).await.unwrap().content(), "x");
    until("the alarm stands", SOON, || stands(&gatepost, "delivery_behind"));
    assert_eq!(gatepost.get_ops("/readyz").0, 200, "degraded is ready");
    assert_eq!(client.call("echo", json!({"text": "y"})).await.unwrap().content(), "y");
    let lines = || std::fs::read_to_string(&told).unwrap_or_default();
    until("the command was run", SOON, || lines().contains("delivery_behind raised the oldest undelivered record is"));
    until("the webhook was told", SOON, || bodies.lock().unwrap().iter().any(|body| body["state"] == "raised"));
    cluster.restart();
    until("the alarm is over", 2 * SOON, || lines().contains("delivery_behind cleared"));
    assert!(!stands(&gatepost, "delivery_behind"));
    until("the webhook was told", SOON, || bodies.lock().unwrap().iter().any(|body| body["state"] == "cleared"));
    assert_eq!(gatepost.get_ops("/readyz").0, 200);
    assert_eq!(lines().matches("delivery_behind raised").count(), 1, "{}", lines());
    let body = bodies.lock().unwrap()[0].clone();
    assert_eq!((&body["alarm"], body["gateway_id"].is_string()), (&json!("delivery_behind"), true), "{body}");
    assert_eq!(gatepost.terminate(), Some(0));
    let log = setup.log();
    assert_eq!(log.matches("alarm raised").count(), 1, "{log}");
    assert!(!log.contains("hunter2"), "I8: the webhook's address is a secret");
}

#[tokio::test]
async fn an_operators_error_raises_an_alarm_despite_a_failing_command() {
    let cluster = Cluster::start();
    let database = cluster.create_database().await;
    let mut setup = Setup::new();
    setup.set("postgres.url", &format!("{}_missing", database.url)).set_toml("alarms.command", "[\"/nonexistent\"]");
    let gatepost = setup.start();
    until("the alarm stands", SOON, || stands(&gatepost, "operator_error"));
    let client = gatepost.client_at("/mcp/example", Era::Modern, "admin").await;
    assert_eq!(client.call("echo", json!({"text": "x"})).await.unwrap().content(), "x");
    let given_up = || gatepost.get_ops("/metrics").1.contains("gatepost_alarm_notices_failed_total 1");
    until("the notice is given up and counted", SOON, given_up);
    setup.wait_for_log("cannot run alarms.command");
    assert_eq!(gatepost.terminate(), Some(0));
}
