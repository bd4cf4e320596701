//! Which batches of a group can be made, and what then is to be written.
//!
//! A group's batches are made as if one came after the other. Each is tried on what the database
//! has and those before it have made of that: one that does not fit leaves no trace.

use std::collections::hash_map::Entry as Place;
use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use tollway_filter_api::documents::{Batch, Collection, Document, Entry};
use tollway_filter_api::ledger::StoreError;

use super::super::fit::{TEXT_MAX, fits};
use super::conflict;

/// The most bytes that the body of a document or of an entry of a log may have.
pub const ENTRY_MAX: usize = 16 * 1024 * 1024;

/// The most bytes that the bodies of one batch may have together.
pub const BATCH_MAX: usize = 32 * 1024 * 1024;

/// The highest number that is kept. One more has to be a number of the database as well.
const NUMBER_MAX: u64 = i64::MAX as u64 - 1;

/// How a document stands.
#[derive(Clone, Copy)]
struct State {
    version: u64,
    /// How many entries its log has, and of how many bytes.
    entries: u64,
    bytes: u64,
}

/// An entry of a log, and where it comes.
struct Line<'b> {
    n: u64,
    ends_at: u64,
    entry: &'b Entry,
}

/// A document that batches of the group are about.
struct Subject<'b> {
    collection: Collection,
    id: &'b str,
    /// The database has one.
    is_stored: bool,
    /// The one that the database has goes.
    is_removed: bool,
    now: Option<State>,
    put: Option<&'b Document>,
    lines: Vec<Line<'b>>,
}

/// A group of batches on the way into the database.
pub(super) struct Plan<'b> {
    places: HashMap<(Collection, &'b str), usize>,
    subjects: Vec<Subject<'b>>,
}

/// A row of `tollway_documents`, in the order of its columns.
pub(super) type DocumentRow<'r> = (
    &'r str,
    &'r str,
    &'r str,
    Option<&'r str>,
    &'r str,
    u64,
    Option<u64>,
    Option<&'r str>,
    u64,
    u64,
    u64,
    &'r str,
);

/// A row of `tollway_log`, in the order of its columns.
pub(super) type LineRow<'r> = (&'r str, &'r str, u64, u64, &'r str, &'r str);

impl<'b> Plan<'b> {
    /// A plan of what these batches are about, in the order in which the database is asked.
    pub(super) fn about(batches: &[&'b Batch]) -> Plan<'b> {
        let mut names: Vec<_> = batches.iter().flat_map(|batch| names(batch)).collect();
        // By name: nodes that lock the same ones do not wait for each other in a circle.
        names.sort_unstable_by_key(|(collection, id)| (collection.name(), *id));
        names.dedup();
        let places = names.iter().enumerate().map(|(place, name)| (*name, place)).collect();
        let subjects = names.into_iter().map(|(collection, id)| Subject {
            collection,
            id,
            is_stored: false,
            is_removed: false,
            now: None,
            put: None,
            lines: Vec::new(),
        });
        Plan { places, subjects: subjects.collect() }
    }

    /// What the database is asked for: what is known of these, each with its place in the plan.
    pub(super) fn names(&self) -> Vec<(&'static str, &'b str, usize)> {
        let named = |(place, subject): (usize, &Subject<'b>)| {
            (subject.collection.name(), subject.id, place)
        };
        self.subjects.iter().enumerate().map(named).collect()
    }

    /// The document is in the database.
    pub(super) fn has_document(&mut self, place: usize, version: u64) {
        if let Some(subject) = self.subjects.get_mut(place) {
            subject.is_stored = true;
            subject.now = Some(State { version, entries: 0, bytes: 0 });
        }
    }

    /// The document's log is in the database as well.
    pub(super) fn has_log(&mut self, place: usize, entries: u64, bytes: u64) {
        if let Some(subject) = self.subjects.get_mut(place)
            && let Some(now) = &mut subject.now
        {
            (now.entries, now.bytes) = (entries, bytes);
        }
    }

    /// Makes a batch after those that were made before it, if it can be made. The new versions of
    /// what it puts.
    pub(super) fn make(&mut self, batch: &'b Batch) -> Result<Vec<u64>, StoreError> {
        let mut states: HashMap<usize, State> = HashMap::new();
        let mut versions = Vec::with_capacity(batch.put.len());
        for document in &batch.put {
            let place = self.places[&(document.collection, &*document.id)];
            let next = next_state(document, self.subjects[place].now)?;
            states.insert(place, next);
            versions.push(next.version);
        }
        let mut lines = Vec::new();
        for append in &batch.append {
            let (collection, id) = (append.collection, &*append.id);
            let place = self.places[&(collection, id)];
            let state = match states.entry(place) {
                Place::Occupied(known) => known.into_mut(),
                Place::Vacant(unknown) => {
                    let now = self.subjects[place].now;
                    unknown.insert(now.ok_or_else(|| conflict(collection, id, "is not there"))?)
                }
            };
            if state.entries != append.from {
                let why = format!("has a log of {} entries, not {}", state.entries, append.from);
                return Err(conflict(collection, id, &why));
            }
            for entry in &append.entries {
                state.bytes += (entry.kind.len() + entry.body.len()) as u64;
                lines.push((place, Line { n: state.entries, ends_at: state.bytes, entry }));
                state.entries += 1;
            }
        }

        // Nothing can stop it from here on.
        for (place, state) in states {
            self.subjects[place].now = Some(state);
        }
        for document in &batch.put {
            let place = self.places[&(document.collection, &*document.id)];
            self.subjects[place].put = Some(document);
        }
        for (place, line) in lines {
            self.subjects[place].lines.push(line);
        }
        for (collection, id) in &batch.remove {
            let subject = &mut self.subjects[self.places[&(*collection, &**id)]];
            subject.is_removed |= subject.is_stored;
            (subject.now, subject.put) = (None, None);
            subject.lines.clear();
        }
        Ok(versions)
    }

    /// The documents in the database that go, with their logs, before anything else is written.
    pub(super) fn removed(&self) -> Vec<(&'static str, &'b str)> {
        let removed = self.subjects.iter().filter(|subject| subject.is_removed);
        removed.map(|subject| (subject.collection.name(), subject.id)).collect()
    }

    /// The documents that are new, or those that replace one in the database.
    pub(super) fn put(&self, are_new: bool) -> Vec<DocumentRow<'b>> {
        let is_new = |subject: &Subject<'_>| !subject.is_stored || subject.is_removed;
        let put = self.subjects.iter().filter(|subject| is_new(subject) == are_new);
        put.filter_map(|subject| {
            let (document, state) = (subject.put?, subject.now?);
            Some((
                document.collection.name(),
                &*document.id,
                &*document.owner,
                document.parent.as_deref(),
                &*document.state,
                document.created_ms,
                document.expires_ms,
                document.holder.as_deref(),
                document.held_until_ms,
                document.size,
                state.version,
                text(&document.body),
            ))
        })
        .collect()
    }

    /// The entries that are appended.
    pub(super) fn lines(&self) -> Vec<LineRow<'b>> {
        let mut rows = Vec::new();
        for subject in &self.subjects {
            let (collection, id) = (subject.collection.name(), subject.id);
            rows.extend(subject.lines.iter().map(|line| {
                let Entry { kind, body } = line.entry;
                (collection, id, line.n, line.ends_at, &**kind, text(body))
            }));
        }
        rows
    }
}

/// How a document stands once it was put where `now` is known.
fn next_state(document: &Document, now: Option<State>) -> Result<State, StoreError> {
    let refused = |why| Err(conflict(document.collection, &document.id, why));
    match (now, document.version) {
        // Not 1: one that takes the place of one that was removed is not taken for it.
        (None, 0) => match getrandom::u32() {
            Ok(drawn) => Ok(State { version: 1 + u64::from(drawn), entries: 0, bytes: 0 }),
            Err(error) => Err(StoreError::Unavailable(format!("no version was drawn: {error}"))),
        },
        (Some(_), 0) => refused("is there already"),
        (None, _) => refused("is not there"),
        (Some(now), version) if now.version != version => refused("was changed meanwhile"),
        (Some(now), _) => Ok(State { version: now.version + 1, ..now }),
    }
}

/// What a batch is about.
fn names(batch: &Batch) -> impl Iterator<Item = (Collection, &str)> {
    let put = batch.put.iter().map(|document| (document.collection, &*document.id));
    let append = batch.append.iter().map(|append| (append.collection, &*append.id));
    let remove = batch.remove.iter().map(|(collection, id)| (*collection, &**id));
    put.chain(append).chain(remove)
}

/// Whether a batch can be kept, if nothing is in its way: how many bytes its bodies have.
pub(super) fn checked(batch: &Batch) -> Result<usize, StoreError> {
    let mut bytes = 0;
    let mut put = HashSet::new();
    for document in &batch.put {
        let what = document.collection.name();
        let texts = [
            ("id", Some(&document.id)),
            ("owner", Some(&document.owner)),
            ("parent", document.parent.as_ref()),
            ("state", Some(&document.state)),
            ("holder", document.holder.as_ref()),
        ];
        for (member, text) in texts {
            check_text(what, member, text.map_or("", |text| text))?;
        }
        let numbers = [
            ("created_ms", document.created_ms),
            ("expires_ms", document.expires_ms.unwrap_or(0)),
            ("held_until_ms", document.held_until_ms),
            ("size", document.size),
        ];
        if let Some((member, _)) = numbers.into_iter().find(|(_, number)| *number > NUMBER_MAX) {
            return Err(StoreError::Invalid(format!(
                "the {member} of a {what} is at most {NUMBER_MAX}"
            )));
        }
        bytes += check_body(what, &document.body)?;
        if !put.insert((document.collection, &*document.id)) {
            return Err(twice(document.collection, &document.id));
        }
    }
    for append in &batch.append {
        check_text(append.collection.name(), "id", &append.id)?;
        for entry in &append.entries {
            check_text("log", "kind", &entry.kind)?;
            bytes += check_body("log", &entry.body)?;
        }
    }
    let mut kept = put;
    kept.extend(batch.append.iter().map(|append| (append.collection, &*append.id)));
    for (collection, id) in &batch.remove {
        check_text(collection.name(), "id", id)?;
        if kept.contains(&(*collection, &**id)) {
            return Err(twice(*collection, id));
        }
    }
    if bytes > BATCH_MAX {
        return Err(StoreError::Invalid(format!(
            "the bodies of a batch have at most {BATCH_MAX} bytes together"
        )));
    }
    Ok(bytes)
}

fn check_text(what: &str, member: &str, text: &str) -> Result<(), StoreError> {
    if fits(text) {
        return Ok(());
    }
    Err(StoreError::Invalid(format!(
        "the {member} of a {what} has at most {TEXT_MAX} bytes and no zero byte"
    )))
}

fn check_body(what: &str, body: &Bytes) -> Result<usize, StoreError> {
    let refused = |why| Err(StoreError::Invalid(format!("the body of a {what} {why}")));
    if body.len() > ENTRY_MAX {
        return refused(format!("has at most {ENTRY_MAX} bytes"));
    }
    match std::str::from_utf8(body) {
        Err(error) => refused(format!("is text: {error}")),
        Ok(text) if text.contains('\0') => refused("has no zero byte".to_owned()),
        Ok(text) => Ok(text.len()),
    }
}

fn twice(collection: Collection, id: &str) -> StoreError {
    StoreError::Invalid(format!("the {} {id} is in one batch twice", collection.name()))
}

fn text(body: &Bytes) -> &str {
    std::str::from_utf8(body).expect("bodies are checked before they are planned")
}
