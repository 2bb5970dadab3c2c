//! The confirmation of each gateway's streams from outside the store.
//!
//! A head that is in the trail confirms every record before it: the chain binds the records of an epoch, and each
//! opening record binds the end of the epoch before.

use super::heads::HeadSource;
use super::kind::UnprovenKind;
use super::options::{Expect, Options, Origin};
use super::place::{Place, StreamId};
use super::report::Report;
use crate::audit::record::{Epoch, GatewayId, Seq, StreamPosition};
use crate::counts::plural;

/// The progress of one gateway.
#[derive(Debug)]
struct GatewayProgress {
    gateway_id: GatewayId,
    /// The last confirmed position, and where it was confirmed from.
    confirmed: Option<(Epoch, Seq, HeadSource)>,
    /// Records after it.
    later: u64,
    /// Streams of which at least a part is after it.
    later_streams: u64,
    /// The last stream that was counted in `later_streams`.
    counted: Option<StreamId>,
    /// Records before a break in the chain that no head before it confirms.
    unbound: u64,
    /// The last one of them.
    unbound_to: Option<(Epoch, Seq)>,
}

/// The progress of all gateways, one after the other.
#[derive(Debug)]
pub(super) struct Confirmation {
    origin: Origin,
    options: Options,
    current: Option<GatewayProgress>,
    /// Streams whose gateways have no confirmed head.
    rest_streams: u64,
    /// The registrar, and its confirmed position.
    registrar: Option<GatewayId>,
    registrar_confirmed: Option<(Epoch, Seq)>,
}

impl Confirmation {
    pub(super) fn new(origin: Origin, options: Options, registrar: Option<GatewayId>) -> Self {
        Self { origin, options, current: None, rest_streams: 0, registrar, registrar_confirmed: None }
    }

    /// Begins with the streams of a gateway, unless it is the last one.
    pub(super) fn enter(&mut self, gateway_id: GatewayId, report: &mut Report) {
        if self.current.as_ref().is_some_and(|current| current.gateway_id == gateway_id) {
            return;
        }
        self.end_gateway(report);
        let (confirmed, counted, unbound_to) = (None, None, None);
        let (later, later_streams, unbound) = (0, 0, 0);
        self.current =
            Some(GatewayProgress { gateway_id, confirmed, later, later_streams, counted, unbound, unbound_to });
    }

    /// Counts a record, in the order of positions.
    pub(super) fn pass(&mut self, position: &StreamPosition, report: &mut Report) {
        let StreamPosition { gateway_id, epoch, .. } = *position;
        self.enter(gateway_id, report);
        let Some(current) = &mut self.current else { return };
        current.later += 1;
        if current.counted != Some((gateway_id, epoch)) {
            current.later_streams += 1;
            current.counted = Some((gateway_id, epoch));
        }
    }

    /// The next record is not linked to the ones before it, so that a head after it does not confirm these: a fault
    /// that a decision may excuse.
    pub(super) fn break_chain(&mut self, (gateway_id, epoch): StreamId, head: Seq) {
        let Some(current) = self.current.as_mut().filter(|current| current.gateway_id == gateway_id) else { return };
        if current.later > 0 {
            current.unbound += current.later;
            current.unbound_to = Some((epoch, head));
        }
        (current.later, current.later_streams, current.counted) = (0, 0, None);
    }

    /// The last record is a head from outside.
    pub(super) fn confirm(&mut self, position: &StreamPosition, source: HeadSource, report: &mut Report) {
        let Some(current) = &mut self.current else { return };
        report.confirmed += current.later;
        (current.later, current.later_streams, current.counted) = (0, 0, None);
        current.confirmed = Some((position.epoch, position.seq, source));
    }

    /// Reports what of the last gateway is not confirmed.
    fn end_gateway(&mut self, report: &mut Report) {
        let Some(current) = self.current.take() else { return };
        let GatewayProgress { gateway_id, confirmed, later, later_streams, unbound, unbound_to, .. } = current;
        if self.registrar == Some(gateway_id) {
            self.registrar_confirmed = confirmed.map(|(epoch, seq, _)| (epoch, seq));
        }
        if self.options.vouched {
            report.confirmed += later;
            return;
        }
        if let Some((epoch, seq)) = unbound_to.filter(|_| confirmed.is_some()) {
            let what = format!(
                "{} up to {epoch}/{seq}, before a break in the chain, are confirmed by no head: take heads again after the \
                 break was accepted",
                plural(unbound, "record")
            );
            report.unproven(UnprovenKind::Unbound, Place::gateway(gateway_id), what);
        }
        let (records, streams) = (plural(later, "record"), plural(later_streams, "stream"));
        let rest = if later == 1 { "rests" } else { "rest" };
        let store = self.origin.store();
        let place = Place::gateway(gateway_id);
        match confirmed {
            Some(_) if later == 0 => {}
            // All of its records were retired.
            None if later == 0 && unbound == 0 => {}
            Some((epoch, seq, HeadSource::File)) => {
                let what = format!(
                    "{records} in {streams} after {epoch}/{seq}, the gateway's last head in the file of --expect, \
                     {rest} on the word of {store} alone"
                );
                if self.options.expect == Expect::OnlyHeads {
                    report.unproven(UnprovenKind::Later, place, what);
                } else {
                    report.mention(UnprovenKind::Later, place, what);
                }
            }
            Some((epoch, seq, HeadSource::Gateway)) => {
                let what = format!(
                    "{records} in {streams} after {epoch}/{seq}, the head of the live gateway, {rest} on the word of \
                     {store} alone"
                );
                report.unproven(UnprovenKind::Later, place, what);
            }
            Some((epoch, seq, HeadSource::Checkpoint)) => {
                let what = format!(
                    "{records} in {streams} after {epoch}/{seq}, the end of the last checkpoint that the policy accepts, \
                     {rest} on the word of {store} alone"
                );
                report.unproven(UnprovenKind::Later, place, what);
            }
            None if self.options.expect != Expect::Nothing => {
                let what = format!(
                    "the gateway has no head in the file of --expect: {records} in {streams} {rest} on the word of \
                     {store} alone"
                );
                report.unproven(UnprovenKind::Unnamed, place, what);
            }
            None => self.rest_streams += later_streams.max(u64::from(unbound > 0)),
        }
    }

    /// Ends the last gateway.
    pub(super) fn finish(&mut self, report: &mut Report) {
        self.end_gateway(report);
        if self.rest_streams > 0 {
            let (ends, rest) = if self.rest_streams == 1 { ("end", "rests") } else { ("ends", "rest") };
            let (streams, store) = (plural(self.rest_streams, "stream"), self.origin.store());
            let what = format!("the {ends} of {streams} {rest} on the word of {store} alone");
            report.unproven(UnprovenKind::Ends, Place::ALL, what);
        }
    }

    /// Returns true if the registrar's stream is confirmed up to `position`.
    pub(super) fn covers_decision(&self, position: &StreamPosition) -> bool {
        self.options.vouched || self.registrar_confirmed.is_some_and(|to| to >= (position.epoch, position.seq))
    }
}
