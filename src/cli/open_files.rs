//! The limit for open files, compared with what the settings may need.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;

/// Descriptors of a child's pipes, and of the child itself. *Derived*: standard input, output and error, and a pidfd.
const PER_CHILD: u64 = 4;

/// Descriptors of everything else. *Chosen*: the outbox (a dozen files), Postgres, listeners, the operations listener's
/// clients, administrators, key files, issuers, the collector and the runtime have fewer than half of it.
const OTHERS: u64 = 128;

/// Raises the limit for open files, within what the system allows, to what the settings may need, or warns that they
/// may need more. The children of sessions are not counted: their number is not a setting.
pub(super) fn raise_limit(config: &Config) {
    let (needed, limit) = (needed(config), getrlimit(Resource::Nofile));
    // `None`: there is none.
    let (soft, hard) = (limit.current.unwrap_or(u64::MAX), limit.maximum.unwrap_or(u64::MAX));
    let raised = needed.min(hard);
    if raised > soft {
        match setrlimit(Resource::Nofile, Rlimit { current: Some(raised), ..limit }) {
            Ok(()) => tracing::debug!(from = soft, to = raised, "raised the limit for open files"),
            Err(error) => tracing::warn!(%error, from = soft, to = raised, "cannot raise the limit for open files"),
        }
    }
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if limit < needed {
        tracing::warn!(
            limit,
            needed,
            "the settings may need more open files than the process may have, and then connections wait: raise the \
             limit (LimitNOFILE=, ulimit -n), or lower server.connections_max or server.calls_max"
        );
    }
}

/// The most files that the settings allow to be open.
fn needed(config: &Config) -> u64 {
    let (children, remote): (Vec<_>, Vec<_>) = config.backends.values().partition(|backend| backend.url.is_none());
    // Each call to an HTTP backend may have a connection of its own.
    let calls = if remote.is_empty() { 0 } else { config.server.calls_max };
    let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    count(config.server.connections_max)
        .saturating_add(count(calls))
        .saturating_add(PER_CHILD.saturating_mul(count(children.len())))
        .saturating_add(OTHERS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_settings_may_need_is_added_up() {
        let mut config = Config::default();
        config.server.connections_max = 1_000;
        config.server.calls_max = 100;
        assert_eq!(needed(&config), 1_000 + OTHERS);
        config.backends.insert("a".to_owned(), crate::config::Backend::default());
        assert_eq!(needed(&config), 1_000 + PER_CHILD + OTHERS);
        let remote = crate::config::Backend { url: Some("http://h".to_owned()), ..Default::default() };
        config.backends.insert("b".to_owned(), remote);
        assert_eq!(needed(&config), 1_000 + 100 + PER_CHILD + OTHERS);
    }
}
