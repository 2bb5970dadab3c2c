//! One pass over JSON text that finds the values at paths and replaces them.

use std::borrow::Cow;
use std::ops::Range;

use super::path::{Path, States, Step};
use super::reader::{NotJson, Reader, spliced};
use crate::mcp::json;

/// Deepest nesting that is walked, JSON inside of strings included. *Chosen*: twice that of a client's message, within
/// the stack of a thread.
const DEPTH_MAX: usize = 256;

/// The paths of a walk, and where they begin.
#[derive(Clone, Copy, Debug)]
pub(super) struct Walk<'p> {
    pub(super) paths: &'p [Path],
    /// The paths begin at every value; otherwise at the root.
    pub(super) is_anywhere: bool,
}

/// Returns the JSON text that replaces the value to which the steps lead; `None` leaves it.
type Replace<'f> = dyn FnMut(&[Step<'_>], &str) -> Option<String> + 'f;

struct Walker<'p, 'j, 'f> {
    walk: Walk<'p>,
    begin: States,
    json: &'j str,
    reader: Reader<'j>,
    /// The steps to the current value.
    steps: Vec<Step<'j>>,
    edits: Vec<(Range<usize>, String)>,
    replace: &'f mut Replace<'f>,
}

impl Walk<'_> {
    /// Returns `json` with other values at the paths. A string that is itself the JSON text of an object or array is
    /// looked into, because many programs pass structured data on in that way.
    ///
    /// # Errors
    /// [`NotJson`]: the paths cannot be followed.
    pub(super) fn edited(
        self,
        json: &str,
        mut replace: impl FnMut(&[Step<'_>], &str) -> Option<String>,
    ) -> Result<Cow<'_, str>, NotJson> {
        let begin = States::begin(self.paths);
        let edits = self.edits(json, &begin, Vec::new(), DEPTH_MAX, &mut replace)?;
        Ok(if edits.is_empty() { Cow::Borrowed(json) } else { Cow::Owned(spliced(json, &edits)) })
    }

    fn edits(
        self,
        json: &str,
        states: &States,
        steps: Vec<Step<'_>>,
        depth: usize,
        replace: &mut Replace<'_>,
    ) -> Result<Vec<(Range<usize>, String)>, NotJson> {
        let begin = States::begin(self.paths);
        let reader = Reader::new(json);
        let mut replace = |steps: &[Step<'_>], value: &str| replace(steps, value);
        let mut walker = Walker { walk: self, begin, json, reader, steps, edits: Vec::new(), replace: &mut replace };
        walker.value(states, depth)?;
        if walker.reader.peek().is_some() { Err(NotJson) } else { Ok(walker.edits) }
    }
}

impl<'j> Walker<'_, 'j, '_> {
    /// Walks through the next value. `states` are those at it.
    fn value(&mut self, states: &States, depth: usize) -> Result<(), NotJson> {
        if states.has_arrived(self.walk.paths) {
            let range = self.reader.value()?;
            let value = self.json.get(range.clone()).unwrap_or_default();
            if let Some(new) = (self.replace)(&self.steps, value) {
                self.edits.push((range, new));
            }
            return Ok(());
        }
        if states.is_empty() {
            return self.reader.value().map(drop);
        }
        match self.reader.peek() {
            Some(b'{') => self.members(states, depth),
            Some(b'[') => self.elements(states, depth),
            Some(b'"') => self.text(states, depth),
            _ => self.reader.value().map(drop),
        }
    }

    fn members(&mut self, states: &States, depth: usize) -> Result<(), NotJson> {
        let depth = depth.checked_sub(1).ok_or(NotJson)?;
        self.reader.take(b'{');
        if self.reader.take(b'}') {
            return Ok(());
        }
        loop {
            let name = self.reader.string()?;
            let name = unquoted(self.json.get(name).unwrap_or_default());
            if !self.reader.take(b':') {
                return Err(NotJson);
            }
            self.child(states, Step::Member(name), depth)?;
            if !self.reader.take(b',') {
                return if self.reader.take(b'}') { Ok(()) } else { Err(NotJson) };
            }
        }
    }

    fn elements(&mut self, states: &States, depth: usize) -> Result<(), NotJson> {
        let depth = depth.checked_sub(1).ok_or(NotJson)?;
        self.reader.take(b'[');
        if self.reader.take(b']') {
            return Ok(());
        }
        for index in 0.. {
            self.child(states, Step::Element(index), depth)?;
            if !self.reader.take(b',') {
                break;
            }
        }
        if self.reader.take(b']') { Ok(()) } else { Err(NotJson) }
    }

    fn child(&mut self, states: &States, step: Step<'j>, depth: usize) -> Result<(), NotJson> {
        let mut child = states.after(self.walk.paths, &step);
        if self.walk.is_anywhere {
            child = child.with(self.walk.paths, &self.begin);
        }
        self.steps.push(step);
        self.value(&child, depth)?;
        self.steps.pop();
        Ok(())
    }

    /// Looks into a string that is JSON text. What cannot be walked is text like any other.
    fn text(&mut self, states: &States, depth: usize) -> Result<(), NotJson> {
        let range = self.reader.string()?;
        let quoted = self.json.get(range.clone()).unwrap_or_default();
        if !quoted.contains(['{', '[']) {
            return Ok(());
        }
        let inner = unquoted(quoted);
        if !inner.trim_start().starts_with(['{', '[']) {
            return Ok(());
        }
        let steps = self.steps.clone();
        let edits = depth.checked_sub(1).ok_or(NotJson);
        let edits = edits.and_then(|depth| self.walk.edits(&inner, states, steps, depth, &mut *self.replace));
        if let Some(edits) = edits.ok().filter(|edits| !edits.is_empty()) {
            self.edits.push((range, json::quoted(&spliced(&inner, &edits))));
        }
        Ok(())
    }
}

/// The text of a quoted string; a lone surrogate becomes U+FFFD.
pub(super) fn unquoted(quoted: &str) -> Cow<'_, str> {
    match json::unescaped(quoted.as_bytes()) {
        Cow::Borrowed(_) => Cow::Borrowed(quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default()),
        Cow::Owned(bytes) => Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()),
    }
}
