//! Fills an outbox by the real scribe.

use std::path::Path;
use std::sync::Arc;

use gatepost::audit::outbox::fs::DiskFs;

use super::records::Maker;
use super::scribing::{Scribing, push};
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
