//! A session at `/mcp` of a client on an official SDK with five backends: one good, one whose pages break, one mute,
//! one dead, and one that is slow to start. Prints how long each step took.

use std::time::Instant;

use serde_json::json;

use crate::common::gatepost::Setup;
use crate::common::python::python_program;
use crate::session::Session;

/// An address at which nothing listens.
fn dead_url() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}/mcp", listener.local_addr().unwrap())
}

/// The backends that have the tool `echo` in the list.
fn listed(session: &mut Session) -> Vec<String> {
    let tools = session.tools();
    tools.iter().filter_map(|tool| tool.strip_suffix("__echo")).map(str::to_owned).collect()
}

fn sessions_with_odd_backends(era: &str) {
    let mut setup = Setup::new();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/odd_server.py");
    let python = python_program("python");
    let ready = setup.work_dir().join("ready");
    for (alias, rest) in [("mute", &[][..]), ("pages", &[]), ("slow", &[ready.to_str().unwrap()])] {
        setup.backend(alias, &[&[python.to_str().unwrap(), script, alias], rest].concat());
    }
    setup.set("backends.dead.url", &dead_url());
    for alias in ["example", "mute", "pages", "slow", "dead"] {
        // The default, which the tests' setup turns off.
        setup.set(&format!("backends.{alias}.probe_interval"), "1m");
    }
    let gatepost = setup.start();
    let begun = Instant::now();
    let mut session = Session::start(&format!("{}/mcp", gatepost.url()), era);
    let connected = begun.elapsed();
    let good = json!({"text": "good"});
    // Calls that nothing answers yet.
    let open: Vec<_> = ["mute", "slow"].map(|alias| session.begin_call(&format!("{alias}__echo"), &good)).to_vec();
    assert_eq!(session.call("example__echo", &good).unwrap(), "good");
    let begun = Instant::now();
    let first = listed(&mut session);
    let first_list = begun.elapsed();
    assert_eq!(first, ["example", "pages"], "{}", setup.log());
    assert_eq!(session.call("pages__echo", &good).unwrap(), "good");
    assert!(session.call("dead__echo", &good).is_err());
    assert!(open.iter().all(|id| session.is_open(*id)), "{}", setup.log());
    // A backend that was late once delays no other list: this one is there before a call ends that takes 3 s.
    let slept = session.begin_call("example__sleep", &json!({"ms": 3000}));
    assert_eq!(listed(&mut session), ["example", "pages"]);
    assert!(session.is_open(slept), "{}", setup.log());
    std::fs::write(&ready, "").unwrap();
    let begun = Instant::now();
    let complete = loop {
        session.hears("notifications/tools/list_changed");
        let found = listed(&mut session);
        if found.contains(&"slow".to_owned()) {
            break found;
        }
    };
    let complete_list = begun.elapsed();
    assert_eq!(complete, ["example", "pages", "slow"]);
    assert_eq!(session.answer(open[1]).unwrap(), "good", "the call that waited for the slow one");
    assert!(session.is_open(open[0]));
    assert_eq!(session.call("example__echo", &good).unwrap(), "good");
    let calls: Vec<_> = (0..100)
        .map(|_| {
            let begun = Instant::now();
            session.call("example__echo", &good).unwrap();
            begun.elapsed()
        })
        .collect();
    println!(
        "{era}: connected {connected:?}, first list {first_list:?}, complete {complete_list:?} after the slow one was up, \
         slowest of 100 calls of the good one {:?}",
        calls.iter().max().unwrap()
    );
}

#[test]
fn one_backend_delays_no_other_for_a_client_of_the_older_era() {
    sessions_with_odd_backends("legacy");
}

#[test]
fn one_backend_delays_no_other_for_a_client_of_the_stateless_era() {
    sessions_with_odd_backends("modern");
}
