//! The roles and the identity in the claims of a verified token.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::principal::ROLES_MAX;
use crate::audit::record::{Authentication, Identity};
use crate::config;

/// Most actors of a token that are read. *Chosen*: RFC 8693 names no limit; real chains have two or three.
const ACTORS_MAX: usize = 16;

/// The claims of an issuer's tokens that name its roles and the caller.
#[derive(Clone, Debug)]
pub(super) struct ClaimRules {
    /// The claim with the roles, as configured.
    role_claim: String,
    role_path: Vec<String>,
    name_path: Option<Vec<String>>,
    /// The roles that a value of the claim stands for. Empty: each value is a role.
    role_map: Arc<BTreeMap<String, Vec<String>>>,
    role_prefix: String,
    /// The roles that the tokens may have, if they are limited.
    allowed: Option<BTreeSet<String>>,
}

impl ClaimRules {
    /// The rules for the tokens of `[[auth.keys]]`.
    pub(super) fn new(auth: &config::Auth) -> Self {
        Self {
            role_claim: auth.role_claim.clone(),
            role_path: path(&auth.role_claim),
            name_path: None,
            role_map: Arc::new(auth.role_map.clone()),
            role_prefix: String::new(),
            allowed: None,
        }
    }

    /// The rules for the tokens of an issuer that publishes its keys.
    pub(super) fn of_issuer(auth: &config::Auth, issuer: &config::Issuer) -> Self {
        let role_claim = issuer.role_claim.as_ref().unwrap_or(&auth.role_claim);
        Self {
            role_claim: role_claim.clone(),
            role_path: path(role_claim),
            name_path: issuer.name_claim.as_deref().map(path),
            role_prefix: issuer.role_prefix.clone().unwrap_or_default(),
            allowed: issuer.roles.as_ref().map(|roles| roles.iter().cloned().collect()),
            ..Self::new(auth)
        }
    }

    /// The roles of a token, at most [`ROLES_MAX`].
    pub(super) fn roles(&self, claims: &Map<String, Value>) -> Vec<String> {
        let value = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let values: Vec<String> = match find(claims, &self.role_path) {
            Some(Value::Array(list)) => list.iter().filter_map(value).collect(),
            Some(one) => value(one).into_iter().collect(),
            None => Vec::new(), // I10: without the claim there is no role.
        };
        let mut roles = Vec::new();
        let mapped = values.into_iter().flat_map(|value| match self.role_map.get(&value) {
            Some(roles) => roles.clone(),
            None if self.role_map.is_empty() => vec![value],
            None => Vec::new(), // I10: a group that is not mapped gives no role.
        });
        for role in mapped.map(|role| format!("{}{role}", self.role_prefix)) {
            // I10: an issuer cannot give a role that the operator did not leave to it.
            if self.allowed.as_ref().is_none_or(|allowed| allowed.contains(&role)) && !roles.contains(&role) {
                roles.push(role);
            }
            if roles.len() == ROLES_MAX {
                break;
            }
        }
        roles
    }

    /// The reason why a token has no role, for its caller.
    pub(super) fn no_role(&self, claims: &Map<String, Value>) -> String {
        let claim = &self.role_claim;
        match find(claims, &self.role_path) {
            None if is_groups_overage(claims, &self.role_path) => format!(
                "the token names its groups by reference, because there are too many for claim {claim}: have the \
                 issuer emit only assigned groups, or use app roles"
            ),
            Some(_) if self.allowed.is_some() || !self.role_map.is_empty() => {
                format!("the token has no role in claim {claim} that this gateway accepts from its issuer")
            }
            _ => format!("the token has no role in claim {claim}"),
        }
    }

    /// The identity in the claims.
    pub(super) fn identity(&self, claims: &Map<String, Value>) -> Identity {
        let text = |name: &str| claims.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        let name = self.name_path.as_ref().and_then(|path| find(claims, path)).and_then(Value::as_str);
        let methods = claims.get("amr").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        Identity {
            authentication: Authentication::Jwt,
            name: name.filter(|name| !name.is_empty()).map(str::to_owned),
            client_id: text("azp").or_else(|| text("client_id")).map(str::to_owned),
            actors: actors(claims),
            acr: text("acr").map(str::to_owned),
            amr: methods.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        }
    }
}

/// The path of names to a claim: a JSON pointer (RFC 6901) if it begins with a slash, else names separated by dots.
pub(super) fn path(claim: &str) -> Vec<String> {
    match claim.strip_prefix('/') {
        Some(pointer) => pointer.split('/').map(|name| name.replace("~1", "/").replace("~0", "~")).collect(),
        None => claim.split('.').map(str::to_owned).collect(),
    }
}

fn find<'a>(claims: &'a Map<String, Value>, path: &[String]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    rest.iter().try_fold(claims.get(first)?, |value, name| value.get(name))
}

/// The subjects of the chain of `act` claims. *Spec*: RFC 8693 4.1: the outermost one is the current actor.
fn actors(claims: &Map<String, Value>) -> Vec<String> {
    let chain = std::iter::successors(claims.get("act"), |actor| actor.get("act")).take(ACTORS_MAX);
    chain.filter_map(|actor| actor.get("sub").and_then(Value::as_str)).map(str::to_owned).collect()
}

/// Returns true if the token has its groups elsewhere. *Spec*: Microsoft Entra leaves out more than 200 groups (150 in
/// SAML, 6 in the implicit flow), and adds `_claim_names` with `groups`, or `hasgroups`.
fn is_groups_overage(claims: &Map<String, Value>, path: &[String]) -> bool {
    let [claim] = path else { return false };
    let names = claims.get("_claim_names").and_then(Value::as_object);
    names.is_some_and(|names| names.contains_key(claim)) || (claim == "groups" && claims.contains_key("hasgroups"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rules(change: impl FnOnce(&mut ClaimRules)) -> ClaimRules {
        let mut rules = ClaimRules::new(&config::Auth::default());
        change(&mut rules);
        rules
    }

    fn with_claim(claim: &str) -> ClaimRules {
        rules(|rules| (rules.role_claim, rules.role_path) = (claim.to_owned(), path(claim)))
    }

    fn claims(value: Value) -> Map<String, Value> {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn the_role_claim_is_a_path_of_names_or_a_json_pointer() {
        let token = claims(json!({
            "https://example.com/roles": ["a"], "realm_access": { "roles": ["b"] }, "x": { "y/z": { "~": "c" } }
        }));
        for (claim, expected) in
            [("/https:~1~1example.com~1roles", "a"), ("realm_access.roles", "b"), ("/realm_access/roles", "b")]
        {
            assert_eq!(with_claim(claim).roles(&token), [expected], "{claim}");
        }
        assert_eq!(with_claim("/x/y~1z/~0").roles(&token), ["c"]);
        assert!(with_claim("https://example.com/roles").roles(&token).is_empty(), "its dots separate names");
    }

    #[test]
    fn i10_a_mapped_claim_gives_only_the_roles_of_the_groups_that_are_mapped() {
        let map = BTreeMap::from([("g1".to_owned(), vec!["reader".to_owned(), "writer".to_owned()])]);
        let rules = rules(|rules| rules.role_map = Arc::new(map));
        assert_eq!(rules.roles(&claims(json!({ "role": ["g1", "admin", "g1"] }))), ["reader", "writer"]);
        let token = claims(json!({ "role": ["admin"] }));
        assert!(rules.roles(&token).is_empty());
        let expected = "the token has no role in claim role that this gateway accepts from its issuer";
        assert_eq!(rules.no_role(&token), expected);
    }

    #[test]
    fn i10_an_issuer_gives_only_the_roles_that_are_left_to_it() {
        let rules = rules(|rules| {
            rules.role_prefix = "partner-".to_owned();
            rules.allowed = Some(BTreeSet::from(["partner-dev".to_owned()]));
        });
        assert_eq!(rules.roles(&claims(json!({ "role": ["admin", "dev", "partner-dev"] }))), ["partner-dev"]);
    }

    #[test]
    fn a_token_without_a_role_is_told_why() {
        let rules = with_claim("groups");
        assert_eq!(rules.no_role(&claims(json!({}))), "the token has no role in claim groups");
        for token in [json!({ "_claim_names": { "groups": "src1" } }), json!({ "hasgroups": true })] {
            assert!(rules.no_role(&claims(token)).contains("too many"));
        }
    }

    #[test]
    fn the_identity_has_the_application_and_the_chain_of_actors() {
        let token = claims(json!({
            "azp": "app", "client_id": "other", "acr": "2", "amr": ["pwd", "otp"], "preferred_username": "Ann",
            "act": { "sub": "agent", "act": { "iss": "x", "act": { "sub": "origin" } } }
        }));
        let rules = rules(|rules| rules.name_path = Some(path("preferred_username")));
        let expected = Identity {
            authentication: Authentication::Jwt,
            name: Some("Ann".to_owned()),
            client_id: Some("app".to_owned()),
            actors: vec!["agent".to_owned(), "origin".to_owned()],
            acr: Some("2".to_owned()),
            amr: vec!["pwd".to_owned(), "otp".to_owned()],
        };
        assert_eq!(rules.identity(&token), expected);
        let fallback = with_claim("role").identity(&claims(json!({ "azp": "", "client_id": "app2" })));
        assert_eq!((fallback.client_id.as_deref(), fallback.name), (Some("app2"), None));
    }

    #[test]
    fn i6_a_long_chain_of_actors_is_cut() {
        let chain = (0..1000).fold(json!({ "sub": "x" }), |act, _| json!({ "sub": "x", "act": act }));
        assert_eq!(actors(&claims(json!({ "act": chain }))).len(), ACTORS_MAX);
    }
}
