//! Sign-in to the console at an `OpenID` provider: the way in, and each attack on it.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use reqwest::{Client, Response};
use serde_json::{Value, json};
use url::Url;

use crate::common::gatepost::{Gatepost, Setup, token, token_with, write_secret};
use crate::common::wait::{SOON, until_async};
use crate::openid_provider::{CLIENT, Provider, SECRET, parameters};
use crate::stub_issuer::SigningKey;

/// A browser: it keeps cookies, and the test follows its redirects.
struct Browser {
    client: Client,
    base: String,
    cookies: BTreeMap<String, String>,
}

impl Browser {
    fn new(gatepost: &Gatepost) -> Self {
        let client = Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        Self { client, base: gatepost.ops_url.clone(), cookies: BTreeMap::new() }
    }

    async fn get(&mut self, path: &str) -> Response {
        self.get_with(path, &[]).await
    }

    async fn get_with(&mut self, path: &str, headers: &[(&str, &str)]) -> Response {
        let cookies: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let mut request = self.client.get(format!("{}{path}", self.base)).header("cookie", cookies.join("; "));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.unwrap();
        for set in response.headers().get_all("set-cookie") {
            let (name, rest) = set.to_str().unwrap().split_once('=').unwrap();
            let (value, attributes) = rest.split_once(';').unwrap();
            assert!(attributes.contains("HttpOnly") && attributes.contains("Path=/console"), "{attributes}");
            if attributes.contains("Max-Age=0") {
                self.cookies.remove(name);
            } else {
                self.cookies.insert(name.to_owned(), value.to_owned());
            }
        }
        response
    }

    /// Begins a sign-in. Returns the request that reaches the provider.
    async fn start(&mut self) -> Url {
        let response = self.get("/console/sign-in/start").await;
        assert_eq!(response.status(), StatusCode::SEE_OTHER);
        Url::parse(response.headers()["location"].to_str().unwrap()).unwrap()
    }

    /// Comes back with a code for the request.
    async fn come_back(&mut self, request: &Url, code: &str) -> (StatusCode, String) {
        let state = &parameters(request)["state"];
        self.come_back_with(&format!("code={code}&state={state}")).await
    }

    async fn come_back_with(&mut self, query: &str) -> (StatusCode, String) {
        let response = self.get(&format!("/console/callback?{query}")).await;
        assert!(!response.headers().contains_key("location"));
        (response.status(), response.text().await.unwrap())
    }

    fn is_signed_in(&self) -> bool {
        self.cookies.keys().any(|name| name.starts_with("gatepost_console_"))
    }
}

/// A gateway whose people sign in at this provider.
fn with_provider(provider: &Provider) -> Setup {
    let mut setup = Setup::new();
    setup.set_toml("auth.issuers", &format!("[{{ issuer = {:?} }}]", provider.issuer));
    setup.set("ops.sign_in.client_id", CLIENT);
    setup
}

/// The records of sign-ins in the outbox of a gateway that has stopped, oldest first: status, subject and message.
fn sign_ins(setup: &Setup) -> Vec<(String, String, String)> {
    let output = setup.command(&["outbox", "list", "--json", "--limit", "10000"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let records = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let of = |record: &Value, name: &str| record[name].as_str().unwrap_or_default().to_owned();
    let records = records.filter(|record| record["method"] == "console/sign-in");
    records.map(|r| (of(&r, "response_status"), of(&r, "client_subject"), of(&r, "error_message"))).collect()
}

#[tokio::test]
async fn a_person_signs_in_at_the_issuer() {
    let provider = Provider::start().await;
    let mut setup = with_provider(&provider);
    // An ID token has no scope.
    setup.set("auth.required_scope", "mcp");
    let gatepost = setup.start();
    let mut browser = Browser::new(&gatepost);
    let form = browser.get("/console").await.text().await.unwrap();
    assert!(form.contains("Sign in with 127.0.0.1") && form.contains("name=\"token\""), "{form}");
    let begun = browser.get("/console/sign-in/start").await;
    let set = begun.headers()["set-cookie"].to_str().unwrap();
    assert!(set.contains("Path=/console/callback; HttpOnly; SameSite=Lax; Max-Age=600"), "{set}");
    let request = browser.start().await;
    assert_eq!(parameters(&request)["redirect_uri"], format!("{}/console/callback", gatepost.ops_url));
    let code = provider.approve(&request);
    let (status, shown) = browser.come_back(&request, &code).await;
    assert!(status == StatusCode::OK && shown.contains("url=/console\""), "{status} {shown}");
    assert_eq!(browser.cookies.len(), 1, "the cookie of the sign-in is removed");
    let page = browser.get("/console").await;
    assert_eq!(page.status(), StatusCode::OK);
    let page = page.text().await.unwrap();
    assert!(page.contains("Pipeline") && page.contains("ann"), "{page}");
    let (authorization, form) = provider.seen().pop().unwrap();
    assert_eq!((authorization, form["client_id"].as_str()), (None, CLIENT));
    assert_eq!(gatepost.terminate(), Some(0));
    assert_eq!(sign_ins(&setup), [("ok".to_owned(), "ann".to_owned(), String::new())]);
    let log = setup.log();
    let secrets = [code.as_str(), form["code_verifier"].as_str(), &parameters(&request)["state"]];
    assert!(secrets.iter().all(|secret| !log.contains(secret)), "{log}");
}

#[tokio::test]
async fn the_secret_of_the_client_is_sent_as_the_provider_takes_it() {
    let provider = Provider::start().await;
    let mut setup = with_provider(&provider);
    let secret = setup.dir().join("console-secret");
    write_secret(&secret, format!("{SECRET}\n"));
    setup.set("ops.sign_in.client_secret_file", secret.to_str().unwrap());
    for (methods, in_body) in
        [(json!(["client_secret_basic", "client_secret_post"]), false), (json!(["client_secret_post"]), true)]
    {
        provider.publish(json!({ "token_endpoint_auth_methods_supported": methods }));
        let gatepost = setup.start();
        let mut browser = Browser::new(&gatepost);
        let request = browser.start().await;
        let code = provider.approve(&request);
        assert_eq!(browser.come_back(&request, &code).await.0, StatusCode::OK);
        let (authorization, form) = provider.seen().pop().unwrap();
        assert_eq!(form.get("client_secret").map(String::as_str), in_body.then_some(SECRET));
        assert_eq!(authorization.is_some_and(|value| value.starts_with("Basic ")), !in_body);
        assert_eq!(gatepost.terminate(), Some(0));
    }
    assert!(!setup.log().contains("hunter2"));
}

/// A refused sign-in: no session, the reason, and the form to try again.
fn is_refused(browser: &Browser, answer: &(StatusCode, String), status: StatusCode, reason: &str) {
    let (found, shown) = answer;
    assert!(!browser.is_signed_in(), "{reason}");
    assert!(
        *found == status && shown.contains(reason) && shown.contains("name=\"token\""),
        "{reason}: {found} {shown}"
    );
}

#[tokio::test]
async fn a_state_is_good_once_and_in_its_browser() {
    let provider = Provider::start().await;
    let setup = with_provider(&provider);
    let gatepost = setup.start();
    let (mut ann, mut eve) = (Browser::new(&gatepost), Browser::new(&gatepost));
    let reason = "begun in another browser, was used already";
    // Eve has Ann open a link with Eve's code and state, so that Ann works as Eve. Ann has begun a sign-in, too.
    let of_eve = eve.start().await;
    let code = provider.approve(&of_eve);
    let answer = ann.come_back(&of_eve, &code).await;
    is_refused(&ann, &answer, StatusCode::FORBIDDEN, reason);
    ann.start().await;
    let of_eve = eve.start().await;
    let code = provider.approve(&of_eve);
    let answer = ann.come_back(&of_eve, &code).await;
    is_refused(&ann, &answer, StatusCode::FORBIDDEN, reason);
    // Eve has seen Ann's redirect.
    let of_ann = ann.start().await;
    let code = provider.approve(&of_ann);
    let answer = eve.come_back(&of_ann, &code).await;
    is_refused(&eve, &answer, StatusCode::FORBIDDEN, reason);
    // A link of the history.
    let mut ann = Browser::new(&gatepost);
    let of_ann = ann.start().await;
    let before = ann.cookies.clone();
    let code = provider.approve(&of_ann);
    assert_eq!(ann.come_back(&of_ann, &code).await.0, StatusCode::OK);
    ann.cookies = before;
    let answer = ann.come_back(&of_ann, &code).await;
    is_refused(&ann, &answer, StatusCode::FORBIDDEN, reason);
    for query in ["", "state=", "code=code-1&state=1234"] {
        let answer = ann.come_back_with(query).await;
        is_refused(&ann, &answer, StatusCode::FORBIDDEN, reason);
    }
    let answer = ann.come_back_with("code=1&state=2&state=3").await;
    is_refused(&ann, &answer, StatusCode::BAD_REQUEST, "a parameter twice");
    // No code reached the provider but that of the good sign-in.
    assert_eq!(provider.seen().len(), 1);
    assert_eq!(gatepost.terminate(), Some(0));
    let recorded = sign_ins(&setup);
    assert_eq!(recorded.iter().filter(|(status, ..)| status == "ok").count(), 1);
    assert_eq!(recorded.iter().filter(|(status, _, why)| status == "denied" && why.contains(reason)).count(), 7);
    assert!(recorded.iter().any(|(status, _, why)| status == "malformed" && why.contains("twice")));
}

#[tokio::test]
async fn an_id_token_that_is_not_the_answer_to_the_sign_in_is_refused() {
    let provider = Provider::start().await;
    let other = Provider::start().await;
    let setup = with_provider(&provider);
    let gatepost = setup.start();
    let mut browser = Browser::new(&gatepost);
    let earlier = browser.start().await;
    let nonce = parameters(&earlier)["nonce"].clone();
    let now = jsonwebtoken::get_current_timestamp();
    for (change, status, reason) in [
        (json!({ "nonce": nonce }), StatusCode::UNAUTHORIZED, "the answer to another sign-in"),
        (json!({ "nonce": null }), StatusCode::UNAUTHORIZED, "the answer to another sign-in"),
        (json!({ "aud": "gatepost" }), StatusCode::UNAUTHORIZED, "for another client"),
        (json!({ "aud": [CLIENT, "gatepost"] }), StatusCode::UNAUTHORIZED, "for another client"),
        (json!({ "azp": "another" }), StatusCode::UNAUTHORIZED, "for another client"),
        (json!({ "iss": other.issuer }), StatusCode::UNAUTHORIZED, "from another issuer"),
        (json!({ "iss": "gatepost-tests" }), StatusCode::UNAUTHORIZED, "unknown key"),
        (json!({ "exp": now - 3600 }), StatusCode::UNAUTHORIZED, "has expired"),
        (json!({ "sub": "" }), StatusCode::UNAUTHORIZED, "sub is missing"),
        (json!({ "role": "admin" }), StatusCode::FORBIDDEN, "does not have the role auditor"),
        (json!({ "role": null }), StatusCode::FORBIDDEN, "does not have the role auditor"),
    ] {
        let request = browser.start().await;
        let code = provider.approve_with_claims(&request, &change);
        let answer = browser.come_back(&request, &code).await;
        is_refused(&browser, &answer, status, reason);
    }
    let request = browser.start().await;
    // Signed by a key that the issuer does not publish, and not signed at all.
    let foreign = SigningKey::EdDsa.sign(&provider.claims(&request));
    let (head, signature) = foreign.rsplit_once('.').unwrap();
    let unsigned = format!("eyJhbGciOiJub25lIn0.{}.", head.split_once('.').unwrap().1);
    let swapped =
        format!("{}.{signature}", SigningKey::Es256.sign(&provider.claims(&request)).rsplit_once('.').unwrap().0);
    // A token for the form is not an ID token.
    for token in [foreign.clone(), unsigned, swapped, token("auditor"), "opaque".to_owned()] {
        let request = browser.start().await;
        let code = provider.approve_with(&request, Some(token.clone()));
        let (status, shown) = browser.come_back(&request, &code).await;
        assert!(!browser.is_signed_in() && !shown.contains(&token), "{shown}");
        assert!(status.is_client_error() || status == StatusCode::SERVICE_UNAVAILABLE, "{status} {shown}");
    }
    // One of another issuer whose tokens the gateway accepts.
    let request = browser.start().await;
    let nonce = &parameters(&request)["nonce"];
    let foreign = token_with(&json!({ "sub": "ann", "role": "auditor", "aud": CLIENT, "nonce": nonce }));
    let code = provider.approve_with(&request, Some(foreign));
    let answer = browser.come_back(&request, &code).await;
    is_refused(&browser, &answer, StatusCode::UNAUTHORIZED, "the ID token is from another issuer");
    let request = browser.start().await;
    let code = provider.approve_with(&request, None);
    let answer = browser.come_back(&request, &code).await;
    is_refused(&browser, &answer, StatusCode::SERVICE_UNAVAILABLE, "issued no ID token");
    // And an ID token is not a token for the form, or for calls.
    let id_token = SigningKey::Es256.sign(&provider.claims(&request));
    let bearer = format!("Bearer {id_token}");
    let answer = browser.get_with("/console", &[("authorization", &bearer)]).await;
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    let call = browser.client.post(format!("{}/mcp", gatepost.url())).header("authorization", &bearer);
    assert_eq!(call.send().await.unwrap().status(), StatusCode::UNAUTHORIZED);
    assert_eq!(gatepost.terminate(), Some(0));
    let recorded = sign_ins(&setup);
    assert!(!recorded.iter().any(|(status, ..)| status == "ok"), "{recorded:?}");
    let denied: Vec<_> = recorded.iter().filter(|(status, ..)| status == "denied").collect();
    assert!(denied.len() == 2 && denied.iter().all(|(_, subject, _)| subject == "ann"), "{denied:?}");
}

#[tokio::test]
async fn a_response_of_another_issuer_or_with_an_error_is_refused() {
    let provider = Provider::start().await;
    provider.publish(json!({ "authorization_response_iss_parameter_supported": true }));
    let setup = with_provider(&provider);
    let gatepost = setup.start();
    let mut browser = Browser::new(&gatepost);
    let reason = "not from the issuer at which";
    for iss in ["", "&iss=https%3A%2F%2Fevil.example", "&iss="] {
        let request = browser.start().await;
        let (code, state) = (provider.approve(&request), &parameters(&request)["state"]);
        let answer = browser.come_back_with(&format!("code={code}&state={state}{iss}")).await;
        is_refused(&browser, &answer, StatusCode::FORBIDDEN, reason);
    }
    let iss: String = url::form_urlencoded::byte_serialize(provider.issuer.as_bytes()).collect();
    for (error, reason) in [
        (
            "error=access_denied&error_description=AADSTS50105%3A+%3Cb%3Enot+assigned",
            "(access_denied): AADSTS50105: &lt;b&gt;not assigned",
        ),
        ("error=access_denied&code=code-1", "did not sign you in (access_denied)"),
        ("error=%3Cscript%3E", "(no code and no error code)"),
        ("", "(no code and no error code)"),
    ] {
        let request = browser.start().await;
        let state = &parameters(&request)["state"];
        let answer = browser.come_back_with(&format!("{error}&state={state}&iss={iss}")).await;
        is_refused(&browser, &answer, StatusCode::UNAUTHORIZED, reason);
    }
    assert!(provider.seen().is_empty(), "no code was exchanged");
    // A code that was used, in a sign-in of its own.
    let request = browser.start().await;
    let code = provider.approve(&request);
    let state = &parameters(&request)["state"];
    assert_eq!(browser.come_back_with(&format!("code={code}&state={state}&iss={iss}")).await.0, StatusCode::OK);
    let mut other = Browser::new(&gatepost);
    let request = other.start().await;
    let state = &parameters(&request)["state"];
    let answer = other.come_back_with(&format!("code={code}&state={state}&iss={iss}")).await;
    is_refused(&other, &answer, StatusCode::UNAUTHORIZED, "did not issue an ID token (HTTP 400, invalid_grant)");
    // And one that was issued for the challenge of another sign-in.
    let (first, second) = (other.start().await, other.start().await);
    let code = provider.approve(&first);
    let state = &parameters(&second)["state"];
    let answer = other.come_back_with(&format!("code={code}&state={state}&iss={iss}")).await;
    is_refused(&other, &answer, StatusCode::UNAUTHORIZED, "invalid_grant");
}

#[tokio::test]
async fn a_sign_in_begins_at_the_console_and_leads_nowhere_else() {
    let provider = Provider::start().await;
    let setup = with_provider(&provider);
    let gatepost = setup.start();
    let mut browser = Browser::new(&gatepost);
    for site in ["cross-site", "same-site"] {
        let answer = browser.get_with("/console/sign-in/start", &[("sec-fetch-site", site)]).await;
        assert_eq!((answer.status(), answer.headers().contains_key("location")), (StatusCode::FORBIDDEN, false));
    }
    for site in ["same-origin", "none"] {
        let answer = browser.get_with("/console/sign-in/start", &[("sec-fetch-site", site)]).await;
        assert_eq!(answer.status(), StatusCode::SEE_OTHER);
    }
    // The cookie would not come back from the provider.
    let port = gatepost.ops_url.rsplit_once(':').unwrap().1;
    let answer = browser.get_with("/console/sign-in/start", &[("host", &format!("localhost:{port}"))]).await;
    assert_eq!(answer.status(), StatusCode::MISDIRECTED_REQUEST);
    let shown = answer.text().await.unwrap();
    assert!(shown.contains(&format!("{}/console/callback", gatepost.ops_url)), "{shown}");
    // No parameter leads elsewhere.
    let evil = "next=https%3A%2F%2Fevil.example&redirect_uri=https%3A%2F%2Fevil.example";
    let answer = browser.get(&format!("/console/sign-in/start?{evil}")).await;
    let request = Url::parse(answer.headers()["location"].to_str().unwrap()).unwrap();
    assert!(request.as_str().starts_with(&provider.issuer) && !request.as_str().contains("evil"), "{request}");
    let (code, state) = (provider.approve(&request), &parameters(&request)["state"]);
    let (status, shown) = browser.come_back_with(&format!("code={code}&state={state}&{evil}")).await;
    assert!(status == StatusCode::OK && !shown.contains("evil") && shown.contains("url=/console\""), "{shown}");
    let without = Setup::new();
    let gatepost = without.start();
    let mut browser = Browser::new(&gatepost);
    for path in ["/console/sign-in/start", "/console/callback?code=1&state=2"] {
        assert_eq!(browser.get(path).await.status(), StatusCode::NOT_FOUND);
    }
    assert!(!browser.get("/console").await.text().await.unwrap().contains("Sign in with"));
}

#[tokio::test]
async fn a_provider_that_is_away_leaves_the_token_form() {
    let provider = Provider::start().await;
    provider.set_down(true);
    let setup = with_provider(&provider);
    let gatepost = setup.start();
    let mut browser = Browser::new(&gatepost);
    let answer = browser.get("/console/sign-in/start").await;
    let answer = (answer.status(), answer.text().await.unwrap());
    is_refused(&browser, &answer, StatusCode::SERVICE_UNAVAILABLE, "127.0.0.1 cannot be reached");
    let form = browser.client.post(format!("{}/console/sign-in", gatepost.ops_url)).header("origin", &gatepost.ops_url);
    let by_token = form.body(format!("token={}", token("auditor"))).send().await.unwrap();
    assert_eq!(by_token.status(), StatusCode::SEE_OTHER);
    drop(gatepost);
    provider.set_down(false);
    let gatepost = setup.start();
    let mut browser = Browser::new(&gatepost);
    let request = browser.start().await;
    let code = provider.approve(&request);
    provider.set_token_status(StatusCode::INTERNAL_SERVER_ERROR);
    let answer = browser.come_back(&request, &code).await;
    is_refused(
        &browser,
        &answer,
        StatusCode::UNAUTHORIZED,
        "did not issue an ID token (HTTP 500, without an error code)",
    );
}

#[tokio::test]
async fn sign_ins_at_the_issuer_are_limited() {
    let provider = Provider::start().await;
    let setup = with_provider(&provider);
    let gatepost = setup.start();
    let mut browser = Browser::new(&gatepost);
    let mut limited = [0_u32; 2];
    for _ in 0..60 {
        for (path, count) in ["/console/sign-in/start", "/console/callback?code=1&state=2"].iter().zip(&mut limited) {
            *count += u32::from(browser.get(path).await.status() == StatusCode::TOO_MANY_REQUESTS);
        }
    }
    assert!(limited.iter().all(|count| (1..60).contains(count)), "{limited:?}");
}

#[tokio::test]
async fn a_session_of_the_issuer_ends_with_its_role() {
    let provider = Provider::start().await;
    let mut setup = with_provider(&provider);
    let gatepost = setup.start();
    let mut browser = Browser::new(&gatepost);
    let request = browser.start().await;
    let code = provider.approve(&request);
    assert_eq!(browser.come_back(&request, &code).await.0, StatusCode::OK);
    assert_eq!(browser.get("/console/status").await.status(), StatusCode::OK);
    setup.set_toml("auth.issuers", &format!("[{{ issuer = {:?}, role_claim = \"groups\" }}]", provider.issuer));
    setup.config_file();
    gatepost.signal(nix::sys::signal::Signal::SIGHUP);
    let is_over = async || {
        let cookies =
            browser.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("; ");
        let status = browser.client.get(format!("{}/console/status", browser.base)).header("cookie", cookies);
        status.send().await.unwrap().status() == StatusCode::UNAUTHORIZED
    };
    until_async("the session ends with a reload that reads roles in another claim", SOON, is_over).await;
}
