//! Which budgets are worth an alert: those that cross a threshold, are used up, or will be before
//! their period ends.

use std::collections::HashMap;
use std::time::Duration;

use tollway_filter_api::identity::KeyStore;
use tollway_filter_api::treasury::{BudgetId, BudgetScope};
use tollway_filters::budget::Standing;
use tollway_wire::price::PicoDollars;

use super::event::{Event, Who, words};
use crate::calendar;
use crate::config::{AlertKind, AlertSettings};

/// A budget of which so much is spent counts as used up once a call was refused for it: the rest is
/// less than a call costs.
const NEARLY_ALL: u32 = 95;
/// In pico-dollars.
const CENT: u64 = PicoDollars::PER_DOLLAR / 100;
/// All of a budget.
const ALL: u32 = 100;
/// A period is worth projecting when this part of it is over.
const PROJECTED_AFTER: u32 = 10;

/// What operators were told of the budgets in their present periods.
#[derive(Default)]
pub(super) struct Told {
    budgets: HashMap<BudgetId, Stage>,
}

/// What was told of one budget.
#[derive(Clone, Copy, Default)]
struct Stage {
    period: Option<(Duration, Duration)>,
    percent: u32,
    soft: bool,
    projected: bool,
}

impl Told {
    /// What is new.
    pub(super) fn look(
        &mut self,
        standings: &[Standing],
        settings: &AlertSettings,
        keys: &dyn KeyStore,
        now: Duration,
    ) -> Vec<Event> {
        let mut before = std::mem::take(&mut self.budgets);
        let mut events = Vec::new();
        for standing in standings {
            let id = &standing.budget.id;
            let stage = before.remove(id).filter(|stage| stage.period == standing.period);
            let stage = stage.unwrap_or(Stage { period: standing.period, ..Stage::default() });
            let stage = stage.after(standing, settings, now, &mut |news| {
                events.push(event(standing, keys, news));
            });
            self.budgets.insert(id.clone(), stage);
        }
        events
    }
}

/// What there is to tell of a budget.
#[derive(Clone, Copy, Debug, PartialEq)]
enum News {
    Reached(u32),
    Soft(PicoDollars),
    Projected { at: Duration, spend: PicoDollars },
}

impl Stage {
    /// What has been told once `standing` is; tells what has not.
    fn after(
        mut self,
        standing: &Standing,
        settings: &AlertSettings,
        now: Duration,
        tell: &mut dyn FnMut(News),
    ) -> Stage {
        // One whose limit was raised is below its thresholds again, and may cross them again.
        let soft = standing.budget.soft.filter(|soft| standing.spent >= *soft);
        if let Some(soft) = soft.filter(|_| !self.soft) {
            tell(News::Soft(soft));
        }
        self.soft = soft.is_some();
        let Some(limit) = standing.budget.limit else { return self };
        let percent = reached(standing, limit, &settings.thresholds);
        if percent > self.percent {
            tell(News::Reached(percent));
        }
        self.percent = percent;
        if percent < ALL
            && !self.projected
            && let Some((at, spend)) = projected(standing, limit, now)
        {
            self.projected = true;
            tell(News::Projected { at, spend });
        }
        self
    }
}

/// The highest threshold that a budget has crossed; 100 for one that is used up.
fn reached(standing: &Standing, limit: PicoDollars, thresholds: &[u32]) -> u32 {
    let is_past = |percent: u32| {
        u128::from(standing.spent.0) * 100 >= u128::from(limit.0) * u128::from(percent)
    };
    if is_past(ALL) || (standing.has_refused && is_past(NEARLY_ALL)) {
        return ALL;
    }
    thresholds.iter().rev().copied().find(|percent| is_past(*percent)).unwrap_or(0)
}

/// When a budget is used up and what is spent at the end of its period if things go on like this;
/// `None` where that is within it.
fn projected(
    standing: &Standing,
    limit: PicoDollars,
    now: Duration,
) -> Option<(Duration, PicoDollars)> {
    let (start, end) = standing.period?;
    let (length, elapsed) = (end.checked_sub(start)?, now.checked_sub(start)?);
    if elapsed.is_zero() || elapsed < length / PROJECTED_AFTER {
        return None;
    }
    let (spent, limit) = (u128::from(standing.spent.0), u128::from(limit.0));
    let spend = spent.checked_mul(length.as_millis())?.checked_div(elapsed.as_millis())?;
    if spend < limit {
        return None;
    }
    let after = elapsed.as_millis().checked_mul(limit)?.checked_div(spent)?;
    let after = Duration::from_millis(u64::try_from(after).ok()?);
    Some((start.saturating_add(after), PicoDollars(u64::try_from(spend).unwrap_or(u64::MAX))))
}

fn event(standing: &Standing, keys: &dyn KeyStore, news: News) -> Event {
    let budget = &standing.budget;
    let scope = budget.id.scope;
    let (group, word) = words(scope);
    let (name, what) = match news {
        News::Reached(ALL) => ("budget_crossed", "Budget Crossed".to_owned()),
        News::Reached(percent) => ("threshold_crossed", format!("{percent}% Threshold Crossed")),
        News::Soft(_) => ("soft_budget_crossed", "Soft Budget Crossed".to_owned()),
        News::Projected { .. } => {
            ("projected_limit_exceeded", "Projected Limit Exceeded".to_owned())
        }
    };
    let mut detail = format!("has spent ${}", standing.spent);
    match (news, budget.limit) {
        (News::Soft(soft), _) => detail.push_str(&format!(", its soft budget is ${soft}")),
        (_, Some(limit)) => detail.push_str(&format!(" of ${limit}")),
        (_, None) => {}
    }
    if let News::Projected { at, spend } = news {
        let day = calendar::day_text(at);
        let spend = PicoDollars(spend.0.saturating_add(CENT / 2) / CENT * CENT);
        detail.push_str(&format!(
            "; at this pace it will be used up on {day}, and ${spend} would be spent"
        ));
    }
    if let Some((_, end)) = standing.period {
        detail.push_str(&format!("; it is full again at {}", calendar::text(end)));
    }
    Event {
        kind: AlertKind::Budget,
        name,
        group,
        title: format!("{word} Budget: {what}"),
        owner: match scope {
            BudgetScope::Global => "Everybody together".into(),
            _ => budget.owner.clone(),
        },
        detail,
        spend: standing.spent,
        max_budget: budget.limit,
        soft_budget: budget.soft,
        who: Who::of(scope, &budget.id.subject, keys),
        projected: match news {
            News::Projected { at, spend } => Some((at, spend)),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tollway_filter_api::treasury::{Budget, Period, PeriodUnit};

    use tollway_filter_api::{KeyHash, VirtualKey};

    use super::*;

    const NOW: u64 = 1_771_413_753;

    fn standing(spent: u64, limit: u64, period: Option<PeriodUnit>) -> Standing {
        let period = period.map(|unit| Period { count: 1, unit });
        let id = BudgetId { scope: BudgetScope::Team, subject: "dev".into(), part: None, period };
        let owner = "Team=dev".into();
        let limit = Some(PicoDollars(limit));
        Standing {
            budget: Arc::new(Budget { id, limit, soft: Some(PicoDollars(40)), owner }),
            alias: None,
            spent: PicoDollars(spent),
            reserved: PicoDollars::ZERO,
            period: period.map(|period| period.bounds(Duration::from_secs(NOW))),
            has_refused: false,
        }
    }

    fn settings() -> AlertSettings {
        AlertSettings {
            targets: Vec::new(),
            thresholds: vec![80, 95],
            spike_factor: 3,
            spike_min: PicoDollars::ZERO,
            spike_days: 7,
        }
    }

    struct Nobody;

    impl KeyStore for Nobody {
        fn find(&self, _: &KeyHash) -> Option<Arc<VirtualKey>> {
            None
        }
    }

    fn look(told: &mut Told, standing: Standing, now: u64) -> Vec<String> {
        let events = told.look(&[standing], &settings(), &Nobody, Duration::from_secs(now));
        let name = |event: Event| event.title.trim_start_matches("Team Budget: ").to_owned();
        events.into_iter().map(name).collect()
    }

    #[test]
    fn each_threshold_is_told_once() {
        let mut told = Told::default();
        let mut check = |spent: u64, limit: u64, expect: &[&str]| {
            assert_eq!(look(&mut told, standing(spent, limit, None), NOW), expect, "{spent}");
        };
        check(39, 100, &[]);
        check(40, 100, &["Soft Budget Crossed"]);
        check(79, 100, &[]);
        check(80, 100, &["80% Threshold Crossed"]);
        check(94, 100, &[]);
        check(99, 100, &["95% Threshold Crossed"]);
        check(100, 100, &["Budget Crossed"]);
        check(100, 100, &[]);
        // It was raised.
        check(100, 1000, &[]);
        check(999, 1000, &["95% Threshold Crossed"]);
        check(u64::MAX, u64::MAX, &["Budget Crossed"]);
    }

    #[test]
    fn budget_is_used_up_when_calls_are_refused_and_little_is_left() {
        let mut told = Told::default();
        let refused = |spent| Standing { has_refused: true, ..standing(spent, 1000, None) };
        assert_eq!(look(&mut told, refused(39), NOW), Vec::<String>::new());
        assert_eq!(look(&mut told, refused(951), NOW), ["Soft Budget Crossed", "Budget Crossed"]);
    }

    #[test]
    fn another_period_is_told_again() {
        let mut told = Told::default();
        let first = standing(81, 100, Some(PeriodUnit::Second));
        let mut second = standing(81, 100, Some(PeriodUnit::Second));
        second.period = Some((Duration::from_secs(NOW + 1), Duration::from_secs(NOW + 2)));
        for standing in [first, second] {
            let news = look(&mut told, standing.clone(), NOW);
            assert_eq!(news, ["Soft Budget Crossed", "80% Threshold Crossed"]);
            assert!(look(&mut told, standing, NOW).is_empty());
        }
    }

    #[test]
    fn what_will_be_used_up_is_told_once() {
        let mut told = Told::default();
        let (start, _) = standing(0, 1, Some(PeriodUnit::Day)).period.expect("a day");
        let at = |hours: u64| start.as_secs() + hours * 3_600;
        let day = |spent| standing(spent, 100, Some(PeriodUnit::Day));
        // Twice too much, but after two hours nobody knows.
        assert!(look(&mut told, day(16), at(2)).is_empty());
        assert_eq!(look(&mut told, day(30), at(6)), ["Projected Limit Exceeded"]);
        assert!(look(&mut told, day(39), at(6)).is_empty());
        let found = projected(&day(30), PicoDollars(100), Duration::from_secs(at(6)));
        assert_eq!(found, Some((Duration::from_secs(at(20)), PicoDollars(120))));
        assert_eq!(projected(&day(30), PicoDollars(100), Duration::from_secs(at(8))), None);
    }
}
