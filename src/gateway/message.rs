//! Messages: an arrival request and its headers, the endpoint it arrived at, what it asks for, and the reply.

pub mod headers;
pub mod reply;
pub mod request;
pub mod route;
pub mod scope;
