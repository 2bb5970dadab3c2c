//! The pins of all backends of a configuration.

use super::pins::{Pins, read_pins};
use super::sections::Config;

impl Config {
    /// Reads the pins of each backend. What is wrong with a file is a fault where the pins are used.
    pub(super) fn read_pins(&mut self) {
        for backend in self.backends.values_mut() {
            backend.pins = backend.pins_file.as_deref().map_or_else(|| Ok(Pins::new()), read_pins);
        }
    }

    /// The keys of the pins that differ in `other`.
    #[must_use]
    pub fn changed_pins(&self, other: &Self) -> Vec<String> {
        let differs = |alias: &&String| {
            let pins = |config: &Self| config.backends.get(*alias).map(|backend| backend.pins.clone());
            pins(self) != pins(other)
        };
        let both = other.backends.keys().filter(|alias| self.backends.contains_key(*alias));
        both.filter(differs).map(|alias| format!("backends.{alias}.pins_file")).collect()
    }
}
