//! The terminal that a command prints to: its width and colours, and the time zone of its reader.

use std::io::{self, IsTerminal as _};

use crate::ops::time_arg::Zone;

/// When colours are used. Without doc comments on the values: the help would take its long form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum ColorWhen {
    #[default]
    Auto,
    Always,
    Never,
}

/// The terminal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Terminal {
    /// Its width in columns; `None`: lines may have any length.
    pub(super) width: Option<usize>,
    /// True if text may be coloured.
    pub(super) has_colors: bool,
    /// The time zone of the times that a person reads or writes.
    pub(super) zone: Zone,
}

/// The weight of a text, which its colour shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tone {
    /// Not coloured.
    #[default]
    Plain,
    /// Bold.
    Heading,
    /// Green: it is as it should be.
    Good,
    /// Yellow: something was refused, or needs a look.
    Notable,
    /// Red: something failed.
    Bad,
}

impl Terminal {
    /// The terminal of standard output, if that is one. `COLUMNS` sets a width, also for a file or a pipe.
    pub(super) fn of_standard_output(color: ColorWhen, zone: Zone) -> Self {
        let stdout = io::stdout();
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let window = || rustix::termios::tcgetwinsize(&stdout).ok().map(|size| usize::from(size.ws_col));
        let width = variable("COLUMNS").and_then(|columns| columns.parse().ok()).or_else(window);
        let has_colors = match color {
            ColorWhen::Always => true,
            ColorWhen::Never => false,
            // *Spec*: no-color.org.
            ColorWhen::Auto => {
                let is_dumb = variable("TERM").is_some_and(|term| term == "dumb");
                stdout.is_terminal() && variable("NO_COLOR").is_none() && !is_dumb
            }
        };
        Self { width: width.filter(|width| *width > 0), has_colors, zone }
    }

    /// The text in the colour of its tone.
    pub(super) fn paint(self, tone: Tone, text: &str) -> String {
        // *Spec*: ECMA-48, SGR.
        let code = match tone {
            Tone::Heading => "1",
            Tone::Good => "32",
            Tone::Notable => "33",
            Tone::Bad => "31",
            Tone::Plain => return text.to_owned(),
        };
        if self.has_colors && !text.is_empty() { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}
