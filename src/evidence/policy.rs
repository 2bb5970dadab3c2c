//! Trust policies: whose signatures a checkpoint needs. C2SP tlog-policy.
//!
//! ```text
//! log VERIFIER-KEY [URL]
//! witness NAME VERIFIER-KEY [URL]
//! group NAME all|any|K MEMBER...
//! quorum NAME|none
//! ```
//!
//! One item a line; words are separated by spaces and tabs; lines that begin with `#` are comments. Members and the
//! quorum are witnesses or groups of earlier lines.

use std::collections::{BTreeMap, BTreeSet};

use super::checkpoint::{Checkpoint, CheckpointError};
use super::cosignature::UnixTime;
use super::key::{KeyError, VerifierKey};
use super::note::{Note, NoteError};
use super::text::{decimal, shown};

/// The most bytes of a policy. *Chosen*: two thousand keys of the longest kind.
pub const POLICY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A log or a witness, as a line of the policy names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Party {
    /// The name within the policy. That of a log is its origin.
    pub name: String,
    /// Its key.
    pub key: VerifierKey,
    /// The URL where it is reached, if the policy has one. Bytes that are not UTF-8 are replaced.
    pub url: Option<String>,
}

/// A set of logs and witnesses, and the rule which witnesses suffice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    logs: Vec<Party>,
    witnesses: Vec<Party>,
    groups: Vec<Group>,
    quorum: Quorum,
}

/// A rule that some of its members suffice.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    threshold: usize,
    members: Vec<Member>,
}

/// An index into the witnesses or the groups of the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Member {
    Witness(usize),
    Group(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quorum {
    None,
    Of(Member),
}

/// A checkpoint that a log of the policy signed, with the signatures that were verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked<'a> {
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// The keys of the log that signed it: more than one while keys are rotated.
    pub log_keys: Vec<&'a VerifierKey>,
    /// The witnesses that signed it, in the order of the policy.
    pub witnesses: Vec<Witnessed<'a>>,
    /// True if these witnesses suffice.
    pub quorum_is_met: bool,
}

/// A witness that signed a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Witnessed<'a> {
    /// The witness.
    pub witness: &'a Party,
    /// The latest time at which it signed.
    pub time: UnixTime,
}

/// A policy cannot be used. `line` counts from 1.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("policy line {line}: {reason}")]
pub struct PolicyError {
    /// The line; the last one if something is missing.
    pub line: usize,
    /// The reason, which is part of the message and therefore not its source.
    pub reason: PolicyReason,
}

/// The reason of a [`PolicyError`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyReason {
    /// The policy is too long.
    #[error("the policy is longer than {POLICY_BYTES_MAX} bytes")]
    TooLong,
    /// A byte that a policy cannot contain.
    #[error("the control character {0:#04x} is not allowed: only tabs and line feeds are")]
    Control(u8),
    /// A character after which an editor may show another line.
    #[error(
        "a line separator of Unicode (U+0085, U+2028 or U+2029) is not allowed: an editor may show another line there"
    )]
    LineSeparator,
    /// The last line does not end.
    #[error("the last line does not end in a line feed: was the file cut?")]
    Cut,
    /// The line begins with an unknown word.
    #[error("{0} is not known: a line begins with log, witness, group or quorum")]
    Unknown(String),
    /// The line has too few or too many words.
    #[error("the line must be: {0}")]
    Form(&'static str),
    /// The key is not one.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A key or a number is not UTF-8.
    #[error("a key and a number must be UTF-8")]
    Utf8,
    /// A witness with a key that makes signatures without a time.
    #[error("witness {0}: the key has type 0x01, and a witness needs one of type 0x04 or 0x06")]
    WitnessType(String),
    /// The same public key twice.
    #[error("the public key of {0} is on an earlier line too")]
    Duplicate(String),
    /// The name is taken.
    #[error("the name {0} is already used")]
    Taken(String),
    /// The name is not defined on an earlier line.
    #[error("{0} is not a witness or a group of an earlier line")]
    Undefined(String),
    /// A witness or group is in two groups, or twice in one.
    #[error("{0} is already a member of a group, and may be one only once")]
    MemberTwice(String),
    /// The number of members that suffice is not possible.
    #[error("the number {0} must be all, any, or from 1 to the number of members")]
    Threshold(String),
    /// There is more than one quorum.
    #[error("there is already a quorum")]
    SecondQuorum,
    /// There is no quorum.
    #[error("there is no line for the quorum: add \"quorum NAME\", or \"quorum none\" to need no witness")]
    NoQuorum,
}

/// A note is not a checkpoint that the policy accepts.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CheckError {
    /// The note is not a checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// No log of the policy has this origin.
    #[error("the checkpoint is of the log {origin}, which the policy does not name")]
    Origin {
        /// The origin of the checkpoint.
        origin: String,
    },
    /// A signature is wrong, or none is of a known key.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// Witnesses signed, and the log did not.
    #[error("the checkpoint is not signed by a key that the policy has for the log {origin}")]
    Log {
        /// The origin of the checkpoint.
        origin: String,
    },
    /// Too few witnesses signed.
    #[error("the checkpoint of {origin} is signed by {witnesses} of the policy's witnesses, and they do not suffice")]
    Quorum {
        /// The origin of the checkpoint.
        origin: String,
        /// The number of witnesses that signed.
        witnesses: usize,
    },
}

impl Policy {
    /// The policy of a file.
    ///
    /// # Errors
    /// [`PolicyError`], which names the first line that is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, PolicyError> {
        if bytes.len() > POLICY_BYTES_MAX {
            return Err(PolicyError { line: 1, reason: PolicyReason::TooLong });
        }
        let mut reader = Reader::default();
        let mut line = 1;
        let mut rest = bytes;
        while !rest.is_empty() {
            let error = |reason| PolicyError { line, reason };
            let end = rest.iter().position(|byte| *byte == b'\n').ok_or_else(|| error(PolicyReason::Cut))?;
            let (text, after) = rest.split_at(end);
            reader.line(text).map_err(error)?;
            rest = after.split_first().map_or(&[], |(_, rest)| rest);
            line += 1;
        }
        let quorum = reader.quorum.ok_or(PolicyError { line, reason: PolicyReason::NoQuorum })?;
        Ok(Self { logs: reader.logs, witnesses: reader.witnesses, groups: reader.groups, quorum })
    }

    /// The logs, in the order of their lines. Several with one name are keys of one log.
    #[must_use]
    pub fn logs(&self) -> &[Party] {
        &self.logs
    }

    /// The witnesses, in the order of their lines.
    #[must_use]
    pub fn witnesses(&self) -> &[Party] {
        &self.witnesses
    }

    /// Checks that a log of the policy signed the note, and which witnesses did. A quorum that is not met is not an
    /// error here: see [`Checked::confirmed`].
    ///
    /// # Errors
    /// [`CheckError`].
    pub fn check<'a>(&'a self, note: &Note) -> Result<Checked<'a>, CheckError> {
        let checkpoint = Checkpoint::parse(note.text())?;
        let origin = || checkpoint.origin().to_owned();
        let log_keys: Vec<_> =
            self.logs.iter().map(|log| &log.key).filter(|key| key.name() == checkpoint.origin()).collect();
        if log_keys.is_empty() {
            return Err(CheckError::Origin { origin: origin() });
        }
        let witness_keys = self.witnesses.iter().map(|witness| &witness.key);
        let verified = note.verify(log_keys.iter().copied().chain(witness_keys))?;
        let signed = |key: &VerifierKey| verified.iter().any(|verified| verified.key == key);
        let log_keys: Vec<_> = log_keys.into_iter().filter(|key| signed(key)).collect();
        if log_keys.is_empty() {
            return Err(CheckError::Log { origin: origin() });
        }
        let latest = |key| verified.iter().filter(|found| found.key == key).filter_map(|found| found.time).max();
        let times: Vec<Option<UnixTime>> = self.witnesses.iter().map(|witness| latest(&witness.key)).collect();
        let quorum_is_met = self.is_met(&times);
        let seen = self.witnesses.iter().zip(times);
        let witnesses = seen.filter_map(|(witness, time)| Some(Witnessed { witness, time: time? })).collect();
        Ok(Checked { checkpoint, log_keys, witnesses, quorum_is_met })
    }

    /// True if this policy accepts the checkpoint also if only keys that `counts` selects are counted.
    pub fn accepts_with(&self, checked: &Checked<'_>, counts: impl Fn(&VerifierKey) -> bool) -> bool {
        let time = |witness: &Party| {
            let by = checked.witnesses.iter().find(|by| by.witness == witness)?;
            counts(&witness.key).then_some(by.time)
        };
        let times: Vec<_> = self.witnesses.iter().map(time).collect();
        checked.log_keys.iter().any(|key| counts(key)) && self.is_met(&times)
    }

    fn is_met(&self, times: &[Option<UnixTime>]) -> bool {
        let mut groups: Vec<bool> = Vec::new();
        let counts = |member: &Member, groups: &[bool]| match *member {
            Member::Witness(idx) => times.get(idx).is_some_and(Option::is_some),
            Member::Group(idx) => groups.get(idx) == Some(&true),
        };
        // A group names only groups of earlier lines.
        for group in &self.groups {
            let found = group.members.iter().filter(|member| counts(member, &groups)).count();
            groups.push(found >= group.threshold);
        }
        match &self.quorum {
            Quorum::None => true,
            Quorum::Of(member) => counts(member, &groups),
        }
    }
}

impl Checked<'_> {
    /// The checkpoint, if the witnesses suffice.
    ///
    /// # Errors
    /// [`CheckError::Quorum`].
    pub fn confirmed(self) -> Result<Self, CheckError> {
        let (origin, witnesses) = (self.checkpoint.origin().to_owned(), self.witnesses.len());
        if self.quorum_is_met { Ok(self) } else { Err(CheckError::Quorum { origin, witnesses }) }
    }
}

/// A policy of which some lines were read. Names are bytes, as in the file: they are compared, never interpreted.
#[derive(Default)]
struct Reader {
    logs: Vec<Party>,
    witnesses: Vec<Party>,
    groups: Vec<Group>,
    quorum: Option<Quorum>,
    names: BTreeMap<Vec<u8>, Member>,
    members: BTreeSet<Member>,
}

/// The name that stands for no witness at all, and that nothing else can have. *Spec*: C2SP tlog-policy.
const NONE: &[u8] = b"none";

/// The line separators of Unicode, in UTF-8: U+0085, U+2028 and U+2029.
const LINE_SEPARATORS: [&[u8]; 3] = [&[0xc2, 0x85], &[0xe2, 0x80, 0xa8], &[0xe2, 0x80, 0xa9]];

impl Reader {
    fn line(&mut self, line: &[u8]) -> Result<(), PolicyReason> {
        let is_control = |byte: &&u8| **byte != b'\t' && (**byte < 0x20 || **byte == 0x7f);
        if let Some(byte) = line.iter().find(is_control) {
            return Err(PolicyReason::Control(*byte));
        }
        if LINE_SEPARATORS.iter().any(|separator| line.windows(separator.len()).any(|bytes| bytes == *separator)) {
            return Err(PolicyReason::LineSeparator);
        }
        let words: Vec<&[u8]> =
            line.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty()).collect();
        let Some((first, words)) = words.split_first().filter(|(first, _)| !first.starts_with(b"#")) else {
            return Ok(());
        };
        match *first {
            b"log" => self.log(words),
            b"witness" => self.witness(words),
            b"group" => self.group(words),
            b"quorum" => self.quorum(words),
            _ => Err(PolicyReason::Unknown(lossy(first))),
        }
    }

    fn log(&mut self, words: &[&[u8]]) -> Result<(), PolicyReason> {
        let (key, url) = match words {
            [key] => (*key, None),
            [key, url] => (*key, Some(*url)),
            _ => return Err(PolicyReason::Form("log KEY [URL]")),
        };
        let key = VerifierKey::parse(utf8(key)?)?;
        let party =
            Party { name: key.name().to_owned(), key, url: url.map(|url| String::from_utf8_lossy(url).into_owned()) };
        // Unlike C2SP, which allows each key once: a gateway signs an ended log and its new one with one key. A
        // signature is of one log all the same, since the text that it signs has the origin.
        let is_other = |log: &Party| log.name != party.name || !log.key.is_duplicate(&party.key);
        let is_taken = self.witnesses.iter().any(|witness| witness.key.is_duplicate(&party.key));
        if is_taken || !self.logs.iter().all(is_other) {
            return Err(PolicyReason::Duplicate(party.name));
        }
        self.logs.push(party);
        Ok(())
    }

    fn witness(&mut self, words: &[&[u8]]) -> Result<(), PolicyReason> {
        let (name, key, url) = match words {
            [name, key] => (*name, *key, None),
            [name, key, url] => (*name, *key, Some(*url)),
            _ => return Err(PolicyReason::Form("witness NAME KEY [URL]")),
        };
        let key = VerifierKey::parse(utf8(key)?)?;
        if !key.signature_type().is_cosignature() {
            return Err(PolicyReason::WitnessType(lossy(name)));
        }
        self.define(name, Member::Witness(self.witnesses.len()))?;
        let party = Party { name: lossy(name), key, url: url.map(|url| String::from_utf8_lossy(url).into_owned()) };
        self.witnesses.push(self.unique(party)?);
        Ok(())
    }

    fn group(&mut self, words: &[&[u8]]) -> Result<(), PolicyReason> {
        let [name, threshold, members @ ..] = words else {
            return Err(PolicyReason::Form("group NAME all|any|K MEMBER..."));
        };
        if members.is_empty() {
            return Err(PolicyReason::Form("group NAME all|any|K MEMBER..."));
        }
        let number = match *threshold {
            b"all" => Some(members.len()),
            b"any" => Some(1),
            number => decimal(utf8(number)?).and_then(|number| usize::try_from(number).ok()),
        };
        let wrong = || PolicyReason::Threshold(lossy(threshold));
        let threshold = number.filter(|number| (1..=members.len()).contains(number)).ok_or_else(wrong)?;
        let mut found = Vec::new();
        for member in members {
            let known = self.defined(member)?;
            if !self.members.insert(known) {
                return Err(PolicyReason::MemberTwice(lossy(member)));
            }
            found.push(known);
        }
        self.define(name, Member::Group(self.groups.len()))?;
        self.groups.push(Group { threshold, members: found });
        Ok(())
    }

    fn quorum(&mut self, words: &[&[u8]]) -> Result<(), PolicyReason> {
        let [name] = words else { return Err(PolicyReason::Form("quorum NAME")) };
        if self.quorum.is_some() {
            return Err(PolicyReason::SecondQuorum);
        }
        self.quorum = Some(if *name == NONE { Quorum::None } else { Quorum::Of(self.defined(name)?) });
        Ok(())
    }

    /// The party, if its public key is new. Stricter than C2SP, which lets a log be its own witness: that would confirm
    /// nothing.
    fn unique(&self, party: Party) -> Result<Party, PolicyReason> {
        let mut others = self.logs.iter().chain(&self.witnesses);
        let is_taken = others.any(|other| other.key.is_duplicate(&party.key));
        if is_taken { Err(PolicyReason::Duplicate(party.name)) } else { Ok(party) }
    }

    fn define(&mut self, name: &[u8], member: Member) -> Result<(), PolicyReason> {
        if name == NONE || self.names.contains_key(name) {
            return Err(PolicyReason::Taken(lossy(name)));
        }
        self.names.insert(name.to_vec(), member);
        Ok(())
    }

    fn defined(&self, name: &[u8]) -> Result<Member, PolicyReason> {
        self.names.get(name).copied().ok_or_else(|| PolicyReason::Undefined(lossy(name)))
    }
}

fn utf8(word: &[u8]) -> Result<&str, PolicyReason> {
    str::from_utf8(word).map_err(|_| PolicyReason::Utf8)
}

/// A word for a message.
fn lossy(word: &[u8]) -> String {
    shown(&String::from_utf8_lossy(word)).trim_matches('"').to_owned()
}
