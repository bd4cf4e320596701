//! Several nodes that share budgets through a real Redis.

mod load;
mod place;
