//! Paths to values in JSON text, and the states of a walk that follows several of them at once.

use std::borrow::Cow;

use crate::mcp::fold::folded;

/// One path: a JSON pointer whose segments may also be `*` and `**`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Path(Vec<Segment>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Segment {
    /// The member whose name folds to this text, or the element with this index.
    Name(String),
    /// Any member or element: `*`.
    Any,
    /// Any number of members and elements, also none: `**`.
    AnyDepth,
}

/// A path that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It is not a JSON pointer.
    #[error("path {path:?} is not a JSON pointer: begin it with '/', for example /password or /**/password")]
    NotAPointer {
        /// The path.
        path: String,
    },
    /// It matches everything.
    #[error("path {path:?} ends with '**' and would match everything: name a member after it, or write /* for all")]
    MatchesAll {
        /// The path.
        path: String,
    },
}

/// The place of a value in its parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step<'a> {
    /// The name of the member, unescaped.
    Member(Cow<'a, str>),
    /// The index of the element.
    Element(usize),
}

/// The position in one path: the segments before `at` led to the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    path: usize,
    at: usize,
}

/// The positions in all paths at one value.
#[derive(Clone, Debug, Default)]
pub(super) struct States(Vec<State>);

impl Path {
    /// Compiles `text`.
    ///
    /// # Errors
    /// [`PathError`].
    pub(super) fn new(text: &str) -> Result<Self, PathError> {
        let rest = text.strip_prefix('/').ok_or_else(|| PathError::NotAPointer { path: text.to_owned() })?;
        let mut segments = Vec::new();
        for segment in rest.split('/') {
            segments.push(match segment {
                "*" => Segment::Any,
                // Two in a row match what one matches.
                "**" if segments.last() == Some(&Segment::AnyDepth) => continue,
                "**" => Segment::AnyDepth,
                name => Segment::Name(folded(&name.replace("~1", "/").replace("~0", "~")).into_owned()),
            });
        }
        if segments.last() == Some(&Segment::AnyDepth) {
            return Err(PathError::MatchesAll { path: text.to_owned() });
        }
        Ok(Self(segments))
    }

    /// The path below these members.
    pub(super) fn below(&self, members: &[&str]) -> Self {
        let prefix = members.iter().map(|name| Segment::Name(folded(name).into_owned()));
        Self(prefix.chain(self.0.iter().cloned()).collect())
    }

    /// The path to the member `name`.
    pub(super) fn member(name: &str) -> Self {
        Self(vec![Segment::Name(folded(name).into_owned())])
    }
}

impl States {
    /// The states at the value at which all `paths` begin.
    pub(super) fn begin(paths: &[Path]) -> Self {
        let mut states = Self::default();
        (0..paths.len()).for_each(|path| states.insert(paths, State { path, at: 0 }));
        states
    }

    /// True if no path leads to this value or to one inside it.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True if a path leads to this value.
    pub(super) fn has_arrived(&self, paths: &[Path]) -> bool {
        self.0.iter().any(|state| segment(paths, *state).is_none())
    }

    /// The states at the value that `step` leads to.
    pub(super) fn after(&self, paths: &[Path], step: &Step<'_>) -> Self {
        let mut next = Self::default();
        let mut name = None;
        for state in &self.0 {
            let one_on = State { at: state.at + 1, ..*state };
            match segment(paths, *state) {
                Some(Segment::AnyDepth) => next.insert(paths, *state),
                Some(Segment::Any) => next.insert(paths, one_on),
                Some(Segment::Name(wanted)) if wanted == name.get_or_insert_with(|| step.folded()).as_ref() => {
                    next.insert(paths, one_on);
                }
                Some(Segment::Name(_)) | None => {}
            }
        }
        next
    }

    /// These states and `more`.
    pub(super) fn with(mut self, paths: &[Path], more: &Self) -> Self {
        more.0.iter().for_each(|state| self.insert(paths, *state));
        self
    }

    fn insert(&mut self, paths: &[Path], state: State) {
        if self.0.contains(&state) {
            return;
        }
        self.0.push(state);
        // `**` also matches no step.
        if segment(paths, state) == Some(&Segment::AnyDepth) {
            self.insert(paths, State { at: state.at + 1, ..state });
        }
    }
}

impl Step<'_> {
    fn folded(&self) -> Cow<'_, str> {
        match self {
            Self::Member(name) => folded(name),
            Self::Element(index) => Cow::Owned(index.to_string()),
        }
    }
}

/// The segment that follows; `None` at the end of the path.
fn segment(paths: &[Path], state: State) -> Option<&Segment> {
    paths.get(state.path)?.0.get(state.at)
}
