//! What to do about an error of Postgres, by its SQLSTATE and never by its text. *Measured*: FACTS section 2.

/// What to do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// It passes: try again for ever, with growing pauses.
    Transient,
    /// It passes as well, but it may be for too much at once: try again, with half of it.
    TooMuch,
    /// Someone has to act: hold, raise an alarm, try again slowly.
    Operator,
    /// It is about the rows: find the one and quarantine it.
    Row,
}

/// The class of a SQLSTATE. What is not known is held for an operator: nothing is lost by it.
#[must_use]
pub fn classify(sqlstate: &str) -> ErrorClass {
    match sqlstate {
        // Server shutting down, starting, dropping idle sessions; lock not had; read-only standby; aborted transaction;
        // statement the server forgot.
        "57P01" | "57P02" | "57P03" | "57P05" | "40001" | "40P01" | "55P03" | "55006" | "25006" | "25P02" | "26000" => {
            ErrorClass::Transient
        }
        // Statement timeout; out of memory.
        "57014" | "53200" => ErrorClass::TooMuch,
        // Database dropped.
        "57P04" => ErrorClass::Operator,
        // Memory and disk are the server's; a row alone can be too large for an index or the parser (54).
        _ => match sqlstate.get(..2).unwrap_or_default() {
            "08" | "53" | "58" | "XX" => ErrorClass::Transient,
            "22" | "23" | "21" | "54" => ErrorClass::Row,
            _ => ErrorClass::Operator,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_code_has_its_class() {
        let transient = ["08006", "53300", "53100", "57P01", "57P03", "40001", "25006", "58030", "XX000", "26000"];
        let operator = ["28P01", "3D000", "3F000", "42501", "42P01", "57P04", "0A000", ""];
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
