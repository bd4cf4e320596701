//! A small treasury for tests: budgets without periods, in memory, and every record.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tollway_filter_api::ledger::SpendRecord;
use tollway_filter_api::treasury::{
    Budget, BudgetId, BudgetScope, Hold, Opened, Opening, OverBudget, Paid, Treasury, Unpaid,
};
use tollway_wire::price::PicoDollars;

/// Spent and reserved of each budget, and what was written down.
#[derive(Default)]
pub(super) struct Books {
    pub(super) accounts: HashMap<BudgetId, (u64, u64)>,
    pub(super) records: Vec<SpendRecord>,
    /// Answers come only after a wait. What is reserved is so before it, as in the real one.
    pub(super) waits: bool,
    /// How often a call has been opened.
    pub(super) opened: u64,
    /// How many of them were written down.
    pub(super) written: u64,
    /// There is no journal.
    pub(super) is_broken: bool,
    /// Nothing can be written any more.
    pub(super) is_full: bool,
    /// What the last call has asked for: most and least.
    pub(super) asked: Option<(PicoDollars, PicoDollars)>,
}

/// The treasury.
#[derive(Clone, Default)]
pub(super) struct Fake(pub(super) Arc<Mutex<Books>>);

struct Held {
    books: Arc<Mutex<Books>>,
    budgets: Vec<Arc<Budget>>,
    granted: u64,
}

impl Books {
    fn over(&self, budgets: &[Arc<Budget>], amount: u64) -> Option<OverBudget> {
        budgets.iter().find_map(|budget| {
            let (spent, reserved) = self.accounts.get(&budget.id).copied().unwrap_or_default();
            let over = spent + reserved + amount > budget.limit?.0;
            over.then(|| OverBudget {
                budget: Arc::clone(budget),
                spent: PicoDollars(spent),
                reserved: PicoDollars(reserved),
                resets_in: Some(Duration::from_secs(60)),
            })
        })
    }

    fn left(&self, budgets: &[Arc<Budget>]) -> Option<u64> {
        let left = |budget: &Arc<Budget>| {
            let (spent, reserved) = self.accounts.get(&budget.id).copied().unwrap_or_default();
            Some(budget.limit?.0.saturating_sub(spent + reserved))
        };
        budgets.iter().filter_map(left).min()
    }

    fn reserve(&mut self, budgets: &[Arc<Budget>], amount: u64) {
        for budget in budgets {
            self.accounts.entry(budget.id.clone()).or_default().1 += amount;
        }
    }
}

impl Fake {
    fn paid(&self, books: &mut Books, opening: &Opening<'_>) -> Paid {
        books.asked = Some((opening.most, opening.least));
        if books.is_broken {
            return Err(Unpaid::Unavailable("the disk is full"));
        }
        if let Some(over) = books.over(opening.budgets, opening.least.0) {
            return Err(Unpaid::OverBudget(Box::new(over)));
        }
        let granted = opening.most.0.min(books.left(opening.budgets).unwrap_or(u64::MAX));
        books.reserve(opening.budgets, granted);
        let (books, budgets) = (Arc::clone(&self.0), opening.budgets.to_vec());
        Ok(Box::new(Held { books, budgets, granted }))
    }
}

impl Treasury for Fake {
    fn open(&self, opening: Opening<'_>) -> Opened {
        let mut books = self.0.lock();
        books.opened += 1;
        let paid = self.paid(&mut books, &opening);
        match books.waits {
            false => Opened::Ready(paid),
            true => Opened::Wait(Box::pin(async move { paid })),
        }
    }

    fn spent(&self, budget: &BudgetId, _: Duration) -> (PicoDollars, PicoDollars) {
        let (spent, reserved) = self.0.lock().accounts.get(budget).copied().unwrap_or_default();
        (PicoDollars(spent), PicoDollars(reserved))
    }
}

impl Held {
    fn give_back(&self, books: &mut Books) {
        for budget in &self.budgets {
            books.accounts.entry(budget.id.clone()).or_default().1 -= self.granted;
        }
    }
}

impl Hold for Held {
    fn written(self: Box<Self>, _: &SpendRecord) -> Pin<Box<dyn Future<Output = Paid> + Send>> {
        Box::pin(async move {
            {
                let mut books = self.books.lock();
                if books.is_full {
                    self.give_back(&mut books);
                    return Err(Unpaid::Unavailable("the disk is full"));
                }
                books.written += 1;
            }
            Ok(self as Box<dyn Hold>)
        })
    }

    fn granted(&self) -> PicoDollars {
        PicoDollars(self.granted)
    }

    fn extend(&mut self, more: PicoDollars) -> Result<(), OverBudget> {
        let mut books = self.books.lock();
        match books.over(&self.budgets, more.0) {
            Some(over) => Err(over),
            None => {
                books.reserve(&self.budgets, more.0);
                self.granted += more.0;
                Ok(())
            }
        }
    }

    fn left(&self) -> Vec<(Arc<Budget>, PicoDollars)> {
        let books = self.books.lock();
        let left = |budget: &Arc<Budget>| {
            let left = books.left(std::slice::from_ref(budget))?;
            Some((Arc::clone(budget), PicoDollars(left)))
        };
        let mut left: Vec<_> = self.budgets.iter().filter_map(left).collect();
        left.sort_by_key(|(_, left)| *left);
        left
    }

    fn close(self: Box<Self>, record: SpendRecord) {
        let mut books = self.books.lock();
        self.give_back(&mut books);
        for budget in &self.budgets {
            let account = books.accounts.entry(budget.id.clone()).or_default();
            if pays_for(budget, &record) {
                account.0 += record.cost.0;
            }
        }
        books.records.push(record);
    }
}

/// Budgets of providers and of models are reserved from for all that a call may come to use, and pay
/// only for what it did use.
fn pays_for(budget: &Budget, record: &SpendRecord) -> bool {
    match budget.id.scope {
        BudgetScope::Provider => budget.id.subject == record.provider,
        BudgetScope::Model => budget.id.subject == record.group,
        BudgetScope::Deployment => budget.id.subject == record.model_id,
        scope if scope.is_by_model() => budget.id.part.as_ref() == Some(&record.group),
        _ => true,
    }
}
