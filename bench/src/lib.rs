//! What the bench is made of. `README.md` beside it says what each figure means, how to run one
//! measurement and how to add one.
//!
//! ```text
//! load (core 0) ─ requests ─► baseline or tollway (core 1) ─► upstream: inside of load (core 0)
//! ```

pub mod answer;
pub mod client;
pub mod families;
pub mod instructions;
pub mod keys;
pub mod load;
pub mod machine;
pub mod measure;
pub mod process;
pub mod report;
pub mod request;
pub mod training;
pub mod upstream;

/// Whatever went wrong. A bench has nobody to handle it but its reader.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;
