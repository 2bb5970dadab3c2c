//! Anchors that are silent, slow or seldom asked.

use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::audit::Audit;
use crate::audit::sink::checkpoints::{AnchorKind, CheckpointStore};
use crate::evidence::tree::TreeHead;
use crate::notary::tests::{LOG, Running, Store, Told, no_answer, secret, tree};
use crate::notary::{AnchorClient, AnchorError, History, Largest, Signed, Signer};

#[tokio::test(start_paused = true)]
async fn an_anchor_without_a_checkpoint_says_nothing_while_another_one_is_silent() {
    let (dir, store) = (tempfile::tempdir().unwrap(), Store::default());
    let head = TreeHead { size: 9, root: tree(LOG, 9, 0).root() };
    let [new, silent] = [Some(Largest::Nothing), None].map(|told| Told(Arc::new(Mutex::new(told))));
    // An anchor that keeps nothing is no answer either.
    let keeps_nothing = Told(Arc::new(Mutex::new(Some(Largest::Unknown))));
    let anchors = || vec![new.clone(), silent.clone(), keeps_nothing.clone()];
    let start = |dir: &Path, store: &Store, size| {
        let signer = Signer::new("example.com/gatepost", vec![secret()]);
        Running::start_with(dir, store, tree(LOG, size, 0), signer, Audit::disabled(), anchors())
    };
    // The memory is lost, and only the anchor that does not answer knows what was signed.
    let running = start(dir.path(), &store, 20);
    let state = running.after(30).await;
    assert!(state.signed.is_none() && state.fault.unwrap().contains("before an anchor told"), "{:?}", store.heads());
    *silent.0.lock() = Some(Largest::Checkpoint(head));
    let found = running.after(30).await.contradiction.unwrap();
    assert!(found.contains("w1 has a checkpoint of 9"), "{found}");
    running.end().await;
    assert_eq!(store.heads(), []);
    // In a new log all of them have nothing; after that, one that has the last one suffices.
    let (dir, store) = (tempfile::tempdir().unwrap(), Store::default());
    *silent.0.lock() = Some(Largest::Nothing);
    let running = start(dir.path(), &store, 9);
    assert_eq!(running.after(1).await.signed.unwrap().size, 9);
    running.end().await;
    (*new.0.lock(), *silent.0.lock()) = (Some(Largest::Checkpoint(head)), None);
    let running = start(dir.path(), &store, 20);
    assert_eq!(running.after(1).await.signed.unwrap().size, 20);
    running.end().await;
}

/// An anchor that never answers, or has this checkpoint.
#[derive(Clone, Debug)]
struct Hanging(Option<TreeHead>);

impl AnchorClient for Hanging {
    fn kind(&self) -> AnchorKind {
        AnchorKind::S3
    }

    async fn largest(&self, _: &str) -> Result<Largest, AnchorError> {
        match self.0 {
            Some(head) => Ok(Largest::Checkpoint(head)),
            None => std::future::pending().await,
        }
    }

    async fn confirm<S: CheckpointStore>(&mut self, _: &Signed, _: History<'_, S>) -> Result<Vec<u8>, AnchorError> {
        Err(no_answer())
    }
}

#[tokio::test(start_paused = true)]
async fn an_anchor_that_never_answers_does_not_keep_back_the_answer_of_another_one() {
    let (dir, store) = (tempfile::tempdir().unwrap(), Store::default());
    Running::start(dir.path(), &store, tree(LOG, 9, 0)).end().await;
    let start = |size, anchors| {
        let signer = Signer::new("example.com/gatepost", vec![secret()]);
        Running::start_with(dir.path(), &store, tree(LOG, size, 0), signer, Audit::disabled(), anchors)
    };
    let running = start(20, vec![Hanging(None)]);
    let state = running.after(90).await;
    assert!(state.signed.is_none() && state.fault.unwrap().contains("w0: no answer in 60s"));
    running.task.abort();
    // After a crash it may have an older one than the last that was signed.
    let older = TreeHead { size: 5, root: tree(LOG, 5, 0).root() };
    let running = start(20, vec![Hanging(None), Hanging(Some(older))]);
    assert_eq!(running.after(90).await.signed.unwrap().size, 20);
    running.end().await;
}

/// An anchor that is asked once an hour.
#[derive(Clone, Debug, Default)]
struct Hourly(Arc<Mutex<(bool, u32)>>);

impl AnchorClient for Hourly {
    fn kind(&self) -> AnchorKind {
        AnchorKind::Tsa
    }

    fn interval(&self) -> std::time::Duration {
        std::time::Duration::from_hours(1)
    }

    async fn largest(&self, _: &str) -> Result<Largest, AnchorError> {
        Ok(Largest::Unknown)
    }

    async fn confirm<S: CheckpointStore>(&mut self, _: &Signed, _: History<'_, S>) -> Result<Vec<u8>, AnchorError> {
        let mut state = self.0.lock();
        state.1 += 1;
        if state.0 { Ok(Vec::new()) } else { Err(no_answer()) }
    }
}

#[tokio::test(start_paused = true)]
async fn an_anchor_that_is_asked_once_an_hour_is_asked_once_a_minute_until_its_confirmation_is_stored() {
    let (dir, store, anchor) = (tempfile::tempdir().unwrap(), Store::default(), Hourly::default());
    let signer = Signer::new("example.com/gatepost", vec![secret()]);
    let anchors = vec![anchor.clone()];
    let running = Running::start_with(dir.path(), &store, tree(LOG, 1, 0), signer, Audit::disabled(), anchors);
    // A checkpoint comes each ten seconds.
    let mut size = 1;
    let mut minutes = async |count: u64| {
        for _ in 0..6 * count {
            size += 1;
            running.stored.set(tree(LOG, size, 0));
            running.after(10).await;
        }
        (std::mem::take(&mut anchor.0.lock().1), running.status.get())
    };
    let (asked, state) = minutes(10).await;
    assert!((9..=11).contains(&asked), "asked {asked} times in ten minutes");
    assert_eq!(state.unanchored(), None);
    // Its age counts by the time that passes: the clock of this process stands still.
    let (asked, state) = minutes(120).await;
    assert!((110..=121).contains(&asked), "asked {asked} times in two hours");
    let late = state.unanchored().unwrap();
    assert!(late.starts_with("w0 has not confirmed a checkpoint for 7"), "{late}");
    anchor.0.lock().0 = true;
    let (asked, state) = minutes(59).await;
    assert_eq!((asked, state.unanchored(), store.0.lock().confirmed.len()), (1, None, 1));
    // It confirms a checkpoint that Postgres does not get: a later one is confirmed, and stored.
    store.0.lock().is_down = true;
    assert_eq!(minutes(2).await.0, 1);
    store.0.lock().is_down = false;
    assert_eq!(minutes(3).await.0, 1);
    assert_eq!(store.0.lock().confirmed.len(), 2);
    assert_eq!(minutes(50).await.0, 0);
    running.end().await;
}
