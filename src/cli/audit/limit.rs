//! The limit of a query.

use crate::audit::query::LIMIT_MAX;

/// Parses a number of records from 1 to [`LIMIT_MAX`].
pub(super) fn parse_limit(text: &str) -> Result<usize, String> {
    let limit = text.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
    limit.ok_or_else(|| {
        format!("{text} is not from 1 to {LIMIT_MAX}; use --before for the next page, or SQL for larger results")
    })
}
