//! Requests to S3, signed as AWS Signature Version 4 demands.

use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;

/// The algorithm, as a request names it. *Spec*: AWS Signature Version 4.
const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// A request that is signed.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) method: &'a str,
    pub(super) host: &'a str,
    /// The path, with its reserved characters encoded.
    pub(super) path: &'a str,
    /// Names and values, in the order of the names, not encoded.
    pub(super) query: &'a [(&'a str, &'a str)],
    /// Further names, in lower case, and values, in the order of the names.
    pub(super) headers: &'a [(&'a str, &'a str)],
    pub(super) body: &'a [u8],
}

/// The credentials of a user, and the region of a bucket.
#[derive(Clone, Copy)]
pub(super) struct Credentials<'a> {
    pub(super) key_id: &'a str,
    pub(super) secret: &'a str,
    pub(super) region: &'a str,
}

impl Request<'_> {
    /// The query as it is sent.
    pub(super) fn query_text(&self) -> String {
        let pairs = self.query.iter().map(|(name, value)| format!("{}={}", encoded(name, true), encoded(value, true)));
        pairs.collect::<Vec<_>>().join("&")
    }

    /// The headers to send: those of the request, and those that authorize it at `time` (`20130524T000000Z`).
    pub(super) fn signed_headers(&self, credentials: Credentials<'_>, time: &str) -> Vec<(String, String)> {
        let hash = hex::encode(digest(&SHA256, self.body));
        let own = [("host", self.host), ("x-amz-content-sha256", hash.as_str()), ("x-amz-date", time)];
        let mut headers: Vec<(&str, &str)> = self.headers.iter().copied().chain(own).collect();
        headers.sort_unstable();
        let names = headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
        let mut canonical = format!("{}\n{}\n{}\n", self.method, self.path, self.query_text());
        for (name, value) in &headers {
            // Writing to a text cannot fail.
            writeln!(canonical, "{name}:{}", value.trim()).ok();
        }
        write!(canonical, "\n{names}\n{hash}").ok();
        let date = time.split_once('T').map_or(time, |(date, _)| date);
        let scope = format!("{date}/{}/s3/aws4_request", credentials.region);
        let text = format!("{ALGORITHM}\n{time}\n{scope}\n{}", hex::encode(digest(&SHA256, canonical.as_bytes())));
        let mut key = format!("AWS4{}", credentials.secret).into_bytes();
        for part in [date, credentials.region, "s3", "aws4_request", text.as_str()] {
            key = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), part.as_bytes()).as_ref().to_vec();
        }
        let id = credentials.key_id;
        let signature = hex::encode(key);
        let authorization = format!("{ALGORITHM} Credential={id}/{scope},SignedHeaders={names},Signature={signature}");
        // The client sends the host by itself.
        let sent = headers.iter().filter(|(name, _)| *name != "host");
        let sent = sent.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        sent.chain([("authorization".to_owned(), authorization)]).collect()
    }
}

/// The text with all characters encoded that are reserved in a path or a query. *Spec*: RFC 3986, section 2.3.
pub(super) fn encoded(text: &str, encodes_slash: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            b'/' if !encodes_slash => out.push('/'),
            _ => write!(out, "%{byte:02X}").unwrap_or_default(),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of the specification: Amazon S3 API Reference, "Examples: Signature Calculations in AWS Signature
    /// Version 4".
    #[test]
    fn signatures_are_those_of_the_examples_in_the_specification() {
        let credentials = Credentials {
            key_id: "AKIAIOSFODNN7EXAMPLE",
            secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            region: "us-east-1",
        };
        let of = |method, path, query: &[(&str, &str)], headers: &[(&str, &str)], body: &[u8]| {
            let request = Request { method, host: "examplebucket.s3.amazonaws.com", path, query, headers, body };
            let headers = request.signed_headers(credentials, "20130524T000000Z");
            headers.last().unwrap().1.rsplit_once("Signature=").unwrap().1.to_owned()
        };
        assert_eq!(
            of("GET", "/test.txt", &[], &[("range", "bytes=0-9")], b""),
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
        );
        let headers = [("date", "Fri, 24 May 2013 00:00:00 GMT"), ("x-amz-storage-class", "REDUCED_REDUNDANCY")];
        assert_eq!(encoded("test$file.text", false), "test%24file.text");
        assert_eq!(
            of("PUT", "/test%24file.text", &[], &headers, b"Welcome to Amazon S3."),
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"
        );
        assert_eq!(
            of("GET", "/", &[("lifecycle", "")], &[], b""),
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"
        );
        assert_eq!(
            of("GET", "/", &[("max-keys", "2"), ("prefix", "J")], &[], b""),
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"
        );
    }
}
