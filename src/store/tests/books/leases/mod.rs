//! Several nodes that share budgets through a real Redis.

mod faults;
mod load;
mod place;
mod release;
mod script;
mod sharing;
