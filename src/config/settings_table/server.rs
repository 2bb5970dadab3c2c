//! The settings of the listeners.

use std::time::Duration;

use super::spec::Fallback::{Required, Unset, Value};
use super::spec::{HOURS_24, MINUTES_10, SettingSpec, count, duration, ms, setting};
use crate::config::value_type::ValueType;

/// `[server]`, `[server.tls]` and `[ops]`.
pub(super) const SERVER: &[SettingSpec] = &[
    setting(
        "server.listen",
        ValueType::Address,
        Value("\"127.0.0.1:8808\""),
        "The address of the MCP listener. The default is loopback: an address that other machines reach requires a \
         way to authenticate callers (`[auth]`).",
    ),
    setting(
        "server.allowed_hosts",
        ValueType::Texts,
        Value("[]"),
        "`Host` values accepted besides the listener's own address and, on loopback, `localhost`. All others are \
         refused, against DNS rebinding. A name without a port is accepted with any, but tokens for its URL only with the \
         listener's port or the usual one: name a Host with its port if clients use another. A loopback name is one for \
         tokens with the listener's port if the gateway listens on loopback; otherwise name it with its port.",
    ),
    setting(
        "server.allowed_origins",
        ValueType::Origins,
        Value("[]"),
        "`Origin` values of pages that may call (CORS), besides loopback ones if the gateway itself is reached on \
         loopback. A request without `Origin` does not come from a browser.",
    ),
    setting(
        "server.public_url",
        ValueType::WebUrl,
        Unset,
        "The URL at which clients reach the gateway through proxies, for example `https://mcp.example.com/tools`: \
         clients learn their endpoints from it (RFC 9728), tokens may be for them, its host is accepted as `Host`, and \
         its path is served as a prefix too. Without it, the request's `Host` counts and, from `server.trusted_proxies`, \
         the first value of `X-Forwarded-Proto`.",
    ),
    setting("server.body_bytes_max", count("bytes", 1024, 64 * 1024 * 1024), Value("4194304"), "Largest request body."),
    setting(
        "server.request_bytes_max",
        count("bytes", 4096, 64 * 1024 * 1024 * 1024),
        Value("1073741824"),
        "Memory for the bodies of all open requests together; each counts twice, because the parameters that are \
         forwarded may differ. A request without room waits up to 3 s and is then refused and recorded as \
         `rate_limited`. One caller may occupy half of it, and a quarter is kept for bodies of at most 16 KiB. At least \
         four times `server.body_bytes_max`.",
    ),
    setting(
        "server.connections_max",
        count("connections", 1, 1_000_000),
        Value("4096"),
        "Most open connections. For one more, the oldest connection that has not sent a valid token within half a second \
         is closed (within 10 s, if its request is being handled); else one that waits for a request's body for a \
         second; if all have sent a token, the connection that was idle longest; else it waits to be accepted. A connection without a request for 30 s, or whose client reads nothing \
         for 30 s, is closed.",
    ),
    setting(
        "server.connections_per_address_max",
        count("connections", 1, 1_000_000),
        Value("1024"),
        "Most open connections of one client address, or of one IPv6 network of 64 bits. The addresses in \
         `server.trusted_proxies` have no such limit.",
    ),
    setting(
        "server.trusted_proxies",
        ValueType::Networks,
        Value("[]"),
        "Addresses or networks of proxies that name the client's address in `server.forwarded_header`. For a request of \
         such a proxy, the client's address in records and limits is the right-most address in the header that is not a \
         trusted proxy's. A value that is not an address is not believed: the address is that of the proxy that named \
         it. From all others the header is ignored.",
    ),
    setting(
        "server.forwarded_header",
        ValueType::Choice(&["x-forwarded-for", "forwarded"]),
        Value("\"x-forwarded-for\""),
        "The header that the trusted proxies complete. Choose the one that they set or append to: a client can send the \
         other one.",
    ),
    setting(
        "server.sessions_max",
        count("sessions", 1, 1_000_000),
        Value("10000"),
        "Most open legacy sessions; the modern era has none.",
    ),
    setting(
        "server.replay_bytes_max",
        count("bytes", 1024 * 1024, 64 * 1024 * 1024 * 1024),
        Value("67108864"),
        "Memory for the messages of all streams that wait for their clients or are kept for clients that resume \
         (`Last-Event-ID`). Streams that ended longest ago lose their messages first; without room, a notification is \
         dropped. A response always has room.",
    ),
    setting(
        "server.state_key_file",
        ValueType::Path,
        Unset,
        "File with 64 hexadecimal digits: the key that links the answers to a backend's questions to the call that \
         asked. Replicas need the same one. Unset: a random key of this process, and a client must call again after a \
         restart.",
    ),
    setting(
        "server.state_ttl",
        duration(Duration::from_secs(1), Duration::from_hours(24 * 30)),
        Value("\"24h\""),
        "How long a person may take to answer a question of a modern backend before the call must be made again.",
    ),
    setting(
        "server.session_idle_timeout",
        duration(ms(1000), HOURS_24),
        Value("\"1h\""),
        "How long a legacy session is kept without a request, and with it its child processes; then its client must \
         initialize again, and a record says so. A session whose client reads its stream, or waits for an answer, is \
         not idle. An hour outlasts a meeting; the child processes of clients that left without a word cost memory \
         for no longer. Conversations of callers without a session end likewise.",
    ),
    setting(
        "server.calls_max",
        count("calls", 1, 65_536),
        Value("1024"),
        "Most open calls; further ones are refused and recorded as `rate_limited`.",
    ),
    setting(
        "server.pass_methods",
        ValueType::PassedMethods,
        Value("[]"),
        "Methods and notifications unknown to the gateway that it forwards at `/mcp/{backend}`, for roles that may call \
         everything there; a `*` at the end matches any suffix, for example `example/*`. Each is recorded, with all its \
         parameters. Other unknown methods are refused. The gateway's own methods, such as `tools/call`, and those of \
         tasks cannot be passed.",
    ),
    setting(
        "server.pass_params",
        ValueType::PassedParams,
        Value("[]"),
        "Members of parameters that are forwarded although the protocol does not define them, each as method, `/` and \
         name, for example `tools/call/hint`. They are recorded in `request_extra`. Other unknown members are refused.",
    ),
    setting(
        "server.drain_timeout",
        duration(ms(0), MINUTES_10),
        Value("\"30s\""),
        "How long a shutdown waits for open calls; then they are recorded as interrupted.",
    ),
    setting(
        "server.secrets_group",
        ValueType::Text,
        Unset,
        "A group, by name or number, that may read the files with secrets and use `audit.dir`, besides the gateway's \
         user and root: for systemd's credentials `root`, in Kubernetes the pod's `fsGroup`. Unset: such files must \
         have mode 0600 or less, and `audit.dir` 0700.",
    ),
    setting(
        "server.tls.cert_file",
        ValueType::Path,
        Required,
        "PEM file with the listener's certificate, followed by its chain. With `[server.tls]` the MCP listener \
         accepts only TLS 1.2 and 1.3. The file is read at startup.",
    ),
    setting("server.tls.key_file", ValueType::Path, Required, "PEM file with the certificate's private key."),
    setting(
        "server.tls.client_ca_file",
        ValueType::Path,
        Unset,
        "PEM file with the authorities whose client certificates identify callers that send no token. The subject is \
         the first URI name, else the first DNS name, else the CN, after its kind (`uri:`, `dns:` or `cn:`); the \
         issuer is `mtls`. Unset: clients are not asked for certificates.",
    ),
    setting(
        "server.tls.client_crl_file",
        ValueType::Path,
        Unset,
        "PEM file with a revocation list of each of these authorities (`-----BEGIN X509 CRL-----`). It is read again \
         when it changes; a certificate is then refused on connections that are open, too. A list that has expired \
         and an authority without a list refuse all their certificates. Unset: revocation is not checked.",
    ),
    setting(
        "ops.listen",
        ValueType::AddressOrOff,
        Value("\"127.0.0.1:8809\""),
        "The address of `/healthz`, `/readyz` and `/metrics`, which need no authentication, and of `/console`, which \
         does. Keep it off the clients' network.",
    ),
    setting(
        "ops.allowed_hosts",
        ValueType::Texts,
        Value("[]"),
        "`Host` values accepted by the operations listener besides its own addresses and `localhost`, for example \
         that of a proxy, or the name of a Service by which Prometheus scrapes. All others are refused, against DNS \
         rebinding.",
    ),
    setting(
        "ops.console_role",
        ValueType::Text,
        Value("\"auditor\""),
        "The role that a token needs for the console. It needs no section in `[roles]`; without one it may call \
         nothing.",
    ),
    setting(
        "ops.public_url",
        ValueType::WebUrl,
        Unset,
        "The URL at which browsers reach the operations listener through a proxy that terminates TLS, for example \
         `https://ops.example.com`. Its host is accepted as `Host`, and with `https` the console's cookie is `Secure`.",
    ),
    setting(
        "ops.sign_in.issuer",
        ValueType::Text,
        Unset,
        "The issuer at which people sign in to the console ([console.md](console.md#sign-in-with-openid-connect)), one of \
         `[[auth.issuers]]`. Unset: the only one that there is.",
    ),
    setting(
        "ops.sign_in.client_id",
        ValueType::Word,
        Required,
        "The console's client id there. The redirect URI is `/console/callback` below `ops.public_url`, or below `http://` \
         and `ops.listen`.",
    ),
    setting(
        "ops.sign_in.client_secret_file",
        ValueType::Path,
        Unset,
        "File with the client's secret; white space around it is ignored. It is read again when it changes. Unset: a public \
         client, which PKCE alone protects.",
    ),
    setting(
        "ops.sign_in.scope",
        ValueType::Text,
        Value("\"openid profile email\""),
        "The scopes that are requested, separated by spaces. Some providers put groups into the ID token only for a scope.",
    ),
];
