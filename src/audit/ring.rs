//! The ring: a bounded window over the stream of records, in memory.
//!
//! ```text
//!   producers            scribe                                 shipper
//!   begin, end      ->   take   ->   publish (stamped)   ->   read_from ... mark_delivered
//!   [ reserved | work items ]  [ scribe's batch ]  [ window: stored ... queued only ]
//! ```
//!
//! The ring counts room in records and in bytes, over everything that is reserved, waiting as a work item, in the
//! scribe's current batch or in the window. `begin` reserves the room for a call's intent and for its record together,
//! so the record of a call that has begun always fits. An eighth of the ring is kept for the gateway's own records, and
//! refusals use at most three quarters of it. Stored records in the window are only a cache: they are evicted when room
//! is needed. Nothing else is ever evicted.
//!
//! Appending takes one short lock. No I/O and no await happens under it. The ring does not use the outbox or Postgres;
//! it only knows what the scribe and the shipper report about them.
//!
//! One file for each actor: `admission` for the producers, `scribe_side` for the scribe, `shipper_side` for the
//! shipper. `state` has the lock and the state that they share.

mod admission;
mod room;
mod scribe_side;
mod shipper_side;
mod slot;
mod state;
mod work;

pub use admission::Reservation;
pub use room::{AdmissionError, BatchRoom, RingClosedError, RingLimits};
pub use slot::Slot;
pub use state::Ring;
pub use work::{
    Finding, Heartbeat, OutboxCapacity, Phase, Restored, RingGauge, StoredReceiver, StoredSender, UnrecordedCalls,
    Watermarks, WindowRead, Work, WorkItem,
};
