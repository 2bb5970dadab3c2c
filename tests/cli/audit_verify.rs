//! `gatepost audit verify` beside a running gateway.

use crate::common::gatepost::Setup;
use crate::run::run;

#[test]
fn a_store_only_outbox_is_verified_while_its_gateway_runs() {
    let setup = Setup::new();
    let gatepost = setup.start();
    let (code, stdout, stderr) = run(&setup, &["audit", "verify"]);
    assert!(code == Some(0) && stdout.contains("1 record in 1 stream"), "{stdout}{stderr}");
    assert_eq!(gatepost.terminate(), Some(0));
}
