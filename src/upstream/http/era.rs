//! The evidence about a backend's era in its responses.

use axum::http::StatusCode;

use crate::mcp::protocol::{
    Era, HEADER_MISMATCH, INTERNAL_ERROR, INVALID_PARAMS, METHOD_NOT_FOUND, PARSE_ERROR, UNSUPPORTED_VERSION,
};
use crate::upstream::message::DISCOVER;

/// Statuses from which the era cannot be concluded: they come from an access check, from overload, or from a proxy.
const INCONCLUSIVE: [u16; 8] = [401, 403, 408, 425, 429, 502, 503, 504];

/// Statuses with which a server of the older era rejects a request without a session. *Spec*: 400, 404 and 405. The
/// official Rust SDK before its third version answers 422.
const REJECTIONS: [u16; 4] = [400, 404, 405, 422];

/// The evidence in a response about the era of its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EraEvidence {
    /// The backend speaks that era, or the response does not say.
    Consistent,
    /// The backend may not speak that era any more.
    Doubtful,
    /// The backend does not speak that era any more, or has ended the connection.
    Contradictory,
}

/// Returns whether the era cannot be concluded from a response with this status, whatever its body is.
pub(super) fn is_inconclusive(status: StatusCode) -> bool {
    INCONCLUSIVE.contains(&status.as_u16())
}

/// Returns whether a server may reject a request of the wrong era with this status.
pub(in crate::upstream) fn is_rejection(status: u16) -> bool {
    REJECTIONS.contains(&status)
}

/// The evidence about `era` in a response to `method` with this status and, if it is a JSON-RPC error, this code.
///
/// A doubt does not end a client's session, because its state would be lost.
pub(super) fn evidence(
    era: Era,
    is_client_session: bool,
    method: &str,
    status: StatusCode,
    code: Option<i32>,
) -> EraEvidence {
    if (era, method, code) == (Era::Modern, DISCOVER, Some(METHOD_NOT_FOUND)) && !is_inconclusive(status) {
        return EraEvidence::Contradictory; // *Spec*: every server of that era has the method.
    }
    if !is_rejection(status.as_u16()) {
        return EraEvidence::Consistent;
    }
    let is_modern_only = code.is_some_and(|code| (UNSUPPORTED_VERSION..=HEADER_MISMATCH).contains(&code));
    // Both eras answer an invalid request like this.
    let is_in_both_eras = matches!(code, Some(METHOD_NOT_FOUND | INVALID_PARAMS | INTERNAL_ERROR | PARSE_ERROR));
    match era {
        Era::Modern if code == Some(UNSUPPORTED_VERSION) => EraEvidence::Contradictory,
        Era::Modern if is_modern_only || is_in_both_eras => EraEvidence::Consistent,
        // The older era does not have these errors.
        Era::Legacy if is_modern_only => EraEvidence::Contradictory,
        Era::Legacy if is_client_session || is_in_both_eras => EraEvidence::Doubtful,
        Era::Modern | Era::Legacy => EraEvidence::Contradictory,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_of_the_other_era_are_evidence_against_an_era() {
        let own = |era, status: u16, code| evidence(era, false, "m", StatusCode::from_u16(status).unwrap(), code);
        let session = |status: u16, code| evidence(Era::Legacy, true, "m", StatusCode::from_u16(status).unwrap(), code);
        for status in [200, 202, 401, 403, 408, 410, 429, 500, 503] {
            for code in [None, Some(-32000), Some(-32022)] {
                for era in [Era::Legacy, Era::Modern] {
                    assert_eq!(own(era, status, code), EraEvidence::Consistent, "{era:?} {status} {code:?}");
                }
            }
        }
        assert_eq!(evidence(Era::Modern, false, DISCOVER, StatusCode::OK, Some(-32601)), EraEvidence::Contradictory);
        for (status, code, of_modern, of_shared, of_session) in [
            // The official SDKs of the older era, for a request without a session.
            (400, None, EraEvidence::Contradictory, EraEvidence::Contradictory, EraEvidence::Doubtful),
            (400, Some(-32000), EraEvidence::Contradictory, EraEvidence::Contradictory, EraEvidence::Doubtful),
            (400, Some(-32600), EraEvidence::Contradictory, EraEvidence::Contradictory, EraEvidence::Doubtful),
            (404, Some(-32001), EraEvidence::Contradictory, EraEvidence::Contradictory, EraEvidence::Doubtful),
            (405, None, EraEvidence::Contradictory, EraEvidence::Contradictory, EraEvidence::Doubtful),
            (422, None, EraEvidence::Contradictory, EraEvidence::Contradictory, EraEvidence::Doubtful),
            // Errors of the stateless era only.
            (400, Some(-32020), EraEvidence::Consistent, EraEvidence::Contradictory, EraEvidence::Contradictory),
            (400, Some(-32021), EraEvidence::Consistent, EraEvidence::Contradictory, EraEvidence::Contradictory),
            (400, Some(-32022), EraEvidence::Contradictory, EraEvidence::Contradictory, EraEvidence::Contradictory),
            // Errors of both eras.
            (400, Some(-32602), EraEvidence::Consistent, EraEvidence::Doubtful, EraEvidence::Doubtful),
            (404, Some(-32601), EraEvidence::Consistent, EraEvidence::Doubtful, EraEvidence::Doubtful),
        ] {
            let got = (own(Era::Modern, status, code), own(Era::Legacy, status, code), session(status, code));
            assert_eq!(got, (of_modern, of_shared, of_session), "{status} {code:?}");
        }
    }
}
