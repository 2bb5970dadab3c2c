//! A search of the trail: the fields of the form, and the URL that has them.

use crate::audit::query::Filter;
use crate::audit::record::{Status, Timestamp};
use crate::ops::page_key::parse_page_key;
use crate::ops::time_arg::parse_time_arg;

/// Longest value of a field, in bytes. *Derived*: no column that is compared has longer values.
pub(super) const VALUE_BYTES_MAX: usize = 1024;

/// Records on a page by default. *Chosen*: a few screens.
const LIMIT: usize = 50;

/// Most records on a page; `gatepost audit query` returns more. *Chosen*: the page loads without a noticeable wait.
const LIMIT_MAX: usize = 500;

/// A field of the form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Field {
    /// Its name in a URL.
    pub(super) name: &'static str,
    /// Its name on the page.
    pub(super) label: &'static str,
    /// An example of its values, or empty.
    pub(super) example: &'static str,
    /// The part of the form that has it.
    pub(super) place: Place,
}

/// A part of the form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Always to be seen.
    First,
    /// Shown on request.
    More,
    /// Beside the choice of ranges.
    Range,
}

const fn field(name: &'static str, label: &'static str, example: &'static str, place: Place) -> Field {
    Field { name, label, example, place }
}

/// The fields of the form.
pub(super) const FIELDS: [Field; 19] = [
    field("who", "Who", "alice, or al*", Place::First),
    field("tool", "Tool", "echo, or example/echo", Place::First),
    field("status", "Status", "", Place::First),
    field("args", "Text in the arguments", "", Place::First),
    field("role", "Role", "", Place::More),
    field("backend", "Backend", "", Place::More),
    field("client", "Application", "", Place::More),
    field("actor", "Acting for", "", Place::More),
    field("resource", "Resource", "file:///srv/*", Place::More),
    field("method", "Method", "tools/call", Place::More),
    field("session", "Session", "", Place::More),
    field("gateway", "Gateway", "", Place::More),
    field("issuer", "Issuer", "", Place::More),
    field("token_id", "Token", "", Place::More),
    field("addr", "Address", "10.0.0.7", Place::More),
    field("request_id", "Request id", "", Place::More),
    field("parent", "Belongs to request", "", Place::More),
    field("since", "From (UTC)", "", Place::Range),
    field("until", "To (UTC)", "", Place::Range),
];

/// The ranges that the page offers: the value, the words, and the length in seconds; `None`: without limits.
pub(super) const RANGES: [(&str, &str, Option<i64>); 6] = [
    ("15m", "15 min", Some(900)),
    ("1h", "1 hour", Some(3_600)),
    ("24h", "24 hours", Some(86_400)),
    ("7d", "7 days", Some(7 * 86_400)),
    ("30d", "30 days", Some(30 * 86_400)),
    ("all", "All", None),
];

/// The range of the page if the search has none. *Chosen*: a day.
const RANGE: &str = "24h";

/// The other parameters that belong to a search: the range, records of reads too, the records of denied calls by
/// caller and tool, the key of the page before, and the size of a page.
const OWN: [&str; 5] = ["range", "reads", "view", "before", "limit"];

/// Parameters of pages that have a search besides.
const OTHERS: [&str; 3] = ["id", "counts", "format"];

/// A search, as it was entered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Search {
    fields: Vec<(&'static str, String)>,
    /// A parameter that no search has.
    unknown: Option<String>,
}

impl Search {
    /// Parses the fields that have a value.
    pub(super) fn parse(query: &str) -> Self {
        let known = || FIELDS.iter().map(|field| field.name).chain(OWN);
        let typed = |name: &'static str| {
            let value = url::form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name)?.1;
            let value = value.trim();
            let value = value.get(..value.floor_char_boundary(VALUE_BYTES_MAX)).unwrap_or_default();
            (!value.is_empty()).then(|| (name, value.to_owned()))
        };
        let is_unknown = |name: &str| !OTHERS.contains(&name) && known().all(|known| known != name);
        let mut names = url::form_urlencoded::parse(query.as_bytes()).map(|(name, _)| name.into_owned());
        Self { fields: known().filter_map(typed).collect(), unknown: names.find(|name| is_unknown(name)) }
    }

    /// The search with the range of the page, if it has none and does not name what it looks for.
    pub(super) fn with_range(mut self) -> Self {
        // These have a time of their own, or are found at any.
        let named = ["range", "since", "until", "before", "request_id", "parent", "session"];
        if named.iter().all(|name| self.get(name).is_none()) {
            self.fields.push(("range", RANGE.to_owned()));
        }
        self
    }

    /// The value of a field.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    /// The search as a query string; the pairs in `with` are added, or replace those of the same name. An empty value
    /// removes its field.
    pub(super) fn query(&self, with: &[(&str, &str)]) -> String {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(self.fields.iter().filter(|(name, _)| with.iter().all(|(other, _)| other != name)));
        query.extend_pairs(with.iter().filter(|(_, value)| !value.is_empty()));
        query.finish()
    }

    /// The same for other records, from the first page and as records: [`Search::query`] without a page and a view.
    pub(super) fn narrowed(&self, with: &[(&str, &str)]) -> String {
        let mut with = with.to_vec();
        with.extend([("before", ""), ("view", "")]);
        self.query(&with)
    }

    /// The filter that finds what the search looks for.
    ///
    /// # Errors
    /// A message for the person who typed it, with the name of the field.
    pub(super) fn filter(&self) -> Result<Filter, String> {
        if let Some(name) = &self.unknown {
            // A misspelt one, ignored, would find more than was asked for.
            let known: Vec<_> = FIELDS.iter().map(|field| field.name).chain(OWN).collect();
            return Err(format!("{name}: unknown parameter; use one of {}", known.join(", ")));
        }
        let own = |name: &str| self.get(name).map(str::to_owned);
        let fault = |name: &str| {
            let label = FIELDS.iter().find(|field| field.name == name).map_or(name, |field| field.label).to_owned();
            move |fault: String| format!("{label}: {fault}")
        };
        let time = |name: &str| self.get(name).map(parse_time_arg).transpose().map_err(fault(name));
        let (since, until) = (time("since")?, time("until")?);
        if let (Some(since), Some(until)) = (since, until)
            && since >= until
        {
            return Err("From (UTC): must be before To (UTC)".to_owned());
        }
        let limit = self.get("limit").map_or(Ok(LIMIT), |limit| {
            let limit = limit.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
            limit.ok_or_else(|| format!("limit: must be from 1 to {LIMIT_MAX}"))
        })?;
        let status: Vec<String> = own("status").into_iter().collect();
        if status.iter().any(|word| Status::from_word(word).is_none()) {
            return Err("Status: unknown status".to_owned());
        }
        let id = |name: &str| {
            let id = self.get(name).map(str::parse).transpose();
            id.map_err(|_| fault(name)("not an id, for example 0199c0de-0000-7000-8000-000000000001".to_owned()))
        };
        Ok(Filter {
            who: own("who"),
            client: own("client"),
            actor: own("actor"),
            session_id: own("session"),
            parent_id: id("parent")?,
            gateway_id: id("gateway")?,
            role: own("role"),
            tool: own("tool"),
            resource: own("resource"),
            backend: own("backend"),
            status,
            method: own("method"),
            issuer: own("issuer"),
            token_id: own("token_id"),
            addr: own("addr"),
            args: own("args"),
            request_id: id("request_id")?,
            since_micros: if until.is_some() { since } else { since.or(self.range_begin()?) },
            until_micros: until,
            before: self.get("before").map(parse_page_key).transpose().map_err(fault("before"))?,
            limit,
            ..Filter::default()
        })
    }

    /// The filter of the page: without reads of the trail, if they are not asked for.
    pub(super) fn page_filter(&self) -> Result<Filter, String> {
        let filter = self.filter()?;
        let hides_reads = self.get("reads").is_none() && filter.method.is_none() && filter.request_id.is_none();
        Ok(Filter { hides_reads, ..filter })
    }

    /// The time of a field as a browser's picker of times has it, in UTC; `None` if it is not set, or not a time.
    pub(super) fn time(&self, name: &str) -> Option<String> {
        let micros = parse_time_arg(self.get(name)?).ok()?;
        Some(Timestamp::from_micros(micros).to_datetime().format("%Y-%m-%dT%H:%M:%S").to_string())
    }

    /// The beginning of the chosen range.
    fn range_begin(&self) -> Result<Option<i64>, String> {
        let Some(range) = self.get("range") else { return Ok(None) };
        let known = RANGES.iter().find(|(value, ..)| *value == range);
        let (.., length) = known.ok_or_else(|| {
            let values: Vec<_> = RANGES.iter().map(|(value, ..)| *value).collect();
            format!("range: must be one of {}", values.join(", "))
        })?;
        Ok(length.map(|seconds| Timestamp::now().micros() - seconds * 1_000_000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_is_parsed_back_from_its_query_and_bounded() {
        let search = Search::parse("who=+ann%26%3Cb%3E+&tool=&status=denied&since=2h&limit=7");
        let filter = search.filter().unwrap();
        assert_eq!((filter.who.as_deref(), filter.tool, filter.limit), (Some("ann&<b>"), None, 7));
        assert!(filter.since_micros.is_some());
        assert_eq!(search.query(&[("status", ""), ("since", "1h")]), "who=ann%26%3Cb%3E&limit=7&since=1h");
        assert_eq!(Search::parse(&search.query(&[])), search);
        assert_eq!(search.query(&[("limit", "9")]), "who=ann%26%3Cb%3E&status=denied&since=2h&limit=9");
        let long = Search::parse(&format!("args={}", "\u{e9}".repeat(2_000)));
        assert_eq!(long.get("args").map(str::len), Some(VALUE_BYTES_MAX));
    }

    #[test]
    fn a_search_without_a_time_is_of_the_last_day_and_one_for_an_id_is_of_all() {
        let since = |query: &str| Search::parse(query).with_range().page_filter().unwrap().since_micros;
        let day = 86_400_000_000;
        for (query, expected) in [("", day), ("who=ann", day), ("range=1h", 3_600_000_000)] {
            let begin = since(query).unwrap();
            let age = Timestamp::now().micros() - begin;
            assert!((expected..expected + 60_000_000).contains(&age), "{query}");
        }
        for query in ["range=all", "session=s", "request_id=0199c0de-0000-7000-8000-000000000001", "until=1h"] {
            assert_eq!(since(query), None, "{query}");
        }
        assert_eq!(
            Search::parse("since=2026-11-26T10:00&until=2026-11-26T10:00:01").filter().map(|f| f.until_micros),
            Ok(Some(1_795_687_201_000_000))
        );
        let hides = |query: &str| Search::parse(query).page_filter().unwrap().hides_reads;
        assert!(hides("who=ann") && !hides("reads=1") && !hides("method=gateway/read"));
    }

    #[test]
    fn a_wrong_value_is_refused_with_the_name_of_its_field() {
        for (query, says) in [
            ("since=never", "From (UTC): \"never\" is not a time"),
            ("since=1h&until=2h", "From (UTC): must be before To (UTC)"),
            ("range=1y", "range: must be one of 15m, 1h, "),
            ("request_id=7", "Request id: not an id"),
            ("status=fine", "Status: unknown status"),
            ("whom=ann", "whom: unknown parameter; use one of who, tool, "),
            ("limit=501", "limit: must be from 1 to 500"),
            ("before=9", "before: \"9\" is not TIME/EPOCH/SEQ/GATEWAY"),
        ] {
            assert!(Search::parse(query).filter().unwrap_err().starts_with(says), "{query}");
        }
    }
}
