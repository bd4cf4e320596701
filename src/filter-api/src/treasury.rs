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
    /// A team's.
    Team,
    /// A user's.
    User,
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
    /// The name in stores, messages and metrics.
    pub fn name(self) -> &'static str {
        match self {
            BudgetScope::Global => "global",
            BudgetScope::Provider => "provider",
            BudgetScope::Model => "model",
            BudgetScope::Team => "team",
            BudgetScope::User => "user",
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
    /// Which part of it: of [`BudgetScope::KeyModel`] the model group.
    pub part: Option<Arc<str>>,
    /// The length of its period, because one subject can have several: a dollar a day and ten a
    /// month.
    pub period: Option<Period>,
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

impl Budget {
    /// Whether a call is charged to it: budgets of providers and of models are reserved from for
    /// all that a call may come to use, and pay only for what it did use.
    pub fn pays_for(&self, record: &SpendRecord) -> bool {
        match self.id.scope {
            BudgetScope::Provider => self.id.subject == record.provider,
            BudgetScope::Model => self.id.subject == record.group,
            BudgetScope::KeyModel => self.id.part.as_ref() == Some(&record.group),
            _ => true,
        }
    }
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

impl FromStr for Period {
    type Err = PeriodError;

    /// Reads LiteLLM's durations: `30s`, `30m`, `1h`, `1d`, `1w`, `1mo`. As there, `7d` is a week
    /// of the calendar, from Monday on, and `30d` a month, from the first on.
    fn from_str(text: &str) -> Result<Period, PeriodError> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (count, unit) = text.split_at(digits);
        let (unit, seconds) = match unit {
            "s" => (PeriodUnit::Second, 1),
            "m" => (PeriodUnit::Minute, 60),
            "h" => (PeriodUnit::Hour, 3_600),
            "d" => (PeriodUnit::Day, 86_400),
            "w" => (PeriodUnit::Week, 604_800),
            "mo" => (PeriodUnit::Month, 2_678_400),
            _ => return Err(PeriodError),
        };
        let count: u32 = count.parse().map_err(|_| PeriodError)?;
        if count == 0 || u64::from(count) * seconds > PERIOD_SECONDS_MAX {
            return Err(PeriodError);
        }
        Ok(match (count, unit) {
            (7, PeriodUnit::Day) => Period { count: 1, unit: PeriodUnit::Week },
            (30, PeriodUnit::Day) => Period { count: 1, unit: PeriodUnit::Month },
            _ => Period { count, unit },
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

/// A text that is no period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a time with its unit: `30s`, `30m`, `1h`, `1d`, `1w` or `1mo`")]
pub struct PeriodError;

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
    /// The request's id.
    pub request_id: &'a Arc<str>,
    /// Since the Unix epoch.
    pub now: Duration,
}

/// What is reserved for one call. It must be closed; one that is dropped is charged whole.
pub trait Hold: Send + Sync {
    /// How much is reserved now.
    fn granted(&self) -> PicoDollars;

    /// Reserves more, for a stream that outgrows what it had. Never waits.
    ///
    /// # Errors
    /// When a budget has no room: what is granted stays.
    fn extend(&mut self, more: PicoDollars) -> Result<(), OverBudget>;

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

/// What opening gives: at once, or after asking a server.
pub enum Opened<'a> {
    /// The answer is here.
    Ready(Paid),
    /// Other nodes share the budget and have to be asked.
    Wait(Pin<Box<dyn Future<Output = Paid> + Send + 'a>>),
}

/// Keeps the budgets. Lives as long as the process.
///
/// The promise: what all calls together are granted of a budget in one period never exceeds its
/// limit, under any concurrency and on any number of nodes.
pub trait Treasury: Send + Sync {
    /// Reserves for a call.
    fn open<'a>(&'a self, opening: Opening<'a>) -> Opened<'a>;

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
    fn what_was_not_used_is_not_paid_for() {
        let budget = |scope, subject: &str, part: Option<&str>| Budget {
            id: BudgetId {
                scope,
                subject: subject.into(),
                part: part.map(Arc::from),
                period: None,
            },
            limit: None,
            soft: None,
            owner: "".into(),
        };
        let record =
            SpendRecord { provider: "openai".into(), group: "fast".into(), ..Default::default() };
        for (scope, subject, part, expect) in [
            (BudgetScope::Provider, "openai", None, true),
            (BudgetScope::Provider, "anthropic", None, false),
            (BudgetScope::Model, "fast", None, true),
            (BudgetScope::Model, "slow", None, false),
            (BudgetScope::KeyModel, "hash", Some("fast"), true),
            (BudgetScope::KeyModel, "hash", Some("slow"), false),
            (BudgetScope::Key, "hash", None, true),
            (BudgetScope::Global, "", None, true),
        ] {
            assert_eq!(budget(scope, subject, part).pays_for(&record), expect, "{scope:?}");
        }
    }
}
