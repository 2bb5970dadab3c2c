//! Classification of Postgres errors, by SQLSTATE and, but for one code of poolers, never by message text. *Measured*:
//! docs/measurements.md, "PostgreSQL and sqlx".

/// The reaction that an error requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// The cause goes away by itself: retry forever, with growing pauses.
    Transient,
    /// The cause goes away by itself, or the batch was too large for the server: retry with half of it.
    TooMuch,
    /// An operator has to fix the cause: hold delivery, raise an alarm, retry slowly.
    Operator,
    /// A row caused the error: find it and quarantine it.
    Row,
}

/// The class of a SQLSTATE. An unknown code is held for an operator, so that no record is lost because of it.
#[must_use]
pub fn classify(sqlstate: &str) -> ErrorClass {
    match sqlstate {
        // The server is shutting down, starting, or ends idle sessions; a lock was not available; read-only standby;
        // aborted transaction; idle or long transaction ended; prepared statement unknown to the server.
        "57P01" | "57P02" | "57P03" | "57P05" | "40001" | "40003" | "40P01" | "55P03" | "55006" | "25006" | "25P02"
        | "25P03" | "25P04" | "26000" => ErrorClass::Transient,
        // Statement timeout; out of memory.
        "57014" | "53200" => ErrorClass::TooMuch,
        // Database dropped.
        "57P04" => ErrorClass::Operator,
        // Memory and disk (53, 58) belong to the server. A single row can be too large for an index or the parser (54).
        _ => match sqlstate.get(..2).unwrap_or_default() {
            "08" | "53" | "58" | "XX" => ErrorClass::Transient,
            "22" | "23" | "21" | "54" => ErrorClass::Row,
            _ => ErrorClass::Operator,
        },
    }
}

/// The class of 08P01, which is the one code of `PgBouncer` for nearly everything that it has to say. *Measured*:
/// `PgBouncer` 1.18. Only here the text decides, since nothing else tells what goes away by itself (a server that
/// restarts) from what does not.
pub(super) fn classify_pooler(message: &str) -> ErrorClass {
    const FOR_OPERATOR: [&str; 7] = [
        "unsupported startup parameter",
        "unsupported startup options",
        "statement pooling mode",
        "no such database",
        "no such user",
        "not allowed",
        "authentication",
    ];
    let message = message.to_ascii_lowercase();
    if FOR_OPERATOR.iter().any(|part| message.contains(part)) { ErrorClass::Operator } else { ErrorClass::Transient }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_code_has_its_class() {
        let transient = ["08006", "53300", "53100", "57P01", "57P03", "40001", "25006", "58030", "XX000", "26000"];
        let operator = ["28P01", "3D000", "3F000", "42501", "42P01", "57P04", "0A000", "GP001", "GP002", ""];
        let row = ["22021", "22P02", "22P05", "22003", "22008", "23502", "23505", "23514", "21000", "54000", "54001"];
        let all = |codes: &[&str], class| codes.iter().all(|code| classify(code) == class);
        assert!(all(&["57014", "53200"], ErrorClass::TooMuch));
        assert!(
            all(&transient, ErrorClass::Transient)
                && all(&operator, ErrorClass::Operator)
                && all(&row, ErrorClass::Row)
        );
    }
}
