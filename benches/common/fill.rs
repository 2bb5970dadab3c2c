//! Fills an outbox by the real scribe.

use std::path::Path;
use std::sync::Arc;

use gatepost::audit::outbox::fs::DiskFs;
use tokio::sync::oneshot;

use super::records::Maker;
use super::scribing::{PATIENCE, Scribing, push};
use super::{disk, runtime};

/// Stores `count` records in the outbox at `dir` and closes its epoch.
pub fn closed(dir: &Path, maker: &Maker, count: usize) {
    let scribing = Scribing::begin(Arc::new(DiskFs), dir);
    runtime().block_on(async {
        for number in 0..count {
            push(&scribing.ring, maker.entry(number)).await;
        }
    });
    scribing.end();
}

/// Stores records in the outbox at `dir` until it is `bytes` long, and leaves the scribe running.
pub fn running(dir: &Path, maker: &Maker, bytes: u64) -> Scribing {
    let scribing = Scribing::begin(Arc::new(DiskFs), dir);
    runtime().block_on(async {
        let mut number = 0;
        while number % 1_000 != 0 || disk::usage(dir).1 < bytes {
            push(&scribing.ring, maker.entry(number)).await;
            number += 1;
        }
    });
    scribing
}

/// The same, with `count` open calls behind the records: what a gateway in the middle of its work has.
pub fn with_open_calls(dir: &Path, bytes: u64, count: usize) -> Scribing {
    let maker = Maker::new();
    let scribing = running(dir, &maker, bytes);
    runtime().block_on(async {
        for number in 0..count {
            let call = maker.call(number);
            let mut reservation = scribing.ring.reserve_call(&call, PATIENCE).await.unwrap();
            let (sender, stored) = oneshot::channel();
            scribing.ring.begin(&mut reservation, &call, Some(sender)).unwrap();
            stored.await.unwrap();
            std::mem::forget(reservation);
        }
    });
    scribing
}
