//! Every setting: its type, its default, and what it is for.
//!
//! The table drives the search for unknown keys, the checks of type and range, the names of the environment variables
//! and `docs/configuration.md`.
//!
//! The ranges are *Chosen*: the lower end is the smallest value with which the part still works, the upper end the
//! largest that one process on a large machine has a use for; a value outside is probably in the wrong unit.

mod audit;
mod auth;
mod backend_oauth;
mod backends;
mod evidence;
mod observability;
mod postgres;
mod roles;
mod server;
mod spec;

pub use spec::{Fallback, SettingSpec};

use super::value_type::ValueType;

const PARTS: [&[SettingSpec]; 9] = [
    server::SERVER,
    auth::AUTH,
    roles::ROLES,
    backends::BACKENDS,
    backend_oauth::BACKEND_OAUTH,
    audit::AUDIT,
    postgres::POSTGRES,
    evidence::EVIDENCE,
    observability::OBSERVABILITY,
];

/// All settings, in the order of the documentation.
pub const SETTINGS: &[SettingSpec] = &joined::<{ total() }>();

#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler, which rejects an index out of range")]
const fn total() -> usize {
    let (mut part, mut sum) = (0, 0);
    while part < PARTS.len() {
        sum += PARTS[part].len();
        part += 1;
    }
    sum
}

#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler, which rejects an index out of range")]
const fn joined<const N: usize>() -> [SettingSpec; N] {
    let mut all = [spec::setting("", ValueType::Flag, Fallback::Unset, ""); N];
    let (mut part, mut idx, mut at) = (0, 0, 0);
    while part < PARTS.len() {
        if idx < PARTS[part].len() {
            all[at] = PARTS[part][idx];
            (idx, at) = (idx + 1, at + 1);
        } else {
            (part, idx) = (part + 1, 0);
        }
    }
    all
}
