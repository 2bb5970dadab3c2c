//! Attacks on who somebody is.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, crypto, get_current_timestamp};
use serde_json::{Value, json};

use super::fixture::{
    Attack, AttackFixture, DENIED, EC_ISSUER, RSA_ISSUER, SECOND_ISSUER, SECOND_SECRET, UNAUTHENTICATED, call,
    fixture_file, row,
};
use crate::common::gatepost::{AUDIENCE, ISSUER};

fn base64(text: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(text)
}

/// A token of exactly this header and these claims.
fn signed(header: &Value, claims: &Value, algorithm: Algorithm, key: &EncodingKey) -> String {
    let message = format!("{}.{}", base64(header.to_string().as_bytes()), base64(claims.to_string().as_bytes()));
    let signature = crypto::sign(message.as_bytes(), key, algorithm).unwrap();
    format!("{message}.{signature}")
}

fn claims(issuer: &str) -> Value {
    let exp = get_current_timestamp() + 600;
    json!({"iss": issuer, "aud": AUDIENCE, "sub": "mallory", "role": "admin", "exp": exp})
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims(ISSUER);
    claims[name] = value;
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims(ISSUER);
    claims.as_object_mut().unwrap().remove(name);
    claims
}

/// Tokens that were made or changed by somebody who has no key.
fn forged(fixture: &AttackFixture) -> Vec<(String, String)> {
    let hs256 = |kid: &str| json!({"typ": "JWT", "alg": "HS256", "kid": kid});
    let keyed = |header: &Value, claims: &Value, secret: &[u8]| {
        signed(header, claims, Algorithm::HS256, &EncodingKey::from_secret(secret))
    };
    let mut tokens = Vec::new();
    let mut add = |name: &str, token: String| tokens.push((name.to_owned(), token));
    for (kid, issuer) in [("rsa", RSA_ISSUER), ("ec", EC_ISSUER)] {
        let pem =
            std::fs::read(fixture_file(&format!("{}256_public.pem", &kid[..1].replace('r', "rs").replace('e', "es"))));
        let pem = pem.unwrap();
        let trimmed = pem.trim_ascii_end();
        add(&format!("HS256 keyed with the public key {kid}"), keyed(&hs256(kid), &claims(issuer), &pem));
        add(&format!("the same without its newline, {kid}"), keyed(&hs256(kid), &claims(issuer), trimmed));
        add(&format!("the public key {kid} under another kid"), keyed(&hs256("test"), &claims(issuer), &pem));
        let header = json!({"alg": "HS256"});
        add(&format!("the public key {kid} under no kid"), keyed(&header, &claims(issuer), &pem));
    }
    let body = base64(claims(ISSUER).to_string().as_bytes());
    let last = keyed(&hs256("test"), &claims(ISSUER), b"not the secret").rsplit('.').next().unwrap().to_owned();
    for spelling in ["none", "None", "NONE", "nOnE", "", "null"] {
        let header = base64(json!({"alg": spelling, "kid": "test"}).to_string().as_bytes());
        add(&format!("alg {spelling:?} without a signature"), format!("{header}.{body}."));
        add(&format!("alg {spelling:?} with a signature"), format!("{header}.{body}.{last}"));
    }
    for header in
        [json!({"kid": "test"}), json!({"alg": null, "kid": "test"}), json!({"alg": ["HS256"], "kid": "test"})]
    {
        add(&format!("header {header}"), format!("{}.{body}.{last}", base64(header.to_string().as_bytes())));
    }
    let own =
        json!({"alg": "HS256", "kid": "test", "jwk": {"kty": "oct", "k": base64(b"a key of the attacker's own")}});
    add("a key in the header", keyed(&own, &claims(ISSUER), b"a key of the attacker's own"));
    let own = json!({"alg": "HS256", "kid": "test", "jku": "https://evil.example/keys"});
    add("a key set's address in the header", keyed(&own, &claims(ISSUER), b"a key of the attacker's own"));
    for kid in ["unknown", "", "TEST", "../../../../../dev/null", "test' OR '1'='1"] {
        add(&format!("kid {kid:?}"), keyed(&hs256(kid), &claims(ISSUER), b""));
    }
    let [head, body, signature] = [0, 1, 2].map(|part| fixture.bob.split('.').nth(part).unwrap());
    let flipped = if signature.starts_with('A') { "B" } else { "A" };
    add("a changed signature", format!("{head}.{body}.{flipped}{}", &signature[1..]));
    add("an empty signature", format!("{head}.{body}."));
    add("no signature", format!("{head}.{body}"));
    add("a fourth part", format!("{}.{signature}", fixture.bob));
    let admin = fixture.ann.split('.').nth(1).unwrap();
    add("another's claims under a good signature", format!("{head}.{admin}.{signature}"));
    add("padded Base64", format!("{head}.{body}.{signature}="));
    add("a token larger than any", format!("{head}.{}.{signature}", "A".repeat(17 * 1024)));
    add("no token at all", "a.b.c".to_owned());
    tokens
}

/// Tokens that a real key has signed, and that are not good here or now.
fn misused(fixture: &AttackFixture) -> Vec<(String, String)> {
    let secret = std::fs::read(fixture.setup.dir().join("secret")).unwrap();
    let header = json!({"typ": "JWT", "alg": "HS256", "kid": "test"});
    let own = |claims: &Value| signed(&header, claims, Algorithm::HS256, &EncodingKey::from_secret(&secret));
    let now = get_current_timestamp();
    let mut tokens = Vec::new();
    let mut add = |name: &str, token: String| tokens.push((name.to_owned(), token));
    let second = EncodingKey::from_secret(SECOND_SECRET);
    let kid = |kid: &str, alg: &str| json!({"alg": alg, "kid": kid});
    add("another issuer's key under this kid", signed(&header, &claims(SECOND_ISSUER), Algorithm::HS256, &second));
    let name = "one issuer's claims, signed by another";
    add(name, signed(&kid("second", "HS256"), &claims(ISSUER), Algorithm::HS256, &second));
    let rsa = EncodingKey::from_rsa_pem(&std::fs::read(fixture_file("rs256_private.pem")).unwrap()).unwrap();
    add("an RSA key under an HS256 kid", signed(&kid("test", "RS256"), &claims(RSA_ISSUER), Algorithm::RS256, &rsa));
    add("an RSA key under an EC kid", signed(&kid("ec", "RS256"), &claims(EC_ISSUER), Algorithm::RS256, &rsa));
    add("a stronger hash of the RSA key", signed(&kid("rsa", "RS512"), &claims(RSA_ISSUER), Algorithm::RS512, &rsa));
    add("PS256 of the RSA key", signed(&kid("rsa", "PS256"), &claims(RSA_ISSUER), Algorithm::PS256, &rsa));
    let key = EncodingKey::from_secret(&secret);
    add("HS512 of the secret", signed(&kid("test", "HS512"), &claims(ISSUER), Algorithm::HS512, &key));
    add("no kid", signed(&json!({"alg": "HS256"}), &claims(ISSUER), Algorithm::HS256, &key));
    let crit = json!({"alg": "HS256", "kid": "test", "crit": ["exp"], "exp": now + 600});
    add("an extension that must be understood", signed(&crit, &claims(ISSUER), Algorithm::HS256, &key));
    let crit = json!({"alg": "HS256", "kid": "test", "crit": ["b64"], "b64": false});
    add("unencoded claims", signed(&crit, &claims(ISSUER), Algorithm::HS256, &key));
    for (name, value) in [
        ("exp", json!(now - 3600)),
        ("exp", json!(0)),
        ("exp", json!(-1)),
        ("exp", json!("9999999999")),
        ("exp", json!(true)),
        ("exp", json!(null)),
        ("nbf", json!(now + 3600)),
        ("nbf", json!("0")),
        ("aud", json!("another")),
        ("aud", json!(["another", "GATEPOST"])),
        ("aud", json!("")),
        ("aud", json!({"gatepost": true})),
        ("iss", json!("https://evil.example")),
        ("iss", json!(RSA_ISSUER)),
        ("iss", json!([ISSUER, "https://evil.example"])),
        ("iss", json!("Gatepost-tests")),
        ("sub", json!(7)),
        ("sub", json!("")),
        ("sub", json!(null)),
        ("sub", json!(["ann"])),
        ("sub", json!({"sub": "ann"})),
    ] {
        add(&format!("{name} {value}"), own(&with(name, value)));
    }
    for name in ["exp", "aud", "iss", "sub"] {
        add(&format!("no {name}"), own(&without(name)));
    }
    add("claims that are no object", own(&json!([claims(ISSUER)])));
    tokens
}

pub fn attacks(fixture: &AttackFixture) -> Vec<Attack> {
    let mut attacks = Vec::new();
    for (name, token) in [forged(fixture), misused(fixture)].concat() {
        attacks.push(row(
            format!("token: {name}"),
            &fixture.post("/mcp/raw", call("echo")).by(&token),
            UNAUTHENTICATED,
        ));
    }
    let anonymous = fixture.post("/mcp/raw", call("echo")).without("authorization");
    let (ann, bearer) = (&fixture.ann, format!("Bearer {}", fixture.ann));
    for (name, value) in [
        ("Basic", format!("Basic {}", base64(b"ann:secret"))),
        ("the scheme alone", "Bearer".to_owned()),
        ("an empty token", "Bearer ".to_owned()),
        ("an empty value", String::new()),
        ("a token without a scheme", ann.clone()),
        ("two tokens with a space", format!("Bearer {ann} {ann}")),
        ("two tokens with a comma", format!("Bearer {ann}, Bearer {ann}")),
        ("a quoted token", format!("Bearer \"{ann}\"")),
        ("a tab after the scheme", format!("Bearer\t{ann}")),
        ("another scheme that begins alike", format!("BearerX {ann}")),
    ] {
        let request = anonymous.clone().with("authorization", &value);
        attacks.push(row(format!("authorization: {name}"), &request, UNAUTHENTICATED));
    }
    let twice = anonymous.clone().with("authorization", &bearer).with("Authorization", &bearer);
    attacks.push(row("authorization: it stands twice", &twice, UNAUTHENTICATED));
    let other = anonymous.clone().with("authorization", "Bearer x").with("authorization", &bearer);
    attacks.push(row("authorization: a bad one before a good one", &other, UNAUTHENTICATED));
    for (name, value) in [
        ("cookie", format!("access_token={ann}")),
        ("x-authorization", bearer.clone()),
        ("proxy-authorization", bearer.clone()),
        ("x-forwarded-user", "ann".to_owned()),
        ("x-forwarded-access-token", ann.clone()),
    ] {
        attacks.push(row(format!("a token in {name}"), &anonymous.clone().with(name, &value), UNAUTHENTICATED));
    }
    for query in ["access_token", "token", "authorization"] {
        let path = format!("/mcp/raw?{query}={ann}");
        let request = fixture.post(&path, call("echo")).without("authorization");
        attacks.push(row(format!("a token as {query} in the query"), &request, UNAUTHENTICATED));
    }
    let secret = std::fs::read(fixture.setup.dir().join("secret")).unwrap();
    for role in [
        json!(null),
        json!("root"),
        json!("*"),
        json!("Admin"),
        json!("echo,admin"),
        json!("admin "),
        json!({"admin": true}),
        json!([["admin"]]),
        json!([{"name": "admin"}]),
    ] {
        let header = json!({"alg": "HS256", "kid": "test"});
        let key = EncodingKey::from_secret(&secret);
        let token = signed(&header, &with("role", role.clone()), Algorithm::HS256, &key);
        attacks.push(row(format!("role {role}"), &fixture.post("/mcp/raw", call("echo")).by(&token), DENIED));
    }
    attacks
}
