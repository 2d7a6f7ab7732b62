//! What was done and what was seen, and whether the two fit together. Pure: it must not know processes or sockets.
//!
//! Every write carries a token of its own, and the resource version orders all commits, so that the events seen by
//! all watchers together are the history of the store. Each event is held against the write that it must come from
//! and the version before it; each acknowledged write and each read against the events; each watcher against all
//! others.

use std::collections::{BTreeMap, HashMap, HashSet};

/// The tokens in an object, by field.
pub type Fields = BTreeMap<String, u64>;

/// An object as it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// `resource/name`.
    pub key: String,
    /// Its identity.
    pub uid: String,
    /// Its resource version.
    pub revision: u64,
    /// The tokens that it holds.
    pub fields: Fields,
    /// What it was handed out: addresses and ports of a Service.
    pub handed: Vec<String>,
}

/// What an event says of its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It is new.
    Added,
    /// It was changed.
    Modified,
    /// It is gone.
    Deleted,
}

/// What a write is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Intent {
    /// A new object with this token alone.
    Create,
    /// All fields replaced by this token, if the object has this resource version.
    Replace(u64),
    /// One field set, if the object has this resource version, where one is named.
    Patch(Option<u64>),
    /// Deleted if it has this identity and this resource version, where one is named.
    Delete(String, Option<u64>),
}

/// How a write ended for the one who made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// No answer yet, or none that says whether it happened.
    Unknown,
    /// Acknowledged: the object as the answer shows it; a deletion's answer shows none.
    Done(Option<Item>),
    /// Refused with this status.
    Refused(u16),
}

#[derive(Clone, Debug)]
struct Write {
    key: String,
    field: String,
    intent: Intent,
    /// Everything up to this had been seen by somebody before the write began.
    floor: u64,
    outcome: Outcome,
    /// The event that it became.
    event: Option<u64>,
    /// Fences begun when it was acknowledged.
    fences: u64,
}

struct Read {
    key: String,
    floor: u64,
    /// The version read; `None` for absent.
    found: Option<u64>,
}

struct Listing {
    watcher: String,
    covers: Filter,
    items: Vec<Item>,
}

/// Which objects a watcher is told of.
pub type Filter = fn(&str) -> bool;

/// A stretch of one watcher's events that must have no gap.
struct Stretch {
    after: u64,
    /// Ended: nothing is known after this.
    until: Option<u64>,
    events: Vec<u64>,
}

struct Watcher {
    name: String,
    covers: Filter,
    last: u64,
    stretches: Vec<Stretch>,
}

/// Numbers of a run.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Acknowledged writes that were found.
    pub acknowledged: u64,
    /// Writes whose end was not known, and that had happened.
    pub unknown_done: u64,
    /// Writes refused.
    pub refused: u64,
    /// Commits seen.
    pub events: u64,
    /// Events told to watchers.
    pub told: u64,
    /// Reads that were held against the history.
    pub reads: u64,
    /// Lists and initial events that were.
    pub lists: u64,
    /// Times that a watcher had to list again because history had gone.
    pub relists: u64,
}

/// All of it.
#[derive(Default)]
pub struct History {
    writes: HashMap<u64, Write>,
    deletions: HashMap<String, Vec<u64>>,
    reads: Vec<Read>,
    lists: BTreeMap<u64, Vec<Listing>>,
    watchers: Vec<Watcher>,
    events: BTreeMap<u64, (Kind, Item)>,
    /// Events up to this have been held against the writes.
    checked: u64,
    fences: u64,
    state: BTreeMap<String, Item>,
    /// By key: the revisions of its changes, and whether it existed after each.
    versions: HashMap<String, Vec<(u64, bool)>>,
    gone: HashMap<String, u64>,
    gone_acknowledged: HashSet<String>,
    handed: HashMap<String, String>,
    /// The highest revision seen by anybody.
    highest: u64,
    /// Nothing is under way any more.
    pub over: bool,
    /// Numbers so far.
    pub tally: Tally,
}

/// What does not fit.
pub type Broken = String;

fn ensure(holds: bool, why: impl FnOnce() -> String) -> Result<(), Broken> {
    if holds { Ok(()) } else { Err(why()) }
}

impl History {
    /// A write is about to be sent.
    pub fn begin(&mut self, token: u64, key: &str, field: &str, intent: Intent) {
        if let Intent::Delete(uid, _) = &intent {
            self.deletions.entry(uid.clone()).or_default().push(token);
        }
        let (key, field, floor) = (key.to_owned(), field.to_owned(), self.highest);
        let write = Write { key, field, intent, floor, outcome: Outcome::Unknown, event: None, fences: 0 };
        self.writes.insert(token, write);
    }

    /// A write has ended.
    pub fn end(&mut self, token: u64, outcome: Outcome) -> Result<(), Broken> {
        let fences = self.fences;
        let write = self.writes.get_mut(&token).ok_or("a write ended twice")?;
        if let Outcome::Done(Some(item)) = &outcome {
            self.highest = self.highest.max(item.revision);
            ensure(item.revision > write.floor, || {
                format!(
                    "{token}: acknowledged as {item:?}, but {} had been seen before it began",
                    write.floor
                )
            })?;
        }
        write.fences = fences;
        write.outcome = outcome;
        Ok(())
    }

    /// The highest revision seen by now: what a read that begins now must know.
    pub fn floor(&self) -> u64 {
        self.highest
    }

    /// A read of the newest version has ended.
    pub fn read(&mut self, key: &str, floor: u64, found: Option<u64>) {
        self.highest = self.highest.max(found.unwrap_or(0));
        self.reads.push(Read { key: key.to_owned(), floor, found });
    }

    /// A new watcher; its number.
    pub fn watcher(&mut self, name: &str, covers: Filter) -> usize {
        self.watchers.push(Watcher { name: name.to_owned(), covers, last: 0, stretches: Vec::new() });
        self.watchers.len() - 1
    }

    /// A watcher has listed, or was told the initial events: all that it covers as of `revision`.
    pub fn listed(&mut self, watcher: usize, revision: u64, items: Vec<Item>) {
        self.highest = self.highest.max(revision);
        let watcher = &mut self.watchers[watcher];
        let listing = Listing { watcher: watcher.name.clone(), covers: watcher.covers, items };
        self.lists.entry(revision).or_default().push(listing);
        if watcher.last > 0 {
            self.tally.relists += 1;
        }
        watcher.restart(revision);
    }

    /// A watcher goes back in history: it will be told everything after `revision` (again).
    pub fn rewound(&mut self, watcher: usize, revision: u64) {
        self.watchers[watcher].restart(revision);
    }

    /// Where a watcher goes on.
    pub fn last(&self, watcher: usize) -> u64 {
        self.watchers[watcher].last
    }

    /// Some revision of a commit at most `back` commits ago, for a watcher to go back to.
    pub fn earlier(&self, back: u64) -> u64 {
        let events = self.events.range(..=self.checked).rev();
        events.map(|(revision, _)| *revision).nth(back as usize).unwrap_or(self.checked)
    }

    /// A watcher was told that it knows everything up to `revision`.
    pub fn progressed(&mut self, watcher: usize, revision: u64) -> Result<(), Broken> {
        let watcher = &mut self.watchers[watcher];
        ensure(revision >= watcher.last, || {
            format!("{}: a bookmark of {revision} after {}", watcher.name, watcher.last)
        })?;
        watcher.last = revision;
        Ok(())
    }

    /// A watcher was told of a change.
    pub fn told(&mut self, watcher: usize, kind: Kind, item: Item) -> Result<(), Broken> {
        self.tally.told += 1;
        self.highest = self.highest.max(item.revision);
        let watcher = &mut self.watchers[watcher];
        let revision = item.revision;
        ensure(revision > watcher.last, || {
            format!("{}: {kind:?} {item:?} after {}: twice, or not in order", watcher.name, watcher.last)
        })?;
        ensure((watcher.covers)(&item.key), || format!("{}: not asked for {item:?}", watcher.name))?;
        watcher.last = revision;
        watcher.stretches.last_mut().ok_or("a watcher begins with a list")?.events.push(revision);
        let event = (kind, item);
        if let Some(known) = self.events.get(&revision) {
            return ensure(*known == event, || {
                format!("{}: {event:?}, but another saw {known:?}: one revision, two changes", watcher.name)
            });
        }
        ensure(revision > self.checked, || {
            format!("{}: {event:?}, which nobody saw when all had seen {}", watcher.name, self.checked)
        })?;
        self.events.insert(revision, event);
        Ok(())
    }

    /// A fence is about to be written: what is acknowledged by now comes before it.
    pub fn fence(&mut self) -> u64 {
        self.fences += 1;
        self.fences
    }

    /// The watcher that is furthest behind `revision`, if one is.
    pub fn behind(&self, resource: &str, revision: u64) -> Option<(&str, u64)> {
        let probe = format!("{resource}/shared-0");
        let watchers = self.watchers.iter().filter(|watcher| (watcher.covers)(&probe));
        let last = watchers.min_by_key(|watcher| watcher.last)?;
        (last.last < revision).then_some((last.name.as_str(), last.last))
    }

    /// Holds everything up to `revision` against each other; all watchers have seen that much, and the fence of
    /// this number came after it.
    pub fn check(&mut self, revision: u64, fence: u64) -> Result<(), Broken> {
        for at in 0..self.watchers.len() {
            self.check_watcher(at, revision)?;
        }
        let after = self.checked + 1;
        let revisions: Vec<u64> = self.events.range(after..=revision).map(|(at, _)| *at).collect();
        for at in revisions {
            self.check_lists(at)?;
            let (kind, item) = self.events[&at].clone();
            self.apply(kind, &item).map_err(|why| format!("{kind:?} {item:?}: {why}"))?;
        }
        self.check_lists(revision + 1)?;
        self.checked = self.checked.max(revision);
        self.check_reads()?;
        self.check_writes(fence)
    }

    fn check_watcher(&mut self, at: usize, revision: u64) -> Result<(), Broken> {
        let watcher = &mut self.watchers[at];
        for stretch in &mut watcher.stretches {
            let until = stretch.until.unwrap_or(revision).min(revision);
            if until <= stretch.after {
                continue;
            }
            let all = self.events.range(stretch.after + 1..=until);
            let expected: Vec<u64> =
                all.filter(|(_, (_, item))| (watcher.covers)(&item.key)).map(|(at, _)| *at).collect();
            let known = stretch.events.partition_point(|at| *at <= until);
            let told: Vec<u64> = stretch.events.drain(..known).collect();
            if told != expected {
                let missing: Vec<_> = expected.iter().filter(|at| !told.contains(at)).take(5).collect();
                let shown: Vec<_> = missing.iter().map(|at| &self.events[at]).collect();
                let (name, after) = (&watcher.name, stretch.after);
                return Err(format!("{name}: after {after} up to {until} was not told of {shown:?}"));
            }
            stretch.after = until;
        }
        watcher.stretches.retain(|stretch| stretch.until.is_none_or(|until| until > stretch.after));
        Ok(())
    }

    /// Holds the lists of revisions below `next` against the state before it.
    fn check_lists(&mut self, next: u64) -> Result<(), Broken> {
        while let Some(entry) = self.lists.first_entry().filter(|entry| *entry.key() < next) {
            let (revision, listings) = entry.remove_entry();
            // A list that came late is of a state that has gone.
            let past = (revision < self.checked).then(|| self.state_at(revision));
            let state = past.as_ref().unwrap_or(&self.state);
            for mut listing in listings {
                let covered = state.values().filter(|item| (listing.covers)(&item.key));
                let mut covered: Vec<&Item> = covered.collect();
                covered.sort_by(|a, b| a.key.cmp(&b.key));
                listing.items.sort_by(|a, b| a.key.cmp(&b.key));
                self.tally.lists += 1;
                ensure(listing.items.iter().eq(covered.iter().copied()), || {
                    let odd: Vec<_> =
                        listing.items.iter().filter(|item| !covered.contains(item)).take(3).collect();
                    let lost: Vec<_> =
                        covered.iter().filter(|item| !listing.items.contains(item)).take(3).collect();
                    format!("{}: its list at {revision} has {odd:?} and lacks {lost:?}", listing.watcher)
                })?;
            }
        }
        Ok(())
    }

    fn state_at(&self, revision: u64) -> BTreeMap<String, Item> {
        let mut state = BTreeMap::new();
        for (kind, item) in self.events.range(..=revision).map(|(_, event)| event) {
            match kind {
                Kind::Deleted => state.remove(&item.key),
                Kind::Added | Kind::Modified => state.insert(item.key.clone(), item.clone()),
            };
        }
        state
    }

    fn apply(&mut self, kind: Kind, item: &Item) -> Result<(), Broken> {
        self.tally.events += 1;
        let before = self.state.get(&item.key).cloned();
        match (kind, before) {
            (Kind::Added, None) => self.check_source(item, None)?,
            (Kind::Modified, Some(before)) => {
                ensure(before.uid == item.uid, || format!("another object than {before:?}"))?;
                self.check_source(item, Some(&before))?;
            }
            (Kind::Deleted, Some(before)) => self.check_deletion(item, &before)?,
            (_, before) => return Err(format!("before it was {before:?}")),
        }
        let there = kind != Kind::Deleted;
        self.versions.entry(item.key.clone()).or_default().push((item.revision, there));
        if there {
            self.state.insert(item.key.clone(), item.clone());
        } else {
            self.state.remove(&item.key);
            self.gone.insert(item.uid.clone(), item.revision);
        }
        self.hand_out(kind, item)
    }

    /// The write that an event comes from must be one, and must have been allowed on what was there before.
    fn check_source(&mut self, item: &Item, before: Option<&Item>) -> Result<(), Broken> {
        let known = |(field, token): &(&String, &u64)| {
            before.is_some_and(|before| before.fields.get(*field) == Some(*token))
        };
        let fresh: Vec<(&String, &u64)> = item.fields.iter().filter(|pair| !known(pair)).collect();
        let [(field, token)] = fresh[..] else { return Err(format!("not one write's work: {fresh:?}")) };
        let write = self.writes.get_mut(token).ok_or("nobody wrote this, or it was done twice")?;
        let mut expected = before.map(|before| before.fields.clone()).unwrap_or_default();
        let allowed = match (&write.intent, before) {
            (Intent::Create, None) | (Intent::Patch(None), Some(_)) => true,
            (Intent::Replace(revision), Some(before)) => {
                expected.clear();
                before.revision == *revision
            }
            (Intent::Patch(Some(revision)), Some(before)) => before.revision == *revision,
            _ => false,
        };
        expected.insert(field.clone(), *token);
        ensure(allowed && write.key == item.key && write.field == *field, || {
            format!("{write:?} is not to do this to {before:?}")
        })?;
        ensure(expected == item.fields, || format!("not as a whole: {write:?} on {before:?}"))?;
        ensure(item.revision > write.floor, || format!("before it began: {write:?}"))?;
        ensure(write.event.is_none(), || format!("done twice: {write:?}"))?;
        write.event = Some(item.revision);
        Ok(())
    }

    fn check_deletion(&mut self, item: &Item, before: &Item) -> Result<(), Broken> {
        let same = before.uid == item.uid && before.fields == item.fields;
        ensure(same, || format!("what was deleted was {before:?}"))?;
        let tokens = self.deletions.get(&item.uid).map(Vec::as_slice).unwrap_or_default();
        let asked = tokens.iter().filter_map(|token| self.writes.get(token)).any(|write| {
            let Intent::Delete(_, revision) = &write.intent else { return false };
            let fits = revision.is_none_or(|revision| revision == before.revision);
            fits && write.floor < item.revision && !matches!(write.outcome, Outcome::Refused(_))
        });
        ensure(asked, || "nobody deleted it so".to_owned())
    }

    /// No address and no port is with two Services at any time.
    fn hand_out(&mut self, kind: Kind, item: &Item) -> Result<(), Broken> {
        self.handed.retain(|_, owner| *owner != item.key);
        if kind == Kind::Deleted {
            return Ok(());
        }
        for what in &item.handed {
            if let Some(owner) = self.handed.insert(what.clone(), item.key.clone()) {
                return Err(format!("{what} is {owner}'s"));
            }
        }
        Ok(())
    }

    /// The version of a key as of `floor`, and what came after: what a read that began then may find.
    fn possible(&self, key: &str, floor: u64) -> impl Iterator<Item = (u64, bool)> + use<'_> {
        let all = self.versions.get(key).map(Vec::as_slice).unwrap_or_default();
        let later = all.partition_point(|(revision, _)| *revision <= floor);
        let first = later.checked_sub(1).map_or((0, false), |at| all[at]);
        std::iter::once(first).chain(all[later..].iter().copied())
    }

    fn check_reads(&mut self) -> Result<(), Broken> {
        let checked = self.checked;
        let ripe = |read: &mut Read| read.floor.max(read.found.unwrap_or(0)) <= checked;
        let reads: Vec<Read> = self.reads.extract_if(.., ripe).collect();
        let mut waiting = Vec::new();
        for read in reads {
            let mut possible = self.possible(&read.key, read.floor);
            let fits = match read.found {
                Some(revision) => possible.any(|(at, there)| there && at == revision),
                None => possible.any(|(_, there)| !there),
            };
            drop(possible);
            if !fits && read.found.is_none() && !self.settled(read.floor) {
                waiting.push(read);
                continue;
            }
            self.tally.reads += 1;
            ensure(fits, || {
                let Read { key, floor, found } = &read;
                format!("{key}: read as {found:?} when {floor} had been seen; it was never so after that")
            })?;
        }
        self.reads.extend(waiting);
        Ok(())
    }

    /// Whether everything that was under way when `floor` had been seen is known by now.
    fn settled(&self, floor: u64) -> bool {
        self.over || floor + SETTLE < self.checked
    }

    fn check_writes(&mut self, fence: u64) -> Result<(), Broken> {
        let checked = self.checked;
        let mut settled = Vec::new();
        for (token, write) in &self.writes {
            match (&write.outcome, &write.intent) {
                (Outcome::Done(_), Intent::Delete(uid, _)) if write.fences < fence => {
                    let gone = self.gone.get(uid).is_some_and(|revision| *revision > write.floor);
                    ensure(gone, || format!("lost: acknowledged, but {uid} was not deleted: {write:?}"))?;
                    let first = self.gone_acknowledged.insert(uid.clone());
                    ensure(first, || format!("deleted twice: {write:?}"))?;
                    self.tally.acknowledged += 1;
                }
                (Outcome::Done(Some(item)), _) if item.revision <= checked => {
                    let event = self.events.get(&item.revision).map(|(_, event)| event);
                    let there = write.event == Some(item.revision) && event == Some(item);
                    ensure(there, || format!("lost: {token} was acknowledged: {write:?}; seen: {event:?}"))?;
                    self.tally.acknowledged += 1;
                }
                (Outcome::Refused(_), intent) => {
                    ensure(write.event.is_none(), || format!("refused, but done: {write:?}"))?;
                    let fits = |(at, there): (u64, bool)| match intent {
                        Intent::Create => there,
                        Intent::Patch(None) => !there || at > write.floor,
                        Intent::Replace(wanted) | Intent::Patch(Some(wanted)) => !there || at != *wanted,
                        Intent::Delete(..) => true,
                    };
                    if !self.possible(&write.key, write.floor).any(fits) {
                        let settled = self.settled(write.floor);
                        ensure(!settled, || format!("refused without reason: {write:?}"))?;
                        continue;
                    }
                    self.tally.refused += 1;
                }
                _ => continue,
            }
            settled.push(*token);
        }
        for token in settled {
            self.writes.remove(&token);
        }
        Ok(())
    }

    /// The run is over: counts what had happened though nobody was told so.
    pub fn close(&mut self) -> Tally {
        self.tally.unknown_done = self.writes.values().filter(|write| write.event.is_some()).count() as u64;
        self.tally.clone()
    }
}

/// Commits after which every answer that was under way has been given.
const SETTLE: u64 = 5_000;

impl Watcher {
    fn restart(&mut self, revision: u64) {
        if let Some(stretch) = self.stretches.last_mut() {
            stretch.until = stretch.until.or(Some(self.last));
        }
        self.last = revision;
        self.stretches.push(Stretch { after: revision, until: None, events: Vec::new() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A history that is filled step by step; the first thing that does not fit.
    struct Told(History, Result<(), Broken>);

    fn maps(key: &str) -> bool {
        key.starts_with("configmaps/")
    }

    fn item(name: &str, uid: &str, revision: u64, fields: &[(&str, u64)]) -> Item {
        let fields = fields.iter().map(|(field, token)| ((*field).to_owned(), *token)).collect();
        let (key, uid) = (format!("configmaps/{name}"), uid.to_owned());
        Item { key, uid, revision, fields, handed: Vec::new() }
    }

    impl Told {
        /// Two watchers that have listed an empty store.
        fn new() -> Told {
            let mut history = History::default();
            for name in ["first", "second"] {
                let number = history.watcher(name, maps);
                history.listed(number, 1, Vec::new());
            }
            Told(history, Ok(()))
        }

        fn then(mut self, work: impl FnOnce(&mut History) -> Result<(), Broken>) -> Told {
            if self.1.is_ok() {
                self.1 = work(&mut self.0);
            }
            self
        }

        fn write(self, token: u64, intent: Intent, outcome: Outcome) -> Told {
            self.then(|history| {
                history.begin(token, "configmaps/a", "f", intent);
                history.end(token, outcome)
            })
        }

        fn told(self, watcher: usize, kind: Kind, item: Item) -> Told {
            self.then(|history| history.told(watcher, kind, item))
        }

        fn both(self, kind: Kind, item: Item) -> Told {
            self.told(0, kind, item.clone()).told(1, kind, item)
        }

        fn end(self, revision: u64) -> Result<(), Broken> {
            let told = self.then(|history| {
                history.over = true;
                let fence = history.fence();
                history.check(revision, fence)
            });
            told.1
        }
    }

    fn done(item: &Item) -> Outcome {
        Outcome::Done(Some(item.clone()))
    }

    #[test]
    fn what_fits_passes() {
        let (a, b) = (item("a", "u", 5, &[("f", 1)]), item("a", "u", 6, &[("f", 2)]));
        let gone = Item { revision: 7, ..b.clone() };
        let told = Told::new()
            .write(1, Intent::Create, done(&a))
            .both(Kind::Added, a)
            .write(2, Intent::Replace(5), done(&b))
            .write(3, Intent::Patch(Some(5)), Outcome::Refused(409))
            .both(Kind::Modified, b)
            .write(4, Intent::Delete("u".into(), None), Outcome::Done(None))
            .both(Kind::Deleted, gone);
        assert_eq!(told.end(7), Ok(()));
    }

    #[test]
    fn what_does_not_fit_is_found() {
        let (a, b) = (item("a", "u", 5, &[("f", 1)]), item("a", "u", 6, &[("f", 2)]));
        let created = || Told::new().write(1, Intent::Create, done(&a)).both(Kind::Added, a.clone());
        let unknown = |token, intent| created().write(token, intent, Outcome::Unknown);
        let read = |floor, found| {
            created().then(|history| {
                history.read("configmaps/a", floor, found);
                Ok(())
            })
        };
        let listed = |items: Vec<Item>| {
            created().then(|history| {
                history.listed(0, 5, items);
                Ok(())
            })
        };
        let cases: Vec<(&str, Result<(), Broken>)> = vec![
            ("lost:", Told::new().write(1, Intent::Create, done(&a)).end(9)),
            (
                "was not told of",
                Told::new().write(1, Intent::Create, done(&a)).told(0, Kind::Added, a.clone()).end(5),
            ),
            ("twice, or not in order", created().told(0, Kind::Added, a.clone()).end(5)),
            ("nobody wrote this", created().both(Kind::Modified, b.clone()).end(6)),
            (
                "one revision, two changes",
                unknown(2, Intent::Patch(None))
                    .told(0, Kind::Modified, b.clone())
                    .told(1, Kind::Modified, item("a", "u", 6, &[("f", 9)]))
                    .end(6),
            ),
            ("is not to do this", unknown(2, Intent::Replace(4)).both(Kind::Modified, b.clone()).end(6)),
            (
                "another object",
                unknown(2, Intent::Patch(None))
                    .both(Kind::Modified, Item { uid: "v".into(), ..b.clone() })
                    .end(6),
            ),
            (
                "had been seen before it began",
                created().write(2, Intent::Patch(None), done(&Item { revision: 5, ..b.clone() })).end(5),
            ),
            (
                "was not deleted",
                created().write(2, Intent::Delete("u".into(), None), Outcome::Done(None)).end(5),
            ),
            ("nobody deleted it so", created().both(Kind::Deleted, Item { revision: 6, ..a.clone() }).end(6)),
            (
                "refused, but done",
                created()
                    .write(2, Intent::Patch(None), Outcome::Refused(409))
                    .both(Kind::Modified, b.clone())
                    .end(6),
            ),
            (
                "refused without reason",
                created().write(2, Intent::Patch(Some(5)), Outcome::Refused(409)).end(5),
            ),
            ("never so after that", read(5, None).end(5)),
            ("never so after that", read(5, Some(4)).end(5)),
            ("lacks", listed(Vec::new()).end(6)),
            ("", listed(vec![a.clone()]).end(6)),
        ];
        for (expected, result) in cases {
            match result {
                Ok(()) => assert_eq!(expected, "", "nothing was found"),
                Err(why) => assert!(!expected.is_empty() && why.contains(expected), "{expected}: {why}"),
            }
        }
    }
}
