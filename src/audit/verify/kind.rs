//! The kinds of faults, one for each check, and the kinds of unproven parts.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Kinds with their words and meanings.
macro_rules! kinds {
    ($(#[$meta:meta])* $name:ident { $($(#[doc = $doc:literal])* $kind:ident = $word:literal,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[doc = $doc])* $kind,)* }

        impl $name {
            /// All kinds.
            pub const ALL: &[Self] = &[$(Self::$kind,)*];

            /// The kind's word in reports, in JSON and in decisions.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$kind => $word,)* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

kinds! {
    /// The check that found a fault. *Spec*: the table in docs/audit.md.
    FaultKind {
        /// One or more positions have no record.
        Gap = "gap",
        /// A position has two records.
        Duplicate = "duplicate",
        /// A record is not linked to the one before it.
        Link = "link",
        /// A record's contents do not match its hash.
        Changed = "changed",
        /// A record cannot be read, or has a position that cannot exist.
        Unreadable = "unreadable",
        /// The columns of a quarantined record are not those of its bytes.
        Quarantine = "quarantine",
        /// A record says that another one is lost, and no damage record names that one.
        Lost = "lost",
        /// Records up to the cursor are missing at the end of a stream.
        Tail = "tail",
        /// The cursor is missing, behind the last record, or has another hash.
        Cursor = "cursor",
        /// An epoch does not end where the next one says that it ended.
        End = "end",
        /// An epoch is missing, or is not named by the next one.
        Epoch = "epoch",
        /// A record of the gateway itself is at a position where it cannot be.
        Event = "event",
        /// A count in a record of the gateway itself is wrong.
        Count = "count",
        /// The stream has a record format that this version does not know.
        Format = "format",
        /// A record's time is in the future, or is not the time in its id.
        Time = "time",
        /// Two records of a gateway have the same request id.
        Repeated = "repeated",
        /// A head in the file of `--expect` is not in the trail.
        Expected = "expected",
        /// The live gateway has another head than the trail.
        Live = "live",
        /// The records do not give the root of a signed checkpoint, or a checkpoint was changed.
        Checkpoint = "checkpoint",
        /// Records were removed by a decision that nothing confirms.
        Retired = "retired",
        /// The tables are not those that Gatepost made.
        Table = "table",
        /// A file of an outbox is damaged, missing or in the wrong place.
        File = "file",
    }
}

kinds! {
    /// The reason why a part of the trail is not proven. *Spec*: the table in docs/audit.md.
    UnprovenKind {
        /// Nothing outside of the store confirms the ends of streams.
        Ends = "ends",
        /// Records are later than the heads of `--expect`.
        Later = "later",
        /// No checkpoint that the policy accepts covers records.
        Unsigned = "unsigned",
        /// The records up to a checkpoint that the policy accepts are proven.
        Witnessed = "witnessed",
        /// Records before a break in the chain that no head confirms.
        Unbound = "unbound",
        /// A gateway has no head in the file of `--expect`.
        Unnamed = "unnamed",
        /// The contents of records are lost.
        LostContents = "lost_contents",
        /// A damaged file hides where an epoch ended.
        EndUnknown = "end_unknown",
        /// Records of level `queued` are after the end that the gateway knows.
        Queued = "queued",
        /// The trail of a gateway begins after its first record.
        Begins = "begins",
        /// Epochs were in a damaged file.
        Epochs = "epochs",
        /// Records are in quarantine, where no query finds them.
        Quarantined = "quarantined",
        /// The store is empty.
        Empty = "empty",
        /// A cursor has no records.
        EmptyStream = "empty_stream",
        /// A column outside every hash has a value that cannot be right.
        Column = "column",
        /// Records of the live gateway are not delivered.
        Undelivered = "undelivered",
        /// The end is younger than `--settle`.
        Settling = "settling",
        /// Rows were removed by a decision.
        Resolved = "resolved",
        /// Records were retired.
        Retired = "retired",
        /// The database went back, and a gateway delivered again what it had kept.
        Restored = "restored",
        /// A gateway did not end, and no longer renews its lease.
        Silent = "silent",
        /// Other tables have the names of the trail's.
        Shadow = "shadow",
        /// Only a range was checked.
        Range = "range",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_those_in_json() {
        for kind in FaultKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
        for kind in UnprovenKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }
}
