//! Opening the outbox of a configuration: the one in `audit.dir`, or the first free slot.

use std::path::Path;
use std::sync::Arc;

use super::gateway_error::GatewayError;
use super::slots::{self, SLOTS_MAX};
use crate::audit::outbox::fs::DiskFs;
use crate::audit::outbox::{Opening, OutboxError};
use crate::audit::record::GatewayId;
use crate::config::Config;

/// Opens the outbox in `audit.dir`.
///
/// # Errors
/// As for [`of_outbox`].
pub(super) fn of_dir(config: &Config) -> Result<Opening, GatewayError> {
    of_outbox(config, &config.audit.dir, config.audit.gateway_id.map(GatewayId))
}

/// Opens the outbox in `dir`; `id` is the gateway id that it must have, if one is set.
///
/// # Errors
/// Others may use the directory, or the outbox cannot be opened.
pub(super) fn of_outbox(config: &Config, dir: &Path, id: Option<GatewayId>) -> Result<Opening, GatewayError> {
    config.audit.files.check_dir(dir)?;
    Ok(Opening::open(Arc::new(DiskFs), dir, id)?)
}

/// Opens the first slot of `audit.dir` whose lock is free, and creates it if necessary. With `audit.gateway_id` there
/// is only one, because an id names one gateway.
///
/// # Errors
/// [`GatewayError::Slots`] if the directory is an outbox itself, or no slot is free; or the slot cannot be opened.
pub(super) fn of_first_free_slot(config: &Config) -> Result<Opening, GatewayError> {
    let (dir, id) = (&config.audit.dir, config.audit.gateway_id.map(GatewayId));
    config.audit.files.check_dir(dir)?;
    let shown = dir.display();
    if slots::outboxes(dir).unwrap_or_default().contains(dir) {
        return Err(GatewayError::Slots(format!(
            "outbox directory {shown} is an outbox itself, as of gatepost serve; gatepost stdio makes slots below its \
             directory: give it another one (audit.dir)"
        )));
    }
    let slots_max = if id.is_some() { 1 } else { SLOTS_MAX };
    for slot in (1..=slots_max).map(|number| slots::slot(dir, number)) {
        // A lock that is held is not waited for.
        if slots::is_held(&slot) {
            continue;
        }
        match of_outbox(config, &slot, id) {
            Err(GatewayError::Outbox(OutboxError::Locked { .. })) => {}
            opened => return opened,
        }
    }
    Err(GatewayError::Slots(if id.is_some() {
        format!(
            "outbox directory {shown} is in use, and audit.gateway_id allows one process: unset it, so that each process \
             has a slot and an id of its own"
        )
    } else {
        format!("all {SLOTS_MAX} slots of outbox directory {shown} are in use; give this process another directory")
    }))
}
