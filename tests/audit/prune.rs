//! Pruning an outbox file by file.

use gatepost::audit::outbox::prune::PruneLimit;
use gatepost::audit::pipeline::Probe;
use gatepost::audit::record::{Epoch, Outcome, Seq, Status};
use gatepost::ops::prune;

use crate::rig::{Rig, call_with, stop};

async fn pruned(probe: &Probe, seq: u64) -> prune::PruneError {
    let until = PruneLimit::Position { epoch: Epoch(1), seq: Seq(seq) };
    prune::prune(probe, until, false, 0).await.unwrap_err()
}

#[tokio::test]
async fn pruning_within_an_epoch_leaves_a_verifiable_rest() {
    let mut rig = Rig::stored();
    // An eighth of it is a file.
    rig.config.outbox_bytes_max = 32 * 1024 * 1024;
    let pipeline = rig.start_store_only();
    let (audit, probe) = (pipeline.audit(), pipeline.probe());
    while probe.reader().file_counts().0 < 4 {
        let call = call_with("bulky", &format!("{{\"text\":\"{}\"}}", "x".repeat(60_000)));
        audit.record_once(call, Outcome::failed(Status::Denied, "no"), ()).await.unwrap().into_inner();
    }
    let stored = probe.gauge().stored;
    assert!(matches!(pruned(&probe, 2).await, prune::PruneError::NothingToPrune));
    let until = PruneLimit::Position { epoch: Epoch(1), seq: stored };
    let cut = prune::prune(&probe, until, false, 0).await.unwrap();
    assert!(cut.files >= 2 && cut.first == (Epoch(1), Seq(1)), "{cut:?}");
    assert_eq!(cut.records, cut.last.seq.0);
    let verified = probe.reader().verify(&mut |_| std::ops::ControlFlow::Continue(())).unwrap();
    assert_eq!(verified.fault, None);
    let begin = verified.begins_behind.unwrap();
    assert_eq!((begin.epoch, begin.seq, begin.hash), (cut.last.epoch, cut.last.seq, cut.last.hash));
    assert_eq!(begin.pruned_by, Some((Epoch(1), stored.next())));
    let ended = stop(pipeline).await;
    assert_eq!(ended.lost, 0);
}
