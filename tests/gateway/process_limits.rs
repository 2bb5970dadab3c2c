//! The process of a gateway at the limits that its surroundings set: the size of files, open files, and what
//! children inherit.

use std::fs;
use std::net::TcpStream;
use std::process::{Command, Stdio};

use crate::common::gatepost::{BINARY, Gatepost, Setup};
use crate::common::mcp::Era;
use crate::common::wait::{SOON, until};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// `serve` of `setup` after `limits`, lines of `sh`.
fn limited(setup: &Setup, limits: &str) -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("{limits}\nexec \"$0\" serve --config \"$1\"")).arg(BINARY).arg(setup.config_file());
    command.current_dir(setup.dir()).stderr(Stdio::null());
    command
}

/// The value of a metric.
pub fn metric(gatepost: &Gatepost, name: &str) -> f64 {
    let text = gatepost.get_ops("/metrics").1;
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok()).unwrap()
}

#[tokio::test]
async fn an_outbox_file_that_may_not_grow_is_replaced_by_another() {
    let setup = Setup::new();
    let log = setup.dir().join("limited");
    // In blocks of 512 or 1,024 bytes.
    let mut command = limited(&setup, "ulimit -f 2048");
    let gatepost = setup.wait_for(setup.spawn_command(command.stderr(fs::File::create(&log).unwrap())));
    let client = gatepost.client_at("/mcp/example", Era::Modern, "admin").await;
    let text = "x".repeat(30_000);
    let mut answered = 0;
    while metric(&gatepost, "gatepost_outbox_generations") < 3.0 {
        assert_eq!(client.call("echo", json!({"text": text})).await.unwrap().content(), text);
        answered += 1;
        assert!(answered < 1_000, "the limit was not reached");
    }
    assert_eq!(gatepost.terminate(), Some(0));
    let log = fs::read_to_string(log).unwrap();
    assert!(log.contains("failed to write the outbox file") && log.contains("File too large"), "{log}");
    let output = setup.command(&["outbox", "list", "--json", "--limit", "10000"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let records = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let calls: Vec<_> = records.filter(|record| record["method"] == "tools/call").collect();
    let ok = calls.iter().filter(|record| record["response_status"] == "ok").count();
    assert_eq!((ok, calls.len()), (answered, answered));
}

#[tokio::test]
async fn a_child_gets_the_default_actions_of_signals() {
    let mut setup = Setup::new();
    // In a directory of its own, which the walls around the child leave open.
    fs::create_dir(setup.dir().join("open")).unwrap();
    let shown = setup.dir().join("open/status");
    let script = format!("cat /proc/self/status >{}; exec \"$0\" example-backend", shown.display());
    setup.backend("example", &["sh", "-c", &script, BINARY]);
    let gatepost = setup.start();
    let client = gatepost.client_at("/mcp/example", Era::Modern, "admin").await;
    assert_eq!(client.call("echo", json!({"text": "x"})).await.unwrap().content(), "x");
    let status = fs::read_to_string(&shown).unwrap();
    for field in ["SigIgn", "SigBlk"] {
        let mask = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(":\t")).unwrap();
        let mask = u64::from_str_radix(mask, 16).unwrap();
        for signal in [Signal::SIGPIPE, Signal::SIGXFSZ, Signal::SIGTERM, Signal::SIGINT] {
            assert_eq!(mask >> (signal as i32 - 1) & 1, 0, "{field} {signal}");
        }
    }
    assert_eq!(gatepost.terminate(), Some(0));
}

#[tokio::test]
async fn running_out_of_open_files_is_logged_counted_and_an_alarm_and_passes() {
    let setup = Setup::new();
    let log = || fs::read_to_string(setup.dir().join("limited")).unwrap();
    let mut command = limited(&setup, "ulimit -n 64");
    command.stderr(fs::File::create(setup.dir().join("limited")).unwrap());
    let gatepost = setup.wait_for(setup.spawn_command(&mut command));
    until("the limit is logged", SOON, || {
        log().contains("may need more open files") && log().contains("limit=64 needed=4228")
    });
    let client = gatepost.client_at("/mcp/example", Era::Modern, "admin").await;
    assert_eq!(client.call("echo", json!({"text": "x"})).await.unwrap().content(), "x");
    let address = gatepost.url().strip_prefix("http://").unwrap();
    let idle: Vec<_> = (0..80).map(|_| TcpStream::connect(address).unwrap()).collect();
    until("it is logged", SOON, || log().contains("cannot accept a connection"));
    // Nobody can ask while they are open.
    drop(idle);
    until("calls are answered again", SOON, || metric(&gatepost, "gatepost_accepts_failed_total") > 0.0);
    assert_eq!(client.call("echo", json!({"text": "x"})).await.unwrap().content(), "x");
    let raised = "gatepost_alarms_raised_total{alarm=\"open_files\"}";
    until("the alarm was raised", SOON, || metric(&gatepost, raised) > 0.0);
    until("the alarm is cleared", SOON, || metric(&gatepost, "gatepost_alarm{alarm=\"open_files\"}") == 0.0);
    assert_eq!(gatepost.terminate(), Some(0));
    assert_eq!(log().matches("cannot accept a connection").count(), 1, "{}", log());
}

#[test]
fn the_soft_limit_for_open_files_is_raised_to_what_the_settings_may_need() {
    let setup = Setup::new();
    let gatepost = setup.wait_for(setup.spawn_command(&mut limited(&setup, "ulimit -Sn 256")));
    let limits = fs::read_to_string(format!("/proc/{}/limits", gatepost.pid)).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(line.split_whitespace().nth(3), Some("4228"), "{line}");
    assert_eq!(gatepost.terminate(), Some(0));
}
