//! Holds: decisions of the owner that keep records from being retired until they are lifted.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sqlx::postgres::PgConnection;

use super::registrar::{HOLD, LIFTED, LockedRegistrar, read};
use super::transaction::read_transaction;
use crate::audit::record::{GatewayId, Seq, Timestamp};
use crate::audit::sink::interface::SinkError;
use crate::audit::sql::Connection;

/// A hold, as a `trail/hold` record has it. *Spec*: docs/trail.md, "Decisions".
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// `hold`.
    pub kind: String,
    /// The gateway whose records are held; `None`: all.
    pub gateway: Option<GatewayId>,
    /// Held are records from this time on; `None`: from the first one.
    pub since: Option<Timestamp>,
    /// Held are records before this time; `None`: all later ones.
    pub until: Option<Timestamp>,
    /// Why.
    pub reason: String,
    /// The person who decided.
    pub by: String,
    /// The user of the system who ran the command.
    pub uid: u32,
}

/// The end of a hold, as a `trail/lifted` record has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lifted {
    /// `lifted`.
    pub kind: String,
    /// The seq of the hold in the registrar's stream.
    pub hold: Seq,
    /// Why.
    pub reason: String,
    /// The person who decided.
    pub by: String,
    /// The user of the system who ran the command.
    pub uid: u32,
}

impl Hold {
    /// True if the hold keeps records from before `cut`.
    #[must_use]
    pub fn overlaps(&self, cut: Timestamp) -> bool {
        self.since.is_none_or(|since| since < cut)
    }
}

/// The holds that are not lifted, by their seq in the registrar's stream. A hold that cannot be read holds everything.
///
/// # Errors
/// See [`SinkError`].
pub async fn holds(connection: &mut Connection, registrar: GatewayId) -> Result<BTreeMap<Seq, Hold>, SinkError> {
    in_force(&mut *read_transaction(connection).await?, registrar).await
}

/// The same, which no other command can change before the registrar's transaction ends.
///
/// # Errors
/// See [`SinkError`].
pub async fn locked_holds(registrar: &mut LockedRegistrar<'_>) -> Result<BTreeMap<Seq, Hold>, SinkError> {
    let id = registrar.gateway_id();
    in_force(registrar.connection(), id).await
}

async fn in_force(connection: &mut PgConnection, registrar: GatewayId) -> Result<BTreeMap<Seq, Hold>, SinkError> {
    let mut holds = BTreeMap::new();
    for (seq, method, details) in read(connection, registrar, &[HOLD, LIFTED]).await? {
        if method == HOLD {
            holds.insert(seq, serde_json::from_str(&details).unwrap_or_else(|_| unreadable()));
        } else if let Ok(lifted) = serde_json::from_str::<Lifted>(&details) {
            holds.remove(&lifted.hold);
        }
    }
    Ok(holds)
}

fn unreadable() -> Hold {
    let (gateway, since, until) = (None, None, None);
    let reason = "the record of this hold cannot be read".to_owned();
    Hold { kind: "hold".to_owned(), gateway, since, until, reason, by: String::new(), uid: 0 }
}
