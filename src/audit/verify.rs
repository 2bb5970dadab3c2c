//! Verification of a trail: what its gateways recorded, all of it, and nothing else.
//!
//! Before the walk, [`Statements`] gets the records that say something about other records: which epochs there were,
//! the end of each, what damaged files lost, what the owner decided. Then a [`Checker`] gets the cursors, and the
//! records in the order of their positions. It keeps one head and a few counts of the current stream, so its memory
//! does not grow with the number of records; statements are a few for each epoch. It knows neither Postgres nor the
//! outbox.
//!
//! The checks are the variants of [`FaultKind`], and what they leave open those of [`UnprovenKind`]. The rows alone
//! prove nothing about the last record of a gateway: that takes a head from outside ([`Heads`]).

mod checker;
mod confirmation;
mod epochs;
mod heads;
mod kind;
mod meaning;
mod missing;
mod options;
mod place;
mod progress;
mod report;
mod request_ids;
mod retired;
mod selection;
mod source;
mod statements;

pub use checker::{Checker, Cursor, ID_SLACK, TrailRecord};
pub use heads::{HeadSource, Heads, HeadsError, StreamHead};
pub use kind::{FaultKind, UnprovenKind};
pub use options::{Expect, Options, Origin};
pub use place::{Place, StreamId};
pub use progress::Window;
pub use report::{Ending, Fault, ListedDecision, Report, StreamReport, Unproven, Verdict};
pub use selection::Selection;
pub use source::Source;
pub use statements::{Decision, STATEMENT_METHODS, Statements};
