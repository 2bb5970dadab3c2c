//! Gatepost: an MCP gateway whose audit trail is complete.
//!
//! > No call leaves without a stored intent. No reply leaves without a stored outcome. Every record
//! > reaches Postgres exactly once. Anyone can check that none is missing.
//!
//! `docs/design.md` is the design with its reasons, `docs/measurements.md` the facts behind them, and
//! `docs/architecture.md` says where to find and where to put things.
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
//!                                                            (from the ring while it still has the next seq)
//! ```
//!
//! # Words
//!
//! * **call**: one audited MCP request from a client.
//! * **intent**: "this call is about to be forwarded"; in the outbox only while the call is open.
//! * **record**: one row of `audit_log`: a finished call, a refusal, or an event of the gateway itself.
//! * **queued**: in the ring; lost if the process dies. **stored**: the redb commit has returned.
//!   **delivered**: the Postgres commit has returned. These are the only words for durability.
//! * **stream**: the records of one gateway in one **epoch**; an epoch is one opening of the outbox.
//! * **seq**: the position of a record in its stream, from 1, without gaps.
//!
//! # Invariants
//!
//! A comment `// I4:` marks each line that enforces an invariant, and at least one test names each invariant.
//! `tests/tidy/main.rs` checks both.
//!
//! * **I1** No call is forwarded before its intent has reached the configured level; no reply is released before its
//!   record has. The one exception is the operator's: calls that `audit.continue_for` names are forwarded even if they
//!   cannot be audited, and a `gateway/gap` record counts them.
//! * **I2** Every call that was begun ends in exactly one record: `ok`, `tool_error`, `error`, `timeout`, `cancelled`,
//!   `input_required` or, after a crash, `interrupted`. A refused call (`denied`, `unauthenticated`, `malformed`,
//!   `rate_limited`, `audit_unavailable`) ends in exactly one record too, with three exceptions: refusals
//!   after the first few of a kind are counted in one record; refusals for lack of audit space, and refusals for whose
//!   records there is none, are counted in one `gateway/gap` record; and a refusal after the record that closes the
//!   epoch, while the gateway stops, has none.
//! * **I3** (gateway, epoch, seq) rises by one and is never reused. An epoch is stored no later than its first record.
//! * **I4** The outbox forgets a record only after it was delivered, or when an operator prunes a store-only outbox. A
//!   record whose bytes are damaged is replaced, in its place, by one that says so.
//! * **I5** Delivery takes effect exactly once, whatever fails and whenever: the cursor of the stream moves in the same
//!   Postgres transaction as the rows.
//! * **I6** Every queue, body, header and result is bounded, by count and by bytes.
//! * **I7** After a failed write or fsync, an outbox file is never written again.
//! * **I8** No secret enters a record, a log line, a metric or an error: tokens, `Authorization`, redacted arguments.
//! * **I9** No record can block delivery: a record that Postgres refuses is quarantined there, with its bytes, in its
//!   place in the stream.
//! * **I10** An empty or missing rule denies.
//!
//! # Reading order
//!
//! [`audit::record`], [`audit::ring`], [`audit::scribe`], [`audit::outbox`], [`audit::shipper`], then
//! [`gateway::dispatch`], where a call enters the pipeline. `main.rs` only starts the command line.
//!
//! Imports go one way: `audit` never names `gateway`; `evidence` names only itself; `ring` and `outbox` never name each
//! other; SQL is in `audit::sink`, `audit::query` and `audit::sql` only; redb is in `audit::outbox` only; bincode in
//! `audit::codec`, backoff in `retry`.

pub mod accept;
pub mod audit;
pub mod auth;
pub mod certificate_end;
pub mod children;
pub mod cli;
pub mod command;
pub mod config;
pub mod connections;
mod counts;
pub mod escape;
pub mod evidence;
pub mod file_access;
pub mod gateway;
mod in_place;
pub mod log;
pub mod mcp;
pub mod notary;
pub mod ops;
mod outbound;
pub mod postgres_url;
pub mod rbac;
pub mod retry;
pub mod upstream;
pub mod walls;
pub mod witness;
