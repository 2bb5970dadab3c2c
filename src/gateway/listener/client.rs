//! The client of one HTTP request, as far as the connection and the request's head identify it.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::audit::record::{ClientAddr, RequestId};
use crate::auth::certificate::Certificate;
use crate::connections::places::Place;

/// The client of one request.
#[derive(Clone)]
pub(super) struct Client {
    pub(super) addr: ClientAddr,
    /// True if the client sent the request over TLS, to the gateway or to a trusted proxy.
    pub(super) is_https: bool,
    pub(super) certificate: Option<Arc<Certificate>>,
    pub(super) place: Arc<Place>,
    pub(super) request_id: RequestId,
    /// Cancelled if the client disconnects before it has its response.
    pub(super) hung_up: CancellationToken,
}
