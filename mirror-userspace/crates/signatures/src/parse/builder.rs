//! Collects what keywords say about a rule, and checks the rule as a whole.

use std::hash::BuildHasher as _;
use std::sync::Arc;

use foldhash::fast::FixedState;
use mirror_packet::Direction;

use super::draft::{Draft, Fast};
use super::text::RuleText;
use super::{Failure, Shared};
use crate::buffer::{Application, Buffer, Directions, Unit};
use crate::diagnostic::{Place, shown};
use crate::limits;
use crate::number::{Compare, signed};
use crate::rule::{
    BufferMatches, Condition, FastPattern, Flow, Header, Match, Number, Protocol, Rule, RuleId, State,
    Target, Threshold,
};
use crate::transform::Transform;

/// A requirement of a buffer while modifiers may still change it.
#[derive(Debug)]
pub(super) enum Entry {
    Content(Draft),
    Other(Match),
}

/// The requirements of a buffer.
#[derive(Debug)]
pub(super) struct List {
    pub(super) buffer: Buffer,
    pub(super) transforms: Vec<Transform>,
    pub(super) entries: Vec<Entry>,
    /// The list and entry of the `base64_decode` whose result this list is about.
    parent: Option<(usize, usize)>,
    /// The position of the keyword that selected the buffer.
    at: usize,
}

/// The buffer that keywords refer to.
#[derive(Debug)]
struct Sticky {
    buffer: Buffer,
    transforms: Vec<Transform>,
    /// The list, once there is a requirement.
    list: Option<usize>,
    at: usize,
    keyword: String,
}

/// A rule that is being read.
pub(super) struct Builder<'a> {
    pub(super) shared: &'a mut Shared,
    text: &'a RuleText<'a>,
    /// The position of the keyword that is being read.
    at: usize,
    pub(super) lists: Vec<List>,
    sticky: Option<Sticky>,
    /// The `base64_decode` whose result keywords refer to, behind `base64_data`.
    in_base64: Option<(usize, usize)>,
    /// The last `base64_decode`.
    pub(super) last_base64: Option<(usize, usize)>,
    /// The last content.
    last_content: Option<(usize, usize)>,
    variables: Vec<Box<[u8]>>,
    pub(super) message: Option<Box<str>>,
    pub(super) gid: Option<u32>,
    pub(super) sid: Option<u32>,
    pub(super) rev: Option<u32>,
    pub(super) class: Option<Arc<str>>,
    pub(super) priority: Option<u8>,
    pub(super) references: Vec<(Arc<str>, Box<str>)>,
    pub(super) metadata: Vec<(Arc<str>, Arc<str>)>,
    pub(super) target: Option<Target>,
    pub(super) is_silent: bool,
    pub(super) flow: Option<Flow>,
    pub(super) conditions: Vec<Condition>,
    pub(super) states: Vec<State>,
    pub(super) threshold: Option<Threshold>,
    /// The place of `tag`.
    pub(super) tag: Option<usize>,
    pub(super) bypasses: bool,
}

impl<'a> Builder<'a> {
    /// Begins a rule.
    pub(super) fn new(text: &'a RuleText<'a>, shared: &'a mut Shared) -> Self {
        Self {
            shared,
            text,
            at: 0,
            lists: Vec::new(),
            sticky: None,
            in_base64: None,
            last_base64: None,
            last_content: None,
            variables: Vec::new(),
            message: None,
            gid: None,
            sid: None,
            rev: None,
            class: None,
            priority: None,
            references: Vec::new(),
            metadata: Vec::new(),
            target: None,
            is_silent: false,
            flow: None,
            conditions: Vec::new(),
            states: Vec::new(),
            threshold: None,
            tag: None,
            bypasses: false,
        }
    }

    /// Begins to read the keyword at a position of the text.
    pub(super) const fn begin(&mut self, at: usize) {
        self.at = at;
    }

    /// Returns the place of the keyword that is being read.
    pub(super) fn place(&self) -> Place {
        self.text.place(self.at)
    }

    /// Ends the part of a sticky buffer. The buffer must have got a requirement.
    fn end_sticky(&mut self) -> Result<(), String> {
        self.in_base64 = None;
        match self.sticky.take() {
            Some(Sticky { list: None, keyword, .. }) => {
                Err(format!("nothing is required of `{keyword}` in front"))
            }
            _ => Ok(()),
        }
    }

    /// Selects the buffer for the keywords that follow.
    pub(super) fn select(&mut self, buffer: Buffer, keyword: &[u8]) -> Result<(), String> {
        self.end_sticky()?;
        if buffer != Buffer::Payload {
            let keyword = String::from_utf8_lossy(keyword).into_owned();
            self.sticky = Some(Sticky { buffer, transforms: Vec::new(), list: None, at: self.at, keyword });
        }
        Ok(())
    }

    /// Selects the result of the last `base64_decode`.
    pub(super) fn select_base64(&mut self) -> Result<(), String> {
        let parent = self.last_base64.ok_or("there is no `base64_decode` in front")?;
        self.end_sticky()?;
        self.in_base64 = Some(parent);
        Ok(())
    }

    /// Adds a transform of the selected buffer. Behind contents, it is for the contents that follow.
    pub(super) fn transform(&mut self, transform: Transform) -> Result<(), String> {
        let sticky =
            self.sticky.as_mut().ok_or("a transform follows the keyword of a buffer, such as `http.uri`")?;
        sticky.list = None;
        if sticky.transforms.len() >= limits::TRANSFORMS {
            return Err(format!("a buffer has at most {} transforms", limits::TRANSFORMS));
        }
        sticky.transforms.push(transform);
        Ok(())
    }

    /// Returns the buffer that is selected.
    pub(super) fn selected(&self) -> Option<Buffer> {
        self.sticky.as_ref().map(|sticky| sticky.buffer)
    }

    /// Returns the list that the keyword refers to.
    fn current(&mut self) -> usize {
        if let Some(parent) = self.in_base64 {
            return self.list(Buffer::Payload, &[], Some(parent), self.at);
        }
        let Some(sticky) = &self.sticky else { return self.list(Buffer::Payload, &[], None, self.at) };
        if let Some(list) = sticky.list {
            return list;
        }
        let (buffer, transforms, at) = (sticky.buffer, sticky.transforms.clone(), sticky.at);
        let list = if buffer.description().several {
            self.lists.push(List { buffer, transforms, entries: Vec::new(), parent: None, at });
            self.lists.len() - 1
        } else {
            self.list(buffer, &transforms, None, at)
        };
        if let Some(sticky) = &mut self.sticky {
            sticky.list = Some(list);
        }
        list
    }

    /// Returns the list of a buffer, which is made if there is none.
    fn list(
        &mut self,
        buffer: Buffer,
        transforms: &[Transform],
        parent: Option<(usize, usize)>,
        at: usize,
    ) -> usize {
        let known = self
            .lists
            .iter()
            .position(|list| list.buffer == buffer && list.transforms == transforms && list.parent == parent);
        known.unwrap_or_else(|| {
            self.lists.push(List {
                buffer,
                transforms: transforms.to_vec(),
                entries: Vec::new(),
                parent,
                at,
            });
            self.lists.len() - 1
        })
    }

    /// Adds a requirement of the selected buffer, or of `buffer`.
    pub(super) fn push(&mut self, buffer: Option<Buffer>, entry: Entry) -> (usize, usize) {
        let list = match buffer {
            Some(buffer) if self.selected() != Some(buffer) => self.list(buffer, &[], None, self.at),
            _ => self.current(),
        };
        let is_content = matches!(entry, Entry::Content(_));
        let mut index = 0;
        if let Some(list) = self.lists.get_mut(list) {
            index = list.entries.len();
            list.entries.push(entry);
        }
        if is_content {
            self.last_content = Some((list, index));
        }
        (list, index)
    }

    /// Adds a requirement of the selected buffer that no modifier changes.
    pub(super) fn require(&mut self, requirement: Match) -> (usize, usize) {
        self.push(None, Entry::Other(requirement))
    }

    /// Returns the content in front, which a modifier changes.
    pub(super) fn last_content(&mut self) -> Result<&mut Draft, String> {
        let missing = || "there is no `content` in front".to_owned();
        let (list, index) = self.last_content.ok_or_else(missing)?;
        match self.lists.get_mut(list).and_then(|list| list.entries.get_mut(index)) {
            Some(Entry::Content(draft)) => Ok(draft),
            _ => Err(missing()),
        }
    }

    /// Moves the content in front to a buffer, as the old modifiers such as `http_uri` say.
    pub(super) fn move_content(&mut self, buffer: Buffer) -> Result<(), String> {
        if self.sticky.is_some() || self.in_base64.is_some() {
            return Err("a modifier of `content` cannot be used behind the keyword of a buffer".to_owned());
        }
        let (list, index) = self.last_content.ok_or("there is no `content` in front")?;
        let from =
            self.lists.get_mut(list).filter(|list| list.buffer == Buffer::Payload && list.parent.is_none());
        let from = from.ok_or("the `content` in front belongs to another buffer already")?;
        if index >= from.entries.len() {
            return Err("there is no `content` in front".to_owned());
        }
        let entry = from.entries.remove(index);
        // `base64_decode` behind the content, which no rule has, would lose its place.
        if self.last_base64.is_some_and(|(of, at)| of == list && at > index) {
            return Err("`base64_decode` stands between the content and its modifier".to_owned());
        }
        self.push(Some(buffer), entry);
        Ok(())
    }

    /// Declares a variable.
    pub(super) fn declare(&mut self, name: &[u8]) -> Result<u8, String> {
        if let Some(index) = self.variables.iter().position(|known| known.as_ref() == name) {
            return Ok(index as u8);
        }
        let valid = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
        if !name.first().is_some_and(u8::is_ascii_alphabetic) || !name.iter().all(valid) {
            return Err(format!("{} is no name of a variable", shown(name)));
        }
        if self.variables.len() >= limits::VARIABLES {
            return Err(format!("a rule has at most {} variables", limits::VARIABLES));
        }
        self.variables.push(name.into());
        Ok((self.variables.len() - 1) as u8)
    }

    /// Reads a number of at most `max`, or the name of a variable.
    pub(super) fn number(&self, text: &[u8], max: i64) -> Result<Number, String> {
        let text = text.trim_ascii();
        if text.first().is_some_and(u8::is_ascii_alphabetic) {
            let index = self.variables.iter().position(|known| known.as_ref() == text);
            return match index {
                Some(index) => Ok(Number::Variable(index as u8)),
                None => Err(format!("no `byte_extract` or `byte_math` in front sets {}", shown(text))),
            };
        }
        signed(text, max).map(Number::Value)
    }

    fn failure(at: usize, keyword: &str, reason: String) -> Failure {
        Failure { at, keyword: keyword.to_owned(), reason, is_skip: false }
    }

    /// Checks the rule as a whole.
    pub(super) fn finish(mut self, header: Header) -> Result<Rule, Failure> {
        if let Err(reason) = self.end_sticky() {
            return Err(Self::failure(self.at, "options", reason));
        }
        let Some(sid) = self.sid else {
            return Err(Self::failure(0, "sid", "the rule has no number; add `sid:…;`".to_owned()));
        };
        if let Some(at) = self.tag
            && self.is_silent
        {
            let reason = "packets are kept by the alert, which `noalert` does not raise".to_owned();
            return Err(Self::failure(at, "tag", reason));
        }
        let id = RuleId { gid: self.gid.unwrap_or(1), sid, rev: self.rev.unwrap_or(0) };
        let flow = self.flow.unwrap_or_default();
        self.check_applications(&header)?;
        self.check_directions(flow)?;
        let (buffers, fast_pattern) = self.matches()?;
        let rule = Rule {
            line: self.text.place(0).line,
            digest: FixedState::default().hash_one(&self.text.bytes),
            header,
            id,
            message: self.message.unwrap_or_default(),
            class: self.class,
            priority: self.priority,
            references: self.references.into(),
            metadata: self.metadata.into(),
            target: self.target,
            is_silent: self.is_silent,
            flow,
            conditions: self.conditions.into(),
            buffers: buffers.into(),
            variables: self.variables.len() as u8,
            fast_pattern,
            states: self.states.into(),
            threshold: self.threshold,
            bypasses: self.bypasses,
        };
        Ok(rule)
    }

    /// Some traffic must be able to have all buffers.
    fn check_applications(&self, header: &Header) -> Result<(), Failure> {
        let mut possible: Option<Vec<Application>> = match header.protocol {
            Protocol::Application(application) => Some(vec![application]),
            _ => None,
        };
        for list in &self.lists {
            let row = list.buffer.description();
            if row.applications.is_empty() {
                continue;
            }
            let fits =
                |application: &Application| row.applications.iter().any(|other| other.fits(*application));
            let remaining: Vec<_> = match &possible {
                Some(possible) => possible.iter().copied().filter(fits).collect(),
                None => row.applications.to_vec(),
            };
            if remaining.is_empty() {
                let names: Vec<_> = row.applications.iter().map(|application| application.name()).collect();
                let reason = format!(
                    "this buffer exists in {} only, not in the rule's other traffic",
                    names.join(", ")
                );
                return Err(Self::failure(list.at, row.name, reason));
            }
            if self.conditions.iter().any(|condition| matches!(condition, Condition::PayloadSize(_))) {
                let reason = "`dsize` is about packets, and this buffer is not".to_owned();
                return Err(Self::failure(list.at, row.name, reason));
            }
            possible = Some(remaining);
        }
        Ok(())
    }

    /// Some direction must be able to have all buffers.
    fn check_directions(&self, flow: Flow) -> Result<(), Failure> {
        let mut seen: Option<(&List, Direction)> = None;
        for list in &self.lists {
            let row = list.buffer.description();
            let direction = match row.directions {
                Directions::ToServer => Direction::ToServer,
                Directions::ToClient => Direction::ToClient,
                Directions::Both => continue,
            };
            if flow.direction.is_some_and(|wanted| wanted != direction) {
                let reason = "`flow` wants the other direction than this buffer has".to_owned();
                return Err(Self::failure(list.at, row.name, reason));
            }
            match seen {
                Some((other, before)) if before != direction => {
                    let other = other.buffer.name();
                    let reason =
                        format!("requests and responses are mixed: `{other}` is in the other direction");
                    return Err(Self::failure(list.at, row.name, reason));
                }
                _ => seen = Some((list, direction)),
            }
        }
        Ok(())
    }

    /// Turns drafts into requirements.
    fn matches(&mut self) -> Result<(Vec<BufferMatches>, Option<FastPattern>), Failure> {
        let lists = std::mem::take(&mut self.lists);
        let mut finished: Vec<(Buffer, Vec<Transform>, Vec<Match>)> = Vec::with_capacity(lists.len());
        let mut parents = Vec::with_capacity(lists.len());
        let mut fast: Option<(usize, usize, Fast)> = None;
        for (number, list) in lists.into_iter().enumerate() {
            let size = list.entries.iter().find_map(|entry| match entry {
                Entry::Other(Match::Size(size)) => Some(*size),
                _ => None,
            });
            let absent = list
                .entries
                .iter()
                .any(|entry| matches!(entry, Entry::Other(Match::Absent { or_else: false })));
            if absent && list.entries.len() > 1 {
                let reason = "a buffer that is absent has no content; perhaps `absent:or_else`".to_owned();
                return Err(Self::failure(list.at, "absent", reason));
            }
            let mut matches = Vec::with_capacity(list.entries.len());
            for (index, entry) in list.entries.into_iter().enumerate() {
                match entry {
                    Entry::Other(requirement) => matches.push(requirement),
                    Entry::Content(mut draft) => {
                        draft.fit_hexadecimal(list.buffer);
                        if let Some(pattern) = draft.fast {
                            if fast.is_some() {
                                let reason = "the rule has another `fast_pattern`".to_owned();
                                return Err(Self::failure(pattern.at, "fast_pattern", reason));
                            }
                            // The result of `base64_decode` cannot be searched before the buffer is, so another
                            // pattern finds the rule.
                            fast = Some((number, index, pattern));
                        }
                        Self::check_size(&draft, size)?;
                        matches.push(Match::Content(draft.finish()?));
                    }
                }
            }
            parents.push(list.parent);
            finished.push((list.buffer, list.transforms, matches));
        }
        // The requirements behind `base64_data` belong to its `base64_decode`.
        for child in (0..finished.len()).rev() {
            let Some((list, index)) = parents.get(child).copied().flatten() else { continue };
            let nested = finished.get_mut(child).map(|list| std::mem::take(&mut list.2)).unwrap_or_default();
            if let Some(Match::Base64(base64)) = finished.get_mut(list).and_then(|list| list.2.get_mut(index))
            {
                base64.matches = nested.into();
            }
        }
        let mut fast_pattern = None;
        let mut buffers = Vec::with_capacity(finished.len());
        for (number, (buffer, transforms, matches)) in finished.into_iter().enumerate() {
            if matches.is_empty() {
                continue;
            }
            if let Some((_, index, Fast { part, only, .. })) = fast.filter(|fast| fast.0 == number) {
                let (buffer, index) = (buffers.len() as u16, index as u16);
                fast_pattern = Some(FastPattern { buffer, index, part, only });
            }
            buffers.push(BufferMatches { buffer, transforms: transforms.into(), matches: matches.into() });
        }
        Ok((buffers, fast_pattern))
    }

    /// A content that is longer than its buffer can be is a mistake.
    fn check_size(draft: &Draft, size: Option<Compare>) -> Result<(), Failure> {
        let Some(size) = size.filter(|_| !draft.negated) else { return Ok(()) };
        if draft.pattern.len() as u64 > size.largest() {
            let reason = format!(
                "{} bytes do not fit into a buffer of at most {}",
                draft.pattern.len(),
                size.largest()
            );
            return Err(Self::failure(draft.at, "content", reason));
        }
        Ok(())
    }

    /// Returns the position of the keyword that is being read.
    pub(super) const fn at(&self) -> usize {
        self.at
    }

    /// Returns true if the selected buffer can be transformed content of a transaction.
    pub(super) fn is_payload(&self) -> bool {
        self.selected().is_none_or(|buffer| buffer.description().unit == Unit::Payload)
    }
}
