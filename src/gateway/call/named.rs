//! The names in a request as its record has them.

use std::borrow::Cow;

use crate::audit::record::Digest;
use crate::mcp::json::{self, Object};
use crate::mcp::methods::List;
use crate::rbac::Policy;

/// The recorded name of what has none, or one that does not exist.
pub(super) const UNKNOWN: &str = "unknown";

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

impl Named<'_> {
    /// The names of a request that is refused. Of a name that does not exist the record says `unknown`, and has the
    /// caller's text, cut to `bytes_max`, in `request_extra`: whatever a caller makes up, the columns with names have
    /// only names.
    pub(super) fn refused(self, exists: Exists, is_configured: impl Fn(&str) -> bool, bytes_max: usize) -> Self {
        let mut claimed: Vec<(&str, String)> = Vec::new();
        let mut claim = |member, text: &str| {
            claimed.push((member, json::quoted(&text[..text.floor_char_boundary(bytes_max)])));
            UNKNOWN
        };
        let method = if exists.method { self.method } else { claim("method", self.method) };
        let backend =
            self.backend.map(|backend| if is_configured(backend) { backend } else { claim("backend", backend) });
        let tool = self.tool.map(|tool| if exists.tool { tool } else { claim("name", tool) });
        let extra = if claimed.is_empty() {
            self.extra
        } else {
            let extra = self.extra.as_deref().and_then(Object::parse).unwrap_or_default();
            let claimed: Vec<_> = claimed.iter().map(|(member, text)| (*member, text.as_str())).collect();
            Some(Cow::Owned(extra.with(&claimed)))
        };
        Named { method, backend, tool, extra, params: None }
    }
}
