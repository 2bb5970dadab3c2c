//! Sign-in to the console at a real `OpenID` provider in Chromium, driven by `tests/e2e/console_sign_in.mjs`; and the
//! charts, the header and the runbook on the page that it leads to.
//!
//! The console is at `localhost` and the provider at `127.0.0.1`, so that they are different sites to the browser.

use serde_json::json;

use crate::browser::Browser;
use crate::common::gatepost::Setup;
use crate::common::mcp::Era;
use crate::sign_in::{free_port, provider};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_signs_in_to_the_console_in_a_browser() {
    let port = free_port();
    let redirect = format!("http://localhost:{port}/console/callback");
    let client = json!([{"client_id": "console", "redirect_uris": [redirect], "grant_types": ["authorization_code"]}]);
    let provider = provider(&json!({"clients": client, "role": "auditor", "ask": true}));
    let mut setup = Setup::new();
    setup.set("ops.listen", &format!("127.0.0.1:{port}")).set("ops.public_url", &format!("http://localhost:{port}"));
    setup.set_toml("auth.issuers", &format!("[{{ issuer = {:?} }}]", provider.url));
    setup.set("ops.sign_in.client_id", "console");
    // Its alarm leads to the runbook.
    setup.set("postgres.url", "postgres://gatepost@127.0.0.1:1/none").set("alarms.delivery_behind_after", "1s");
    let gatepost = setup.start();
    let caller = gatepost.client_at("/mcp/example", Era::Legacy, "echo").await;
    let mut browser = Browser::start("console_sign_in.mjs", &gatepost, "console-sign-in");
    while let Some(word) = browser.hears() {
        assert_eq!(word, "call");
        for number in 0..5 {
            caller.call("echo", json!({ "text": number.to_string() })).await.unwrap();
        }
        // Refused.
        caller.call("add", json!({ "a": 1, "b": 2 })).await.unwrap();
        browser.say("done");
    }
    let ended = browser.end();
    assert!(
        ended.success(),
        "tests/e2e/console_sign_in.mjs ended with {ended}: its output is above\n{}",
        gatepost.log()
    );
}
