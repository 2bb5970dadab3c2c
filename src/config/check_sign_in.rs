//! Checks of `[ops.sign_in]`.

use super::sections::Config;
use super::value_type::issuer_url;

/// Checks the settings of the sign-in to the console that involve others.
pub(super) fn check(config: &Config, report: &mut dyn FnMut(&str, String)) {
    let Some(sign_in) = &config.ops.sign_in else { return };
    match (sign_in.issuer(&config.auth), &sign_in.issuer) {
        (Some(issuer), _) if issuer_url(issuer).is_none() => {
            let message =
                format!("{issuer:?} is not an https:// URL, and has no metadata: people cannot sign in there");
            report("ops.sign_in.issuer", message);
        }
        (Some(_), _) => {}
        (None, Some(named)) => {
            let message = format!("auth.issuers has no {named:?}: correct it, or add the issuer");
            report("ops.sign_in.issuer", message);
        }
        (None, None) if config.auth.issuers.is_empty() => {
            let message = "has no issuer: add [[auth.issuers]], whose ID tokens are then verified by its keys";
            report("ops.sign_in", message.to_owned());
        }
        (None, None) => {
            let message = "is missing: there are several issuers; set the one at which people sign in";
            report("ops.sign_in.issuer", message.to_owned());
        }
    }
    if !sign_in.scope.split(' ').any(|word| word == "openid") {
        let message = format!("{:?} lacks openid, without which there is no ID token: add it", sign_in.scope);
        report("ops.sign_in.scope", message);
    }
    match config.ops.listen {
        None => report("ops.sign_in", "has no effect without ops.listen: set that, or remove this section".to_owned()),
        Some(listen) if !listen.ip().is_loopback() && config.ops.public_url.is_none() => {
            let message = format!(
                "is missing: the provider sends browsers back to the console, and {listen} is not on their machine: set \
                 the URL at which they reach it"
            );
            report("ops.public_url", message);
        }
        Some(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The errors of a sign-in with these settings, and these lines after it.
    fn errors(sign_in: &str, more: &str) -> Vec<String> {
        let text = format!("[ops.sign_in]\nclient_id = \"c\"\n{sign_in}\n{more}");
        let errors = Config::parse(&text, None, []).err().unwrap_or_default();
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_sign_in_has_one_issuer_with_metadata_and_a_way_back() {
        const ONE: &str = "[[auth.issuers]]\nissuer = \"https://a.example\"";
        const TWO: &str = "[[auth.issuers]]\nissuer = \"https://b.example\"";
        const PLAIN: &str = "[[auth.issuers]]\nissuer = \"plain\"\njwks_file = \"k\"";
        assert_eq!(errors("", ONE), [""; 0]);
        assert_eq!(
            errors("issuer = \"https://b.example\"\nscope = \"openid groups\"", &format!("{ONE}\n{TWO}")),
            [""; 0]
        );
        let all = "[ops]\nlisten = \"0.0.0.0:8809\"";
        assert_eq!(errors("", &format!("{all}\npublic_url = \"https://ops.example\"\n{ONE}")), [""; 0]);
        for (sign_in, more, wanted) in [
            ("", String::new(), "ops.sign_in: has no issuer"),
            ("", format!("{ONE}\n{TWO}"), "ops.sign_in.issuer: is missing"),
            ("issuer = \"https://b.example\"", ONE.to_owned(), "ops.sign_in.issuer: auth.issuers has no"),
            ("", PLAIN.to_owned(), "ops.sign_in.issuer: \"plain\" is not an https:// URL"),
            ("scope = \"profile openid2\"", ONE.to_owned(), "ops.sign_in.scope: \"profile openid2\" lacks openid"),
            ("", format!("{all}\n{ONE}"), "ops.public_url: is missing"),
            ("", format!("[ops]\nlisten = \"off\"\n{ONE}"), "ops.sign_in: has no effect"),
        ] {
            let found = errors(sign_in, &more);
            assert!(found.len() == 1 && found[0].contains(wanted), "{wanted}: {found:?}");
        }
    }
}
