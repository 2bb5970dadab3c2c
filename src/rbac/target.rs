//! The targets of a decision: tools, resources and prompts.

/// The kind of a [`Target`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TargetKind {
    /// A tool, identified by its name.
    Tool,
    /// A resource or a resource template, identified by its URI.
    Resource,
    /// A prompt, identified by its name.
    Prompt,
}

/// A tool, resource or prompt of a backend, which need not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// The target's kind.
    pub kind: TargetKind,
    /// The backend's alias.
    pub backend: &'a str,
    /// The backend's own name of the tool or prompt, or URI of the resource.
    pub name: &'a str,
}

impl<'a> Target<'a> {
    /// The tool `name` of a backend.
    #[must_use]
    pub fn tool(backend: &'a str, name: &'a str) -> Self {
        Self { kind: TargetKind::Tool, backend, name }
    }

    /// The resource `uri` of a backend.
    #[must_use]
    pub fn resource(backend: &'a str, uri: &'a str) -> Self {
        Self { kind: TargetKind::Resource, backend, name: uri }
    }

    /// The prompt `name` of a backend.
    #[must_use]
    pub fn prompt(backend: &'a str, name: &'a str) -> Self {
        Self { kind: TargetKind::Prompt, backend, name }
    }
}
