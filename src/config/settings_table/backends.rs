//! The settings of backends.

use std::time::Duration;

use super::spec::Fallback::{Unset, Value};
use super::spec::{HOURS_24, SettingSpec, count, duration, ms, setting};
use crate::config::value_type::ValueType;

/// `[backends.NAME]`.
pub(super) const BACKENDS: &[SettingSpec] = &[
    setting(
        "backends.*.command",
        ValueType::Command,
        Unset,
        "A stdio MCP server to start: program and arguments, run without a shell. Each legacy session has a process \
         of its own. All other requests share one, unless the server speaks only the older era: then each principal \
         has its own (`shared`).",
    ),
    setting(
        "backends.*.env",
        ValueType::Variables,
        Value("{}"),
        "Its environment besides `PATH` and `HOME`; it inherits no other variable of the gateway.",
    ),
    setting(
        "backends.*.env_from",
        ValueType::Texts,
        Value("[]"),
        "Names of variables of the gateway that the server gets too, with their values at the start of each process.",
    ),
    setting(
        "backends.*.env_file",
        ValueType::Path,
        Unset,
        "A file with further variables, one `NAME=value` a line, read at the start of each process. It is closed to all \
         backends and, as every file with a secret, must be closed to other users. `env` comes after it, `env_from` before.",
    ),
    setting(
        "backends.*.cwd",
        ValueType::Path,
        Unset,
        "The server's working directory, instead of the gateway's. Unless `write` is set, the server may write there.",
    ),
    setting(
        "backends.*.url",
        ValueType::HttpUrl,
        Unset,
        "The endpoint of a Streamable HTTP server, instead of `command`. The client's token is never sent to it.",
    ),
    setting(
        "backends.*.header_env",
        ValueType::Headers,
        Value("{}"),
        "Headers for `url`, for example `Authorization`, each with the environment variable that contains its value.",
    ),
    setting(
        "backends.*.header_file",
        ValueType::Headers,
        Value("{}"),
        "Headers for `url`, each with the file that contains its value; leading and trailing white space is removed. A \
         file is checked for changes at most once a second and read again when it changes; if it cannot be used, the \
         previous value stays in use and a warning is logged.",
    ),
    setting(
        "backends.*.ca_file",
        ValueType::Path,
        Unset,
        "PEM file with certificate authorities that are trusted for `url` besides the system's. It is read again when it changes.",
    ),
    setting(
        "backends.*.call_timeout",
        duration(ms(1), HOURS_24),
        Value("\"30m\""),
        "Longest duration of a call, whatever progress it reports; then the client gets an error and the record says \
         `timeout`.",
    ),
    setting(
        "backends.*.idle_timeout",
        duration(ms(1), HOURS_24),
        Value("\"5m\""),
        "Longest time between two messages of a call; progress notifications restart it.",
    ),
    setting(
        "backends.*.probe_interval",
        duration(Duration::ZERO, HOURS_24),
        Value("\"1m\""),
        "How often the gateway asks the backend for its tools by itself: its state and its list are then known before a \
         client needs them, and clients hear when it comes, goes or changes (`list_changed`). One that does not answer is \
         asked each second for five minutes, then every 10 s. `0s`: never.",
    ),
    setting(
        "backends.*.calls_max",
        count("calls", 1, 65_536),
        Unset,
        "Most open calls at this backend. Unset: `limits.calls_per_backend`.",
    ),
    setting(
        "backends.*.shared",
        ValueType::Flag,
        Value("false"),
        "`true` lets all callers without a session share one conversation with a server of the older era. Only for a \
         server that keeps nothing of one call for the next: otherwise one caller's login is another's. Over stdio \
         each principal otherwise has a child process of its own. Without effect on servers of the modern era, which \
         keep nothing.",
    ),
    setting(
        "backends.*.conversations_max",
        count("conversations", 1, 10_000),
        Value("64"),
        "Most principals without a session that have a conversation with a server of the older era, each with a child \
         process over stdio. One more ends the conversation that was idle longest; if all have open requests, its \
         call fails. `server.session_idle_timeout` ends idle ones.",
    ),
    setting(
        "backends.*.write",
        ValueType::Texts,
        Unset,
        "The directories and files in which a stdio server may write. Unset: the working directory, `HOME` and the \
         directory for temporary files (`TMPDIR` in `env`, or `/tmp`), but never `/`. It may read everything except \
         the gateway's own files. A directory that contains one of these is granted entry by entry; `config check` \
         says so ([security.md](security.md#stdio-backends)).",
    ),
    setting(
        "backends.*.user",
        ValueType::Word,
        Unset,
        "The user of a stdio server, by name or number, with the user's groups and home directory. Unset: the \
         gateway's. The gateway needs the capabilities `CAP_SETUID`, `CAP_SETGID` and `CAP_KILL`.",
    ),
    setting(
        "backends.*.walls",
        ValueType::Flag,
        Value("true"),
        "`false` starts a stdio server without walls: it can read and write whatever its user can, the gateway's \
         own files too. For programs that Landlock or `no_new_privs` breaks, such as `sudo`.",
    ),
    setting(
        "backends.*.hide",
        ValueType::ToolPatterns,
        Value("[]"),
        "Tools that no caller sees or calls, whatever its roles, by the server's own names; `*` matches any characters, for \
         example `delete_*`. A call is refused and recorded as `denied` with `decided_by` `backends.NAME.hide[0]`.",
    ),
    setting(
        "backends.*.rename",
        ValueType::ToolNames,
        Value("{}"),
        "Names under which tools are listed and called, each by the server's own name of the tool, for example \
         `{ generate_report_v2 = \"report\" }`. The own name is then unknown to clients, and a tool whose own name is given \
         to another is left out. Rules, `hide`, pins and records have the own name; `context.called_as` has the client's \
         ([authorization.md](authorization.md#hidden-and-renamed-tools)).",
    ),
    setting(
        "backends.*.pin",
        ValueType::Choice(&["record", "alarm", "refuse"]),
        Value("\"record\""),
        "What follows if the definition of a tool changes or is not the one in `pins_file`. `record`: a \
         `gateway/catalog` record of the change. `alarm`: also the alarm `tools_changed`. `refuse`: the tool can also \
         not be called and is not listed until an operator accepts it.",
    ),
    setting(
        "backends.*.pins_file",
        ValueType::Path,
        Unset,
        "JSON file with the digest of each accepted definition, written by `gatepost audit pins accept` and read at the \
         start and on SIGHUP. Replicas share it as they share the configuration. A file that does not exist accepts \
         nothing.",
    ),
];
