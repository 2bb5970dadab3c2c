//! The result of a drain.

/// The calls that were open when the gateway began to stop, by how they ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DrainReport {
    /// Messages that were open when the drain began and ended before its deadline.
    pub finished: usize,
    /// Calls that were open at the deadline and were cancelled; each is recorded as `error`.
    pub cancelled: usize,
    /// Cancelled calls that were not recorded in time. Their receipts record them when they are dropped.
    pub unrecorded: usize,
}
