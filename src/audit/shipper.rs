//! The shipper: one async task that delivers every stream, oldest epoch first, each record once and in order.
//!
//! For each stream the shipper reads the sink's cursor and continues from there, so it persists nothing itself: after
//! a lost reply, a restart or a repeated delivery, the cursor shows that the records are already delivered. Records
//! come from the ring while it has the next one, otherwise from the outbox.
//!
//! The sink classifies errors ([`ErrorClass`](super::sink::ErrorClass)):
//!
//! * *Transient*: the same batch is retried forever, with growing pauses. After *Too much*, half of the batch is
//!   retried, and batches grow back slowly.
//! * *Operator*: delivery is held and retried slowly.
//! * *Row*: the batch is halved until one record is left, which is quarantined at its position. If many records fail
//!   with the same error, and later records would fail too, the schema is at fault and delivery is held.
//!
//! If the cursor is at an earlier record of this gateway than was delivered, the database *went back*: it was restored,
//! or failed over. What the outbox keeps is delivered again from there, in every epoch, and the scribe records it.
//!
//! If the cursor is ahead of the stream, or has another hash, the stream is *forked*: another process writes under this
//! gateway's id. A forked stream is not shipped, none of its records is lost or overwritten, and the alarm stays raised
//! until an operator acts; the shipper looks at it again and continues once it fits. If an older epoch's records are
//! missing, or Postgres has more of it than this gateway stored, that epoch is left in the outbox meanwhile, and later
//! epochs are shipped.
//!
//! A stand-in for a lost record is delivered after its damage record is stored. At level `queued` Postgres may have
//! more of a crashed epoch than the outbox knows: the shipper settles where such an epoch ends, and the scribe records
//! it.

mod attempts;
mod batch;
mod fork;
mod health;
mod note;
mod record_source;
mod repeated_failure;
mod state;
mod task;

pub use batch::BatchLimits;
pub use state::ShipperState;
pub use task::Shipper;
