//! `gatepost token`: mints a development token with a configured HS256 secret.
//!
//! Only HS256 keys can mint. The gateway has only the public half of other keys; the issuer, which has the private
//! half, mints their tokens. Only the token is written to standard output, so that `TOKEN=$(gatepost token ...)` works.
//!
//! `gatepost token hash` hashes a token that the operator made, for `auth.tokens_file`.

use std::io::Read;
use std::time::Duration;

use clap::Subcommand;

use crate::auth::static_tokens::{self, TOKEN_BYTES_MIN};
use crate::auth::{self, keys};
use crate::config::{Config, Key};

use super::config_args::ConfigArgs;
use super::configuration::load;
use super::exit::usage;
use super::output::print;

/// Longest token that can be hashed, in bytes. *Derived*: the gateway rejects longer ones.
const TOKEN_LINE_MAX: u64 = 16 * 1024;

/// Longest validity of a development token. *Chosen*: a week of work, since the token cannot be revoked.
const VALID_MAX: Duration = Duration::from_hours(7 * 24);

/// `gatepost token`
#[derive(Clone, Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    config: ConfigArgs,
    /// Subject of the token (sub)
    #[arg(long, value_name = "NAME", required = true)]
    subject: Option<String>,
    /// Role of the token; may be repeated
    #[arg(long = "role", value_name = "ROLE", required = true)]
    roles: Vec<String>,
    /// Validity of the token, for example 15m or 1h; at most 7d
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = humantime::parse_duration)]
    ttl: Duration,
    /// Id (kid) of the key to sign with; needed if several HS256 keys are configured
    #[arg(long, value_name = "KID")]
    key: Option<String>,
    /// Audience (aud), if it is not the first of auth.audiences
    #[arg(long, value_name = "AUDIENCE")]
    audience: Option<String>,
    // Not a doc comment: clippy would require Markdown in it, and the help would print the Markdown unchanged.
    #[arg(long, value_name = "SCOPE", help = "Scope, if it differs from the configured auth.required_scope")]
    scope: Option<String>,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    // Not a doc comment: clippy would require Markdown in it, and the help would print the Markdown unchanged.
    #[command(about = "Read a static token from standard input and print its entry for auth.tokens_file")]
    Hash(HashArgs),
}

#[derive(Clone, Debug, clap::Args)]
struct HashArgs {
    /// Subject of the token; without it only the hash is printed, not the whole entry
    #[arg(long, value_name = "NAME")]
    subject: Option<String>,
    /// Role of the token; may be repeated
    #[arg(long = "role", value_name = "ROLE", requires = "subject")]
    roles: Vec<String>,
    /// Id of the token in records
    #[arg(long, value_name = "ID", requires = "subject")]
    id: Option<String>,
}

impl Args {
    /// The options that name the configuration; a hash needs none.
    pub(super) fn config_args(&self) -> Option<ConfigArgs> {
        self.command.is_none().then(|| self.config.clone())
    }
}

/// An error of minting or hashing a token.
#[derive(Debug, thiserror::Error)]
enum TokenError {
    #[error("auth.audiences is empty: give --audience, the URL of the endpoint for example")]
    NoAudience,
    #[error("no key in [[auth.keys]]: add one with algorithm = \"HS256\" and secret_file or secret_env")]
    NoKeys,
    #[error("no key in [[auth.keys]] has the kid {kid:?}: use one of {known}")]
    UnknownKid { kid: String, known: String },
    #[error(
        "the gateway has only the public half of the {algorithm} key {kid:?}: get a token from the issuer {issuer:?}, or \
         add an HS256 key for development"
    )]
    NotHs256 { kid: String, algorithm: String, issuer: String },
    #[error("several HS256 keys are configured: choose one with --key, one of {known}")]
    Ambiguous { known: String },
    #[error("--ttl {ttl} is out of range, 1s to 7days: set it within the range")]
    Ttl { ttl: humantime::FormattedDuration },
    #[error("the role {role:?} is not configured and allows no calls: use one of {known}")]
    UnknownRole { role: String, known: String },
    #[error(transparent)]
    Secret(#[from] keys::KeyError),
    #[error(transparent)]
    Mint(#[from] auth::MintError),
    #[error("cannot read the token from standard input ({0})")]
    Read(#[source] std::io::Error),
    #[error("the token has {bytes} bytes, the minimum is {TOKEN_BYTES_MIN}: make one with openssl rand -hex 32")]
    Short { bytes: usize },
    #[error(
        "the token is not a single word of visible ASCII of at most {TOKEN_LINE_MAX} bytes: clients could not send it"
    )]
    NotWord,
}

/// Prints a token or a hash. A missing or wrong key is a fault of the configuration.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    if let Some(Command::Hash(args)) = &args.command {
        return Ok(print(&hash(args, std::io::stdin().lock())?)?);
    }
    let config = load(Some(&args.config.require()?))?;
    let token = mint(args, &config).map_err(|error| match error {
        TokenError::NoKeys | TokenError::Secret(_) => usage(error.to_string()),
        error => error.into(),
    })?;
    Ok(print(&format!("{token}\n"))?)
}

/// Reads a token and returns its entry for `auth.tokens_file`.
fn hash(args: &HashArgs, stdin: impl Read) -> Result<String, TokenError> {
    let mut line = Vec::new();
    // I6: no more than the longest token is read.
    stdin.take(TOKEN_LINE_MAX + 1).read_to_end(&mut line).map_err(TokenError::Read)?;
    let token = line.trim_ascii();
    if line.len() as u64 > TOKEN_LINE_MAX || !token.iter().all(u8::is_ascii_graphic) {
        return Err(TokenError::NotWord);
    }
    if token.len() < TOKEN_BYTES_MIN {
        return Err(TokenError::Short { bytes: token.len() });
    }
    let hash = static_tokens::hash(token);
    let Some(subject) = &args.subject else { return Ok(format!("sha256 = \"{hash}\"\n")) };
    let text = |text: &str| toml::Value::String(text.to_owned());
    let roles = toml::Value::Array(args.roles.iter().map(|role| text(role)).collect());
    let id = args.id.as_ref().map_or_else(String::new, |id| format!("id = {}\n", text(id)));
    Ok(format!("[[tokens]]\nsha256 = \"{hash}\"\nsubject = {}\nroles = {roles}\n{id}", text(subject)))
}

fn mint(args: &Args, config: &Config) -> Result<String, TokenError> {
    if args.ttl < Duration::from_secs(1) || args.ttl > VALID_MAX {
        return Err(TokenError::Ttl { ttl: humantime::format_duration(args.ttl) });
    }
    // I10: a role without a rule allows no calls; here it is a typing error.
    let is_known = |role: &String| config.roles.contains_key(role) || *role == config.ops.console_role;
    if let Some(role) = args.roles.iter().find(|role| !is_known(role)) {
        let known = listed(config.roles.keys().map(String::as_str));
        return Err(TokenError::UnknownRole { role: role.clone(), known });
    }
    let key = choose(&config.auth.keys, args.key.as_deref())?;
    let claims = auth::Claims {
        subject: args.subject.clone().unwrap_or_default(),
        issuer: key.issuer.clone(),
        audience: args.audience.as_ref().or(config.auth.audiences.first()).ok_or(TokenError::NoAudience)?.clone(),
        role_claim: config.auth.role_claim.clone(),
        roles: args.roles.clone(),
        scope: args.scope.clone().or_else(|| config.auth.required_scope.clone()),
        kid: key.kid.clone(),
        valid_for: args.ttl,
    };
    Ok(auth::mint(&keys::secret(key, config.auth.files)?, &claims)?)
}

/// The named key, or the only one that can mint.
fn choose<'a>(all: &'a [Key], kid: Option<&str>) -> Result<&'a Key, TokenError> {
    let hs256 = |key: &&Key| key.algorithm == "HS256";
    let refusal = |key: &Key| TokenError::NotHs256 {
        kid: key.kid.clone().unwrap_or_default(),
        algorithm: key.algorithm.clone(),
        issuer: key.issuer.clone(),
    };
    let kids = |keys: &[&Key]| listed(keys.iter().filter_map(|key| key.kid.as_deref()));
    if let Some(kid) = kid {
        let Some(key) = all.iter().find(|key| key.kid.as_deref() == Some(kid)) else {
            return Err(TokenError::UnknownKid { kid: kid.to_owned(), known: kids(&all.iter().collect::<Vec<_>>()) });
        };
        return Some(key).filter(hs256).ok_or_else(|| refusal(key));
    }
    let minting: Vec<&Key> = all.iter().filter(hs256).collect();
    match (minting.as_slice(), all) {
        ([key], _) => Ok(key),
        ([], []) => Err(TokenError::NoKeys),
        ([], [first, ..]) => Err(refusal(first)),
        (several, _) => Err(TokenError::Ambiguous { known: kids(several) }),
    }
}

fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use crate::auth::Authenticator;

    use super::*;

    /// A configuration with these keys, in a directory with a good secret (`good`) and a short one (`short`).
    fn config(dir: &tempfile::TempDir, keys: &[(&str, &str, &str)]) -> Config {
        for (name, secret) in [("good", "0123456789abcdef0123456789abcdef\n"), ("short", "0123456789abcdef\n")] {
            std::fs::write(dir.path().join(name), secret).unwrap();
            std::fs::set_permissions(dir.path().join(name), std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        let key = |(kid, algorithm, file): &(&str, &str, &str)| {
            let source = if *algorithm == "HS256" { "secret_file" } else { "public_key_file" };
            let file = dir.path().join(file).display().to_string();
            format!("[[auth.keys]]\nkid = {kid:?}\nalgorithm = {algorithm:?}\nissuer = \"dev\"\n{source} = {file:?}\n")
        };
        let keys: Vec<String> = keys.iter().map(key).collect();
        Config::parse(&format!("{}[roles.dev]\nallow = []\n[roles.ops]\n", keys.concat()), None, []).unwrap()
    }

    fn args(more: &[&str]) -> Args {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            args: Args,
        }
        let usual = ["token", "--subject", "alice", "--role", "dev"];
        <Line as clap::Parser>::try_parse_from(usual.iter().chain(more)).unwrap().args
    }

    fn refusal(keys: &[(&str, &str, &str)], more: &[&str]) -> String {
        let dir = tempfile::tempdir().unwrap();
        mint(&args(more), &config(&dir, keys)).unwrap_err().to_string()
    }

    #[tokio::test]
    async fn a_minted_token_is_accepted_by_the_gateway() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(&dir, &[("a", "HS256", "good")]);
        let authenticator = Authenticator::from_config(&config.auth).unwrap();
        let token = mint(&args(&["--role", "ops"]), &config).unwrap();
        let caller =
            authenticator.authenticate(Some(format!("Bearer {token}").as_bytes()), None, &|_| false).await.unwrap();
        assert_eq!((caller.subject.as_str(), caller.issuer.as_str()), ("alice", "dev"));
        assert_eq!(caller.roles, ["dev", "ops"]);
        // The console's role needs no section.
        assert!(mint(&args(&["--role", "auditor"]), &config).is_ok());
        let token = mint(&args(&["--audience", "other"]), &config).unwrap();
        assert!(
            authenticator.authenticate(Some(format!("Bearer {token}").as_bytes()), None, &|_| false).await.is_err()
        );
    }

    #[test]
    fn a_key_that_cannot_mint_is_refused_with_the_reason() {
        assert!(refusal(&[], &[]).contains("no key in [[auth.keys]]: add one"));
        let refused = refusal(&[("e", "ES256", "good")], &[]);
        assert!(refused.contains("only the public half of the ES256 key \"e\""), "{refused}");
        let refused = refusal(&[("e", "ES256", "good"), ("a", "HS256", "good")], &["--key", "e"]);
        assert!(refused.contains("only the public half"), "{refused}");
        let two = [("a", "HS256", "good"), ("b", "HS256", "good")];
        assert!(refusal(&two, &[]).contains("choose one with --key, one of a, b"));
        assert!(refusal(&two, &["--key", "c"]).contains("has the kid \"c\": use one of a, b"));
    }

    #[test]
    fn an_unknown_role_and_a_validity_out_of_range_are_refused() {
        let keys = [("a", "HS256", "good")];
        assert!(refusal(&keys, &["--role", "dve"]).contains("\"dve\" is not configured"));
        assert!(refusal(&keys, &["--ttl", "30days"]).contains("out of range"));
        assert!(refusal(&keys, &["--ttl", "0s"]).contains("out of range"));
    }

    #[test]
    fn i8_a_static_token_is_printed_as_its_hash_alone() {
        let token = "0123456789abcdef0123456789abcdef";
        let args = |subject: Option<&str>| HashArgs {
            subject: subject.map(str::to_owned),
            roles: vec!["a\"b".to_owned()],
            id: Some("one".to_owned()),
        };
        let line = hash(&args(None), format!("{token}\n").as_bytes()).unwrap();
        assert_eq!(line, format!("sha256 = \"{}\"\n", static_tokens::hash(token.as_bytes())));
        let entry = hash(&args(Some("ci")), token.as_bytes()).unwrap();
        let parsed: toml::Table = entry.parse().unwrap();
        assert_eq!(parsed["tokens"][0]["subject"].as_str(), Some("ci"));
        assert_eq!(parsed["tokens"][0]["roles"][0].as_str(), Some("a\"b"));
        assert_eq!(parsed["tokens"][0]["id"].as_str(), Some("one"));
        assert!(!entry.contains(token));
        for (bad, wanted) in
            [("short", "has 5 bytes"), ("", "has 0 bytes"), (&format!("{token} x"), "not a single word")]
        {
            let refused = hash(&args(None), bad.as_bytes()).unwrap_err().to_string();
            assert!(refused.contains(wanted), "{refused}");
        }
        assert!(matches!(hash(&args(None), "x".repeat(20_000).as_bytes()), Err(TokenError::NotWord)));
    }

    #[test]
    fn i8_a_refused_secret_is_not_shown() {
        let refused = refusal(&[("a", "HS256", "short")], &[]);
        assert!(refused.contains("has 16 bytes") && !refused.contains("0123456789"), "{refused}");
    }
}
