//! An authenticated viewer of the console.

use crate::audit::record::{Caller, GatewayId};
use crate::auth::Principal;

/// A person or program with access to the console.
#[derive(Debug)]
pub(super) struct Viewer {
    pub(super) principal: Principal,
    pub(super) role: String,
    /// The gateway whose console it is; `None` if auditing is off.
    pub(super) gateway: Option<GatewayId>,
}

impl Viewer {
    pub(super) fn subject(&self) -> &str {
        &self.principal.subject
    }

    pub(super) fn caller(&self) -> Caller {
        self.principal.caller(Some(&self.role))
    }
}
