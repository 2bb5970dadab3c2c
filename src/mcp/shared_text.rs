//! Text that the parts of a call share instead of copying it: the body of a request, and the parts of it that are
//! decided on, recorded and forwarded.
//!
//! A text may hold room in a budget of bytes. The room is given back with the last text that was made from it, so that
//! what waits in a queue counts as long as it is in memory, however its call has ended.

use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

/// A text, or a part of one. A clone shares the memory of the whole text, which is freed with the last of them.
#[derive(Clone, Default)]
pub struct SharedText {
    whole: Arc<String>,
    range: Range<usize>,
    room: Option<Arc<Room>>,
}

/// The room of a text in a budget of bytes: permits of its semaphores. Dropping it gives the room back.
#[derive(Debug)]
pub struct Room {
    of_all: OwnedSemaphorePermit,
    of_caller: Option<OwnedSemaphorePermit>,
}

impl Room {
    /// The room `of_all`, which also counts as the caller's own if `of_caller` is given.
    #[must_use]
    pub fn new(of_all: OwnedSemaphorePermit, of_caller: Option<OwnedSemaphorePermit>) -> Self {
        Self { of_all, of_caller }
    }

    /// Gives back what exceeds `permits`.
    pub fn shrink(&mut self, permits: usize) {
        for permit in [Some(&mut self.of_all), self.of_caller.as_mut()].into_iter().flatten() {
            drop(permit.split(permit.num_permits().saturating_sub(permits)));
        }
    }
}

impl SharedText {
    /// Takes `text` without copying it.
    #[must_use]
    pub fn new(text: String) -> Self {
        let range = 0..text.len();
        Self { whole: Arc::new(text), range, room: None }
    }

    /// Takes `text`, which occupies `room`.
    #[must_use]
    pub fn in_room(text: String, room: Room) -> Self {
        Self { room: Some(Arc::new(room)), ..Self::new(text) }
    }

    /// Takes `text`, which was made from this text and shares its room.
    #[must_use]
    pub fn derived(&self, text: String) -> Self {
        Self { room: self.room.clone(), ..Self::new(text) }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // The range was taken from the text.
        self.whole.get(self.range.clone()).unwrap_or_default()
    }

    /// `part` as a text of its own: shared if it is a part of this text, and copied if it is from elsewhere.
    #[must_use]
    pub fn part(&self, part: &str) -> Self {
        let start = part.as_ptr().addr().wrapping_sub(self.whole.as_ptr().addr());
        let range = start..start.wrapping_add(part.len());
        // A text that begins and ends within the memory of `whole` is a part of it: both are borrowed.
        match self.whole.get(range.clone()) {
            Some(_) => Self { whole: Arc::clone(&self.whole), range, room: self.room.clone() },
            None => self.derived(part.to_owned()),
        }
    }
}

impl Deref for SharedText {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<[u8]> for SharedText {
    fn as_ref(&self) -> &[u8] {
        self.as_str().as_bytes()
    }
}

impl From<String> for SharedText {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

impl PartialEq for SharedText {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for SharedText {}

impl fmt::Debug for SharedText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn part_of_a_text_shares_its_memory_and_another_text_is_copied() {
        let whole = SharedText::new("{\"a\":\"\u{e9}\"}".to_owned());
        let part = whole.part(&whole[5..9]);
        assert_eq!(&*part, "\"\u{e9}\"");
        assert!(Arc::ptr_eq(&whole.whole, &part.whole));
        let inner = part.part(&part[1..3]);
        assert_eq!((&*inner, Arc::ptr_eq(&inner.whole, &whole.whole)), ("\u{e9}", true));
        let foreign = "from elsewhere".to_owned();
        let copied = whole.part(&foreign);
        assert_eq!((&*copied, Arc::ptr_eq(&copied.whole, &whole.whole)), (foreign.as_str(), false));
        assert_eq!(&*whole.part(""), "");
    }

    #[test]
    fn room_is_given_back_with_the_last_text_that_was_made_from_it() {
        let budget = Arc::new(tokio::sync::Semaphore::new(10));
        let whole =
            SharedText::in_room("abc".to_owned(), Room::new(budget.clone().try_acquire_many_owned(6).unwrap(), None));
        let (part, derived) = (whole.part(&whole[1..]), whole.derived("x".to_owned()));
        let copied = derived.part("elsewhere");
        for text in [whole, part, derived] {
            drop(text);
            assert_eq!(budget.available_permits(), 4);
        }
        drop(copied);
        assert_eq!(budget.available_permits(), 10);
    }
}
