//! The values that the configuration accepts, and the message of each error.

use std::path::Path;
use std::time::Duration;

use gatepost::config::{Config, ConfigError, Level, Origin, SETTINGS, reference};
use proptest::prelude::*;

fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn parse(text: &str) -> Result<Config, Vec<ConfigError>> {
    Config::parse(text, Some(Path::new("g.toml")), [])
}

/// The messages for the errors in `text`.
fn errors(text: &str) -> Vec<String> {
    parse(text).expect_err("the configuration is invalid").iter().map(ToString::to_string).collect()
}

/// The message for the only error in `text`.
fn error(text: &str) -> String {
    let errors = errors(text);
    assert_eq!(errors.len(), 1, "{errors:#?}");
    errors.into_iter().next().unwrap()
}

const KEY: &str = "[[auth.keys]]\nalgorithm = \"HS256\"\nissuer = \"dev\"\nsecret_env = \"S\"\n";

#[test]
fn an_empty_file_means_the_defaults() {
    assert_eq!(format!("{:?}", parse("").unwrap()), format!("{:?}", Config::default()));
    assert_eq!(format!("{:?}", Config::load(None, []).unwrap()), format!("{:?}", Config::default()));
}

/// What the anchors of a configuration need.
const EVIDENCE: &str = "[evidence]\norigin = \"o\"\nkey_file = \"k\"\n";

#[test]
fn the_table_of_settings_states_the_defaults_of_the_code() {
    for spec in SETTINGS {
        if let Some(value) = spec.default.to_toml() {
            let text = match spec.path.rsplit_once('.').unwrap() {
                ("roles.*.when[]", key) => {
                    format!("[[roles.dev.when]]\ntool = \"*/b\"\npointer = \"/x\"\nequals = 1\n{key} = {value}")
                }
                ("roles.*", key) => format!("[roles.dev]\n{key} = {value}"),
                ("backends.*", key) => format!("[backends.b]\ncommand = [\"x\"]\n{key} = {value}"),
                ("backends.*.oauth", key) => {
                    let oauth = "token_url = \"https://t\"\nclient_id = \"g\"\nclient_secret_file = \"s\"";
                    format!("[backends.b]\nurl = \"https://b\"\n[backends.b.oauth]\n{oauth}\n{key} = {value}")
                }
                ("auth.issuers[]", key) => {
                    format!("[[auth.issuers]]\nissuer = \"i\"\njwks_file = \"f\"\n{key} = {value}")
                }
                ("evidence.time_stamps[]", key) => {
                    format!("{EVIDENCE}[[evidence.time_stamps]]\nname = \"a\"\nurl = \"http://a\"\n{key} = {value}")
                }
                ("evidence.commands[]", key) => {
                    format!("{EVIDENCE}[[evidence.commands]]\nname = \"a\"\ncommand = [\"a\"]\n{key} = {value}")
                }
                ("evidence.buckets[]", key) => {
                    let bucket = "name = \"a\"\nurl = \"https://a\"\nregion = \"a\"\naccess_key_id = \"a\"";
                    format!("{EVIDENCE}[[evidence.buckets]]\n{bucket}\nsecret_key_file = \"a\"\n{key} = {value}")
                }
                ("ops.sign_in", key) => {
                    let issuer = "[[auth.issuers]]\nissuer = \"https://i\"\n";
                    format!("{issuer}[ops.sign_in]\nclient_id = \"g\"\n{key} = {value}")
                }
                (section, key) => format!("[{section}]\n{key} = {value}"),
            };
            let with = parse(&text).unwrap_or_else(|errors| panic!("{}: {errors:?}", spec.path));
            let without: String =
                text.lines().filter(|line| !line.ends_with(&format!(" = {value}"))).collect::<Vec<_>>().join("\n");
            assert_eq!(format!("{with:?}"), format!("{:?}", parse(&without).unwrap()), "{}", spec.path);
        }
    }
}

#[test]
fn an_oauth_client_fits_its_backend() {
    let with = |backend: &str, oauth: &str| {
        let client = "token_url = \"https://login.example/token\"\nclient_id = \"g\"\nclient_secret_file = \"s\"";
        format!("[backends.b]\n{backend}\n[backends.b.oauth]\n{client}\n{oauth}")
    };
    parse(&with("url = \"https://b/mcp\"\nheader_env = { X-Key = \"K\" }", "on_behalf = true")).unwrap();
    parse(&with("url = \"http://127.0.0.1:1/mcp\"\nshared = true", "resource = \"https://b/mcp\"")).unwrap();
    for (backend, oauth, key, want) in [
        ("command = [\"x\"]", "", "backends.b.oauth", "has no effect without url"),
        ("url = \"http://b/mcp\"", "", "backends.b.url", "is not encrypted"),
        ("url = \"https://b\"\nshared = true", "on_behalf = true", "backends.b.shared", "excludes oauth.on_behalf"),
        ("url = \"https://b\"\nheader_env = { authorization = \"K\" }", "", "backends.b.oauth", "excludes the header"),
        ("url = \"https://b\"\nheader_file = { Authorization = \"K\" }", "", "backends.b.oauth", "excludes the header"),
        ("url = \"https://b\"", "resource = \"b\"", "backends.b.oauth.resource", "is not an absolute URI"),
        ("url = \"https://b\"", "resource = \"https://b#f\"", "backends.b.oauth.resource", "is not an absolute URI"),
        ("url = \"https://b\"", "client_auth = \"none\"", "backends.b.oauth.client_auth", "none"),
    ] {
        let found = error(&with(backend, oauth));
        assert!(found.contains(key) && found.contains(want), "{found}");
    }
    let missing = errors("[backends.b]\nurl = \"https://b\"\n[backends.b.oauth]\n");
    assert_eq!(missing.len(), 3, "{missing:?}");
    // The token server of a backend gets tokens of the issuers that are meant, and of no other.
    let issuers = |names: &[&str], oauth: &str| {
        let keys =
            names.iter().map(|name| format!("{{ algorithm = \"HS256\", issuer = {name:?}, secret_file = \"s\" }}"));
        let keys = keys.collect::<Vec<_>>().join(", ");
        with("url = \"https://b\"", &format!("{oauth}\n[auth]\nkeys = [{keys}]"))
    };
    parse(&issuers(&["i"], "on_behalf = true")).unwrap();
    parse(&issuers(&["i", "j"], "")).unwrap();
    parse(&issuers(&["i", "j"], "on_behalf = true\nsubject_issuers = [\"j\"]")).unwrap();
    for (names, oauth, want) in [
        (&["i", "j"][..], "on_behalf = true", "is missing: there are several issuers (i, j)"),
        (&["i"], "on_behalf = true\nsubject_issuers = [\"k\"]", "auth.keys and auth.issuers have no \"k\""),
        (&["i"], "subject_issuers = [\"i\"]", "has no effect without on_behalf"),
    ] {
        let found = error(&issuers(names, oauth));
        assert!(found.contains("backends.b.oauth.subject_issuers") && found.contains(want), "{found}");
    }
    let plain = with("url = \"https://b\"", "").replace("https://login.example", "http://login.example");
    assert!(error(&plain).contains("is not encrypted"));
}

#[test]
fn the_documentation_lists_exactly_the_settings() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let text = std::fs::read_to_string(&file).unwrap();
    let (head, tables) = text.split_once("<!-- settings -->\n").unwrap();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&file, format!("{head}<!-- settings -->\n{}", reference())).unwrap();
    } else {
        assert_eq!(tables, reference(), "run UPDATE_DOCS=1 cargo test --test cli config");
    }
}

#[test]
fn every_example_is_valid() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut count = 0;
    for file in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if file.extension().is_some_and(|extension| extension == "toml") {
            Config::load(Some(&file), []).unwrap_or_else(|errors| panic!("{errors:#?}"));
            count += 1;
        }
    }
    assert!(count > 0, "there are examples");
}

#[test]
fn a_whole_file_is_read_as_written() {
    let config = parse(
        r#"
        server = { listen = "127.0.0.1:0", calls_max = 7 }
        ops.listen = "off"
        [auth]
        audiences = ["a"]
        [[auth.keys]]
        kid = "k"
        algorithm = "EdDSA"
        issuer = "i"
        public_key_file = "k.pem"
        [roles.dev]
        allow = ["time/*", "*/echo"]
        [backends.time]
        command = ["mcp-server-time", ""]
        env = { TZ = "UTC" }
        call_timeout = "2s"
        [audit]
        level = "queued"
        redact = ["/password"]
        [postgres]
        url = "postgres://u:p@db:5433/gatepost?sslmode=verify-full"
        "#,
    )
    .unwrap();
    assert_eq!((config.server.calls_max, config.ops.listen), (7, None));
    assert_eq!(config.auth.keys[0].kid.as_deref(), Some("k"));
    assert_eq!(config.roles["dev"].allow, ["time/*", "*/echo"]);
    assert_eq!(config.backends["time"].call_timeout, Duration::from_secs(2));
    assert_eq!(config.audit.level, Level::Queued);
}

#[test]
fn unknown_keys_are_reported_with_line_and_nearest_key() {
    let text = "[servr]\nlisten = \"x\"\n[server]\nlisen = \"127.0.0.1:1\"\nlevel = \"stored\"\n[audit]\nring_record_max = 9\n\
                [backends.b]\ncomand = [\"x\"]\ncommand = [\"x\"]\n[roles.dev]\nalow = []\n\
                [[auth.keys]]\nalgorithm = \"HS256\"\nissuer = \"i\"\nsecret_env = \"S\"\nkidd = \"k\"\n";
    assert_eq!(
        errors(text),
        [
            "g.toml:1: servr: unknown key: did you mean server?",
            "g.toml:4: server.lisen: unknown key: did you mean server.listen?",
            "g.toml:5: server.level: unknown key: did you mean audit.level?",
            "g.toml:7: audit.ring_record_max: unknown key: did you mean audit.ring_records_max?",
            "g.toml:9: backends.b.comand: unknown key: did you mean backends.b.command?",
            "g.toml:12: roles.dev.alow: unknown key: did you mean roles.dev.allow?",
            "g.toml:17: auth.keys[0].kidd: unknown key: did you mean auth.keys[0].kid?",
        ]
    );
}

#[test]
fn a_value_of_the_wrong_type_is_reported_without_the_value() {
    assert_eq!(
        errors(
            "[server]\nlisten = 8808\ncalls_max = \"many\"\n[postgres]\nmigrate = \"yes\"\nurl = [\"secret\"]\n[audit]\nspill_after = 5\n[log]\nfilter = 1.5"
        ),
        [
            "g.toml:2: server.listen: expected an address and port as a string, for example \"127.0.0.1:8808\", got an integer",
            "g.toml:3: server.calls_max: expected an integer (calls, 1 to 65536), got a string",
            "g.toml:5: postgres.migrate: expected true or false, got a string",
            "g.toml:6: postgres.url: expected a URL as a string, for example \"postgres://user@host/database\", got an array",
            "g.toml:8: audit.spill_after: expected a duration as a string, for example \"30s\", got an integer",
            "g.toml:10: log.filter: expected a string, got a float",
        ]
    );
    assert_eq!(
        error("server = 3"),
        "g.toml:1: server: expected a section, got an integer: write [server] and its keys below it"
    );
    assert_eq!(
        error("auth.keys = 3"),
        "g.toml:1: auth.keys: expected a list of sections, got an integer: write [[auth.keys]]"
    );
}

#[test]
fn a_value_out_of_range_is_reported_with_the_range() {
    assert_eq!(error("[server]\ncalls_max = 0"), "g.toml:2: server.calls_max: 0 is out of range: use 1 to 65536 calls");
    assert!(error("[server]\ncalls_max = 99999999999999999999999").contains("out of range"));
    assert!(error("[server]\ncalls_max = -1").contains("out of range"));
    assert_eq!(
        error("[audit]\nadmission_timeout = \"2m\""),
        "g.toml:2: audit.admission_timeout: 2m is out of range: use 0s to 1m"
    );
    assert!(error("[audit]\nspill_after = \"soon\"").contains("is not a duration"));
    assert!(
        error("[audit]\nlevel = \"sored\"")
            .contains("\"sored\" is unknown: did you mean stored? use one of stored, queued")
    );
    assert!(error("[audit]\ngateway_id = \"7\"").contains("is not a UUID"));
    assert!(error("[log]\nfilter = \"a=b=c\"").contains("is not a tracing filter"));
    assert!(error("[auth]\naudiences = [\"\"]").contains("auth.audiences[0]: is empty"));
    assert!(error("[audit]\nring_bytes_max = 65536").contains("4 times audit.params_bytes_max"));
}

#[test]
fn invalid_toml_is_reported_with_its_line() {
    let error = error("[server]\nlisten = \"127.0.0.1:1\"\ncalls_max = = 3\n");
    assert!(error.starts_with("g.toml:3: is not valid TOML: "), "{error}");
    assert!(
        errors("[log]\nformat = \"text\"\nformat = \"json\"\n")[0]
            .starts_with("g.toml:3: is not valid TOML: duplicate key")
    );
}

#[test]
fn a_pattern_names_one_tool_of_a_configured_backend() {
    let backends = "[backends.time]\ncommand = [\"x\"]\n[backends.git]\ncommand = [\"x\"]\n";
    let text = format!(
        "{backends}[roles.dev]\nallow = [\n  \"tme/*\",\n  \"a/b/c\",\n  \"time\",\n  \"/x\",\n  \"git/*\"\n]\n"
    );
    assert_eq!(
        errors(&text),
        [
            "g.toml:7: roles.dev.allow[0]: \"tme/*\" names the unknown backend \"tme\": did you mean time?",
            "g.toml:8: roles.dev.allow[1]: \"a/b/c\" names the unknown backend \"a\": use one of git, time",
            "g.toml:9: roles.dev.allow[2]: \"time\" has no '/': write backend/tool, for example \"time/*\" for all tools of time",
            "g.toml:10: roles.dev.allow[3]: \"/x\" has an empty part: write backend/tool, for example \"time/*\"",
        ]
    );
    assert!(error("[roles.dev]\nallow = [\"x/y\"]").ends_with("add [backends.x]"));
}

#[test]
fn every_rule_of_a_role_is_checked_with_its_line() {
    let text = "[backends.fs]\ncommand = [\"x\"]\n[roles.r]\ndeny = [\"fz/*\"]\nresources = [\"fs/file:///a/*\", \"fs\", \"ft/x\"]\n\
                prompts = [\"fs/\"]\n[[roles.r.when]]\ntool = \"fz/x\"\npointer = \"path\"\nequals = 1.5\n\
                [[roles.r.when]]\ntool = \"fs/x\"\nbelow = \"/a/../b\"\npointer = \"/a~\"\n\
                [[roles.r.when]]\ntool = \"fs/x\"\npointer = \"/a\"\nmatches = \"(\"\n\
                [[roles.r.when]]\ntool = \"fs/x\"\npointer = \"/a\"\none_of = []\n\
                [[roles.r.when]]\ntool = \"fs/x\"\npointer = \"/a\"\nequals = \"a\"\none_of = [1, true]\n";
    let errors = errors(text);
    let begins = [
        "g.toml:4: roles.r.deny[0]: \"fz/*\" names the unknown backend \"fz\": did you mean fs?",
        "g.toml:5: roles.r.resources[1]: \"fs\" has no '/': write backend/URI, for example \"files/file:///data/*\"",
        "g.toml:5: roles.r.resources[2]: \"ft/x\" names the unknown backend",
        "g.toml:6: roles.r.prompts[0]: \"fs/\" has an empty part",
        "g.toml:8: roles.r.when[0].tool: \"fz/x\" names the unknown backend",
        "g.toml:9: roles.r.when[0].pointer: \"path\" is not a JSON pointer: start it with '/'",
        "g.toml:10: roles.r.when[0].equals: expected a string, an integer, true or false, got a float",
        "g.toml:13: roles.r.when[1].below: \"/a/../b\" is not a plain absolute path: write",
        "g.toml:14: roles.r.when[1].pointer: \"/a~\" contains a '~'",
        "g.toml:18: roles.r.when[2].matches: \"(\" is not a regular expression (unclosed group): use one",
        "g.toml:22: roles.r.when[3].one_of: is empty",
        "g.toml:23: roles.r.when[4]: has equals and one_of: keep one",
    ];
    for (error, begin) in errors.iter().zip(begins) {
        assert!(error.starts_with(begin), "{error}\n{begin}");
    }
    assert_eq!(errors.len(), begins.len(), "{errors:#?}");
    assert!(
        error("[backends.fs]\ncommand = [\"x\"]\n[[roles.r.when]]\ntool = \"fs/x\"\npointer = \"/a\"\nmatches = \"a\"\nequals = 9007199254740993\n")
            .contains("parsers differ")
    );
}

#[test]
fn an_alias_fits_the_tool_names_that_clients_accept() {
    for alias in [
        "a__b",
        "a_b",
        "Time",
        "-a",
        "\"\"",
        "\"a.b\"",
        "\"a/b\"",
        "all",
        "gateway",
        "session",
        "console",
        "gatepost",
        "a23456789012345678901234567890123",
    ] {
        let error = error(&format!("[backends.{alias}]\ncommand = [\"x\"]"));
        assert!(error.starts_with(&format!("g.toml:1: backends.{alias}: alias is ")), "{error}");
    }
    assert!(error("[backends.b]\ncommand = []").starts_with("g.toml:2: backends.b.command: is empty"));
    assert!(error("[backends.b]\ncommand = [\"\"]").starts_with("g.toml:2: backends.b.command[0]: is empty"));
    assert!(error("[backends.b]\ncall_timeout = \"1s\"").starts_with("g.toml:1: backends.b.command: is missing"));
}

#[test]
fn a_key_has_exactly_one_source_which_fits_its_algorithm() {
    let key = |rest: &str| format!("[[auth.keys]]\nissuer = \"i\"\n{rest}\n");
    let cases = [
        ("algorithm = \"HS256\"", "auth.keys[0]: has no key: set secret_file or secret_env, which HS256 uses"),
        ("algorithm = \"HS256\"\npublic_key_file = \"k\"", "auth.keys[0]: public_key_file does not fit HS256"),
        ("algorithm = \"ES256\"\nsecret_env = \"k\"", "auth.keys[0]: secret_env does not fit ES256"),
        (
            "algorithm = \"HS256\"\nsecret_env = \"k\"\nsecret_file = \"f\"",
            "auth.keys[0]: has secret_file and secret_env",
        ),
        ("algorithm = \"none\"\nsecret_env = \"k\"", "auth.keys[0].algorithm: \"none\" is unknown"),
        ("secret_env = \"k\"", "auth.keys[0].algorithm: is missing"),
    ];
    for (text, wanted) in cases {
        let error = error(&key(text));
        assert!(error.contains(wanted), "{error}");
    }
    let twice = format!("{KEY}kid = \"k\"\n{KEY}kid = \"k\"\n");
    assert!(error(&twice).starts_with("g.toml:10: auth.keys[1].kid: \"k\" is the kid of an earlier key"));
}

#[test]
fn an_issuer_has_one_key_set_and_no_hmac() {
    let issuer = |rest: &str| format!("[[auth.issuers]]\nissuer = \"i\"\n{rest}\n");
    let cases = [
        ("", "g.toml:1: auth.issuers[0]: has no keys: set jwks_url or jwks_file"),
        ("jwks_file = \"f\"\njwks_url = \"https://i\"", "g.toml:1: auth.issuers[0]: has both jwks_file and jwks_url"),
        ("jwks_url = \"nowhere\"", "g.toml:3: auth.issuers[0].jwks_url: is not a URL"),
        ("jwks_url = \"http://i.example/k\"", "g.toml:3: auth.issuers[0].jwks_url: is not encrypted"),
        ("jwks_url = \"ftp://i\"", "g.toml:3: auth.issuers[0].jwks_url: has the scheme \"ftp\": use https"),
        ("jwks_url = \"https://u:hunter2@i\"", "g.toml:3: auth.issuers[0].jwks_url: contains a user name or password"),
        (
            "jwks_file = \"f\"\nalgorithms = [\"HS256\"]",
            "g.toml:4: auth.issuers[0].algorithms[0]: \"HS256\" is unknown",
        ),
        ("jwks_file = \"f\"\nalgorithms = [\"none\"]", "g.toml:4: auth.issuers[0].algorithms[0]: \"none\" is unknown"),
        (
            "jwks_file = \"f\"\nalgorithms = []",
            "g.toml:4: auth.issuers[0].algorithms: is empty: use at least one of RS256",
        ),
        (
            "jwks_file = \"f\"\njwks_ttl = \"0s\"",
            "g.toml:4: auth.issuers[0].jwks_ttl: 0s is out of range: use 1s to 1day",
        ),
    ];
    for (text, wanted) in cases {
        let error = error(&issuer(text));
        assert!(error.starts_with(wanted) && !error.contains("hunter2"), "{error}");
    }
    let twice = issuer("jwks_file = \"f\"").repeat(2);
    assert!(error(&twice).starts_with("g.toml:5: auth.issuers[1].issuer: \"i\" is the issuer of an earlier section"));
    for reserved in ["static", "mtls"] {
        let named = issuer("jwks_file = \"f\"").replace("\"i\"", &format!("{reserved:?}"));
        assert!(error(&named).starts_with(&format!("g.toml:2: auth.issuers[0].issuer: {reserved:?} is reserved for")));
        let key = KEY.replace("\"dev\"", &format!("{reserved:?}"));
        assert!(error(&key).starts_with(&format!("g.toml:3: auth.keys[0].issuer: {reserved:?} is reserved for")));
    }
    for url in ["https://i.example/k", "http://localhost:1/k", "http://127.0.0.1:1/k", "http://[::1]:1/k"] {
        parse(&issuer(&format!("jwks_url = \"{url}\""))).unwrap();
        parse(&format!("[[auth.issuers]]\nissuer = {url:?}\n")).unwrap();
    }
}

#[test]
fn tls_requires_a_certificate_and_its_key_and_client_certificates_require_an_authority() {
    let tls = "[server.tls]\ncert_file = \"c\"\nkey_file = \"k\"\n";
    assert_eq!(parse(tls).unwrap().server.tls.unwrap().cert_file, Path::new("c"));
    assert!(error("[server.tls]\ncert_file = \"c\"").starts_with("g.toml:1: server.tls.key_file: is missing"));
    assert!(error("[server]\ntls = true").starts_with("g.toml:2: server.tls: expected a section, got a boolean"));
    let roles = "[auth.certificates]\n\"uri:spiffe://x/ci\" = [\"dev\"]\n";
    let config = parse(&format!("{tls}client_ca_file = \"a\"\n{roles}")).unwrap();
    assert_eq!(config.auth.certificates["uri:spiffe://x/ci"], ["dev"]);
    assert!(error(roles).starts_with("g.toml:1: auth.certificates: has no effect without server.tls.client_ca_file"));
    let untyped = roles.replace("uri:", "");
    assert_eq!(
        errors(&format!("{tls}client_ca_file = \"a\"\n{untyped}")),
        ["g.toml:5: auth.certificates: \"spiffe://x/ci\" does not say what kind of name it is: write \
          \"uri:spiffe://x/ci\", \"dns:spiffe://x/ci\" or, for the common name, \"cn:spiffe://x/ci\""]
    );
    let crl = error(&format!("{tls}client_crl_file = \"r\"\n"));
    assert!(crl.starts_with("g.toml:4: server.tls.client_crl_file: has no effect without server.tls.client_ca_file"));
    let wrong = format!("{tls}client_ca_file = \"a\"\n[auth.certificates]\na = \"dev\"\nb = [7]\nc = [\"\"]\n");
    assert_eq!(
        errors(&wrong),
        [
            "g.toml:6: auth.certificates.a: expected a list of strings, got a string",
            "g.toml:7: auth.certificates.b: expected a string, got an integer",
            "g.toml:8: auth.certificates.c: is empty: set a value, or remove the key",
        ]
    );
    let listen = "[server]\nlisten = \"0.0.0.0:8808\"\n";
    assert!(
        error(&format!("{listen}{tls}")).starts_with("g.toml:2: server.listen: "),
        "TLS alone authenticates no caller"
    );
    parse(&format!("{listen}{tls}client_ca_file = \"a\"\n")).unwrap();
}

#[test]
fn the_environment_sets_nested_sections() {
    let env = env(&[("GATEPOST_SERVER_TLS_CERT_FILE", "c"), ("GATEPOST_SERVER_TLS_KEY_FILE", "k")]);
    assert_eq!(Config::load(None, env).unwrap().server.tls.unwrap().key_file, Path::new("k"));
}

#[test]
fn i10_a_reachable_address_requires_authentication() {
    assert!(error("[server]\nlisten = \"0.0.0.0:8808\"").starts_with("g.toml:2: server.listen: "));
    let listen = "[server]\nlisten = \"0.0.0.0:8808\"\n";
    for authentication in [KEY, "[[auth.issuers]]\nissuer = \"i\"\njwks_file = \"f\"", "[auth]\ntokens_file = \"t\""] {
        parse(&format!("{listen}{authentication}")).unwrap();
    }
    parse("[server]\nlisten = \"[::1]:8808\"").unwrap();
    assert!(error("[server]\nlisten = \"127.0.0.1:8809\"").contains("is also server.listen"));
}

#[test]
fn i8_no_message_or_debug_output_shows_a_secret() {
    let secret = "hunter2";
    let urls = [
        "mysql://u:hunter2@h/d",
        "hunter2",
        "postgres://u:hunter2@h:99999/d",
        "postgres://u:hunter2@/d",
        "postgres://u:hunter2@h",
        "postgres://u:hunter2@h/d?sslmode=hunter2",
        "postgres://u:hunter2@h:hunter2/d",
        // Parameters that the driver would ignore, and log with their values.
        "postgres://u@h/d?sslkey=/x&sslpassword=hunter2",
        "postgres://u@h/d?pasword=hunter2",
        "postgres://u:hunter2@h/d?statement-cache-capacity=hunter2",
        "postgres://u:hunter2@h/d?port=hunter2",
        "postgres://u:hunter2@h/d?hostaddr=hunter2",
        // Passwords with special characters.
        "postgres://u:/7M+r?Ehunter2:dHz@h/d",
        "postgres://u:12/hunter2@h/d",
        "postgres://u:12?hunter2@h/d",
        "postgres://u:12?hunter2=x@h/d",
        "postgres://u:12#hunter2@h/d",
        "postgres://u:12\\\\hunter2@h/d",
        "postgres://u:hunter2@x@h/d",
        "postgres://u:hunter2%zz@h/d",
        "postgres://u:hunter2%@h/d",
        "postgres://u@h/d#hunter2",
        "postgres://u@h/d/hunter2",
    ];
    for url in urls {
        let shown = error(&format!("[postgres]\nurl = \"{url}\""));
        assert!(shown.starts_with("g.toml:2: postgres.url: "), "{shown}");
        assert!(!shown.contains(secret), "{shown}");
        let from_env = Config::load(None, env(&[("GATEPOST_POSTGRES_URL", url)])).unwrap_err();
        assert!(!format!("{from_env:?}").contains(secret), "{from_env:?}");
    }
    for (url, named) in [("h/d?pasword=x", "\"pasword\""), ("h/d?sslcrldir=x", "\"sslcrldir\"")] {
        let shown = error(&format!("[postgres]\nurl = \"postgres://{url}\""));
        assert!(shown.contains("unknown parameter") && shown.contains(named), "{shown}");
    }
    for url in [
        "postgres://u:%2F7M%3F%40:d!$&'()*+,;=@h:1/d?sslmode=disable&options[a]=b&options=-c%20x%3Dy",
        "postgres://u@[::1]/d?application_name=x&user=y&password=%40",
        "postgresql:///?host=/run/postgresql&dbname=d",
        "postgres://u@%2Frun%2Fpostgresql/d",
    ] {
        parse(&format!("[postgres]\nurl = \"{url}\"")).unwrap();
    }
    for url in ["https://u:hunter2@h/k", "http://h/k?key=hunter2", "ftp://h/hunter2", "https:hunter2@"] {
        for text in [
            format!("[[auth.issuers]]\nissuer = \"i\"\njwks_url = \"{url}\""),
            format!("[alarms]\nwebhook_url = \"{url}\""),
            format!("[telemetry]\notlp_endpoint = \"{url}\""),
            format!("[backends.b]\nurl = \"{url}\""),
            format!("[server]\nallowed_origins = [\"{url}\"]"),
        ] {
            let shown = parse(&text).err().map(|errors| format!("{errors:?}")).unwrap_or_default();
            assert!(!shown.contains(secret), "{shown}");
        }
    }
    let text =
        "[postgres]\nurl = \"postgres://u:hunter2@h/d\"\n[backends.b]\ncommand = [\"x\"]\nenv = { T = \"hunter2\" }";
    let config = parse(text).unwrap();
    assert!(!format!("{config:?} {config:#?}").contains(secret));
    assert!(!format!("{:?}", parse("[postgres]\nurl = hunter2 hunter2\n").unwrap_err()).contains(secret));
    assert!(!format!("{:?}", parse("[postgres]\nurl = \"hunter2\nx = 1").unwrap_err()).contains(secret));
    assert!(!error("[backends.b]\ncommand = [\"x\"]\nenv = { T = \"hunter2\\u0000\" }").contains(secret));
}

#[test]
fn the_environment_overrides_the_file() {
    let text = "[postgres]\nurl = \"postgres://u@h/d\"\n[server]\ncalls_max = 5\n[audit]\ngateway_id = \"00000000-0000-0000-0000-000000000001\"";
    let env = env(&[
        ("GATEPOST_POSTGRES_URL", "postgres://u@other/d"),
        ("GATEPOST_SERVER_CALLS_MAX", "9"),
        ("GATEPOST_SERVER_ALLOWED_HOSTS", "a.example, b.example"),
        ("GATEPOST_AUDIT_ENABLED", "false"),
        ("GATEPOST_AUDIT_GATEWAY_ID", ""),
        ("GATEPOST_OPS_LISTEN", "off"),
        ("PATH", "/bin"),
    ]);
    let config = Config::parse(text, None, env).unwrap();
    assert_eq!(config.postgres.url.as_deref(), Some("postgres://u@other/d"));
    assert_eq!((config.server.calls_max, config.audit.enabled, config.ops.listen), (9, false, None));
    assert_eq!(config.server.allowed_hosts, ["a.example", "b.example"]);
    assert_eq!(config.audit.gateway_id, None);
}

#[test]
fn an_error_in_the_environment_names_the_variable() {
    let errors = Config::load(
        None,
        env(&[
            ("GATEPOST_SERVER_LISEN", "x"),
            ("GATEPOST_SERVER_CALLS_MAX", "many"),
            ("GATEPOST_AUDIT_SPILL_AFTER", "1d"),
            ("GATEPOST_AUTH_REQUIRED_SCOPE", "a b"),
        ]),
    )
    .unwrap_err();
    let shown: Vec<String> = errors.iter().map(ToString::to_string).collect();
    let wanted = [
        "environment variable GATEPOST_SERVER_LISEN: unknown variable: did you mean GATEPOST_SERVER_LISTEN?",
        "environment variable GATEPOST_AUDIT_SPILL_AFTER: audit.spill_after: 1d is out of range",
        "environment variable GATEPOST_AUTH_REQUIRED_SCOPE: auth.required_scope: \"a b\" contains white space",
        "environment variable GATEPOST_SERVER_CALLS_MAX: server.calls_max: expected an integer (calls, 1 to 65536), got a string",
    ];
    assert_eq!(shown.len(), wanted.len(), "{shown:#?}");
    for wanted in wanted {
        assert!(shown.iter().any(|line| line.starts_with(wanted)), "{wanted}\n{shown:#?}");
    }
}

#[test]
fn a_variable_with_a_secret_may_have_the_prefix() {
    let text = KEY.replace("\"S\"", "\"GATEPOST_SECRET\"");
    Config::parse(&text, None, env(&[("GATEPOST_SECRET", "x")])).unwrap();
    assert!(Config::parse("", None, env(&[("GATEPOST_SECRET", "x")])).is_err());
}

#[test]
fn an_unusable_file_is_one_error() {
    let dir = tempfile::tempdir().unwrap();
    let errors = Config::load(Some(&dir.path().join("none.toml")), []).unwrap_err();
    assert!(errors[0].message.starts_with("cannot be read"), "{errors:?}");
    assert!(matches!(errors[0].origin, Origin::File(_)));
    let file = dir.path().join("g.toml");
    std::fs::write(&file, [0x5b, 0xff]).unwrap();
    assert!(Config::load(Some(&file), []).unwrap_err()[0].message.starts_with("is not UTF-8"));
    std::fs::write(&file, vec![b'#'; 1024 * 1024 + 1]).unwrap();
    assert!(Config::load(Some(&file), []).unwrap_err()[0].message.starts_with("is larger than 1048576 bytes"));
}

#[test]
fn audit_methods_takes_only_methods_that_can_be_recorded() {
    let text = "[server]\npass_methods = [\"tools/call\", \"tasks/*\", \"ping\"]\n\
                [audit]\nmethods = [\"tools/lst\", \"resource/read\", \"Tools/Call\", \"ping\", \"server/discover\", \"\"]\n";
    assert_eq!(
        errors(text),
        [
            "g.toml:2: server.pass_methods[0]: \"tools/call\" is a method that the gateway handles itself: remove it",
            "g.toml:2: server.pass_methods[1]: \"tasks/*\" is a method of tasks, which the gateway does not relay: remove it",
            "g.toml:2: server.pass_methods[2]: \"ping\" is a method that the gateway handles itself: remove it",
            "g.toml:4: audit.methods[0]: \"tools/lst\" is not a method of MCP: did you mean tools/list?",
            "g.toml:4: audit.methods[1]: \"resource/read\" is not a method of MCP: did you mean resources/read?",
            "g.toml:4: audit.methods[2]: \"Tools/Call\" is not a method of MCP: did you mean tools/call?",
            "g.toml:4: audit.methods[3]: \"ping\" cannot be recorded: remove it",
            "g.toml:4: audit.methods[4]: \"server/discover\" cannot be recorded: remove it",
            "g.toml:4: audit.methods[5]: is empty: set a value, or remove the key",
        ]
    );
    assert!(parse("[audit]\nmethods = []\n").unwrap().audit.methods.is_empty());
    let config = Config::parse("", None, env(&[("GATEPOST_AUDIT_METHODS", "tools/list, logging/setLevel")])).unwrap();
    assert_eq!(config.audit.methods, ["tools/list", "logging/setLevel"]);
    let unknown = Config::parse("", None, env(&[("GATEPOST_AUDIT_METHODS", "tools/list,resource/read")])).unwrap_err();
    assert!(unknown[0].message.ends_with("did you mean resources/read?"), "{unknown:?}");
}

/// Text that resembles a configuration: known and unknown keys with values of every type.
fn nearly() -> impl Strategy<Value = String> {
    let section = prop_oneof![
        Just("[server]"),
        Just("[auth]"),
        Just("[[auth.keys]]"),
        Just("[[auth.issuers]]"),
        Just("[server.tls]"),
        Just("[roles.x]"),
        Just("[backends.y]"),
        Just("[audit]"),
        Just("[postgres]"),
        Just("[log]"),
        Just("[\"\\n\"]"),
        Just("[[roles]]"),
        Just("[backends]"),
    ];
    let key = prop_oneof![
        "[a-z_]{1,12}",
        proptest::sample::select(SETTINGS).prop_map(|spec| spec.path.rsplit('.').next().unwrap().to_owned()),
        proptest::sample::select(SETTINGS).prop_map(|spec| spec.path.replace('*', "z").replace("[]", "")),
    ];
    let value = prop_oneof![
        Just("true".to_owned()),
        Just("-1".to_owned()),
        Just("1e400".to_owned()),
        Just("99999999999999999999".to_owned()),
        Just("[1, \"x\", []]".to_owned()),
        Just("{ a = 1 }".to_owned()),
        Just("1979-05-27".to_owned()),
        Just("\"\"".to_owned()),
        Just("\"HS256\"".to_owned()),
        Just("[\"a/b\", \"\u{e9}/*\"]".to_owned()),
        "\"[ -!#-\\[\\]-~]{0,20}\"",
    ];
    let line =
        prop_oneof![section.prop_map(str::to_owned), (key, value).prop_map(|(key, value)| format!("{key} = {value}"))];
    proptest::collection::vec(line, 0..12).prop_map(|lines| lines.join("\n"))
}

proptest! {
    #[test]
    fn any_text_is_a_configuration_or_has_errors(text in prop_oneof![any::<String>(), nearly()]) {
        if let Err(errors) = parse(&text) {
            prop_assert!(!errors.is_empty());
            for error in errors {
                prop_assert!(!error.to_string().contains('\n'), "{error}");
            }
        }
    }
}
