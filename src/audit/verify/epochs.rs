//! The epochs of each gateway: their numbers rise by one, and each opening record names the epoch before it.

use std::collections::BTreeSet;

use super::kind::{FaultKind, UnprovenKind};
use super::place::{Place, StreamId};
use super::report::Report;
use super::statements::{Opening, Statements};
use crate::audit::record::Epoch;

/// Checks the epochs of all gateways. `streams` are the streams that have records; `selected` says whether a stream is
/// to be judged.
pub(super) fn check_epochs(
    streams: &BTreeSet<StreamId>,
    statements: &Statements,
    selected: impl Fn(StreamId) -> bool,
    report: &mut Report,
) {
    let mut before: Option<StreamId> = None;
    for &stream in streams {
        let (gateway_id, epoch) = stream;
        let previous = before.filter(|(id, _)| *id == gateway_id).map(|(_, epoch)| epoch);
        before = Some(stream);
        if !selected(stream) || statements.is_registrar(gateway_id) {
            continue;
        }
        match (previous, statements.opening(stream)) {
            (Some(previous), Some(opening)) => follow(stream, previous, opening, statements, report),
            (Some(previous), None) if epoch > previous.next() => missing(stream, previous.next(), statements, report),
            (None, Some(opening)) => begin(stream, opening, statements, report),
            // That the opening record is missing or unreadable is reported when the walk passes its place.
            (Some(_) | None, None) => {}
        }
    }
}

/// Checks the first epoch of a gateway in this trail.
fn begin((gateway_id, epoch): StreamId, opening: Opening, statements: &Statements, report: &mut Report) {
    let stream = (gateway_id, epoch);
    match opening.previous {
        None if epoch > Epoch(1) && statements.explains_epochs(gateway_id, Epoch(1), epoch) => {
            missing(stream, Epoch(1), statements, report);
        }
        None if epoch > Epoch(1) => {
            let what = format!("gateway/opened names no previous epoch, but this is epoch {epoch}: it was made up");
            report.fault(FaultKind::Epoch, Place::stream(stream), what);
        }
        Some(previous) if previous.epoch >= epoch => {
            let what = format!("gateway/opened names epoch {} as the previous one: it was made up", previous.epoch);
            report.fault(FaultKind::Epoch, Place::stream(stream), what);
        }
        Some(previous) => {
            let last = previous.epoch;
            if statements.retired().ends_at((gateway_id, last), previous.head) {
                // The decision is reported with the others.
            } else if statements.was_pruned((gateway_id, last), previous.head) {
                let what = format!("begins at epoch {epoch}: epochs up to {last} were pruned, as gateway/pruned says");
                report.mention(UnprovenKind::Begins, Place::stream(stream), what);
            } else {
                let what = format!(
                    "begins at epoch {epoch}: nothing here proves that epochs up to {last} were removed rightfully"
                );
                report.unproven(UnprovenKind::Begins, Place::stream(stream), what);
            }
        }
        None => {}
    }
}

/// Checks an epoch that follows another one, `before`, in this trail.
fn follow(stream: StreamId, before: Epoch, opening: Opening, statements: &Statements, report: &mut Report) {
    let (gateway_id, epoch) = stream;
    let named = opening.previous.map_or(Epoch(0), |previous| previous.epoch);
    if named > before && named < epoch && statements.retired().has((gateway_id, named)) {
        // The epochs between were retired as a whole. Their cursors, if there are any, are compared with the decisions.
    } else if named > before && named < epoch {
        let which = if named == before.next() {
            format!("epoch {named} is missing")
        } else {
            format!("epochs {} to {named} are missing", before.next())
        };
        let what = format!("{which}, but epoch {epoch} names its end: its rows were removed");
        report.fault(FaultKind::Epoch, Place::stream((gateway_id, named)), what);
    } else if named == before {
        if epoch > before.next() {
            missing(stream, before.next(), statements, report);
        }
    } else if statements.explains_epochs(gateway_id, named.next(), epoch) {
        let what = format!("epoch {epoch} does not name the end of epoch {before}: the newest file was damaged");
        report.unproven(UnprovenKind::Epochs, Place::stream((gateway_id, before)), what);
    } else {
        let other =
            opening.previous.map_or_else(|| "no epoch".to_owned(), |previous| format!("epoch {}", previous.epoch));
        let what =
            format!("gateway/opened names {other} as the previous one, not {before}: one of the two was made up");
        report.fault(FaultKind::Epoch, Place::stream(stream), what);
    }
}

/// Epochs from `first` to the one before `stream` are not in the trail, and the opening record names none of them.
fn missing((gateway_id, epoch): StreamId, first: Epoch, statements: &Statements, report: &mut Report) {
    let last = Epoch(epoch.0 - 1);
    let which = if first == last { format!("epoch {first} is") } else { format!("epochs {first} to {last} are") };
    let place = Place::stream((gateway_id, first));
    if statements.explains_epochs(gateway_id, first, epoch) {
        let what = format!("{which} not in the trail: epoch {epoch} reports a damaged file, and skips their numbers");
        report.unproven(UnprovenKind::Epochs, place, what);
    } else {
        let what = format!("{which} missing, and no damage record of epoch {epoch} explains that");
        report.fault(FaultKind::Epoch, place, what);
    }
}
