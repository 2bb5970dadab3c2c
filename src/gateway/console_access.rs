//! Records of requests to the operations listener.

use crate::audit::UnavailableError;
use crate::audit::record::{Call, Caller, ClientAddr, Correlation, Outcome, RequestId, Status};

use super::call::core::Core;
use super::call::refusal_windows::RefusedRequest;

/// Records a refused request, or counts it together with others.
///
/// # Errors
/// [`UnavailableError`]: the refusal was neither recorded nor counted, or its record stays in the ring.
pub(super) async fn record_refusal(
    core: &Core,
    method: &str,
    client: ClientAddr,
    caller: &Caller,
    (status, reason): (Status, &str),
) -> Result<(), UnavailableError> {
    core.counters.refused(status);
    let addr = Some(client.ip());
    let refused = RefusedRequest { caller, addr, status, backend: None, method, tool: None, reason };
    let record = || (call_of(method, client, caller), Outcome::failed(status, reason), ());
    core.refusals.record(&core.audit, &refused, record).await.map(|_| ())
}

/// The call of a request to the operations listener, for its record.
pub(super) fn call_of(method: &str, client: ClientAddr, caller: &Caller) -> Call {
    let correlation = Correlation { addr: Some(client), ..Correlation::default() };
    Call::new(RequestId::new(), method).with_caller(caller).with_correlation(&correlation)
}
