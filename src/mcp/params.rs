//! The parameters of a request or notification as they are forwarded: rebuilt from the members that its method has.
//!
//! The values keep their bytes; keys are written as the protocol spells them. What is not in the method's table
//! ([`crate::mcp::methods`]) is refused, or dropped where the gateway itself answers. The keys of `_meta` that belong
//! to the conversation with the backend ([`MetaRole::Written`]) are kept apart: the gateway writes them last, from the
//! client's values or from its own, so that the text without them is known before a backend is chosen.
//!
//! ```text
//! {"name":"read","arguments":{"path":"/a"},"_meta":{"com.example/x":1, <written by the gateway>}}
//! ```

use std::borrow::Cow;

use crate::mcp::capabilities;
use crate::mcp::envelope::{META_BYTES_MAX, Malformed, Message, bounded};
use crate::mcp::fold::folded;
use crate::mcp::json::{self, Object};
use crate::mcp::methods::{META_KEYS, MemberRole, MemberSpec, MetaRole, MethodSpec, NotificationSpec};
use crate::mcp::protocol::{Era, OWN_PREFIX};
use crate::mcp::shared_text::SharedText;

const META: &str = "_meta";

/// The rules for the parameters of one message.
#[derive(Clone, Copy, Debug)]
pub struct ParamRules<'a> {
    /// The members of its method; `None` for a method that the gateway does not know: every member passes.
    members: Option<&'static [MemberSpec]>,
    /// Unknown members are dropped, not refused.
    drops_unknown: bool,
    era: Era,
    method: &'a str,
    /// `server.pass_params`: a method, `/` and a member.
    passed: &'a [String],
}

/// The parameters of one message.
#[derive(Clone, Debug, Default)]
pub struct Params {
    /// The members besides `_meta`, in the order in which they arrived.
    members: Vec<Member>,
    /// The keys of `_meta` that are forwarded as they are.
    meta: Vec<(Cow<'static, str>, SharedText)>,
    /// The client's values of the keys of `_meta` that the gateway writes.
    written: Vec<(&'static str, SharedText)>,
    /// The names of what was removed or dropped.
    removed: Vec<String>,
    /// The message has parameters.
    is_given: bool,
    /// The whole text of the message, whose room the text that is forwarded shares.
    body: SharedText,
}

/// A member of the parameters.
#[derive(Clone, Debug)]
pub struct Member {
    /// The key.
    pub key: Cow<'static, str>,
    /// The value, as JSON text.
    pub value: SharedText,
    /// The place at which it is recorded.
    pub role: MemberRole,
}

impl<'a> ParamRules<'a> {
    /// The rules for a request of `method`, whose entry in the table is `spec`. `passed` is `server.pass_params`.
    #[must_use]
    pub fn of_request(spec: Option<&'static MethodSpec>, era: Era, method: &'a str, passed: &'a [String]) -> Self {
        let drops_unknown = spec.is_some_and(MethodSpec::drops_unknown_members);
        Self { members: spec.map(|spec| spec.members), drops_unknown, era, method, passed }
    }

    /// The rules for a notification of `method`, whose entry in the table is `spec`.
    #[must_use]
    pub fn of_notification(spec: Option<&'static NotificationSpec>, method: &'a str) -> Self {
        Self { members: spec.map(|spec| spec.members), drops_unknown: false, era: Era::Legacy, method, passed: &[] }
    }

    fn find(&self, key: &str) -> Option<&'static MemberSpec> {
        self.members?.iter().find(|member| member.name == key && member.eras.contains(&self.era))
    }

    fn is_passed(&self, key: &str) -> bool {
        let is_this = |passed: &String| passed.rsplit_once('/') == Some((self.method, key));
        self.members.is_none() || self.passed.iter().any(is_this)
    }

    /// The key of the protocol that a lenient decoder may take `key` for.
    fn known_like(&self, key: &str) -> Option<&'static str> {
        let names = self.members.unwrap_or_default().iter().map(|member| member.name);
        let wanted = folded(key);
        names.chain([META]).find(|name| *name != key && folded(name) == wanted)
    }
}

impl Params {
    /// Reads the parameters of `message`, whose text is `body`.
    ///
    /// # Errors
    /// The first rule that they break.
    pub fn read(message: &Message<'_>, body: &SharedText, rules: &ParamRules<'_>) -> Result<Self, Malformed> {
        let mut read = Self { body: body.clone(), ..Self::default() };
        let Some(params) = message.params() else { return Ok(read) };
        read.is_given = true;
        for member in params.members() {
            if member.key == META {
                read.meta(&params, member.value, rules)?;
            } else if !member.is_text {
                return Err(Malformed::KeyNotText { key: bounded(&member.key) });
            } else if is_own(&member.key) {
                read.removed.push(member.key.into_owned());
            } else if let Some(spec) = rules.find(&member.key) {
                read.member(spec, member.value)?;
            } else if rules.is_passed(&member.key) {
                let role = if rules.members.is_none() { MemberRole::Argument } else { MemberRole::Extra };
                let key = Cow::Owned(member.key.into_owned());
                read.members.push(Member { key, value: body.part(member.value), role });
            } else if rules.drops_unknown {
                read.removed.push(bounded(&member.key));
            } else {
                let known = rules.known_like(&member.key);
                return Err(Malformed::UnknownMember { place: "params", key: bounded(&member.key), known });
            }
        }
        Ok(read)
    }

    /// The parameters of a request of the gateway's own.
    #[must_use]
    pub fn own(members: &[(&'static str, &str)]) -> Self {
        let own = |(key, value): &(&'static str, &str)| Member {
            key: Cow::Borrowed(*key),
            value: SharedText::new((*value).to_owned()),
            role: MemberRole::Argument,
        };
        Self { members: members.iter().map(own).collect(), ..Self::default() }
    }

    fn member(&mut self, spec: &'static MemberSpec, value: &str) -> Result<(), Malformed> {
        if value == "null" {
            return Ok(()); // An optional member without a value; one that is needed is missed by its reader.
        }
        if spec.role == MemberRole::Task {
            self.removed.push(spec.name.to_owned());
            return Ok(());
        }
        if !spec.value.is_of(value) {
            return Err(match spec.name {
                "arguments" => Malformed::Arguments,
                "requestState" => Malformed::State,
                key => Malformed::MemberType { place: "params", key, expected: spec.value.in_words() },
            });
        }
        let value = match spec.role {
            MemberRole::Capabilities => {
                let (kept, removed) = capabilities::without_tasks(value);
                if removed {
                    self.removed.push("capabilities.tasks".to_owned());
                }
                self.body.part(&kept)
            }
            _ if spec.inner.is_empty() => self.body.part(value),
            _ => self.body.part(&inner(spec, value)?),
        };
        self.members.push(Member { key: Cow::Borrowed(spec.name), value, role: spec.role });
        Ok(())
    }

    fn meta(&mut self, params: &Object<'_>, value: &str, rules: &ParamRules<'_>) -> Result<(), Malformed> {
        if value == "null" {
            return Ok(());
        }
        let meta = params.object(META).ok_or(Malformed::Meta)?;
        for entry in meta.members() {
            if !entry.is_text {
                return Err(Malformed::KeyNotText { key: bounded(&entry.key) });
            }
            if is_own(&entry.key) {
                self.removed.push(bounded(&entry.key));
                continue;
            }
            let Some(spec) = META_KEYS.iter().find(|spec| spec.name == entry.key) else {
                let wanted = folded(&entry.key);
                let known = META_KEYS.iter().map(|spec| spec.name).find(|known| folded(known) == wanted);
                if rules.drops_unknown {
                    self.removed.push(bounded(&entry.key));
                } else if known.is_some() {
                    let key = bounded(&entry.key);
                    return Err(Malformed::UnknownMember { place: "params._meta", key, known });
                } else {
                    let value = self.body.part(entry.value);
                    self.meta.push((Cow::Owned(entry.key.into_owned()), value));
                }
                continue;
            };
            if entry.value == "null" {
                continue;
            }
            // I6: what is recorded of them is bounded.
            if entry.value.len() > META_BYTES_MAX {
                return Err(Malformed::MetaTooLong { key: spec.name });
            }
            if !spec.value.is_of(entry.value) {
                let expected = spec.value.in_words();
                return Err(Malformed::MemberType { place: "params._meta", key: spec.name, expected });
            }
            let is_removed =
                spec.role == MetaRole::Task || spec.role == MetaRole::WrittenModern && rules.era == Era::Legacy;
            if is_removed {
                self.removed.push(spec.name.to_owned());
            } else if spec.role == MetaRole::Forwarded {
                self.meta.push((Cow::Borrowed(spec.name), self.body.part(entry.value)));
            } else {
                let (kept, removed) = match spec.name {
                    crate::mcp::protocol::META_CAPABILITIES => capabilities::without_tasks(entry.value),
                    _ => (Cow::Borrowed(entry.value), false),
                };
                if removed {
                    self.removed.push("capabilities.tasks".to_owned());
                }
                let value = self.body.part(&kept);
                self.written.push((spec.name, value));
            }
        }
        Ok(())
    }

    /// Returns `true` if the message has parameters.
    #[must_use]
    pub fn is_given(&self) -> bool {
        self.is_given
    }

    /// The value of the member `key`, as JSON text.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&SharedText> {
        self.members.iter().find(|member| member.key == key).map(|member| &member.value)
    }

    /// The string that is the member `key`, unescaped.
    #[must_use]
    pub fn string(&self, key: &str) -> Option<String> {
        json::string(self.get(key)?)
    }

    /// The object that is the member `key`.
    #[must_use]
    pub fn object(&self, key: &str) -> Option<Object<'_>> {
        Object::parse(self.get(key)?)
    }

    /// Gives the member `key`, if there is one, the value `json`.
    pub fn set(&mut self, key: &str, json: &str) {
        let value = self.body.part(json);
        if let Some(member) = self.members.iter_mut().find(|member| member.key == key) {
            member.value = value;
        }
    }

    /// Removes the member `key`.
    pub fn remove(&mut self, key: &str) {
        self.members.retain(|member| member.key != key);
    }

    /// The members besides `_meta`.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.iter()
    }

    /// The keys of `_meta` that are forwarded as they are, with their values.
    pub fn meta_keys(&self) -> impl Iterator<Item = (&str, &str)> {
        self.meta.iter().map(|(key, value)| (key.as_ref(), value.as_str()))
    }

    /// The client's values of the keys of `_meta` that the gateway writes.
    pub fn written_keys(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.written.iter().map(|(key, value)| (*key, value.as_str()))
    }

    /// The client's value of the key `key` of `_meta`, which the gateway writes.
    #[must_use]
    pub fn written(&self, key: &str) -> Option<&str> {
        self.written_keys().find(|(written, _)| *written == key).map(|(_, value)| value)
    }

    /// The names of what the client sent and the gateway removed.
    #[must_use]
    pub fn removed(&self) -> &[String] {
        &self.removed
    }

    /// The arguments for the record, as JSON text: the member `arguments` of a call of a tool, otherwise all members
    /// that are recorded there, as an object. `None`: there are none.
    #[must_use]
    pub fn arguments(&self, is_tool_call: bool) -> Option<SharedText> {
        if is_tool_call {
            return self.get("arguments").cloned();
        }
        let arguments =
            self.members.iter().filter(|member| matches!(member.role, MemberRole::Argument | MemberRole::Capabilities));
        let text = json::object(arguments.map(|member| (member.key.as_ref(), member.value.as_str())));
        (text != "{}" || self.is_given).then(|| self.body.derived(text))
    }

    /// The text that is forwarded, with the keys `added` in `_meta`, whose values are JSON text. `None`: the message
    /// has no parameters.
    #[must_use]
    pub fn text(&self, added: &[(&str, &str)]) -> Option<SharedText> {
        if !self.is_given && self.members.is_empty() && added.is_empty() {
            return None;
        }
        let mut length = 0;
        self.write(added, |part| length += part.len());
        let mut text = String::with_capacity(length);
        self.write(added, |part| text.push_str(part));
        Some(self.body.derived(text))
    }

    /// Passes the parts of the text that [`Params::text`] returns to `sink`, in order.
    pub fn write(&self, added: &[(&str, &str)], mut sink: impl FnMut(&str)) {
        sink("{");
        let mut separator = "";
        for member in &self.members {
            sink(separator);
            sink_member(&mut sink, &member.key, &member.value);
            separator = ",";
        }
        if !self.meta.is_empty() || !added.is_empty() {
            sink(separator);
            sink("\"_meta\":{");
            separator = "";
            for (key, value) in self.meta_keys().chain(added.iter().copied()) {
                sink(separator);
                sink_member(&mut sink, key, value);
                separator = ",";
            }
            sink("}");
        }
        sink("}");
    }
}

fn sink_member(sink: &mut impl FnMut(&str), key: &str, value: &str) {
    sink(&json::quoted(key));
    sink(":");
    sink(value);
}

/// Returns `true` for a key of the gateway's own, in any spelling. Clients have none.
fn is_own(key: &str) -> bool {
    folded(key).starts_with(OWN_PREFIX)
}

/// The object `value`, the member of this `spec`, without members that are `null`.
fn inner(spec: &MemberSpec, value: &str) -> Result<String, Malformed> {
    let object = Object::parse(value).unwrap_or_default();
    for member in object.members() {
        if !member.is_text || !spec.inner.contains(&member.key.as_ref()) {
            let wanted = folded(&member.key);
            let known = spec.inner.iter().copied().find(|known| folded(known) == wanted);
            return Err(Malformed::UnknownMember { place: spec.name, key: bounded(&member.key), known });
        }
    }
    let is_null = |key: &str| object.get(key) == Some("null");
    Ok(object.without(is_null).into_owned())
}
