//! `--sort-by`: objects ordered by the value that a JSONPath finds in them.

use std::cmp::Ordering;

use api::quantity::Quantity;
use machinery::jsonpath::Template;
use serde_json::Value;

use crate::Error;

/// The value that decides where an object stands.
pub fn key(template: &Template, object: &Value) -> Option<Value> {
    template.find(object, true).ok()?.into_iter().flatten().next()
}

/// Sorts rows by their objects; without a value they come first.
pub fn by<T>(rows: &mut [T], field: &str, object: impl Fn(&T) -> &Value) -> Result<(), Error> {
    let template = Template::parse_relaxed(field)
        .map_err(|error| Error::usage(format!("error parsing jsonpath {field}, {error}")))?;
    let found = rows.iter().any(|row| key(&template, object(row)).is_some());
    if !found && !rows.is_empty() {
        return Err(Error::usage(format!(
            "couldn't find any field with path {field:?} in the list of objects"
        )));
    }
    rows.sort_by_cached_key(|row| Key(key(&template, object(row))));
    Ok(())
}

struct Key(Option<Value>);

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Key {}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        match (&self.0, &other.0) {
            (None, None) => Ordering::Equal,
            (None, _) => Ordering::Less,
            (_, None) => Ordering::Greater,
            (Some(a), Some(b)) => compare(a, b),
        }
    }
}

/// Numbers by size, quantities by amount, texts as people count.
pub fn compare(a: &Value, b: &Value) -> Ordering {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => {
            a.as_f64().partial_cmp(&b.as_f64()).unwrap_or(Ordering::Equal)
        }
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::String(a), Value::String(b)) => match (a.parse::<Quantity>(), b.parse::<Quantity>()) {
            (Ok(a), Ok(b)) => a.as_f64().partial_cmp(&b.as_f64()).unwrap_or(Ordering::Equal),
            _ => natural(a, b),
        },
        _ => Ordering::Equal,
    }
}

/// `a2` before `a10`.
pub fn natural(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a, b);
    loop {
        match (a.chars().next(), b.chars().next()) {
            (None, None) => return Ordering::Equal,
            (None, _) => return Ordering::Less,
            (_, None) => return Ordering::Greater,
            (Some(x), Some(y)) if x.is_ascii_digit() && y.is_ascii_digit() => {
                let end = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
                let ((left, rest_a), (right, rest_b)) = (a.split_at(end(a)), b.split_at(end(b)));
                let (short_a, short_b) = (left.trim_start_matches('0'), right.trim_start_matches('0'));
                let order = short_a.len().cmp(&short_b.len()).then_with(|| short_a.cmp(short_b));
                let order = order.then_with(|| left.len().cmp(&right.len()));
                if order != Ordering::Equal {
                    return order;
                }
                (a, b) = (rest_a, rest_b);
            }
            (Some(x), Some(y)) if x != y => return x.cmp(&y),
            (Some(x), Some(_)) => (a, b) = (&a[x.len_utf8()..], &b[x.len_utf8()..]),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn as_people_count() {
        let mut rows = vec![json!({"n": "a10"}), json!({}), json!({"n": "a2"}), json!({"n": "1Gi"})];
        by(&mut rows, ".n", |row| row).expect("sorts");
        let names: Vec<&str> = rows.iter().map(|row| row["n"].as_str().unwrap_or("-")).collect();
        assert_eq!(names, ["-", "1Gi", "a2", "a10"]);
        assert_eq!(compare(&json!("500m"), &json!("1")), Ordering::Less);
        let error = by(&mut rows, ".zz", |row| row).expect_err("nothing there").to_string();
        assert!(error.starts_with("couldn't find any field"), "{error}");
    }
}
