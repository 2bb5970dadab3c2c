//! Gatepost: an MCP gateway whose audit trail is complete.
//!
//! > No call leaves without a stored intent. No reply leaves without a stored outcome. Every record
//! > reaches Postgres exactly once. Anyone can check that none is missing.
//!
//! # The pipeline
//!
//! ```text
//! client --HTTP--> gateway: parse -> authenticate -> authorize -> begin(intent) -> forward -> finish(record) -> reply
//!                                                                   |                           |
//!                                                                   v                           v
//!                                          ring (bounded by records and bytes, in memory) ------+
//!                                                                   |
//!                                              scribe (one OS thread): seq, hash chain, encode,
//!                                              group commit to the outbox, complete the receipts
//!                                                                   |
//!                                       outbox (redb generation files) --> shipper (async task) --> Postgres
//!                                                             (ring first while it still holds the next seq)
//! ```
//!
//! # Words
//!
//! * **call**: one audited MCP request from a client.
//! * **intent**: "this call is about to be forwarded"; kept in the outbox only while the call is open.
//! * **record**: one row of `audit_log`: a finished call, a refusal, or an event of the gateway itself.
//! * **queued**: in the ring; lost if the process dies. **stored**: the redb commit returned.
//!   **delivered**: the Postgres commit returned. There is no fourth word for durability.
//! * **stream**: the records of one gateway in one **epoch**; an epoch is one opening of the outbox.
//! * **seq**: a record's place in its stream, from 1, without gaps.
//!
//! # Invariants
//!
//! Each is cited as `// I4:` on the line that enforces it and named by at least one test; `tests/tidy.rs` checks both.
//!
//! * **I1** No call is forwarded before its intent reached the configured level; no reply is released before its record did.
//!   The one exception is the operator's: calls that `audit.continue_for` names go on where they cannot be audited, and
//!   are counted in a `gateway/gap` record.
//! * **I2** Every call that was begun ends in exactly one record: `ok`, `tool_error`, `error`, `timeout`, `cancelled`,
//!   `input_required` or, after a crash, `interrupted`. A refused call (`denied`, `unauthenticated`, `malformed`,
//!   `rate_limited`, `audit_unavailable`) ends in exactly one record too; refusals for want of audit room are
//!   counted and recorded together in one `gateway/gap` record. After the record that closes an epoch nothing is
//!   recorded: what is refused while the gateway stops has none.
//! * **I3** (gateway, epoch, seq) rises by one, is never reused, and an epoch is stored before the first record in it.
//! * **I4** The outbox forgets a record only after it was delivered. A record whose bytes rotted is replaced in its place by
//!   one that says so.
//! * **I5** Delivery takes effect exactly once, whatever fails and whenever: the stream's cursor moves in the same
//!   Postgres statement as the rows.
//! * **I6** Every queue, body, header and result is bounded, by count and by bytes.
//! * **I7** After a failed write or fsync that outbox file is never written again.
//! * **I8** No secret enters a record, a log line, a metric or an error: tokens, `Authorization`, redacted arguments.
//! * **I9** No record can wedge the pipeline: what Postgres refuses is quarantined there, with its bytes, in its place
//!   in the stream.
//! * **I10** An empty or missing rule denies.
//!
//! # Reading order
//!
//! [`audit::record`], [`audit::ring`], [`audit::scribe`], [`audit::outbox`], [`audit::shipper`], then
//! [`gateway::dispatch`], where a call meets the pipeline. `main.rs` only wires.
//!
//! Imports go one way: `audit` never names `gateway`; `ring` and `outbox` never name each other; SQL is in
//! `audit::sink` and `audit::query` only; redb is in `audit::outbox` only; bincode in `audit::codec`, backoff in
//! `audit::shipper::retry`.

pub mod audit;
pub mod auth;
pub mod cli;
pub mod config;
pub mod gateway;
pub mod mcp;
pub mod ops;
pub mod rbac;
pub mod upstream;
