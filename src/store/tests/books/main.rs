//! The journal, the budgets and the way to the ledger, through the door: `Books`.

mod budgets;
mod crash;
mod full_disk;
mod leases;
mod properties;
mod support;
