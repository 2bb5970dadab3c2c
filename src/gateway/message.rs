//! The parts of one exchange with a client: the request and its headers, the endpoint, the target, and the reply or the
//! refusal.

pub(crate) mod body;
pub(crate) mod body_budget;
pub(crate) mod client_address;
pub mod headers;
pub mod refusal;
pub mod reply;
pub mod request;
pub mod resource;
pub mod scope;
pub(crate) mod subject;
pub(crate) mod trace_headers;
