//! Regular expressions of expressions, compiled once per thread and bounded in number.

use std::cell::RefCell;
use std::collections::BTreeMap;

use regex::Regex;

use super::eval::Evaluated;
use super::functions::fail;
use super::value::Val;

/// At most this many compiled patterns are kept per thread.
const KEPT: usize = 256;

thread_local! {
    static CACHE: RefCell<BTreeMap<String, Option<Regex>>> = const { RefCell::new(BTreeMap::new()) };
}

fn compiled(pattern: &str) -> Option<Regex> {
    CACHE.with_borrow_mut(|cache| {
        if let Some(found) = cache.get(pattern) {
            return found.clone();
        }
        if cache.len() >= KEPT {
            cache.clear();
        }
        let made = crate::schema::structural::compile_pattern(pattern);
        cache.insert(pattern.to_string(), made.clone());
        made
    })
}

/// Whether a pattern can be compiled.
pub(super) fn valid(pattern: &str) -> bool {
    compiled(pattern).is_some()
}

fn bad<'v>(pattern: &str) -> Evaluated<'v> {
    fail(format!("error parsing regexp: invalid pattern: `{pattern}`"))
}

pub(super) fn matches<'v>(text: &str, pattern: &str) -> Evaluated<'v> {
    compiled(pattern).map_or_else(|| bad(pattern), |regex| Ok(Val::Bool(regex.is_match(text))))
}

pub(super) fn find<'v>(all: bool, text: &str, pattern: &str, rest: &[Val<'v>]) -> Evaluated<'v> {
    let Some(regex) = compiled(pattern) else { return bad(pattern) };
    let owned = |found: regex::Match<'_>| Val::string(found.as_str().to_string());
    match (all, rest) {
        (false, []) => Ok(regex.find(text).map_or_else(|| Val::string(""), owned)),
        (true, []) => Ok(Val::list(regex.find_iter(text).map(owned).collect())),
        (true, [Val::Int(most)]) => {
            let most = usize::try_from(*most).unwrap_or(usize::MAX);
            Ok(Val::list(regex.find_iter(text).take(most).map(owned).collect()))
        }
        _ => super::functions::overload(),
    }
}
