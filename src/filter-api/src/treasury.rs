//! Money before it is spent: budgets, what is reserved of them, and the trait of who keeps them.
//!
//! Every model call opens an account before it goes out and closes it when it is over. Opening
//! reserves the most the call can cost from every budget that applies; closing replaces that by what
//! it did cost. Both are in the journal before the treasury says so.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use tollway_wire::price::PicoDollars;
use tollway_wire::usage::Usage;

use crate::ledger::SpendRecord;

/// Whose money it is, and which of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BudgetScope {
    /// Everybody's.
    Global,
    /// What goes to one provider.
    Provider,
    /// What one model group costs.
    Model,
    /// What goes to one deployment, by its id.
    Deployment,
    /// A team's.
    Team,
    /// A team's for one model group (`part`).
    TeamModel,
    /// What one member (`part`, the user) may spend of a team's.
    TeamMember,
    /// A user's.
    User,
    /// A user's for one model group (`part`).
    UserModel,
    /// A virtual key's, by its hash in hexadecimal.
    Key,
    /// A virtual key's for one model group (`part`).
    KeyModel,
    /// That of an end user named in requests.
    EndUser,
    /// That of a tag on requests.
    Tag,
    /// One request's own.
    Request,
}

impl BudgetScope {
    /// Of somebody who has a budget of this scope: the scope of what they may spend on one model
    /// group. `None` where there is no such thing.
    pub fn by_model(self) -> Option<BudgetScope> {
        match self {
            BudgetScope::Key => Some(BudgetScope::KeyModel),
            BudgetScope::Team => Some(BudgetScope::TeamModel),
            BudgetScope::User => Some(BudgetScope::UserModel),
            _ => None,
        }
    }

    /// Whether it is for one model group, which is the budget's `part`.
    pub fn is_by_model(self) -> bool {
        matches!(self, BudgetScope::KeyModel | BudgetScope::TeamModel | BudgetScope::UserModel)
    }

    /// The name in stores, messages and metrics.
    pub fn name(self) -> &'static str {
        match self {
            BudgetScope::Global => "global",
            BudgetScope::Provider => "provider",
            BudgetScope::Model => "model",
            BudgetScope::Deployment => "deployment",
            BudgetScope::Team => "team",
            BudgetScope::TeamModel => "model_per_team",
            BudgetScope::TeamMember => "team_member",
            BudgetScope::User => "user",
            BudgetScope::UserModel => "model_per_user",
            BudgetScope::Key => "key",
            BudgetScope::KeyModel => "model_per_key",
            BudgetScope::EndUser => "end_user",
            BudgetScope::Tag => "tag",
            BudgetScope::Request => "request",
        }
    }
}

/// One budget among all.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BudgetId {
    /// Whose.
    pub scope: BudgetScope,
    /// Which of them: the key's hash, the team's id … Empty where there is only one.
    pub subject: Arc<str>,
    /// Which part of it: of [`BudgetScope::KeyModel`] and its like the model group, of
    /// [`BudgetScope::TeamMember`] the user.
    pub part: Option<Arc<str>>,
    /// The length of its period, because one subject can have several: a dollar a day and ten a
    /// month.
    pub period: Option<Period>,
}

impl BudgetId {
    /// What a key spends for as long as it is there, whether or not that has a limit.
    pub fn of_key(hash_hex: &Arc<str>) -> BudgetId {
        let subject = Arc::clone(hash_hex);
        BudgetId { scope: BudgetScope::Key, subject, part: None, period: None }
    }
}

/// What may be spent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Which one it is.
    pub id: BudgetId,
    /// Never more than this in a period. `None` counts only.
    pub limit: Option<PicoDollars>,
    /// From here on operators are told.
    pub soft: Option<PicoDollars>,
    /// What messages call its owner: LiteLLM's `Key=ci (sk-...AbCd)`, `Team=dev`.
    pub owner: Arc<str>,
}

/// How long a budget lasts before it is full again. Periods begin on the calendar, in UTC: days at
/// midnight, weeks on Monday, months on the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Period {
    /// How many units.
    pub count: u32,
    /// Of what.
    pub unit: PeriodUnit,
}

/// A unit of the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PeriodUnit {
    /// A second.
    Second,
    /// A minute.
    Minute,
    /// An hour.
    Hour,
    /// A day.
    Day,
    /// A week.
    Week,
    /// A month.
    Month,
}

impl PeriodUnit {
    /// How long it is; months differ.
    pub fn seconds(self) -> Option<u64> {
        Some(match self {
            PeriodUnit::Second => 1,
            PeriodUnit::Minute => 60,
            PeriodUnit::Hour => 3_600,
            PeriodUnit::Day => 86_400,
            PeriodUnit::Week => 604_800,
            PeriodUnit::Month => return None,
        })
    }
}

impl FromStr for Period {
    type Err = PeriodError;

    /// Reads LiteLLM's durations of budgets: `30s`, `30m`, `1h`, `1d`, `1w`, `1mo`. As there, `7d` is
    /// a week of the calendar, from Monday on, and `30d` a month, from the first on.
    fn from_str(text: &str) -> Result<Period, PeriodError> {
        Ok(match Period::length(text)? {
            Period { count: 7, unit: PeriodUnit::Day } => {
                Period { count: 1, unit: PeriodUnit::Week }
            }
            Period { count: 30, unit: PeriodUnit::Day } => {
                Period { count: 1, unit: PeriodUnit::Month }
            }
            period => period,
        })
    }
}

impl fmt::Display for Period {
    /// Writes what [`Period::from_str`] reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.unit {
            PeriodUnit::Second => "s",
            PeriodUnit::Minute => "m",
            PeriodUnit::Hour => "h",
            PeriodUnit::Day => "d",
            PeriodUnit::Week => "w",
            PeriodUnit::Month => "mo",
        };
        write!(f, "{}{unit}", self.count)
    }
}

/// A century is more than anybody means.
const PERIOD_SECONDS_MAX: u64 = 3_200_000_000;

/// What a month counts as where a text is too long.
const MONTH_SECONDS_MAX: u64 = 31 * 86_400;

/// A text that is no period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a time with its unit: `30s`, `30m`, `1h`, `1d`, `1w` or `1mo`")]
pub struct PeriodError;

impl Period {
    /// Reads a length of time as it stands: `7d` is any seven days.
    ///
    /// # Errors
    /// When the text is none, or more than a century.
    pub fn length(text: &str) -> Result<Period, PeriodError> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (count, unit) = text.split_at(digits);
        let unit = match unit {
            "s" => PeriodUnit::Second,
            "m" => PeriodUnit::Minute,
            "h" => PeriodUnit::Hour,
            "d" => PeriodUnit::Day,
            "w" => PeriodUnit::Week,
            "mo" => PeriodUnit::Month,
            _ => return Err(PeriodError),
        };
        let count: u32 = count.parse().map_err(|_| PeriodError)?;
        let seconds = u64::from(count) * unit.seconds().unwrap_or(MONTH_SECONDS_MAX);
        if count == 0 || seconds > PERIOD_SECONDS_MAX {
            return Err(PeriodError);
        }
        Ok(Period { count, unit })
    }

    /// When the period that `at` lies in begins and when the next one does, since the Unix epoch.
    ///
    /// Periods of several units are counted from the epoch, weeks from the Monday before it, months
    /// from the year 0: `2mo` begins in January, March … wherever it is first used.
    pub fn bounds(self, at: Duration) -> (Duration, Duration) {
        const DAY: u64 = 86_400;
        let count = u64::from(self.count.max(1));
        let at = at.as_secs();
        let Some(length) = self.unit.seconds().map(|unit| count * unit) else {
            let first = month_of(at / DAY) / count * count;
            let start = first_day(first).saturating_mul(DAY);
            let end = first_day(first.saturating_add(count)).saturating_mul(DAY);
            return (Duration::from_secs(start), Duration::from_secs(end));
        };
        // The epoch was a Thursday: the Monday before it is three days earlier.
        let offset = if self.unit == PeriodUnit::Week { 3 * DAY } else { 0 };
        let start = at.saturating_add(offset) / length * length;
        let end = start.saturating_add(length).saturating_sub(offset);
        (Duration::from_secs(start.saturating_sub(offset)), Duration::from_secs(end))
    }
}

/// The days from the first of March of the year 0 to the epoch. Years that begin in March have
/// their odd day at the end, which makes them easy to count.
const EPOCH: u64 = 719_468;
/// The days of four centuries.
const ERA: u64 = 146_097;

/// The month of a day since the epoch, counted from January of the year 0.
fn month_of(day: u64) -> u64 {
    let day = day.saturating_add(EPOCH);
    let (era, day) = (day / ERA, day % ERA);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let march = (5 * day + 2) / 153;
    (era * 400 + year) * 12 + march + 2
}

/// The first day of a month, both counted as in [`month_of`]; the epoch where it is before that.
fn first_day(month: u64) -> u64 {
    let march = month.saturating_sub(2);
    let (year, month) = (march / 12, march % 12);
    let (era, year) = (year / 400, year % 400);
    let day = (153 * month + 2) / 5 + 365 * year + year / 4 - year / 100;
    era.saturating_mul(ERA).saturating_add(day).saturating_sub(EPOCH)
}

/// What a call wants to spend.
#[derive(Clone, Debug)]
pub struct Opening<'a> {
    /// All budgets that apply. All must have room.
    pub budgets: &'a [Arc<Budget>],
    /// The most it can cost.
    pub most: PicoDollars,
    /// The least it is worth making it for: where `most` does not fit but this does, what is left is
    /// granted. Equal to `most` where the call cannot be made smaller.
    pub least: PicoDollars,
    /// Since the Unix epoch. It decides in which period the call is paid for.
    pub now: Duration,
}

/// What is reserved for one call. Once it is written it must be closed: one that is dropped is charged
/// whole, and one that was not written is given back, because nobody can have made the call.
pub trait Hold: Send + Sync {
    /// Writes down what is known of the call (its id, who makes it, when, and where it goes), so that one
    /// whose process dies is charged to whoever made it, and waits until a crash leaves that where it is.
    /// To be done before anything is spent, and only then: what needs no call, because the cache has the
    /// answer, takes no room on the disk and does not wait for it.
    ///
    /// # Errors
    /// When it cannot be written: nothing may be spent, and what was reserved is given back.
    fn written(self: Box<Self>, draft: &SpendRecord) -> Pin<Box<dyn Future<Output = Paid> + Send>>;

    /// How much is reserved now.
    fn granted(&self) -> PicoDollars;

    /// Reserves more, for a stream that outgrows what it had. Never waits.
    ///
    /// # Errors
    /// When a budget has no room: what is granted stays.
    fn extend(&mut self, more: PicoDollars) -> Result<(), OverBudget>;

    /// Notes what has streamed so far and what it costs, for the case that the process dies. May be
    /// called as often as one likes: it is written at most every second.
    fn progress(&mut self, usage: &Usage, cost: PicoDollars) {
        let _ = (usage, cost);
    }

    /// What each budget has left beyond all that is reserved, the tightest first: for headers.
    fn left(&self) -> Vec<(Arc<Budget>, PicoDollars)>;

    /// Replaces what is reserved by what the record says was spent, and journals the record.
    fn close(self: Box<Self>, record: SpendRecord);
}

/// A budget that has no room.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverBudget {
    /// Which one.
    pub budget: Arc<Budget>,
    /// What was spent of it in this period, reservations left out.
    pub spent: PicoDollars,
    /// What calls under way have reserved of it.
    pub reserved: PicoDollars,
    /// When it is full again.
    pub resets_in: Option<Duration>,
}

/// Why a call cannot be paid for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unpaid {
    /// A budget has no room.
    #[error("a budget is used up")]
    OverBudget(Box<OverBudget>),
    /// The journal cannot be written (a full disk), or the other nodes cannot be asked: nothing can
    /// be spent that would not be counted.
    #[error("{0}")]
    Unavailable(&'static str),
}

/// What a call gets: its hold, or why not.
pub type Paid = Result<Box<dyn Hold>, Unpaid>;

/// What opening gives.
pub enum Opened {
    /// The answer is here.
    Ready(Paid),
    /// The ledger, or other nodes that share the budget, have to be asked.
    Wait(Pin<Box<dyn Future<Output = Paid> + Send>>),
}

impl Opened {
    /// The answer, once it is here.
    pub async fn paid(self) -> Paid {
        match self {
            Opened::Ready(paid) => paid,
            Opened::Wait(wait) => wait.await,
        }
    }
}

/// Keeps the budgets. Lives as long as the process.
///
/// The promise: what all calls together are granted of a budget in one period never exceeds its
/// limit, under any concurrency and on any number of nodes.
pub trait Treasury: Send + Sync {
    /// Reserves for a call. It counts at once, and has to be [`Hold::written`] before the call.
    fn open(&self, opening: Opening<'_>) -> Opened;

    /// What was spent of a budget in its present period, and what is reserved.
    fn spent(&self, budget: &BudgetId, now: Duration) -> (PicoDollars, PicoDollars);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_are_litellms_durations() {
        use PeriodUnit::{Day, Hour, Minute, Month, Second, Week};
        let check = |text: &str, expect: Option<(u32, PeriodUnit)>| {
            let expect = expect.map(|(count, unit)| Period { count, unit });
            assert_eq!(text.parse().ok(), expect, "{text}");
        };
        check("30s", Some((30, Second)));
        check("30m", Some((30, Minute)));
        check("1h", Some((1, Hour)));
        check("24h", Some((24, Hour)));
        check("1d", Some((1, Day)));
        check("7d", Some((1, Week)));
        check("14d", Some((14, Day)));
        check("30d", Some((1, Month)));
        check("2w", Some((2, Week)));
        check("1mo", Some((1, Month)));
        for wrong in ["", "30", "d", "0d", "-1d", "1.5h", "1y", "1 d", "99999999999s", "9999mo"] {
            check(wrong, None);
        }
    }

    #[test]
    fn periods_are_written_as_they_are_read() {
        for text in ["30s", "5m", "12h", "3d", "1w", "1mo"] {
            let period: Period = text.parse().expect("it is one");
            assert_eq!(period.to_string(), text);
        }
    }

    #[test]
    fn periods_begin_on_the_calendar() {
        let check = |count, unit, at, expect: (u64, u64)| {
            let (start, end) = Period { count, unit }.bounds(Duration::from_secs(at));
            assert_eq!((start.as_secs(), end.as_secs()), expect, "{count} {unit:?} at {at}");
        };
        // 2026-02-18T11:22:33Z, a Wednesday.
        let at = 1_771_413_753;
        check(1, PeriodUnit::Second, at, (at, at + 1));
        check(1, PeriodUnit::Minute, at, (1_771_413_720, 1_771_413_780));
        check(1, PeriodUnit::Hour, at, (1_771_412_400, 1_771_416_000));
        check(1, PeriodUnit::Day, at, (1_771_372_800, 1_771_459_200));
        check(1, PeriodUnit::Week, at, (1_771_200_000, 1_771_804_800));
        check(1, PeriodUnit::Month, at, (1_769_904_000, 1_772_323_200));
        check(2, PeriodUnit::Month, at, (1_767_225_600, 1_772_323_200));
        check(12, PeriodUnit::Month, at, (1_767_225_600, 1_798_761_600));
        // The last second of a leap year's February, and the first of March.
        check(1, PeriodUnit::Month, 1_709_251_199, (1_706_745_600, 1_709_251_200));
        check(1, PeriodUnit::Month, 1_709_251_200, (1_709_251_200, 1_711_929_600));
        check(1, PeriodUnit::Month, 0, (0, 2_678_400));
        check(1, PeriodUnit::Week, 0, (0, 345_600));
        check(0, PeriodUnit::Second, 7, (7, 8));
    }

    #[test]
    fn every_moment_lies_in_its_period_and_absurd_ones_do_no_harm() {
        let units = [
            PeriodUnit::Second,
            PeriodUnit::Minute,
            PeriodUnit::Hour,
            PeriodUnit::Day,
            PeriodUnit::Week,
            PeriodUnit::Month,
        ];
        for unit in units {
            for count in [0, 1, 2, 7, 30, u32::MAX] {
                for at in (0..4_000_000_000).step_by(12_345_678).chain([u64::MAX]) {
                    let at = Duration::from_secs(at);
                    let (start, end) = Period { count, unit }.bounds(at);
                    assert!(start <= at && (at < end || at.as_secs() == u64::MAX), "{unit:?}");
                    if at.as_secs() < 4_000_000_000 {
                        assert_eq!(Period { count, unit }.bounds(start).1, end, "{unit:?}");
                    }
                }
            }
        }
    }
}
