//! The audit record: the columns of `audit_log`, normalised when they are set.
//!
//! A [`Call`] says who asked for what, and when; an intent contains nothing else. An [`Outcome`] says what happened.
//! The two together are an [`Entry`]. The scribe gives an entry its [`StreamPosition`]; entry and position together are
//! an [`AuditRecord`], which is one row.
//!
//! Values are normalised once, at construction, so that Postgres accepts whatever a field contains: NUL becomes U+FFFD,
//! text and arguments are cut to their limits, nesting is bounded, times and numbers are clamped. The fields that were
//! changed are named in `error_message` (`normalised: tool_name`), so the trail itself shows the change. The normalised
//! value is the one that is hashed, stored and delivered.
//!
//! This module knows nothing about queues, files or SQL.

mod audit_record;
mod caller;
pub mod column;
mod context;
mod digest_key;
mod entry;
mod identity;
mod ids;
mod normalise;
mod policy;
mod salts;
mod status;

pub use audit_record::{AuditRecord, PendingRecord, StreamPosition};
pub use caller::{Caller, ClientAddr, Correlation};
pub use column::COLUMNS;
pub use context::{
    BackendCredential, CONTEXT_BYTES_MAX, Context, META_BYTES_MAX as META_CONTEXT_BYTES_MAX, Omitted, client_info,
};
pub use digest_key::{DigestKey, RecordKey};
pub(crate) use entry::is_own_method;
pub use entry::{Call, Entry, Outcome, Text};
pub use identity::{Authentication, Identity};
pub use ids::{Digest, Epoch, GatewayId, RequestId, Salt, Seq, Timestamp};
pub use normalise::{
    ERROR_BYTES_MAX, JSON_DEPTH_MAX, PARAMS_BYTES_MAX, PARAMS_BYTES_MAX_DEFAULT, RESOURCE_BYTES_MAX,
    RESPONSE_BYTES_MAX, RESPONSE_BYTES_MAX_DEFAULT, TEXT_BYTES_MAX,
};
pub use policy::PolicyText;
pub use salts::Salts;
pub use status::Status;
