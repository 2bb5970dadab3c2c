//! The requirements of a backend's tools, as it has listed them: to the gateway for all callers or, if requests are
//! made on behalf of callers, to each of them.

use std::sync::Arc;

use parking_lot::Mutex;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::mcp::lines::LINE_BYTES_MAX;
use crate::upstream::oauth::CallerToken;

use super::param_headers::{HeaderParam, ParamHeaders};

/// The callers for which there is room from the beginning. *Chosen*: few backends have tools with such headers.
const CALLERS: usize = 64;

/// The digest of a caller's token, which identifies the caller.
type Key = [u8; 32];

/// The tools that require parameters in headers, as far as that is known.
#[derive(Debug)]
pub(super) struct KnownParamHeaders {
    shared: Mutex<Option<ParamHeaders>>,
    of_callers: Cache<Key, Arc<ParamHeaders>, Bytes>,
}

/// Weighs requirements by their bytes.
#[derive(Clone, Debug)]
struct Bytes;

impl Weighter<Key, Arc<ParamHeaders>> for Bytes {
    fn weight(&self, _: &Key, tools: &Arc<ParamHeaders>) -> u64 {
        let of_tool = |(name, params): (&String, &Arc<[HeaderParam]>)| {
            name.len() + size_of_val(params) + params.iter().map(HeaderParam::bytes).sum::<usize>()
        };
        (size_of::<Key>() + tools.iter().map(of_tool).sum::<usize>()) as u64
    }
}

impl Default for KnownParamHeaders {
    fn default() -> Self {
        // I6: those of all callers together are bounded as one list is.
        Self { shared: Mutex::default(), of_callers: Cache::with_weighter(CALLERS, LINE_BYTES_MAX as u64, Bytes) }
    }
}

impl KnownParamHeaders {
    /// The parameters that `tool` requires in headers, on behalf of a `caller` or of the gateway. `None`: it requires
    /// none, or it is not known.
    pub(super) fn of(&self, caller: Option<&Arc<CallerToken>>, tool: &str) -> Option<Arc<[HeaderParam]>> {
        match caller {
            None => self.shared.lock().as_ref()?.get(tool).map(Arc::clone),
            Some(caller) => self.of_callers.get(&caller.digest().0)?.get(tool).map(Arc::clone),
        }
    }

    /// Returns true if the requirements are known.
    pub(super) fn are_known(&self, caller: Option<&Arc<CallerToken>>) -> bool {
        match caller {
            None => self.shared.lock().is_some(),
            Some(caller) => self.of_callers.get(&caller.digest().0).is_some(),
        }
    }

    /// Remembers the requirements of all tools that were listed to a `caller` or to the gateway.
    pub(super) fn set(&self, caller: Option<&Arc<CallerToken>>, tools: ParamHeaders) {
        match caller {
            None => *self.shared.lock() = Some(tools),
            Some(caller) => self.of_callers.insert(caller.digest().0, Arc::new(tools)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::validity::Validity;
    use crate::upstream::http::of_tool;

    fn caller(text: &str) -> Arc<CallerToken> {
        Arc::new(CallerToken::new("i", "ann", text, Validity::UNLIMITED))
    }

    /// A tool that requires its parameter `key` in a header.
    fn tools(key: &str) -> ParamHeaders {
        let tool = format!(
            r#"{{"name":"t","inputSchema":{{"properties":{{"{key}":{{"type":"string","x-mcp-header":"A"}}}}}}}}"#
        );
        ParamHeaders::from([("t".to_owned(), of_tool(&tool).unwrap())])
    }

    #[test]
    fn what_is_listed_to_one_caller_is_known_for_it_alone() {
        let known = KnownParamHeaders::default();
        let (ann, bob) = (caller("a"), caller("b"));
        known.set(Some(&ann), tools("region"));
        assert!(known.of(Some(&ann), "t").is_some() && known.are_known(Some(&ann)));
        for other in [None, Some(&bob)] {
            assert!(known.of(other, "t").is_none() && !known.are_known(other), "{other:?}");
        }
        known.set(None, ParamHeaders::new());
        assert!(known.are_known(None) && known.of(None, "t").is_none() && known.of(Some(&ann), "t").is_some());
    }

    #[test]
    fn i6_the_requirements_of_all_callers_are_bounded() {
        let known = KnownParamHeaders::default();
        let long = "x".repeat(LINE_BYTES_MAX / 8);
        for number in 0..20 {
            known.set(Some(&caller(&number.to_string())), tools(&long));
        }
        assert!(known.of_callers.len() < 10, "{}", known.of_callers.len());
    }
}
