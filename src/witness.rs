//! A witness: it signs a checkpoint of a log only if it continues the last one that it signed.
//!
//! It follows C2SP tlog-witness. Two checkpoints of one log that it signed never contradict each other: the check, the
//! signature and the durable write of the new state happen under one lock, and the signature leaves only after the
//! write. After a failed write the older state still counts, and the signature is dropped. The witness knows nothing of
//! records: it sees sizes and hashes.
//!
//! [`cosigner`] decides and signs, [`store`] keeps the state, [`server`] speaks HTTP. [`client`] is the other side: it
//! submits the checkpoints of a log.

pub mod client;
pub mod cosigner;
pub mod refusal;
pub mod server;
pub mod store;

pub use cosigner::Witness;
