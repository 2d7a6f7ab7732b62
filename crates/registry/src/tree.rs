//! Short reads and writes on JSON trees, with Go's notion of absence: absent, null and the zero
//! value read alike. Paths are dot-separated, so keys that hold dots are read with `get`.
//! It must not know any kind.

use std::sync::LazyLock;

use serde_json::{Map, Value};

static NULL: Value = Value::Null;
static EMPTY: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);

/// Reading and writing by path.
pub trait Tree {
    /// The value at the path, null when absent.
    fn at(&self, path: &str) -> &Value;
    /// The text at the path, empty when absent or not a string.
    fn text(&self, path: &str) -> &str;
    /// The integer at the path, 0 when absent.
    fn int(&self, path: &str) -> i64;
    /// The boolean at the path, false when absent.
    fn flag(&self, path: &str) -> bool;
    /// The list at the path, empty when absent.
    fn list(&self, path: &str) -> &[Value];
    /// The object at the path, empty when absent.
    fn map(&self, path: &str) -> &Map<String, Value>;
    /// Whether something other than null is at the path.
    fn has(&self, path: &str) -> bool;
    /// The value at the path for writing, if its parents exist.
    fn at_mut(&mut self, path: &str) -> Option<&mut Value>;
    /// The list at the path for writing; empty when absent.
    fn list_mut(&mut self, path: &str) -> &mut [Value];
    /// Sets the value, making parents; does nothing where a parent is no object.
    fn set(&mut self, path: &str, value: impl Into<Value>);
    /// Sets the value where nothing (or null) is; true when it did.
    fn set_default(&mut self, path: &str, value: impl Into<Value>) -> bool;
    /// Removes what is at the path.
    fn unset(&mut self, path: &str) -> Option<Value>;
}

impl Tree for Value {
    fn at(&self, path: &str) -> &Value {
        let mut at = self;
        for segment in path.split('.') {
            match at.get(segment) {
                Some(value) => at = value,
                None => return &NULL,
            }
        }
        at
    }

    fn text(&self, path: &str) -> &str {
        self.at(path).as_str().unwrap_or("")
    }

    fn int(&self, path: &str) -> i64 {
        self.at(path).as_i64().unwrap_or(0)
    }

    fn flag(&self, path: &str) -> bool {
        self.at(path).as_bool().unwrap_or(false)
    }

    fn list(&self, path: &str) -> &[Value] {
        self.at(path).as_array().map_or(&[], Vec::as_slice)
    }

    fn map(&self, path: &str) -> &Map<String, Value> {
        self.at(path).as_object().unwrap_or(&EMPTY)
    }

    fn has(&self, path: &str) -> bool {
        !self.at(path).is_null()
    }

    fn at_mut(&mut self, path: &str) -> Option<&mut Value> {
        let mut at = self;
        for segment in path.split('.') {
            at = at.get_mut(segment)?;
        }
        Some(at)
    }

    fn list_mut(&mut self, path: &str) -> &mut [Value] {
        match self.at_mut(path) {
            Some(Value::Array(items)) => items,
            _ => &mut [],
        }
    }

    fn set(&mut self, path: &str, value: impl Into<Value>) {
        let mut at = self;
        let (parents, last) = match path.rsplit_once('.') {
            Some((parents, last)) => (Some(parents), last),
            None => (None, path),
        };
        for segment in parents.into_iter().flat_map(|p| p.split('.')) {
            let Value::Object(map) = at else { return };
            at = map.entry(segment).or_insert_with(|| Value::Object(Map::new()));
            if at.is_null() {
                *at = Value::Object(Map::new());
            }
        }
        if let Value::Object(map) = at {
            map.insert(last.to_string(), value.into());
        }
    }

    fn set_default(&mut self, path: &str, value: impl Into<Value>) -> bool {
        let absent = !self.has(path);
        if absent {
            self.set(path, value);
        }
        absent
    }

    fn unset(&mut self, path: &str) -> Option<Value> {
        match path.rsplit_once('.') {
            Some((parents, last)) => self.at_mut(parents)?.as_object_mut()?.remove(last),
            None => self.as_object_mut()?.remove(path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_absent_as_zero_and_writes_through_missing_parents() {
        let mut tree = json!({"spec": {"n": 3, "on": true, "l": [1]}});
        assert_eq!((tree.int("spec.n"), tree.flag("spec.on"), tree.list("spec.l").len()), (3, true, 1));
        assert_eq!((tree.int("a.b"), tree.text("a"), tree.list("x").len()), (0, "", 0));
        tree.set("a.b.c", 1);
        assert!(!tree.set_default("a.b.c", 2));
        assert_eq!(tree.int("a.b.c"), 1);
        assert_eq!(tree.unset("a.b.c"), Some(json!(1)));
        assert!(!tree.has("a.b.c"));
    }
}
