//! The settings of the listeners.

use super::spec::Fallback::{Required, Unset, Value};
use super::spec::{MINUTES_10, SettingSpec, count, duration, ms, setting};
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
         refused, against DNS rebinding.",
    ),
    setting(
        "server.allowed_origins",
        ValueType::Origins,
        Value("[]"),
        "`Origin` values accepted besides loopback ones. A request without `Origin` does not come from a browser.",
    ),
    setting(
        "server.body_bytes_max",
        count("bytes", 1024, 64 * 1024 * 1024),
        Value("4194304"),
        "Largest request body. Each open call may keep one in memory.",
    ),
    setting(
        "server.connections_max",
        count("connections", 1, 1_000_000),
        Value("4096"),
        "Most open connections; further ones wait to be accepted. A connection without a request for 30 s is closed.",
    ),
    setting(
        "server.sessions_max",
        count("sessions", 1, 1_000_000),
        Value("10000"),
        "Most open legacy sessions; the modern era has none.",
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
        "Methods unknown to the gateway that it forwards at `/mcp/{backend}`, for roles that may call everything \
         there; a `*` at the end matches any suffix, for example `tasks/*`. Each request is recorded. Other unknown \
         methods are refused. The gateway's own methods, such as `tools/call`, cannot be passed.",
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
];
