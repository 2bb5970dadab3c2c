//! The body of a frame: the fields of a record or an intent, in the order in which they are stored.
//!
//! **Warning: these structs are the on-disk format.** bincode stores the fields in the order of their declaration,
//! without names. Never add, remove, reorder or retype a field without a new format version: a new pair of structs, a
//! number in byte 4 of the frame (see [`codec`](super)), a decoder that still reads version 1, and golden frames of the
//! new version in `codec/`. The same holds for the order of [`Status::ALL`] and [`NORMALISABLE`], whose positions are
//! stored; both may only grow at the end.

use bincode::{Decode, Encode};
use uuid::Uuid;

use super::error::CodecError;
use crate::audit::record::{
    AuditRecord, Call, Digest, Entry, Epoch, GatewayId, NORMALISABLE, RequestId, Seq, Status, StreamPosition, Text,
    Timestamp,
};

/// The body of an intent, and a part of [`RecordBody`]. Text is borrowed for encoding and owned after decoding.
#[derive(Encode, Decode)]
pub(super) struct CallBody<T> {
    request_id: [u8; 16],
    timestamp: i64,
    method: T,
    client_subject: T,
    client_role: Option<T>,
    client_issuer: Option<T>,
    token_id: Option<T>,
    client_addr: Option<T>,
    session_id: Option<T>,
    rpc_id: Option<T>,
    tool_name: Option<T>,
    backend_name: Option<T>,
    request_args: Option<T>,
    args_digest: Option<[u8; 32]>,
    /// Bit n is set if the field at position n of [`NORMALISABLE`] was changed.
    normalised: u16,
}

/// The body of a record.
#[derive(Encode, Decode)]
pub(super) struct RecordBody<T> {
    gateway_id: [u8; 16],
    epoch: u64,
    seq: u64,
    prev_hash: [u8; 32],
    hash: [u8; 32],
    call: CallBody<T>,
    /// The position in [`Status::ALL`].
    response_status: u8,
    error_message: Option<T>,
    response_digest: Option<[u8; 32]>,
    response_bytes: Option<u64>,
    latency_ms: f64,
}

impl<'a> From<&'a Call> for CallBody<&'a str> {
    fn from(call: &'a Call) -> Self {
        let bit = |column: &&str| NORMALISABLE.iter().position(|name| name == column).map_or(0, |idx| 1 << idx);
        // Every field is named: one that is added does not compile here until the format has it.
        let Call {
            request_id,
            timestamp,
            method,
            client_subject,
            client_role,
            client_issuer,
            token_id,
            client_addr,
            session_id,
            rpc_id,
            tool_name,
            backend_name,
            request_args,
            args_digest,
            normalised,
        } = call;
        Self {
            request_id: request_id.0.into_bytes(),
            timestamp: timestamp.micros(),
            method,
            client_subject,
            client_role: client_role.as_deref(),
            client_issuer: client_issuer.as_deref(),
            token_id: token_id.as_deref(),
            client_addr: client_addr.as_deref(),
            session_id: session_id.as_deref(),
            rpc_id: rpc_id.as_deref(),
            tool_name: tool_name.as_deref(),
            backend_name: backend_name.as_deref(),
            request_args: request_args.as_deref(),
            args_digest: args_digest.map(|digest| digest.0),
            normalised: normalised.iter().fold(0, |mask, column| mask | bit(column)),
        }
    }
}

impl TryFrom<CallBody<String>> for Call {
    type Error = CodecError;

    fn try_from(body: CallBody<String>) -> Result<Self, CodecError> {
        let timestamp = Timestamp::from_micros(body.timestamp);
        if timestamp.micros() != body.timestamp {
            return Err(CodecError::InvalidValue { field: "timestamp" });
        }
        if usize::from(body.normalised) >> NORMALISABLE.len() != 0 {
            return Err(CodecError::InvalidValue { field: "normalised" });
        }
        let changed = |(idx, _): &(usize, &&str)| body.normalised & (1 << idx) != 0;
        Ok(Self {
            request_id: RequestId(Uuid::from_bytes(body.request_id)),
            timestamp,
            method: body.method.into(),
            client_subject: body.client_subject.into(),
            client_role: body.client_role.map(Text::from),
            client_issuer: body.client_issuer.map(Text::from),
            token_id: body.token_id.map(Text::from),
            client_addr: body.client_addr.map(Text::from),
            session_id: body.session_id.map(Text::from),
            rpc_id: body.rpc_id.map(Text::from),
            tool_name: body.tool_name.map(Text::from),
            backend_name: body.backend_name.map(Text::from),
            request_args: body.request_args,
            args_digest: body.args_digest.map(Digest),
            normalised: NORMALISABLE.iter().enumerate().filter(changed).map(|(_, name)| *name).collect(),
        })
    }
}

impl<'a> From<&'a AuditRecord> for RecordBody<&'a str> {
    fn from(record: &'a AuditRecord) -> Self {
        let AuditRecord { position, entry } = record;
        let Entry { call, response_status, error_message, response_digest, response_bytes, latency_ms } = entry;
        let status = Status::ALL.iter().position(|status| status == response_status);
        Self {
            gateway_id: position.gateway_id.0.into_bytes(),
            epoch: position.epoch.0,
            seq: position.seq.0,
            prev_hash: position.prev_hash.0,
            hash: position.hash.0,
            call: CallBody::from(call),
            response_status: status.and_then(|idx| u8::try_from(idx).ok()).unwrap_or(u8::MAX),
            error_message: error_message.as_deref(),
            response_digest: response_digest.map(|digest| digest.0),
            response_bytes: *response_bytes,
            latency_ms: *latency_ms,
        }
    }
}

impl TryFrom<RecordBody<String>> for AuditRecord {
    type Error = CodecError;

    fn try_from(body: RecordBody<String>) -> Result<Self, CodecError> {
        let status = Status::ALL.get(usize::from(body.response_status)).copied();
        if !body.latency_ms.is_finite() || body.latency_ms < 0.0 {
            return Err(CodecError::InvalidValue { field: "latency_ms" });
        }
        Ok(Self {
            position: StreamPosition {
                gateway_id: GatewayId(Uuid::from_bytes(body.gateway_id)),
                epoch: Epoch(body.epoch),
                seq: Seq(body.seq),
                prev_hash: Digest(body.prev_hash),
                hash: Digest(body.hash),
            },
            entry: Entry {
                call: Call::try_from(body.call)?,
                response_status: status.ok_or(CodecError::InvalidValue { field: "response_status" })?,
                error_message: body.error_message,
                response_digest: body.response_digest.map(Digest),
                response_bytes: body.response_bytes,
                latency_ms: body.latency_ms,
            },
        })
    }
}
