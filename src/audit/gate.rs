//! The gate before the pipeline: closed while evidence is missing and calls must not continue without it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The gate that each call passes. Cheap to clone. It is open unless the notary closes it.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<AtomicBool>);

impl Gate {
    /// Closes the gate, or opens it. Calls that have begun are not affected.
    pub fn set_closed(&self, is_closed: bool) {
        self.0.store(is_closed, Ordering::Relaxed);
    }

    /// Returns true if calls must not begin.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
