//! The keys of roles and limits: what each allows and denies, and how much.

use super::Fallback::{Required, Unset, Value};
use super::{Kind, Knob, count, knob};

/// They stand behind those of `auth`.
pub(super) const RULES: &[Knob] = &[
    knob(
        "roles.*.allow",
        Kind::Patterns,
        Value("[]"),
        "What the role may call: patterns over `backend/tool`, where `*` stands for any run of characters but `/`. None: nothing.",
    ),
    knob(
        "roles.*.deny",
        Kind::Patterns,
        Value("[]"),
        "What nobody of this role may call, whatever another role allows. One that names all tools of a backend denies its resources and prompts too.",
    ),
    knob(
        "roles.*.resources",
        Kind::Resources,
        Unset,
        "What the role may read: patterns over `backend/URI`, where `*` in the URI stands for any run of characters. Unset, as `prompts` is: all of the backends whose tools it may all call, else nothing.",
    ),
    knob(
        "roles.*.deny_resources",
        Kind::Resources,
        Value("[]"),
        "What nobody of this role may read, whatever another role allows.",
    ),
    knob(
        "roles.*.prompts",
        Kind::Patterns,
        Unset,
        "Which prompts the role may get: patterns over `backend/prompt`. Unset, as `resources` is: all of the backends whose tools it may all call, else nothing.",
    ),
    knob(
        "roles.*.deny_prompts",
        Kind::Patterns,
        Value("[]"),
        "Which prompts nobody of this role may get, whatever another role allows.",
    ),
    knob(
        "roles.*.when[].tool",
        Kind::Pattern,
        Required,
        "The tools whose arguments this condition looks at. Every condition on a tool must hold, for this role's `allow`.",
    ),
    knob(
        "roles.*.when[].pointer",
        Kind::Pointer,
        Required,
        "JSON pointer to the argument. Where it leads nowhere the condition does not hold.",
    ),
    knob(
        "roles.*.when[].equals",
        Kind::Scalar,
        Unset,
        "The argument is this value. Numbers compare as they are written: `1.0` is not `1`.",
    ),
    knob("roles.*.when[].one_of", Kind::Scalars, Unset, "The argument is one of these values."),
    knob(
        "roles.*.when[].matches",
        Kind::Expression,
        Unset,
        "The argument is a text of at most 4096 bytes, all of which this regular expression matches. Its compiled size is bounded, and with it what one call costs.",
    ),
    knob(
        "roles.*.when[].below",
        Kind::Directory,
        Unset,
        "The argument is the absolute path of this directory or of something below it, by its text; `..` may not lead out of it.",
    ),
    knob(
        "limits.calls_per_principal",
        count("calls", 1, 65_536),
        Value("64"),
        "Most calls that one principal (issuer and subject) has open at once; one more gets 429 and is recorded as `rate_limited`. One client must not take all of `server.calls_max`.",
    ),
    knob(
        "limits.calls_per_backend",
        count("calls", 1, 65_536),
        Value("256"),
        "Most calls that are open at one backend at once, refused and recorded alike. A backend's own `calls_max` goes before.",
    ),
    knob(
        "limits.rate_per_principal",
        count("calls a second", 0, 100_000),
        Value("0"),
        "Calls a second that one principal may keep up; more get 429 and are recorded as `rate_limited`. 0: any number.",
    ),
    knob(
        "limits.burst_per_principal",
        count("calls", 1, 100_000),
        Value("20"),
        "Calls that one principal may make at once after a pause, where `rate_per_principal` is set: an agent asks several tools at a time.",
    ),
    knob(
        "limits.sessions_per_principal",
        count("sessions", 1, 1_000_000),
        Value("256"),
        "Most legacy sessions that one principal has open; one more ends the one of its own that was idle longest, which is recorded. Each may have a child of its own at every stdio backend. Opening one counts in the rate.",
    ),
];
