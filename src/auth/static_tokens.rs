//! Static tokens: a file of token hashes with their subjects and roles, as an alternative to JWTs.
//!
//! The file does not contain tokens, so that backups and operators who read it cannot impersonate a caller. It grants
//! access nevertheless, and is refused if others may read or change it.
//!
//! ```toml
//! [[tokens]]
//! sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
//! subject = "ci"
//! roles = ["dev"]
//! id = "2026-11"     # optional: recorded as the token's id
//! scope = "mcp"      # optional: as a JWT's scope
//! ```

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};

use crate::audit::record::{Authentication, Digest, Identity};
use crate::auth::credential::{Credential, StaticTokenId};
use crate::auth::principal::{Principal, ROLES_MAX};
use crate::auth::verified_token::Withdrawal;
use crate::auth::watched::{WatchedFile, read_bounded};
use crate::config;
use crate::file_access::{FileError, FileKind};

/// The issuer of principals that are authenticated by a static token.
pub const ISSUER: &str = "static";

/// Shortest token that is hashed for the file, in bytes. *Chosen*: the same as for an HS256 secret; the hash is fast
/// and has no salt, so that only the token's own randomness prevents guessing.
pub const TOKEN_BYTES_MIN: usize = 32;

/// Largest file, in bytes. *Chosen*: room for thousands of tokens.
const FILE_BYTES_MAX: usize = 1024 * 1024;

/// Most tokens of a file. *Derived*: every request is compared with each of them, at about 20 ns.
const TOKENS_MAX: usize = 4096;

/// The file of static tokens cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{path:?} {source}")]
pub struct TokensFileError {
    /// The file.
    pub path: PathBuf,
    /// The reason.
    pub source: TokensFileReason,
}

/// The reason of a [`TokensFileError`]. No message contains a line of the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokensFileReason {
    /// Reading the file failed.
    #[error("cannot be read ({0}): make it a file that the gateway's user may read")]
    Io(#[from] io::Error),
    /// The file cannot be opened, or others may read or change it.
    #[error("{}", .0.reason)]
    File(#[from] FileError),
    /// The file is too large.
    #[error("is larger than {FILE_BYTES_MAX} bytes: name a file of at most {TOKENS_MAX} tokens")]
    TooLarge,
    /// The file is not TOML of the expected form.
    #[error(
        "does not parse: {0}; write [[tokens]] with sha256, subject and roles, in the form that `gatepost token hash` prints"
    )]
    Toml(String),
    /// An entry is not valid.
    #[error("has an error in tokens[{idx}]: {message}")]
    Entry {
        /// The entry's index, from 0.
        idx: usize,
        /// The error.
        message: &'static str,
    },
    /// The file has too many tokens.
    #[error("has more than {TOKENS_MAX} tokens")]
    TooMany,
}

/// The tokens of the file.
#[derive(Debug)]
pub(super) struct StaticTokens(WatchedFile<Vec<Entry>>);

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

/// Loads the tokens file of the configuration, if there is one. An error is returned with its setting.
pub(super) fn load(auth: &config::Auth) -> Result<Option<StaticTokens>, (String, TokensFileError)> {
    let Some(path) = &auth.tokens_file else { return Ok(None) };
    let watched = WatchedFile::open(path, auth.files, FileKind::Secret, read);
    watched
        .map(|watched| Some(StaticTokens(watched)))
        .map_err(|source| ("auth.tokens_file".to_owned(), TokensFileError { path: path.clone(), source }))
}

impl StaticTokens {
    /// The path of the file.
    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    /// The principal and the scope of a token. Runs in constant time, so that its duration reveals no hash.
    pub(super) fn find(&self, token: &str) -> Option<(Principal, Option<String>)> {
        let Digest(hash) = Digest::of(token.as_bytes());
        let entries = self.0.get();
        let mut found = u32::MAX;
        for (idx, entry) in (0_u32..).zip(entries.iter()) {
            let same: Choice = entry.hash.ct_eq(&hash);
            found.conditional_assign(&idx, same);
        }
        let entry = entries.get(usize::try_from(found).ok()?)?;
        Some((entry.principal.clone(), entry.scope.clone()))
    }

    /// Checks that the file lists the token with this principal, and with the scope, if one is `required`.
    ///
    /// # Errors
    /// [`Withdrawal`]: it does not.
    pub(super) fn check(
        &self,
        id: StaticTokenId,
        principal: &Principal,
        required: Option<&str>,
    ) -> Result<(), Withdrawal> {
        let entries = self.0.get();
        let entry = entries.iter().find(|entry| entry.hash == id.0).ok_or(Withdrawal::StaticToken)?;
        if entry.principal.subject != principal.subject {
            return Err(Withdrawal::Caller);
        }
        if !principal.has_roles(&entry.principal.roles) {
            return Err(Withdrawal::Roles);
        }
        required
            .is_none_or(|required| has_scope(entry.scope.as_deref(), required))
            .then_some(())
            .ok_or(Withdrawal::Scope)
    }
}

/// Returns true if the scope of a token has this word.
pub(super) fn has_scope(scope: Option<&str>, required: &str) -> bool {
    scope.iter().any(|scope| scope.split(' ').any(|word| word == required))
}

/// The hash of a token, as the file contains it: SHA-256 in hexadecimal.
#[must_use]
pub fn hash(token: impl AsRef<[u8]>) -> String {
    Digest::of(token.as_ref()).to_string()
}

fn read(file: File) -> Result<Vec<Entry>, TokensFileReason> {
    let bytes = read_bounded(file, FILE_BYTES_MAX)?.ok_or(TokensFileReason::TooLarge)?;
    let text = String::from_utf8(bytes).map_err(|_| TokensFileReason::Toml("it is not UTF-8".to_owned()))?;
    parse(&text)
}

fn parse(text: &str) -> Result<Vec<Entry>, TokensFileReason> {
    // I8: only the line's number, because the line may contain a token.
    let line = |at: usize| text.bytes().take(at).filter(|&byte| byte == b'\n').count() + 1;
    let Document { tokens } = toml::from_str(text)
        .map_err(|error| TokensFileReason::Toml(format!("line {}", error.span().map_or(1, |span| line(span.start)))))?;
    if tokens.len() > TOKENS_MAX {
        return Err(TokensFileReason::TooMany); // I6: the number of tokens is bounded.
    }
    let mut entries: Vec<Entry> = Vec::with_capacity(tokens.len());
    for (idx, row) in tokens.into_iter().enumerate() {
        let error = |message| TokensFileReason::Entry { idx, message };
        let mut hash = [0; 32];
        hex::decode_to_slice(&row.sha256, &mut hash)
            .map_err(|_| error("sha256 does not consist of 64 hexadecimal digits"))?;
        if row.subject.is_empty() || row.subject.contains(char::is_control) {
            return Err(error("subject is empty or contains a control character"));
        }
        if row.roles.len() > ROLES_MAX || row.roles.iter().any(String::is_empty) {
            return Err(error("there are more than 64 roles, or a role is empty"));
        }
        if entries.iter().any(|earlier| earlier.hash == hash) {
            return Err(error("sha256 is the same as that of an earlier token"));
        }
        let credential = Credential::StaticToken(StaticTokenId(hash));
        let (subject, issuer) = (row.subject, ISSUER.to_owned());
        let identity = Arc::new(Identity { authentication: Authentication::Static, ..Identity::default() });
        let no_role = row.roles.is_empty().then(|| "the static token has no role in auth.tokens_file".to_owned());
        let principal =
            Principal { subject, issuer, token_id: row.id, roles: row.roles, no_role, identity, credential };
        entries.push(Entry { hash, principal, scope: row.scope });
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
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
        auth.authenticate(Some(format!("Bearer {token}").as_bytes()), None, &|_| false).await
    }

    fn file() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens.toml");
        (dir, path)
    }

    #[test]
    fn the_hash_is_sha256_in_hexadecimal_digits_of_either_case() {
        assert_eq!(hash("test"), "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08");
        let parse_hash =
            |sha256: &str| parse(&format!("[[tokens]]\nsha256 = {sha256:?}\nsubject = \"a\"")).unwrap()[0].hash;
        assert_eq!(parse_hash(&hash("test"))[..2], [0x9f, 0x86]);
        assert_eq!(parse_hash(&hash("test").to_uppercase()), parse_hash(&hash("test")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_found_by_its_hash_and_a_changed_file_is_reloaded() {
        let (_dir, path) = file();
        write(&path, &entry(TOKEN, "subject = \"ci\"\nroles = [\"dev\", \"ops\"]\nid = \"t1\""), 0o600);
        let auth = load(&path, None).unwrap();
        let principal = authenticate(&auth, TOKEN).await.unwrap();
        assert_eq!((principal.subject.as_str(), principal.issuer.as_str()), ("ci", "static"));
        assert_eq!((principal.roles, principal.token_id.as_deref()), (vec!["dev".into(), "ops".into()], Some("t1")));
        let refused = authenticate(&auth, OTHER).await.unwrap_err();
        assert_eq!(refused.to_string(), "the token is neither a known static token nor a JWT");
        assert!(authenticate(&auth, &hash(TOKEN)).await.is_err(), "the hash is not a token");

        write(&path, &entry(OTHER, "subject = \"cd\""), 0o600);
        tokio::time::advance(Duration::from_secs(1)).await;
        // I10: without roles in the file the token has no role.
        assert!(authenticate(&auth, OTHER).await.unwrap().roles.is_empty());
        assert!(authenticate(&auth, TOKEN).await.is_err(), "a removed token is refused");
        write(&path, &entry(TOKEN, "subject = \"ci\""), 0o644);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(authenticate(&auth, TOKEN).await.is_err(), "a file that other users may read is not loaded");
    }

    #[tokio::test]
    async fn static_tokens_need_the_required_scope_too() {
        let (_dir, path) = file();
        let text = entry(TOKEN, "subject = \"a\"\nscope = \"x mcp\"") + &entry(OTHER, "subject = \"b\"");
        write(&path, &text, 0o600);
        let auth = load(&path, Some("mcp")).unwrap();
        assert_eq!(authenticate(&auth, TOKEN).await.unwrap().subject, "a");
        assert!(matches!(authenticate(&auth, OTHER).await, Err(AuthError::Scope { .. })));
    }

    #[test]
    fn a_file_that_other_users_may_access_is_refused() {
        let (_dir, path) = file();
        for mode in [0o644, 0o640, 0o604, 0o602, 0o610] {
            write(&path, &entry(TOKEN, "subject = \"a\""), mode);
            let refused = load(&path, None).unwrap_err().remove(0).to_string();
            assert!(refused.starts_with("auth.tokens_file: ") && refused.contains(": chmod 600 "), "{refused}");
        }
        write(&path, &entry(TOKEN, "subject = \"a\""), 0o400);
        assert!(load(&path, None).is_ok());
    }

    #[test]
    fn i8_each_error_is_named_without_a_line_of_the_file() {
        let error = |text: &str| parse(text).unwrap_err().to_string();
        let cases = [
            ("[[tokens]]\nsubject = \"a\"\n".to_owned(), "does not parse: line 1"),
            (format!("\n\ntoken = {TOKEN:?}"), "does not parse: line 3"),
            (entry(TOKEN, &format!("subject = \"a\"\ntoken = {TOKEN:?}")), "does not parse: line 4"),
            (format!("[[tokens]]\nsha256 = {TOKEN:?}\nsubject = \"a\""), "tokens[0]: sha256 does not consist"),
            (entry(TOKEN, "subject = \"\""), "tokens[0]: subject is empty"),
            (entry(TOKEN, "subject = \"a\"\nroles = [\"\"]"), "tokens[0]: there are more than 64 roles"),
            (entry(TOKEN, "subject = \"a\"") + &entry(TOKEN, "subject = \"b\""), "tokens[1]: sha256 is the same"),
        ];
        for (text, wanted) in cases {
            let error = error(&text);
            assert!(error.contains(wanted) && !error.contains(TOKEN), "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_accepted_while_the_file_lists_it_with_the_same_roles() {
        let (_dir, path) = file();
        for (changed, withdrawal) in [
            ("", Some(Withdrawal::StaticToken)),
            ("subject = \"ci\"\nroles = [\"dev\"]", Some(Withdrawal::Roles)),
            ("subject = \"ci\"\nroles = [\"dev\", \"ops\", \"more\"]", Some(Withdrawal::Roles)),
            ("subject = \"cd\"\nroles = [\"dev\", \"ops\"]", Some(Withdrawal::Caller)),
            ("subject = \"ci\"\nroles = [\"ops\", \"dev\"]\nid = \"other\"", None),
        ] {
            write(&path, &entry(TOKEN, "subject = \"ci\"\nroles = [\"dev\", \"ops\"]"), 0o600);
            let auth = load(&path, None).unwrap();
            let principal = authenticate(&auth, TOKEN).await.unwrap();
            assert!(auth.accepts(&principal));
            assert!(tokio::time::timeout(Duration::from_mins(1), auth.ended(&principal)).await.is_err());
            write(&path, &if changed.is_empty() { String::new() } else { entry(TOKEN, changed) }, 0o600);
            let ended = tokio::time::timeout(Duration::from_mins(1), auth.ended(&principal)).await;
            assert_eq!((ended.ok(), auth.check(&principal).err()), (withdrawal.map(|_| ()), withdrawal), "{changed:?}");
        }
    }
}
