//! One allocation for equal strings: label keys and values, namespaces, resource and field names
//! repeat in nearly every object. Must not outgrow what is in use.

use std::collections::HashSet;
use std::sync::Arc;

use crate::{Attrs, Key};

/// Strings longer than this are left alone: they are rarely equal.
const LENGTH_MAX: usize = 128;
/// The pool is swept once it has doubled since the last sweep, from this size on.
const SWEEP_MIN: usize = 4096;

/// A pool of shared strings.
#[derive(Debug, Default)]
pub struct Interner {
    pool: HashSet<Arc<str>>,
    sweep_at: usize,
}

impl Interner {
    /// The pooled string equal to `text`.
    pub fn str(&mut self, text: &str) -> Arc<str> {
        if text.len() > LENGTH_MAX {
            return Arc::from(text);
        }
        if let Some(found) = self.pool.get(text) {
            return Arc::clone(found);
        }
        self.add(Arc::from(text))
    }

    /// Replaces `text` by its pooled equal.
    pub(crate) fn share(&mut self, text: &mut Arc<str>) {
        if text.len() > LENGTH_MAX {
            return;
        }
        match self.pool.get(text.as_ref()) {
            Some(found) => *text = Arc::clone(found),
            None => drop(self.add(Arc::clone(text))),
        }
    }

    fn add(&mut self, text: Arc<str>) -> Arc<str> {
        if self.pool.len() >= self.sweep_at.max(SWEEP_MIN) {
            self.pool.retain(|text| Arc::strong_count(text) > 1);
            self.sweep_at = self.pool.len() * 2;
        }
        self.pool.insert(Arc::clone(&text));
        text
    }

    /// Shares the strings of a key; its name stays its own.
    pub(crate) fn key(&mut self, key: &mut Key) {
        self.share(&mut key.resource);
        self.share(&mut key.namespace);
    }

    /// Shares the strings of an object's attributes. A field that repeats the object's name takes
    /// the key's string; uids are left alone, owners are shared by their dependents.
    pub(crate) fn attrs(&mut self, key: &Key, attrs: &mut Attrs) {
        for (name, value) in &mut attrs.labels {
            self.share(name);
            self.share(value);
        }
        for (name, value) in &mut attrs.fields {
            self.share(name);
            if **value == *key.name {
                *value = Arc::clone(&key.name);
            } else {
                self.share(value);
            }
        }
        for owner in &mut attrs.owners {
            self.share(owner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_strings_share_one_allocation() {
        let mut pool = Interner::default();
        let first = pool.str("app");
        let mut second: Arc<str> = Arc::from("app");
        pool.share(&mut second);
        assert!(Arc::ptr_eq(&first, &second));
    }

    #[test]
    fn unused_strings_are_swept() {
        let mut pool = Interner::default();
        for i in 0..100_000 {
            drop(pool.str(&format!("value-{i}")));
        }
        assert!(pool.pool.len() <= SWEEP_MIN + 1, "{}", pool.pool.len());
    }
}
