//! Selectors of devices: CEL over the variable `device`. Must not know claims.

use std::collections::BTreeMap;
use std::rc::Rc;

use api::k8s::api::resource::v1::{Device, DeviceAttribute};
use machinery::cel::{Activation, Budget, EvalError, Host, Program, Val, device};

/// Compiled expressions, or why they are wrong.
#[derive(Debug, Default)]
pub struct Selectors(BTreeMap<String, Result<Program, String>>);

/// Attributes or capacities by domain; a domain without any is empty.
struct Domains<'v>(BTreeMap<String, Vec<(Val<'v>, Val<'v>)>>);

impl<'v> Host<'v> for Domains<'v> {
    fn type_name(&self) -> String {
        "map".to_owned()
    }

    fn select(&self, field: &str, _: &mut Budget) -> Option<Result<Val<'v>, EvalError>> {
        Some(Ok(Val::Map(Rc::new(self.0.get(field).cloned().unwrap_or_default()))))
    }

    fn call(&self, _: &str, _: &[Val<'v>], _: &mut Budget) -> Option<Result<Val<'v>, EvalError>> {
        None
    }
}

/// Domain and name of an attribute; the driver is the domain of names without one.
fn qualified<'a>(name: &'a str, driver: &'a str) -> (&'a str, &'a str) {
    name.split_once('/').unwrap_or((driver, name))
}

fn value(attribute: &DeviceAttribute) -> Option<Val<'_>> {
    if let Some(number) = attribute.int {
        return Some(Val::Int(number));
    }
    if let Some(set) = attribute.bool {
        return Some(Val::Bool(set));
    }
    if let Some(text) = &attribute.string {
        return Some(Val::string(text.as_str()));
    }
    attribute.version.as_deref().and_then(Val::semver)
}

/// The variable `device`.
fn variable<'v>(driver: &'v str, device: &'v Device) -> Result<Val<'v>, String> {
    let (mut attributes, mut capacity) = (Domains(BTreeMap::new()), Domains(BTreeMap::new()));
    for (name, attribute) in device.attributes.iter().flatten() {
        let found =
            value(attribute).ok_or_else(|| format!("attribute {name}: unsupported attribute value"))?;
        let (domain, id) = qualified(name, driver);
        attributes.0.entry(domain.to_owned()).or_default().push((Val::string(id), found));
    }
    for (name, amount) in device.capacity.iter().flatten() {
        let (domain, id) = qualified(name, driver);
        let amount = Val::Quantity(Rc::new(api::quantity::of(&amount.value)));
        capacity.0.entry(domain.to_owned()).or_default().push((Val::string(id), amount));
    }
    Ok(Val::Map(Rc::new(vec![
        (Val::string("driver"), Val::string(driver)),
        (
            Val::string("allowMultipleAllocations"),
            Val::Bool(device.allow_multiple_allocations.unwrap_or(false)),
        ),
        (Val::string("attributes"), Val::Host(Rc::new(attributes))),
        (Val::string("capacity"), Val::Host(Rc::new(capacity))),
    ])))
}

impl Selectors {
    /// Compiles an expression unless it is known.
    pub fn add(&mut self, expression: &str) {
        if !self.0.contains_key(expression) {
            self.0.insert(expression.to_owned(), device::compile(expression));
        }
    }

    /// True when the device is selected.
    pub fn matches(&self, expression: &str, driver: &str, device: &Device) -> Result<bool, String> {
        let program = match self.0.get(expression) {
            Some(Ok(program)) => program,
            Some(Err(error)) => return Err(format!("CEL compile error: {error}")),
            None => return Err("CEL compile error: the expression was not compiled".to_owned()),
        };
        let variables = Activation::new().with("device", variable(driver, device)?);
        program
            .eval_bool(&variables, &mut Budget::new(device::MAX_COST))
            .map_err(|error| format!("CEL runtime error: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn devices_are_selected_by_attributes_and_capacity() {
        let device: Device = serde_json::from_value(json!({"name": "d",
            "attributes": {"model": {"string": "a100"}, "example.org/lanes": {"int": 16},
                "healthy": {"bool": true}, "firmware": {"version": "1.10.0"}},
            "capacity": {"memory": {"value": "80Gi"}}}))
        .expect("a device");
        for (expression, expect) in [
            ("device.driver == 'gpu.example.com'", Ok(true)),
            ("device.attributes['gpu.example.com'].model == 'a100'", Ok(true)),
            ("device.attributes['example.org'].lanes > 16", Ok(false)),
            ("device.attributes['gpu.example.com'].healthy", Ok(true)),
            ("device.attributes['gpu.example.com'].firmware.isGreaterThan(semver('1.9.9'))", Ok(true)),
            ("device.capacity['gpu.example.com'].memory.compareTo(quantity('40Gi')) > 0", Ok(true)),
            ("has(device.attributes['other.example.com'].model)", Ok(false)),
            ("'model' in device.attributes['gpu.example.com']", Ok(true)),
            ("!device.allowMultipleAllocations", Ok(true)),
            ("device.attributes['gpu.example.com'].none == 1", Err("CEL runtime error: no such key: none")),
            ("device.nonsense", Err("CEL compile error")),
            ("1 + 1", Err("CEL compile error: must evaluate to bool")),
        ] {
            let mut selectors = Selectors::default();
            selectors.add(expression);
            match (selectors.matches(expression, "gpu.example.com", &device), expect) {
                (Ok(found), expect) => assert_eq!(Ok(found), expect, "{expression}"),
                (Err(error), Err(text)) => assert!(error.contains(text), "{expression}: {error}"),
                (Err(error), Ok(_)) => panic!("{expression}: {error}"),
            }
        }
    }
}
