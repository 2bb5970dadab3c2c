//! The names in a request as its record has them.

use std::borrow::Cow;

use crate::audit::record::Digest;
use crate::mcp::methods::List;
use crate::rbac::Policy;

/// Puts the backend's own name of a renamed tool in the place of the one that the client used, and returns that. The
/// names of other lists stay.
pub(super) fn take_own(
    policy: &Policy,
    list: List,
    backend: Option<&str>,
    tool: &mut Option<String>,
) -> Option<String> {
    if list != List::Tools {
        return None;
    }
    let own = policy.own_tool(backend?, tool.as_deref()?).filter(|own| Some(*own) != tool.as_deref())?.to_owned();
    tool.replace(own)
}

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
