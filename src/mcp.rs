//! The Model Context Protocol as both legs speak it: names and codes, methods, JSON text, the strict envelope, framing
//! by lines, and text that is shared instead of copied.

pub mod canonical;
pub(crate) mod capabilities;
pub mod envelope;
pub(crate) mod fold;
pub mod json;
pub mod lines;
pub mod methods;
pub mod names;
pub mod params;
pub mod protocol;
pub mod shared_text;
