//! Static tokens: a file of hashes, each with its subject and roles, as an alternative to JWT.
//!
//! The file holds no token, so that it can be backed up and read by operators without giving away an identity; it decides
//! who may do what all the same, and is refused where others may read it.
//!
//! ```toml
//! [[tokens]]
//! sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
//! subject = "ci"
//! roles = ["dev"]
//! id = "2026-11"     # optional: recorded as the token's id
//! scope = "mcp"      # optional: as a JWT's scope
//! ```

use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};

use crate::auth::watched::{Watched, read_bounded};
use crate::auth::{Principal, ROLES_MAX};
use crate::config;

/// The issuer of those who come by a static token.
pub const ISSUER: &str = "static";

/// Shortest token that is hashed for the file, in bytes. *Chosen*: as an HS256 secret; the hash is plain, and only chance
/// keeps a token from being guessed by it.
pub const TOKEN_BYTES_MIN: usize = 32;

/// Largest file, in bytes. *Chosen*: thousands of tokens.
const FILE_BYTES_MAX: usize = 1024 * 1024;

/// Most tokens. *Derived*: each is compared on every request, at about 20 ns.
const TOKENS_MAX: usize = 4096;

/// Permissions that nobody but the owner may have.
const OTHERS: u32 = 0o077;

/// Why a file of static tokens does not do. None holds a line of it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It cannot be read.
    #[error("cannot be read ({0}): make it a file that the gateway's user may read")]
    Io(#[from] io::Error),
    /// Others may read it.
    #[error("has mode {mode:03o}, so that others may use it: chmod 600")]
    Open {
        /// Its permissions.
        mode: u32,
    },
    /// Too large.
    #[error("is larger than {FILE_BYTES_MAX} bytes: that is no file of tokens")]
    TooLarge,
    /// No TOML, or not of this shape.
    #[error("does not parse: {0}; write [[tokens]] with sha256, subject and roles, as `gatepost token hash` prints")]
    Toml(String),
    /// An entry that does not do.
    #[error("has a fault in tokens[{idx}]: {fault}")]
    Entry {
        /// Its place, from 0.
        idx: usize,
        /// What is wrong with it.
        fault: &'static str,
    },
    /// Too many.
    #[error("has more than {TOKENS_MAX} tokens")]
    TooMany,
}

/// A file of static tokens that does not do.
#[derive(Debug, thiserror::Error)]
#[error("{path:?} {source}")]
pub struct Fault {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub source: Error,
}

/// The tokens of the file.
#[derive(Debug)]
pub(super) struct StaticTokens(Watched<Vec<Entry>>);

#[derive(Debug)]
struct Entry {
    hash: [u8; 32],
    principal: Principal,
    scope: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    tokens: Vec<Row>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    sha256: String,
    subject: String,
    #[serde(default)]
    roles: Vec<String>,
    id: Option<String>,
    scope: Option<String>,
}

/// The file of the configuration, if there is one; a fault comes with its place there.
pub(super) fn load(auth: &config::Auth) -> Result<Option<StaticTokens>, (String, Fault)> {
    let Some(path) = &auth.tokens_file else { return Ok(None) };
    let watched = Watched::open(path, read);
    watched
        .map(|watched| Some(StaticTokens(watched)))
        .map_err(|source| ("auth.tokens_file".to_owned(), Fault { path: path.clone(), source }))
}

impl StaticTokens {
    /// Whose token it is, with its scope. The time it takes says nothing of any hash.
    pub(super) fn find(&self, token: &str) -> Option<(Principal, Option<String>)> {
        let hash: [u8; 32] = Sha256::digest(token).into();
        let entries = self.0.get();
        let mut found = u32::MAX;
        for (idx, entry) in (0_u32..).zip(entries.iter()) {
            let same: Choice = entry.hash.ct_eq(&hash);
            found.conditional_assign(&idx, same);
        }
        let entry = entries.get(usize::try_from(found).ok()?)?;
        Some((entry.principal.clone(), entry.scope.clone()))
    }
}

/// What the file says of a token, from which nobody gets the token back.
#[must_use]
pub fn hash(token: impl AsRef<[u8]>) -> String {
    Sha256::digest(token).iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("a String takes all text");
        hex
    })
}

fn read(file: File) -> Result<Vec<Entry>, Error> {
    let mode = file.metadata()?.permissions().mode() & 0o777;
    if mode & OTHERS != 0 {
        return Err(Error::Open { mode });
    }
    let bytes = read_bounded(file, FILE_BYTES_MAX)?.ok_or(Error::TooLarge)?;
    let text = String::from_utf8(bytes).map_err(|_| Error::Toml("it is no UTF-8 text".to_owned()))?;
    parse(&text)
}

fn parse(text: &str) -> Result<Vec<Entry>, Error> {
    // I8: the message, not the line with its marks: somebody may have put a token there.
    let line = |at: usize| text.bytes().take(at).filter(|&byte| byte == b'\n').count() + 1;
    let Document { tokens } = toml::from_str(text)
        .map_err(|error| Error::Toml(format!("line {}", error.span().map_or(1, |span| line(span.start)))))?;
    if tokens.len() > TOKENS_MAX {
        return Err(Error::TooMany); // I6: the number of tokens is bounded.
    }
    let mut entries: Vec<Entry> = Vec::with_capacity(tokens.len());
    for (idx, row) in tokens.into_iter().enumerate() {
        let fault = |fault| Error::Entry { idx, fault };
        let hash = bytes(&row.sha256).ok_or_else(|| fault("sha256 is no SHA-256 in 64 hexadecimal digits"))?;
        if row.subject.is_empty() || row.subject.contains(char::is_control) {
            return Err(fault("subject is empty, or holds a control character"));
        }
        if row.roles.len() > ROLES_MAX || row.roles.iter().any(String::is_empty) {
            return Err(fault("roles are more than 64, or one is empty"));
        }
        if entries.iter().any(|earlier| earlier.hash == hash) {
            return Err(fault("sha256 is an earlier token's"));
        }
        let principal =
            Principal { subject: row.subject, issuer: ISSUER.to_owned(), token_id: row.id, roles: row.roles };
        entries.push(Entry { hash, principal, scope: row.scope });
    }
    Ok(entries)
}

fn bytes(hex: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = hex.chars().map(|digit| u8::try_from(digit.to_digit(16)?).ok()).collect::<Option<_>>()?;
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    pairs.iter().map(|[high, low]| high << 4 | low).collect::<Vec<_>>().try_into().ok()
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use crate::auth::{AuthError, Authenticator, LoadError};

    use super::*;

    const TOKEN: &str = "0123456789abcdef0123456789abcdef";
    const OTHER: &str = "fedcba9876543210fedcba9876543210";

    fn write(path: &Path, text: &str, mode: u32) {
        std::fs::write(path, text).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    fn entry(token: &str, rest: &str) -> String {
        format!("[[tokens]]\nsha256 = {:?}\n{rest}\n", hash(token))
    }

    fn load(path: &Path, scope: Option<&str>) -> Result<Authenticator, Vec<LoadError>> {
        let auth = config::Auth {
            tokens_file: Some(path.to_owned()),
            required_scope: scope.map(str::to_owned),
            ..config::Auth::default()
        };
        Authenticator::from_config(&auth)
    }

    async fn authenticate(auth: &Authenticator, token: &str) -> Result<Principal, AuthError> {
        auth.authenticate(Some(format!("Bearer {token}").as_bytes()), None).await
    }

    fn file() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens.toml");
        (dir, path)
    }

    #[test]
    fn the_hash_is_sha256_in_hexadecimal() {
        assert_eq!(hash("test"), "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08");
        assert_eq!(bytes(&hash("test")).unwrap()[..2], [0x9f, 0x86]);
        assert_eq!(bytes(&hash("test").to_uppercase()), bytes(&hash("test")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_known_by_its_hash_and_the_file_is_read_again() {
        let (_dir, path) = file();
        write(&path, &entry(TOKEN, "subject = \"ci\"\nroles = [\"dev\", \"ops\"]\nid = \"t1\""), 0o600);
        let auth = load(&path, None).unwrap();
        let principal = authenticate(&auth, TOKEN).await.unwrap();
        assert_eq!((principal.subject.as_str(), principal.issuer.as_str()), ("ci", "static"));
        assert_eq!((principal.roles, principal.token_id.as_deref()), (vec!["dev".into(), "ops".into()], Some("t1")));
        let refused = authenticate(&auth, OTHER).await.unwrap_err();
        assert_eq!(refused.to_string(), "the token is none of the static ones, and no JWT");
        assert!(authenticate(&auth, &hash(TOKEN)).await.is_err(), "the hash is no token");

        write(&path, &entry(OTHER, "subject = \"cd\""), 0o600);
        tokio::time::advance(Duration::from_secs(1)).await;
        // I10: no roles, no role.
        assert!(authenticate(&auth, OTHER).await.unwrap().roles.is_empty());
        assert!(authenticate(&auth, TOKEN).await.is_err(), "a token that was taken out is no longer one");
        write(&path, &entry(TOKEN, "subject = \"ci\""), 0o644);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(authenticate(&auth, TOKEN).await.is_err(), "a file that others may read changes nothing");
    }

    #[tokio::test]
    async fn a_demanded_scope_is_demanded_of_static_tokens_too() {
        let (_dir, path) = file();
        let text = entry(TOKEN, "subject = \"a\"\nscope = \"x mcp\"") + &entry(OTHER, "subject = \"b\"");
        write(&path, &text, 0o600);
        let auth = load(&path, Some("mcp")).unwrap();
        assert_eq!(authenticate(&auth, TOKEN).await.unwrap().subject, "a");
        assert!(matches!(authenticate(&auth, OTHER).await, Err(AuthError::Scope { .. })));
    }

    #[test]
    fn a_file_that_others_may_use_is_refused() {
        let (_dir, path) = file();
        for mode in [0o644, 0o640, 0o604, 0o602, 0o610] {
            write(&path, &entry(TOKEN, "subject = \"a\""), mode);
            let refused = load(&path, None).unwrap_err().remove(0).to_string();
            assert!(refused.starts_with("auth.tokens_file: ") && refused.ends_with("chmod 600"), "{refused}");
        }
        write(&path, &entry(TOKEN, "subject = \"a\""), 0o400);
        assert!(load(&path, None).is_ok());
    }

    #[test]
    fn i8_each_fault_is_named_and_shows_no_line_of_the_file() {
        let fault = |text: &str| parse(text).unwrap_err().to_string();
        let cases = [
            ("[[tokens]]\nsubject = \"a\"\n".to_owned(), "does not parse: line 1"),
            (format!("\n\ntoken = {TOKEN:?}"), "does not parse: line 3"),
            (entry(TOKEN, &format!("subject = \"a\"\ntoken = {TOKEN:?}")), "does not parse: line 4"),
            (format!("[[tokens]]\nsha256 = {TOKEN:?}\nsubject = \"a\""), "tokens[0]: sha256 is no SHA-256"),
            (entry(TOKEN, "subject = \"\""), "tokens[0]: subject is empty"),
            (entry(TOKEN, "subject = \"a\"\nroles = [\"\"]"), "tokens[0]: roles"),
            (entry(TOKEN, "subject = \"a\"") + &entry(TOKEN, "subject = \"b\""), "tokens[1]: sha256 is an earlier"),
        ];
        for (text, wanted) in cases {
            let fault = fault(&text);
            assert!(fault.contains(wanted) && !fault.contains(TOKEN), "{fault}");
        }
    }
}
