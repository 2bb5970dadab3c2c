//! The one comparison of names that a lenient decoder may take for each other.
//!
//! Decoders differ: that of Go's standard library ignores case, the long s and the Kelvin sign included; a pydantic
//! model may accept `request_state` for `requestState`; some frameworks normalize Unicode. Two names that fold to the
//! same text are treated as names that a backend may confuse. The envelope, the conditions of roles and redaction
//! compare with this fold and no other.

use std::borrow::Cow;

use unicode_normalization::UnicodeNormalization as _;

/// `name` in Unicode NFKC, with full case folding, without `_` and `-`.
///
/// The dotless i folds to `i` too, as the case mappings of programs do that do not know the Turkish alphabet. Folding a
/// folded name changes nothing.
pub(crate) fn folded(name: &str) -> Cow<'_, str> {
    let is_folded = |byte: u8| byte.is_ascii() && !byte.is_ascii_uppercase() && byte != b'_' && byte != b'-';
    if name.bytes().all(is_folded) {
        return Cow::Borrowed(name);
    }
    if name.is_ascii() {
        let kept = name.chars().filter(|c| !is_separator(*c));
        return Cow::Owned(kept.map(|c| c.to_ascii_lowercase()).collect());
    }
    // Case mappings may make a character that NFKC changes, and the other way round: NFKC comes before and after.
    Cow::Owned(name.nfkc().flat_map(without_case).nfkc().filter(|c| !is_separator(*c)).collect())
}

/// `c` in lower case, by way of the upper case that it shares with others: the long s is an `s`, both sharp s are `ss`.
/// Each character is mapped by itself, because the mapping of a whole text depends on the place of a sigma.
fn without_case(c: char) -> impl Iterator<Item = char> {
    c.to_lowercase().flat_map(char::to_uppercase).flat_map(char::to_lowercase)
}

fn is_separator(c: char) -> bool {
    matches!(c, '_' | '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_a_decoder_may_confuse_fold_alike() {
        for (name, want) in [
            ("arguments", "arguments"),
            ("Arguments", "arguments"),
            ("ARGUMENTS", "arguments"),
            ("argument\u{17f}", "arguments"),                 // The long s.
            ("\u{212a}ey", "key"),                            // The Kelvin sign.
            ("stra\u{df}e", "strasse"),                       // The sharp s.
            ("STRA\u{1e9e}E", "strasse"),                     // Its capital.
            ("\u{ff4e}\u{ff41}\u{ff4d}\u{ff45}", "name"),     // Fullwidth letters.
            ("\u{ff2e}\u{ff21}\u{ff2d}\u{ff25}", "name"),     // Fullwidth capitals.
            ("\u{fb01}le", "file"),                           // A ligature.
            ("pa\u{fb05}e", "paste"),                         // A ligature with a long s.
            ("\u{1d427}\u{1d41a}\u{1d426}\u{1d41e}", "name"), // Mathematical letters.
            ("ur\u{131}", "uri"),                             // The dotless i.
            ("request_state", "requeststate"),
            ("request-state", "requeststate"),
            ("_request__State-", "requeststate"),
            ("request\u{ff3f}state", "requeststate"), // A fullwidth underscore.
            ("request\u{ff0d}state", "requeststate"), // A fullwidth hyphen.
            ("request\u{2011}state", "request\u{2010}state"), // A hyphen of another kind stays one.
            ("e\u{301}", "\u{e9}"),
            ("E\u{301}", "\u{e9}"),
            ("\u{3a3}\u{3a3}", "\u{3c3}\u{3c3}"), // No final sigma.
            ("\u{3c2}", "\u{3c3}"),
            ("", ""),
            ("_-", ""),
        ] {
            assert_eq!(folded(name), want, "{name:?}");
        }
    }

    #[test]
    fn different_names_stay_different() {
        for (a, b) in
            [("name", "names"), ("uri", "url"), ("a.b", "ab"), ("a b", "ab"), ("a/b", "ab"), ("n\u{e4}me", "name")]
        {
            assert_ne!(folded(a), folded(b), "{a:?} {b:?}");
        }
    }

    #[test]
    fn every_character_folds_as_its_mappings_do_and_stays_folded() {
        // The planes that have mappings; all of Unicode takes ten times as long.
        for c in ('\0'..'\u{20000}').chain('\u{2f800}'..'\u{2fa20}').chain('\u{e0000}'..'\u{e0200}') {
            let text = c.to_string();
            let once = folded(&text).into_owned();
            assert_eq!(folded(&once), once, "{c:?}");
            assert_eq!(folded(&text.to_uppercase()), once, "{c:?} in upper case");
            assert_eq!(folded(&text.to_lowercase()), once, "{c:?} in lower case");
            assert_eq!(folded(&text.nfkc().collect::<String>()), once, "{c:?} in NFKC");
            assert_eq!(folded(&text.nfd().collect::<String>()), once, "{c:?} in NFD");
        }
    }
}
