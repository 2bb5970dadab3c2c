//! A bucket on a server that behaves as S3 does: it verifies the signature of each request, creates objects only, and
//! locks them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use gatepost::accept::{AcceptFailures, CountedListener};
use gatepost::connections::serve_router;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

pub const KEY_ID: &str = "key-id";
pub const SECRET: &str = "hunter2";
pub const REGION: &str = "eu-central-1";

/// A bucket: its objects by key, and its habits.
#[derive(Default)]
pub struct Bucket {
    pub objects: BTreeMap<String, Vec<u8>>,
    /// The value of the lock's mode, if objects are locked.
    pub lock: Option<&'static str>,
    pub requests: usize,
    pub status: Option<u16>,
    /// Lists from the beginning, whatever was listed before.
    pub forgets_place: bool,
}

pub type SharedBucket = Arc<Mutex<Bucket>>;

/// Serves a bucket whose objects are locked; returns its URL too.
pub async fn serve_bucket() -> (SharedBucket, String) {
    let bucket = SharedBucket::default();
    bucket.lock().lock = Some("COMPLIANCE");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/checkpoints/", listener.local_addr().unwrap());
    let listener = CountedListener { listener, failures: AcceptFailures::default() };
    let router = Router::new().fallback(answer).with_state(Arc::clone(&bucket));
    tokio::spawn(serve_router(listener, router, 8, CancellationToken::new()));
    (bucket, url)
}

async fn answer(
    State(bucket): State<SharedBucket>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let mut bucket = bucket.lock();
    bucket.requests += 1;
    if !is_signed(&method, &uri, &headers, &body) {
        return (StatusCode::FORBIDDEN, "<Code>SignatureDoesNotMatch</Code>").into_response();
    }
    if let Some(status) = bucket.status {
        return (StatusCode::from_u16(status).unwrap(), "<Code>AccessDenied</Code>").into_response();
    }
    let key = uri.path().strip_prefix("/checkpoints/").unwrap().to_owned();
    if method == Method::PUT {
        assert!(headers["if-none-match"] == "*" && headers.contains_key("x-amz-checksum-sha256"));
        if bucket.objects.contains_key(&key) {
            return StatusCode::PRECONDITION_FAILED.into_response();
        }
        bucket.objects.insert(key, body.to_vec());
        return StatusCode::OK.into_response();
    }
    if key.is_empty() {
        let url = url::Url::parse(&format!("http://x{uri}")).unwrap();
        let query: BTreeMap<String, String> = url.query_pairs().into_owned().collect();
        let after = if bucket.forgets_place { "" } else { &query["start-after"] };
        let mut found = bucket.objects.keys().filter(|key| key.as_str() > after && key.starts_with(&query["prefix"]));
        let found = found.next().map_or_else(String::new, |key| format!("<Contents><Key>{key}</Key></Contents>"));
        return format!("<?xml version=\"1.0\"?><ListBucketResult>{found}</ListBucketResult>").into_response();
    }
    let Some(object) = bucket.objects.get(&key) else { return StatusCode::NOT_FOUND.into_response() };
    let mut response = object.clone().into_response();
    if let Some(mode) = bucket.lock {
        response.headers_mut().insert("x-amz-object-lock-mode", mode.parse().unwrap());
        let until = "2126-01-01T00:00:00.000Z".parse().unwrap();
        response.headers_mut().insert("x-amz-object-lock-retain-until-date", until);
    }
    response
}

/// Returns true if the request, as it arrived, has the signature that AWS Signature Version 4 demands.
fn is_signed(method: &Method, uri: &Uri, headers: &HeaderMap, body: &[u8]) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let authorization = text("authorization");
    let part = |name: &str| {
        let (_, rest) = authorization.split_once(name)?;
        Some(rest.split(',').next()?.trim())
    };
    let Some(scope) = part("Credential=").and_then(|credential| credential.strip_prefix(KEY_ID)) else { return false };
    let (Some(names), Some(signature)) = (part("SignedHeaders="), part("Signature=")) else { return false };
    let hash = hex::encode(digest(&SHA256, body));
    let time = text("x-amz-date");
    let date = time.split('T').next().unwrap();
    let is_whole =
        ["host", "x-amz-content-sha256", "x-amz-date"].iter().all(|name| names.split(';').any(|it| it == *name));
    if scope != format!("/{date}/{REGION}/s3/aws4_request") || !is_whole || text("x-amz-content-sha256") != hash {
        return false;
    }
    let mut query: Vec<&str> = uri.query().unwrap_or_default().split('&').collect();
    query.sort_unstable();
    let mut canonical = format!("{method}\n{}\n{}\n", uri.path(), query.join("&"));
    for name in names.split(';') {
        writeln!(canonical, "{name}:{}", text(name)).unwrap();
    }
    write!(canonical, "\n{names}\n{hash}").unwrap();
    let canonical = hex::encode(digest(&SHA256, canonical.as_bytes()));
    let signed = format!("AWS4-HMAC-SHA256\n{time}\n{}\n{canonical}", &scope[1..]);
    let key = [date, REGION, "s3", "aws4_request"].iter().fold(format!("AWS4{SECRET}").into_bytes(), |key, part| {
        hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), part.as_bytes()).as_ref().to_vec()
    });
    hex::encode(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), signed.as_bytes())) == signature
}
