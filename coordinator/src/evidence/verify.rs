//! Whether an exported audit log is what was logged and signed: from the export, the federation's root, and
//! heads that somebody kept. It stops at the first thing that is wrong and names it: the very entry, where it is
//! missing or not the one that its hash was saved of. Where somebody has made hashes that fit only a head tells, or
//! that times do not follow on each other, and named are the entries since the last head that was right: the very
//! entry again, for one was signed after each. They are more where heads were taken out as well, and of the entries
//! that a version before has logged, which signed one head for all entries of a transaction.
//!
//! An export that lacks its newest part, and was signed when it ended there, is a log as it once was. That
//! is found by whoever has a later head, and every site has one.

mod broken;
mod models;

use std::collections::BTreeMap;

use fedpaint_proto::identity::Role;
use fedpaint_proto::log::{Entry, SignedHead, TreeHead};
use fedpaint_proto::merkle::{Frontier, Hash};
use fedpaint_proto::names::{Digest, FederationName};
use fedpaint_proto::signing::{self, Authority, Holder, Statement};
use fedpaint_proto::statement::Manifest;
use jiff::Timestamp;
use serde::Serialize;

pub use self::broken::Broken;
use self::models::Models;
use super::export::{Line, VERSION};

/// What a log that is whole comes to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Whose log it is.
    pub federation: FederationName,
    /// How many entries it has.
    pub entries: u64,
    /// How many signed heads are in it, the last one included.
    pub heads: u64,
    /// How many updates it vouches for that their sites have signed.
    pub updates: u64,
    /// How many models, each made of those updates.
    pub models: u64,
    /// The root over it.
    pub root: Hash,
    /// When that was signed.
    pub at: Timestamp,
}

/// A check under way. Lines are given to it in their order, so that a log of any length is checked in
/// little memory.
#[derive(Debug)]
pub struct Check<'a> {
    authority: &'a Authority,
    /// Heads that were kept, by size.
    kept: BTreeMap<u64, Vec<&'a SignedHead>>,
    tree: Frontier,
    newest_at: Timestamp,
    /// How many entries are under a head that was right.
    certain: u64,
    /// When the newest of them was made.
    certain_at: Timestamp,
    /// The root over those and the next entry, where another entry has come before a head.
    next_root: Option<Hash>,
    /// How many are under a head that was kept.
    kept_right: u64,
    head_at: Timestamp,
    heads: u64,
    lines: u64,
    /// What the newest entry vouches for, until it comes.
    owed: Option<(Entry, Digest)>,
    models: Models,
    end: Option<SignedHead>,
    /// Who signed last; hardly ever anybody else than who signs next.
    signer: Option<(Vec<u8>, Holder)>,
}

impl<'a> Check<'a> {
    /// A check against the federation's root and heads that were kept.
    ///
    /// # Errors
    /// If a head that was kept is not signed by the coordinator, so that it says nothing.
    pub fn new(authority: &'a Authority, kept: &'a [SignedHead]) -> Result<Check<'a>, Broken> {
        let mut by_size: BTreeMap<u64, Vec<&SignedHead>> = BTreeMap::new();
        for head in kept {
            let size = head.statement.size;
            head_signer(authority, head).map_err(|source| Broken::Kept { size, source })?;
            by_size.entry(size).or_default().push(head);
        }
        Ok(Check {
            authority,
            kept: by_size,
            tree: Frontier::default(),
            newest_at: Timestamp::MIN,
            certain: 0,
            certain_at: Timestamp::MIN,
            next_root: None,
            kept_right: 0,
            head_at: Timestamp::MIN,
            heads: 0,
            lines: 0,
            owed: None,
            models: Models::default(),
            end: None,
            signer: None,
        })
    }

    /// Takes the next line, as text.
    ///
    /// # Errors
    /// What is wrong with the log.
    pub fn text(&mut self, text: &str) -> Result<(), Broken> {
        let (number, seq) = (self.lines + 1, self.tree.size());
        let line = serde_json::from_str(text);
        let line = line.map_err(|error| Broken::Line { number, seq, reason: error.to_string() })?;
        self.line(line)
    }

    /// Takes the next line.
    ///
    /// # Errors
    /// What is wrong with the log.
    pub fn line(&mut self, line: Line) -> Result<(), Broken> {
        self.lines += 1;
        let (number, seq) = (self.lines, self.tree.size());
        let wrong = |reason: &str| Broken::Line { number, seq, reason: reason.to_owned() };
        match line {
            Line::Begin { version, .. } if version != VERSION => {
                Err(wrong("it is of a version that this program does not read"))
            }
            Line::Begin { federation, .. } if self.lines == 1 => {
                let wanted = self.authority.federation().clone();
                if federation == wanted {
                    return Ok(());
                }
                Err(Broken::Federation { found: federation, wanted })
            }
            _ if self.lines == 1 => Err(wrong("the first one says whose log it is")),
            Line::Begin { .. } => Err(wrong("it is the first one, a second time")),
            _ if self.end.is_some() => Err(wrong("it comes after the end")),
            Line::Update { signed } => {
                let entry = self.document(&signed.statement)?;
                let who = |source| Broken::DocumentSignature { seq: entry.seq, source };
                let role = signed.signer(self.authority, entry.at).map_err(who)?.role;
                if entry.actor != role.to_string()
                    || role != Role::Site(signed.statement.site.clone())
                {
                    let must = "site that the entry names";
                    return Err(who(signing::Error::Signer { found: role, must }));
                }
                self.models.update(signed.statement);
                Ok(())
            }
            Line::Manifest { signed } => {
                let entry = self.document(&signed.statement)?;
                let who = |source| Broken::DocumentSignature { seq: entry.seq, source };
                signed.by_coordinator(self.authority, entry.at).map_err(who)?;
                let model = self.models.manifest(signed.statement);
                model.map_err(|reason| Broken::Model { seq: entry.seq, reason })
            }
            Line::Entry { entry, leaf } => {
                self.nothing_owed()?;
                self.entry(&entry, leaf)
            }
            Line::Head { head } => self.head(&head),
            Line::End { head } => {
                self.head(&head)?;
                self.end = Some(head);
                Ok(())
            }
        }
    }

    fn entry(&mut self, entry: &Entry, leaf: Hash) -> Result<(), Broken> {
        let (seq, expected) = (entry.seq, self.tree.size() + 1);
        match seq.cmp(&expected) {
            std::cmp::Ordering::Less => return Err(Broken::Order { found: seq, expected }),
            std::cmp::Ordering::Greater => {
                return Err(Broken::Missing { missing: expected, found: seq });
            }
            std::cmp::Ordering::Equal => {}
        }
        if entry.leaf() != leaf {
            return Err(Broken::Changed { seq });
        }
        let (at, before) = (entry.at, self.newest_at);
        if at < before {
            // Only beside those that were signed is it certain which of the two times is wrong.
            let first = if at < self.certain_at { seq } else { self.certain + 1 };
            return Err(Broken::BackDated { first, seq, at, before });
        }
        self.newest_at = at;
        self.owed = entry.document.map(|document| (entry.clone(), document));
        if self.tree.size() == self.certain + 1 {
            self.next_root = Some(self.tree.root());
        }
        self.tree.push(leaf);
        let size = self.tree.size();
        let Some(kept) = self.kept.remove(&size) else { return Ok(()) };
        let root = self.tree.root();
        if let Some(other) = kept.iter().find(|kept| kept.statement.root != root) {
            let (first, at) = (self.kept_right + 1, other.statement.at);
            return Err(Broken::Fork { first, size, at });
        }
        self.kept_right = size;
        Ok(())
    }

    /// The entry that vouches for a statement, which must be the newest one.
    fn document(&mut self, statement: &impl Statement) -> Result<Entry, Broken> {
        let seq = self.tree.size();
        let (entry, digest) = self.owed.take().ok_or(Broken::Document { seq })?;
        let fits = Digest::of(&statement.to_bytes()) == digest;
        if fits { Ok(entry) } else { Err(Broken::Document { seq }) }
    }

    fn nothing_owed(&self) -> Result<(), Broken> {
        match &self.owed {
            None => Ok(()),
            Some((Entry { seq, .. }, document)) => {
                Err(Broken::DocumentMissing { seq: *seq, document: *document })
            }
        }
    }

    fn head(&mut self, head: &SignedHead) -> Result<(), Broken> {
        self.nothing_owed()?;
        let (statement, seq) = (&head.statement, self.tree.size());
        let (size, at, first) = (statement.size, statement.at, self.certain + 1);
        if size != seq {
            return Err(self.misplaced(statement));
        }
        if statement.root != self.tree.root() {
            return Err(Broken::Root { first, last: size });
        }
        let before = self.head_at.max(self.newest_at);
        if at < before {
            return Err(Broken::HeadBackDated { first, size, at, before });
        }
        self.signed(head).map_err(|source| Broken::Head { first, size, source })?;
        (self.certain, self.certain_at, self.head_at) = (size, self.newest_at, at);
        self.next_root = None;
        self.heads += 1;
        Ok(())
    }

    /// What is wrong where a head is over more or fewer entries than there are. The head of the first entry that is
    /// not certain tells of that one also where something was slipped in before the head.
    fn misplaced(&self, head: &TreeHead) -> Broken {
        let (first, seq, size) = (self.certain + 1, self.tree.size(), head.size);
        match self.next_root {
            Some(root) if size == first && root == head.root => {
                Broken::Place { first: first + 1, seq, size }
            }
            Some(_) if size == first => Broken::Root { first, last: size },
            _ => Broken::Place { first, seq, size },
        }
    }

    /// That the coordinator signed a head. A certificate that was believed is not looked into again.
    fn signed(&mut self, head: &SignedHead) -> Result<(), signing::Error> {
        if let Some((certificate, holder)) = &self.signer
            && *certificate == head.certificate
            && holder.validity.contains(head.statement.at)
            && head.statement.federation == *self.authority.federation()
        {
            return holder.check(&head.statement.to_bytes(), &head.signature);
        }
        let holder = head_signer(self.authority, head)?;
        self.signer = Some((head.certificate.clone(), holder));
        Ok(())
    }

    /// Whether a model's manifest was among what the log vouches for.
    pub fn holds(&self, manifest: &Manifest) -> bool {
        self.models.holds(manifest)
    }

    /// Ends the check.
    ///
    /// # Errors
    /// If the log ends before its end, or before that of a head that was kept.
    pub fn done(self) -> Result<Verified, Broken> {
        let size = self.tree.size();
        let Some(end) = self.end else {
            return Err(Broken::NoEnd { first: self.certain + 1, seq: size });
        };
        if let Some(kept) = self.kept.into_values().flatten().find(|k| k.statement.size > size) {
            let (first, kept, at) = (self.kept_right + 1, kept.statement.size, kept.statement.at);
            return Err(Broken::Short { first, size, kept, at });
        }
        let federation = self.authority.federation().clone();
        let (root, at) = (end.statement.root, end.statement.at);
        let (heads, updates, models) = (self.heads, self.models.updates(), self.models.count());
        Ok(Verified { federation, entries: size, heads, updates, models, root, at })
    }
}

/// The coordinator that signed a head, with a certificate that held when it says so.
fn head_signer(authority: &Authority, head: &SignedHead) -> Result<Holder, signing::Error> {
    if head.statement.federation != *authority.federation() {
        return Err(signing::Error::Foreign(head.statement.federation.clone()));
    }
    head.by_coordinator(authority, head.statement.at)
}

#[cfg(test)]
mod tests;
