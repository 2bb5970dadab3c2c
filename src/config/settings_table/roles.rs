//! The settings of authorization and limits.

use super::spec::Fallback::{Required, Unset, Value};
use super::spec::{SettingSpec, count, setting};
use crate::config::value_type::ValueType;

/// `[roles.NAME]`, `[[roles.NAME.when]]` and `[limits]`.
pub(super) const ROLES: &[SettingSpec] = &[
    setting(
        "roles.*.allow",
        ValueType::Patterns,
        Value("[]"),
        "Tools that the role may call: patterns over `backend/tool`, in which `*` matches any characters but `/`. \
         Empty: none.",
    ),
    setting(
        "roles.*.deny",
        ValueType::Patterns,
        Value("[]"),
        "Tools that callers with this role may not call, even if another role allows them. A pattern that names all \
         tools of a backend denies its resources and prompts too.",
    ),
    setting(
        "roles.*.resources",
        ValueType::Resources,
        Unset,
        "Resources that the role may read: patterns over `backend/URI`, in which `*` in the URI matches any \
         characters. If `resources` and `prompts` are both unset: all resources of the backends whose tools it may \
         all call, otherwise none.",
    ),
    setting(
        "roles.*.deny_resources",
        ValueType::Resources,
        Value("[]"),
        "Resources that callers with this role may not read, even if another role allows them.",
    ),
    setting(
        "roles.*.prompts",
        ValueType::Patterns,
        Unset,
        "Prompts that the role may get: patterns over `backend/prompt`. If `prompts` and `resources` are both unset: \
         all prompts of the backends whose tools it may all call, otherwise none.",
    ),
    setting(
        "roles.*.deny_prompts",
        ValueType::Patterns,
        Value("[]"),
        "Prompts that callers with this role may not get, even if another role allows them.",
    ),
    setting(
        "roles.*.when[].tool",
        ValueType::Pattern,
        Required,
        "The tools to whose arguments this condition applies. For this role's `allow`, every condition on a tool must \
         be met.",
    ),
    setting(
        "roles.*.when[].from",
        ValueType::Choice(&["arguments", "inputResponses"]),
        Value("\"arguments\""),
        "What the condition tests: the `arguments` of a call, or each answer of a person to a question that the tool \
         asks (`inputResponses`; of elicitation, its `content` is at `/content`). Answers that decline or cancel pass.",
    ),
    setting(
        "roles.*.when[].pointer",
        ValueType::Pointer,
        Required,
        "JSON pointer to the argument, or into the answer. If there is no such value, the condition is not met.",
    ),
    setting(
        "roles.*.when[].equals",
        ValueType::Scalar,
        Unset,
        "The argument equals this value. Numbers are compared as they are written: `1.0` is not `1`.",
    ),
    setting("roles.*.when[].one_of", ValueType::Scalars, Unset, "The argument is one of these values."),
    setting(
        "roles.*.when[].matches",
        ValueType::Expression,
        Unset,
        "The argument is a string of at most 4096 bytes, and this regular expression matches the whole of it. Its \
         compiled size is limited, and with it the time that one call takes.",
    ),
    setting(
        "roles.*.when[].below",
        ValueType::Directory,
        Unset,
        "The argument is the absolute path of this directory or of something below it, judged by its text; `..` may \
         not lead out of it.",
    ),
    setting(
        "limits.calls_per_principal",
        count("calls", 1, 65_536),
        Value("64"),
        "Most open calls of one principal (issuer and subject); further ones get 429 and are recorded as \
         `rate_limited`. It keeps one client from using all of `server.calls_max`.",
    ),
    setting(
        "limits.calls_per_backend",
        count("calls", 1, 65_536),
        Value("256"),
        "Most open calls at one backend; further ones are refused and recorded in the same way. A backend's own \
         `calls_max` takes precedence.",
    ),
    setting(
        "limits.rate_per_principal",
        count("requests a second", 0, 100_000),
        Value("100"),
        "Sustained requests a second of one principal (issuer and subject), whatever they ask for and whether or not \
         they are allowed; further ones get 429 and are recorded as `rate_limited`. Opening a session counts as ten \
         requests (as a hundred, if the caller may use no backend), and searching all backends for a resource as one more. An agent that works without a pause sends \
         about ten a second; raise the limit for a token that many clients share. 0: unlimited.",
    ),
    setting(
        "limits.burst_per_principal",
        count("requests", 1, 100_000),
        Value("400"),
        "Requests that one principal may make at once after a pause, if `rate_per_principal` is set: agents call \
         several tools at a time, and an editor opens a session for each of its windows.",
    ),
    setting(
        "limits.sessions_per_principal",
        count("sessions", 1, 1_000_000),
        Value("16"),
        "Most open legacy sessions of one principal; one more ends its session that was idle longest, which is \
         recorded. Each may have a child process of its own at every stdio backend: a person has one session for each \
         client window. Raise the limit for a token that many clients share.",
    ),
    setting(
        "limits.streams_per_principal",
        count("streams", 1, 1_000_000),
        Value("64"),
        "Most open streams of one principal (GET of a session, and `subscriptions/listen`), and at most a quarter of \
         `server.connections_max`; further ones get 429 and are recorded as `rate_limited`. Each occupies a connection.",
    ),
];
