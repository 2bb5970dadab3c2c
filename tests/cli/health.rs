//! `gatepost health`: exit code and line for a gateway that is ready, degraded, failed, or not there.

use crate::common::gatepost::{BINARY, Gatepost, Setup};
use crate::common::wait::{SOON, until};
use crate::run::run;
use crate::sandbox::Sandbox;
use std::io::Write as _;
use std::net::TcpListener;
use std::process::Command;

/// A user that is not root.
const USER: u32 = 61_234;

/// What the command says of a running gateway.
fn health(gatepost: &Gatepost) -> (Option<i32>, String) {
    let address = gatepost.ops_url.strip_prefix("http://").unwrap();
    let mut command = Command::new(BINARY);
    // A machine without authorities of certificates.
    command.env_clear().env("SSL_CERT_FILE", "/nonexistent").env("SSL_CERT_DIR", "/nonexistent");
    let output = command.args(["health", "--address", address]).output().unwrap();
    (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

#[test]
fn a_ready_and_a_degraded_gateway_are_healthy() {
    let mut setup = Setup::new();
    let gatepost = setup.start();
    until("the gateway is ready", SOON, || health(&gatepost) == (Some(0), "ready\n".to_owned()));
    assert_eq!(gatepost.terminate(), Some(0));
    setup.set("backends.gone.url", "http://127.0.0.1:1/mcp");
    let gatepost = setup.start();
    until("one backend is up", SOON, || health(&gatepost).1 == "degraded: 1 of 2 backends up\n");
    assert_eq!(health(&gatepost).0, Some(0));
    assert_eq!(gatepost.terminate(), Some(0));
}

/// A disk of 12 MB is filled by a file of another program, and emptied again.
#[test]
fn a_full_disk_is_not_healthy_and_is_named_as_the_disk() {
    let Some(mut sandbox) = Sandbox::new(USER) else { return };
    let etc = sandbox.make_dir("etc", 0o755, (0, 0));
    Sandbox::make_file(&etc, "gatepost.toml", "[audit]\ndir = \"/outbox/data\"\n", 0o644, (0, 0));
    sandbox.mount(etc, "/etc/gatepost", false);
    sandbox.mount_disk("/outbox", 12_000_000);
    let gateway = sandbox.start(&["serve", "--config", "/etc/gatepost/gatepost.toml"].map(str::to_owned));
    assert_eq!(gateway.health(), (Some(0), "ready\n".to_owned()));
    let other = gateway.path("/outbox/fill");
    let mut file = std::fs::File::create(&other).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
    until("calls cannot be audited", SOON, || {
        // Refused, which is recorded.
        gateway.get("http://127.0.0.1:8808/mcp", "127.0.0.1:8808");
        gateway.health().0 == Some(1)
    });
    let said = "gatepost: failed: calls cannot be audited, the disk of the outbox is full\n";
    assert_eq!(gateway.health().1, said);
    let metrics = || gateway.get("http://127.0.0.1:8809/metrics", "127.0.0.1:8809");
    until("the alarm is raised", SOON, || metrics().contains("gatepost_alarm{alarm=\"capacity_90\"} 1.0\n"));
    assert!(metrics().contains("gatepost_outbox_disk_full 1.0\n"), "{}", metrics());
    assert!(metrics().contains("gatepost_alarm{alarm=\"capacity_75\"} 0.0\n"), "{}", metrics());
    until("the log names the disk", SOON, || sandbox.log().contains("the disk of the outbox is full; no call begins"));
    let log = sandbox.log();
    assert!(log.contains("reason=\"the disk of the outbox is full, which uses 0 % of its quota"), "{log}");
    assert!(!log.contains("% full"), "the quota is not used up: {log}");
    std::fs::remove_file(other).unwrap();
    drop(file);
    until("the disk has room again", SOON, || gateway.health() == (Some(0), "ready\n".to_owned()));
    assert_eq!(gateway.terminate(), Some(0), "{}", sandbox.log());
}

#[test]
fn a_gateway_that_does_not_answer_is_not_healthy() {
    let mut setup = Setup::new();
    // A port that is not taken, and one that belongs to another program.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    setup.set("ops.listen", &address);
    let silent = std::thread::spawn(move || drop(listener.accept().unwrap()));
    for _ in 0..2 {
        let (code, _, said) = run(&setup, &["health"]);
        assert_eq!(code, Some(1), "{said}");
        assert!(said.starts_with(&format!("gatepost: the gateway at {address} is not healthy: no answer: ")), "{said}");
    }
    silent.join().unwrap();
    setup.set("ops.listen", "off");
    let (code, _, said) = run(&setup, &["health"]);
    assert!(code == Some(2) && said.contains("ops.listen is \"off\""), "{said}");
}
