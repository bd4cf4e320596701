//! Where tools find files of their caller, and leave some.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;

use crate::tool::ToolError;

/// A future that a keeper returns.
pub type Keeping<'a, T> = Pin<Box<dyn Future<Output = Result<T, ToolError>> + Send + 'a>>;

/// Keeps files of many owners apart.
pub trait Keeper: Send + Sync {
    /// Name and content of an owner's file.
    fn read<'a>(&'a self, owner: &'a str, id: &'a str) -> Keeping<'a, (String, Bytes)>;

    /// Keeps a file of this name; its id.
    fn keep<'a>(
        &'a self,
        owner: &'a Arc<str>,
        name: &'a str,
        bytes: Bytes,
    ) -> Keeping<'a, Arc<str>>;
}
