//! What the simulated provider keeps between requests: responses, files, batches, jobs.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde_json::Value;

/// The oldest objects are forgotten when all together are more than this.
const STORE_BYTES_MAX: usize = 16 << 20;

/// What an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Response,
    File,
    Batch,
    FineTuningJob,
}

#[derive(Clone, Debug)]
struct Object {
    kind: Kind,
    id: String,
    value: Value,
    /// A file's content; a response's input.
    content: Bytes,
    size: usize,
}

/// The objects, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Store {
    capacity: usize,
    objects: Mutex<VecDeque<Object>>,
}

impl Store {
    pub(crate) fn new(capacity: usize) -> Store {
        Store { capacity, objects: Mutex::default() }
    }

    fn objects(&self) -> MutexGuard<'_, VecDeque<Object>> {
        // Nothing panics while it holds the lock.
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps an object, in place of one with the same id.
    pub(crate) fn put(&self, kind: Kind, id: &str, value: Value, content: Bytes) {
        if self.capacity == 0 {
            return;
        }
        let size = value.to_string().len() + content.len();
        let mut objects = self.objects();
        objects.retain(|object| object.kind != kind || object.id != id);
        objects.push_back(Object { kind, id: id.to_owned(), value, content, size });
        let mut bytes: usize = objects.iter().map(|object| object.size).sum();
        while objects.len() > self.capacity || bytes > STORE_BYTES_MAX {
            let Some(oldest) = objects.pop_front() else { break };
            bytes -= oldest.size;
        }
    }

    pub(crate) fn get(&self, kind: Kind, id: &str) -> Option<(Value, Bytes)> {
        let objects = self.objects();
        let found = objects.iter().find(|object| object.kind == kind && object.id == id)?;
        Some((found.value.clone(), found.content.clone()))
    }

    /// True if it was there.
    pub(crate) fn remove(&self, kind: Kind, id: &str) -> bool {
        let mut objects = self.objects();
        let before = objects.len();
        objects.retain(|object| object.kind != kind || object.id != id);
        objects.len() < before
    }

    /// Changes a value, and returns what it is then.
    pub(crate) fn change(
        &self,
        kind: Kind,
        id: &str,
        change: impl FnOnce(&mut Value),
    ) -> Option<Value> {
        let mut objects = self.objects();
        let found = objects.iter_mut().find(|object| object.kind == kind && object.id == id)?;
        change(&mut found.value);
        Some(found.value.clone())
    }

    /// All of a kind, the newest first, as the provider lists them.
    pub(crate) fn list(&self, kind: Kind) -> Vec<Value> {
        let objects = self.objects();
        let all = objects.iter().rev().filter(|object| object.kind == kind);
        all.map(|object| object.value.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_are_forgotten_by_number_and_by_size() {
        let store = Store::new(2);
        for id in ["a", "b", "c"] {
            store.put(Kind::File, id, id.into(), Bytes::new());
        }
        assert_eq!(store.list(Kind::File), ["c", "b"]);
        store.put(Kind::File, "c", "d".into(), Bytes::new());
        assert_eq!(store.list(Kind::File), ["d", "b"]);
        store.put(Kind::Batch, "big", "big".into(), vec![0; STORE_BYTES_MAX].into());
        assert!(store.list(Kind::Batch).is_empty());
        assert!(!store.remove(Kind::File, "b"));
        Store::new(0).put(Kind::File, "a", "a".into(), Bytes::new());
    }
}
