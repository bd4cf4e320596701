//! Several nodes that share budgets through a real Redis.

mod faults;
mod load;
mod place;
mod script;
mod sharing;
