//! The keys of roles: what each allows and denies.

use super::Fallback::{Required, Unset, Value};
use super::{Kind, Knob, knob};

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
];
