//! What was spent and what is reserved, for every period that runs.
//!
//! A window is one dimension and one length of period: keys by the day, teams by the month. It holds
//! what the ledger would say of its present period once it had everything, for *every* subject that
//! spent, not only those with a budget: a budget that is given in the middle of a month finds what
//! was spent since the month began, now as after a restart.

use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use hashbrown::hash_map::EntryRef;
use hashbrown::{Equivalent, HashMap};
use tollway_filter_api::Clock;
use tollway_filter_api::ledger::{Dimension, SpendRecord};
use tollway_filter_api::treasury::{BudgetId, BudgetScope, Period};
use tollway_wire::price::PicoDollars;

use super::leases::Lease;

/// Counters of budgets that no dimension of the ledger knows, those of single requests, are dropped
/// when nobody has used them for so long.
const REQUEST_KEPT_MS: u64 = 60 * 60 * 1000;
/// What the end of a window without periods is: the latest time that a database holds.
const FOREVER_MS: u64 = i64::MAX as u64;

/// By what the ledger adds up what a budget is about. `None`: it does not.
pub(super) fn dimension(scope: BudgetScope) -> Option<Dimension> {
    Some(match scope {
        BudgetScope::Global => Dimension::Total,
        BudgetScope::Provider => Dimension::Provider,
        BudgetScope::Model => Dimension::Model,
        BudgetScope::Deployment => Dimension::Deployment,
        BudgetScope::Team => Dimension::Team,
        BudgetScope::TeamModel => Dimension::TeamModel,
        BudgetScope::TeamMember => Dimension::TeamMember,
        BudgetScope::User => Dimension::User,
        BudgetScope::UserModel => Dimension::UserModel,
        BudgetScope::Key => Dimension::Key,
        BudgetScope::KeyModel => Dimension::KeyModel,
        BudgetScope::EndUser => Dimension::EndUser,
        BudgetScope::Tag => Dimension::Tag,
        BudgetScope::Request => return None,
    })
}

/// Whose spend it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Subject {
    name: Arc<str>,
    part: Option<Arc<str>>,
}

/// The same, borrowed.
#[derive(Clone, Copy)]
pub(super) struct SubjectRef<'a> {
    pub(super) name: &'a Arc<str>,
    pub(super) part: Option<&'a Arc<str>>,
}

impl Hash for Subject {
    fn hash<H: Hasher>(&self, state: &mut H) {
        SubjectRef { name: &self.name, part: self.part.as_ref() }.hash(state);
    }
}

impl Hash for SubjectRef<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
        self.part.hash(state);
    }
}

impl Equivalent<Subject> for SubjectRef<'_> {
    fn equivalent(&self, key: &Subject) -> bool {
        *self.name == key.name && self.part == key.part.as_ref()
    }
}

impl SubjectRef<'_> {
    pub(super) fn of(budget: &BudgetId) -> SubjectRef<'_> {
        SubjectRef { name: &budget.subject, part: budget.part.as_ref() }
    }

    fn owned(self) -> Subject {
        Subject { name: Arc::clone(self.name), part: self.part.cloned() }
    }
}

/// What one subject has spent in a window, and what its calls have reserved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counter {
    pub(super) spent: u128,
    pub(super) reserved: u128,
    used_ms: u64,
}

impl Counter {
    /// What a limit leaves.
    pub(super) fn left(&self, limit: PicoDollars) -> PicoDollars {
        let used = self.spent.saturating_add(self.reserved);
        PicoDollars(u64::try_from(u128::from(limit.0).saturating_sub(used)).unwrap_or(u64::MAX))
    }
}

type Table = HashMap<Subject, Counter>;

/// One dimension by one length of period.
pub(super) struct Window {
    pub(super) dimension: Option<Dimension>,
    period: Option<Period>,
    /// The present period, in milliseconds since the Unix epoch.
    pub(super) start_ms: u64,
    pub(super) end_ms: u64,
    /// Counts the periods: what a call has reserved in an earlier one is gone with it.
    pub(super) era: u32,
    /// It knows what was spent before it was there.
    pub(super) ready: bool,
    table: Table,
    /// What this node has of budgets that several nodes share.
    leases: HashMap<Subject, Arc<Lease>>,
    /// What is still reserved in the period before, until those calls are over.
    before: Table,
    /// Idle counters of requests are looked for when there are more than this.
    sweep_at: usize,
}

impl Window {
    fn new(dimension: Option<Dimension>, period: Option<Period>, now_ms: u64) -> Window {
        let (start_ms, end_ms) = bounds(period, now_ms);
        Window {
            dimension,
            period,
            start_ms,
            end_ms,
            era: 0,
            // Nobody else knows about requests.
            ready: dimension.is_none(),
            table: Table::new(),
            leases: HashMap::new(),
            before: Table::new(),
            sweep_at: 1024,
        }
    }

    /// Goes to the period of a call's time.
    ///
    /// A caller who is late (the call began before midnight and comes now, or ends now) pays in the
    /// period that runs. A clock that was set back by more than a period is believed, but what was
    /// counted stays counted: setting a clock is no way to a fresh budget, and a clock that was
    /// wrong for a while locks nobody out for longer than a period.
    pub(super) fn turn(&mut self, at_ms: u64, clock: &Clock) {
        if at_ms >= self.end_ms {
            (self.start_ms, self.end_ms) = bounds(self.period, at_ms);
            self.era = self.era.wrapping_add(1);
            self.before = std::mem::take(&mut self.table);
            // Calls of the period before have theirs.
            self.leases.clear();
            self.before.retain(|_, counter| counter.reserved > 0);
            self.before.shrink_to_fit();
            // From its beginning on, everything has been seen.
            self.ready = true;
        } else if at_ms < self.start_ms {
            // Going back for one who is only late would make the next one begin the period anew.
            let (start, end) = bounds(self.period, clock.unix_ms());
            if end < self.start_ms {
                (self.start_ms, self.end_ms) = (start, end);
            }
        }
    }

    /// The lease of a budget, whose window is the `at`th. `None` where no other node knows of it.
    pub(super) fn lease(&mut self, at: usize, budget: &BudgetId) -> Option<Arc<Lease>> {
        let dimension = self.dimension?;
        let subject = SubjectRef::of(budget);
        if let Some(lease) = self.leases.get(&subject) {
            return Some(Arc::clone(lease));
        }
        let lease = Arc::new(Lease::new(budget, at, self, dimension));
        self.leases.insert(subject.owned(), Arc::clone(&lease));
        Some(lease)
    }

    /// The leases of the present period.
    pub(super) fn leases(&self) -> impl Iterator<Item = &Arc<Lease>> {
        self.leases.values()
    }

    /// The lease of a subject, if there is one.
    pub(super) fn lease_of(&self, subject: SubjectRef<'_>) -> Option<&Arc<Lease>> {
        self.leases.get(&subject)
    }

    /// Forgets a lease.
    pub(super) fn drop_lease(&mut self, lease: &Arc<Lease>) {
        if self.leases.get(&lease.subject()).is_some_and(|have| Arc::ptr_eq(have, lease)) {
            self.leases.remove(&lease.subject());
        }
    }

    /// What is counted in the present period.
    pub(super) fn get(&self, subject: SubjectRef<'_>) -> Counter {
        self.table.get(&subject).copied().unwrap_or_default()
    }

    /// What is counted in the period of that number. `None` if it is long over.
    pub(super) fn get_in(&self, era: u32, subject: SubjectRef<'_>) -> Option<Counter> {
        if era == self.era {
            Some(self.get(subject))
        } else if era.wrapping_add(1) == self.era {
            self.before.get(&subject).copied()
        } else {
            None
        }
    }

    /// The counter of a period, unless that is long over.
    fn counter(&mut self, era: u32, subject: SubjectRef<'_>) -> Option<&mut Counter> {
        if era == self.era {
            Some(match self.table.entry_ref(&subject) {
                EntryRef::Occupied(counter) => counter.into_mut(),
                EntryRef::Vacant(place) => {
                    place.insert_with_key(subject.owned(), Counter::default())
                }
            })
        } else if era.wrapping_add(1) == self.era {
            self.before.get_mut(&subject)
        } else {
            None
        }
    }

    pub(super) fn reserve(
        &mut self,
        era: u32,
        subject: SubjectRef<'_>,
        amount: PicoDollars,
        now_ms: u64,
    ) {
        if self.dimension.is_none() && self.table.len() >= self.sweep_at {
            let since = now_ms.saturating_sub(REQUEST_KEPT_MS);
            self.table.retain(|_, counter| counter.reserved > 0 || counter.used_ms > since);
            self.sweep_at = (self.table.len() * 2).max(1024);
        }
        if let Some(counter) = self.counter(era, subject) {
            counter.reserved += u128::from(amount.0);
            counter.used_ms = now_ms;
        }
    }

    /// Replaces what was reserved by what was spent.
    pub(super) fn release(&mut self, era: u32, subject: SubjectRef<'_>, amount: PicoDollars) {
        let is_over = era != self.era;
        if let Some(counter) = self.counter(era, subject) {
            counter.reserved = counter.reserved.saturating_sub(u128::from(amount.0));
            // Nobody asks about the period before but calls that are still open in it.
            if is_over && counter.reserved == 0 {
                self.before.remove(&subject);
            }
        }
    }

    pub(super) fn spend(&mut self, era: u32, subject: SubjectRef<'_>, amount: u128) {
        if let Some(counter) = self.counter(era, subject) {
            counter.spent = counter.spent.saturating_add(amount);
        }
    }

    /// Adds what a sum of the ledger says.
    pub(super) fn add_sum(&mut self, subject: &Arc<str>, cost: u128) {
        if self.dimension.is_some_and(Dimension::has_parts)
            && let Some((name, part)) = subject.split_once('\0')
        {
            let (name, part) = (Arc::from(name), Arc::from(part));
            self.spend(self.era, SubjectRef { name: &name, part: Some(&part) }, cost);
        } else {
            self.spend(self.era, SubjectRef { name: subject, part: None }, cost);
        }
    }

    /// Adds what a call has cost to one of the window's periods.
    pub(super) fn add_record(&mut self, era: u32, record: &SpendRecord, global: &Arc<str>) {
        let cost = u128::from(record.cost.0);
        let Some(dimension) = self.dimension.filter(|_| cost > 0) else { return };
        each_subject(dimension, record, global, |subject| self.spend(era, subject, cost));
    }

    /// An empty window for adding up records of the same period.
    pub(super) fn scratch(&self) -> Window {
        let mut scratch = Window::new(self.dimension, None, 0);
        (scratch.start_ms, scratch.end_ms) = (self.start_ms, self.end_ms);
        scratch
    }

    /// Adds what was added up apart.
    pub(super) fn merge(&mut self, scratch: Window) {
        for (subject, counter) in scratch.table {
            let subject = SubjectRef { name: &subject.name, part: subject.part.as_ref() };
            self.spend(self.era, subject, counter.spent);
        }
    }

    /// Forgets everything, because it is asked for anew. Nobody has reserved anything before a
    /// window is ready.
    pub(super) fn clear(&mut self) {
        self.table.clear();
    }
}

/// Calls `on` with everybody whose spend a call is, by a dimension.
fn each_subject(
    dimension: Dimension,
    record: &SpendRecord,
    global: &Arc<str>,
    mut on: impl FnMut(SubjectRef<'_>),
) {
    let mut two = |name: Option<&Arc<str>>, part: Option<&Arc<str>>| {
        if let (Some(name), Some(part)) = (name, part)
            && !name.is_empty()
            && !part.is_empty()
        {
            on(SubjectRef { name, part: Some(part) });
        }
    };
    match dimension {
        Dimension::KeyModel => return two(Some(&record.key), Some(&record.group)),
        Dimension::TeamModel => return two(record.team.as_ref(), Some(&record.group)),
        Dimension::UserModel => return two(record.user.as_ref(), Some(&record.group)),
        Dimension::TeamMember => return two(record.team.as_ref(), record.user.as_ref()),
        Dimension::Total => return on(SubjectRef { name: global, part: None }),
        _ => {}
    }
    let mut one = |name: Option<&Arc<str>>| {
        if let Some(name) = name.filter(|name| !name.is_empty()) {
            on(SubjectRef { name, part: None });
        }
    };
    match dimension {
        Dimension::Key => one(Some(&record.key)),
        Dimension::User => one(record.user.as_ref()),
        Dimension::Team => one(record.team.as_ref()),
        Dimension::EndUser => one(record.end_user.as_ref()),
        Dimension::Model => one(Some(&record.group)),
        Dimension::Provider => one(Some(&record.provider)),
        Dimension::Tag => {
            for (at, tag) in record.tags.iter().enumerate() {
                // A tag that is named twice is one tag.
                if !record.tags[..at].contains(tag) {
                    one(Some(tag));
                }
            }
        }
        Dimension::Deployment => one(Some(&record.model_id)),
        Dimension::Total
        | Dimension::KeyModel
        | Dimension::TeamModel
        | Dimension::UserModel
        | Dimension::TeamMember => {}
    }
}

/// Whether [`Window::add_record`] has charged a budget for a call, or rightly did not: the call can
/// have gone to another provider or model than was thought when it was opened.
pub(super) fn is_charged(budget: &BudgetId, record: &SpendRecord) -> bool {
    let is = |said: &Option<Arc<str>>| said.as_ref() == Some(&budget.subject);
    match budget.scope {
        BudgetScope::Global => budget.subject.is_empty(),
        BudgetScope::Provider => !record.provider.is_empty(),
        BudgetScope::Model => !record.group.is_empty(),
        BudgetScope::Deployment => !record.model_id.is_empty(),
        BudgetScope::Team => is(&record.team),
        BudgetScope::TeamModel => is(&record.team) && !record.group.is_empty(),
        BudgetScope::TeamMember => is(&record.team) && record.user == budget.part,
        BudgetScope::User => is(&record.user),
        BudgetScope::UserModel => is(&record.user) && !record.group.is_empty(),
        BudgetScope::Key => record.key == budget.subject,
        BudgetScope::KeyModel => record.key == budget.subject && !record.group.is_empty(),
        BudgetScope::EndUser => is(&record.end_user),
        BudgetScope::Tag => record.tags.contains(&budget.subject),
        BudgetScope::Request => false,
    }
}

fn bounds(period: Option<Period>, at_ms: u64) -> (u64, u64) {
    let Some(period) = period else { return (0, FOREVER_MS) };
    let (start, end) = period.bounds(Duration::from_millis(at_ms));
    let ms = |at: Duration| u64::try_from(at.as_millis()).unwrap_or(FOREVER_MS).min(FOREVER_MS);
    (ms(start), ms(end))
}

/// All windows. There are as many as dimensions and lengths of periods in use, and none goes.
#[derive(Default)]
pub(super) struct Windows {
    pub(super) list: Vec<Window>,
    by_kind: HashMap<(Option<Dimension>, Option<Period>), usize>,
}

impl Windows {
    /// The window of a budget, in the period of a call's time.
    pub(super) fn of(&mut self, budget: &BudgetId, at_ms: u64, clock: &Clock) -> usize {
        let kind = (dimension(budget.scope), budget.period);
        let at = match self.by_kind.get(&kind) {
            Some(at) => *at,
            None => {
                self.list.push(Window::new(kind.0, kind.1, at_ms));
                self.by_kind.insert(kind, self.list.len() - 1);
                self.list.len() - 1
            }
        };
        self.list[at].turn(at_ms, clock);
        at
    }

    /// The window of a budget as it is, if there is one.
    pub(super) fn find(&self, budget: &BudgetId) -> Option<&Window> {
        let kind = (dimension(budget.scope), budget.period);
        self.by_kind.get(&kind).map(|at| &self.list[*at])
    }
}
