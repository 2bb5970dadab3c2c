//! A Streamable HTTP backend, in both eras.
//!
//! An [`Endpoint`] is the configured backend: its address, its credentials, and its pool of TCP connections. An
//! [`HttpConnection`] is one conversation with it: a legacy session, or the stateless protocol. The headers of a
//! request are the gateway's own, made from what was authorized. Of a client's headers only its trace context is
//! forwarded, and never its token.
//!
//! If the backend no longer knows a session (404), the session is initialized again, once per request. A request that
//! may have had an effect is never sent twice. A response stream that breaks is resumed if the backend has given its
//! events ids. If the backend turns out to speak the other era, the connection ends, and the next one uses that era.

mod background;
mod client;
mod configured_headers;
mod connection;
mod convert;
mod endpoint;
mod endpoint_error;
mod era;
mod era_probe;
mod exchange;
mod header_mirroring;
mod known_param_headers;
mod lost_session;
mod param_headers;
mod session;
mod sse;
mod standalone_stream;

pub(super) use connection::HttpConnection;
pub(super) use endpoint::Endpoint;
pub use endpoint_error::EndpointError;
pub(super) use era::is_rejection;
pub(super) use param_headers::{HeaderParam, contradicted, of_tool};
