//! The names in a request as its record has them.

use std::borrow::Cow;

use crate::audit::record::Digest;

/// The existence of the names in a request.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Exists {
    pub(super) method: bool,
    pub(super) tool: bool,
}

/// The names and parameters of a request as its record has them.
#[derive(Debug)]
pub(crate) struct Named<'e> {
    pub(super) method: &'e str,
    pub(super) backend: Option<&'e str>,
    pub(super) tool: Option<&'e str>,
    pub(super) extra: Option<Cow<'e, str>>,
    pub(super) params: Option<Digest>,
}
