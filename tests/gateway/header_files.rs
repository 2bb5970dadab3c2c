//! The files with the values of backends' headers: a credential is rotated while the gateway runs.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::common::gatepost::write_secret;
use crate::common::mcp::{Client, Era};
use crate::common::wait::{SOON, until_async};
use crate::http_backend_stub::BackendStub;
use serde_json::json;

/// Puts a file with `text` in the place of `path` at once.
fn replace(path: &Path, text: &str) {
    let next = path.with_extension("next");
    write_secret(&next, text);
    fs::rename(&next, path).unwrap();
}

/// Calls until the backend gets `want` as its key.
async fn until_sent(client: &Client, backend: &BackendStub, want: &str) {
    until_async(&format!("the backend gets {want}"), SOON, async || call(client, backend).await == want).await;
}

/// Calls once. Returns the key that the backend got.
async fn call(client: &Client, backend: &BackendStub) -> String {
    assert_eq!(client.call("t", json!({})).await.unwrap().content(), "done");
    backend.seen("tools/call").last().unwrap().header("x-key").unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_header_file_is_used_by_the_next_requests() {
    let backend = BackendStub::start(|_| None).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    write_secret(&path, "first");
    let file = path.to_str().unwrap();
    let (setup, gatepost) = backend.gateway(|setup| {
        setup.set("backends.far.header_file.X-Key", file);
    });
    let client = gatepost.client_at("/mcp/far", Era::Legacy, "admin").await;
    assert_eq!(call(&client, &backend).await, "first");
    replace(&path, "second");
    until_sent(&client, &backend, "second").await;
    // As Kubernetes replaces a secret: key -> ..data/key, ..data -> a directory that is swapped.
    for (data, text) in [("..1", "third"), ("..2", "fourth")] {
        fs::create_dir(dir.path().join(data)).unwrap();
        write_secret(&dir.path().join(data).join("key"), text);
        symlink(data, dir.path().join("..next")).unwrap();
        fs::rename(dir.path().join("..next"), dir.path().join("..data")).unwrap();
        if text == "third" {
            symlink("..data/key", dir.path().join("link")).unwrap();
            fs::rename(dir.path().join("link"), &path).unwrap();
        }
        until_sent(&client, &backend, text).await;
    }
    // I8: no value is logged.
    let log = setup.log();
    assert!(["first", "second", "third", "fourth"].iter().all(|value| !log.contains(value)), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_file_that_cannot_be_used_keeps_the_previous_value_and_warns_once() {
    let backend = BackendStub::start(|_| None).await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    write_secret(&path, "first");
    let file = path.to_str().unwrap();
    let (setup, gatepost) = backend.gateway(|setup| {
        setup.set("backends.far.header_file.X-Key", file);
    });
    let client = gatepost.client_at("/mcp/far", Era::Legacy, "admin").await;
    let faults: [(&str, &dyn Fn()); 4] = [
        ("cannot be read", &|| fs::remove_file(&path).unwrap()),
        ("it is empty", &|| replace(&path, "\n")),
        ("not a valid header value", &|| replace(&path, "hunter2\nX-Other: 1")),
        ("has mode 0644", &|| {
            fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        }),
    ];
    for (warning, make) in faults {
        make();
        until_async(warning, SOON, async || {
            assert_eq!(call(&client, &backend).await, "first", "{warning}");
            setup.log().contains(warning)
        })
        .await;
    }
    replace(&path, "second");
    until_sent(&client, &backend, "second").await;
    let log = setup.log();
    for (warning, _) in faults {
        let lines: Vec<&str> = log.lines().filter(|line| line.contains(warning)).collect();
        assert!(lines.len() == 1 && lines[0].contains("keeping the previous contents"), "{lines:?}");
    }
    assert!(!log.contains("hunter2"), "{log}");
}
