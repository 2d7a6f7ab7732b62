//! Devices and claims of them (pkg/apis/resource/validation): slices, classes, claims and what a claim was given.
//! It must not know which devices exist.

use std::collections::{BTreeMap, BTreeSet};

use api::{Quantity, names};
use machinery::cel::device;
use serde_json::Value;

use super::volume::csi_driver_name as driver_name;
use super::{ErrorList, FieldError, Path, Report, meta, resources, scheduling, shown};
use crate::tree::Tree;

/// Requests, constraints' and configurations' references to them, and results of an allocation.
const REQUESTS: usize = 32;
const CONSTRAINTS: usize = 32;
const CONFIGS: usize = 32;
const SELECTORS: usize = 32;
const FIRST_AVAILABLE: usize = 8;
const RESERVED_FOR: usize = 256;
const BINDING_CONDITIONS: usize = 4;
const STATUS_CONDITIONS: usize = 8;
const IPS: usize = 16;
const DEVICES: usize = 128;
/// The same of devices with taints or counters.
const DEVICES_ADVANCED: usize = 64;
const COUNTER_SETS: usize = 8;
const COUNTERS: usize = 32;
const CONSUMED_SETS: usize = 2;
const ATTRIBUTES: usize = 32;
const TAINTS: usize = 16;
const OPTIONS: usize = 10;
/// Lengths in bytes.
const EXPRESSION: usize = 10 << 10;
const RAW: usize = 10 << 10;
const ATTRIBUTE: usize = 64;
const ID: usize = 32;
const KEY: usize = 63 + 1 + ID;
const POOL: usize = 253;
const INTERFACE: usize = 256;
const HARDWARE: usize = 128;

const NOT_A_REQUEST: &str = "must be the name of a request in the claim or the name of a request and a subrequest \
                             separated by '/'";

/// Checks the elements of a list that may not be longer than `limit`.
fn each(
    errors: &mut ErrorList,
    items: &[Value],
    limit: usize,
    path: &Path,
    mut one: impl FnMut(&mut ErrorList, &Value, &Path),
) {
    if items.len() > limit {
        errors.push(FieldError::too_many(path, items.len(), limit));
        return;
    }
    for (i, item) in items.iter().enumerate() {
        one(errors, item, &path.index(i));
    }
}

/// As [`each`]; no two elements may have the same key.
fn set(
    errors: &mut ErrorList,
    items: &[Value],
    limit: usize,
    path: &Path,
    key: impl Fn(&Value) -> String,
    one: impl FnMut(&mut ErrorList, &Value, &Path),
) {
    each(errors, items, limit, path, one);
    if items.len() > limit {
        return;
    }
    let mut seen = BTreeSet::new();
    for (i, item) in items.iter().enumerate() {
        let key = key(item);
        if seen.contains(&key) {
            errors.duplicate(&path.index(i), key.clone());
        }
        seen.insert(key);
    }
}

fn own_text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn label_key(errors: &mut ErrorList, text: &str, path: &Path) {
    errors.messages(path, text, names::qualified_name(text));
}

fn request_name(errors: &mut ErrorList, text: &str, path: &Path) {
    errors.messages(path, text, names::dns1123_label(text));
}

fn pool_name(errors: &mut ErrorList, name: &str, path: &Path) {
    if name.is_empty() {
        errors.required(path, "");
        return;
    }
    if name.len() > POOL {
        errors.push(FieldError::too_long(path, POOL));
    }
    for part in name.split('/') {
        errors.messages(path, part, names::dns1123_subdomain(part));
    }
}

/// The names of a claim's requests, and of the alternatives of those that have some.
struct Requests<'a>(BTreeMap<&'a str, BTreeSet<&'a str>>);

impl<'a> Requests<'a> {
    fn of(claim: &'a Value) -> Requests<'a> {
        let names = |request: &'a Value| -> BTreeSet<&'a str> {
            request.list("firstAvailable").iter().map(|sub| sub.text("name")).collect()
        };
        Requests(
            claim.list("requests").iter().map(|request| (request.text("name"), names(request))).collect(),
        )
    }

    fn has(&self, name: &str) -> bool {
        match name.split_once('/') {
            None => self.0.contains_key(name),
            Some((request, sub)) => self.0.get(request).is_some_and(|subs| subs.contains(sub)),
        }
    }

    /// A reference to one of them.
    fn check(&self, errors: &mut ErrorList, name: &str, path: &Path) {
        let segments: Vec<&str> = name.split('/').collect();
        if segments.len() > 2 {
            errors.invalid(path, name, NOT_A_REQUEST);
            return;
        }
        segments.iter().for_each(|segment| request_name(errors, segment, path));
        if !self.has(name) {
            errors.invalid(path, name, NOT_A_REQUEST);
        }
    }

    /// A list of references.
    fn check_all(&self, errors: &mut ErrorList, names: &[Value], path: &Path) {
        set(errors, names, REQUESTS, path, own_text, |errors, name, at| {
            self.check(errors, name.as_str().unwrap_or_default(), at);
        });
    }
}

/// A ResourceClaim.
pub fn claim(object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    claim_spec(&mut errors, object.at("spec"), &Path::new("spec"));
    errors
}

/// A ResourceClaimTemplate.
pub fn claim_template(object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec");
    let at = path.child("metadata");
    let own = object.at("spec.metadata");
    meta::labels(&mut errors, own.at("labels"), &at.child("labels"));
    meta::annotations(&mut errors, own.at("annotations"), &at.child("annotations"));
    claim_spec(&mut errors, object.at("spec.spec"), &path.child("spec"));
    errors
}

fn claim_spec(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let (devices, path) = (spec.at("devices"), path.child("devices"));
    let requests = Requests::of(devices);
    let name = |request: &Value| request.text("name").to_owned();
    set(errors, devices.list("requests"), REQUESTS, &path.child("requests"), name, request);
    each(errors, devices.list("constraints"), CONSTRAINTS, &path.child("constraints"), |errors, one, at| {
        requests.check_all(errors, one.list("requests"), &at.child("requests"));
        constraint(errors, one, at);
    });
    each(errors, devices.list("config"), CONFIGS, &path.child("config"), |errors, config, at| {
        requests.check_all(errors, config.list("requests"), &at.child("requests"));
        configuration(errors, config, at);
    });
}

fn constraint(errors: &mut ErrorList, one: &Value, path: &Path) {
    for field in ["matchAttribute", "distinctAttribute"] {
        if one.has(field) {
            let (name, at) = (one.text(field), path.child(field));
            qualified(errors, name, &at);
            if !name.contains('/') {
                let detail = "a fully qualified name must be a domain and a name separated by a slash";
                errors.invalid(&at, name, detail);
            }
            return;
        }
    }
    let detail =
        "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set";
    errors.required(path, detail);
}

fn request(errors: &mut ErrorList, request: &Value, path: &Path) {
    request_name(errors, request.text("name"), &path.child("name"));
    let (first, exactly) = (request.list("firstAvailable"), request.at("exactly"));
    let one_of = "exactly one of `exactly` or `firstAvailable` is required";
    match (first.is_empty(), exactly.is_null()) {
        (true, true) => errors.required(path, one_of),
        (false, false) => {
            errors.invalid(path, Value::Null, format!("{one_of}, but multiple fields are set"));
        }
        (true, false) => demand(errors, exactly, &path.child("exactly")),
        (false, true) => {
            let name = |sub: &Value| sub.text("name").to_owned();
            let at = path.child("firstAvailable");
            set(errors, first, FIRST_AVAILABLE, &at, name, |errors, sub, at| {
                request_name(errors, sub.text("name"), &at.child("name"));
                demand(errors, sub, at);
            });
        }
    }
}

/// What is asked for: class, selectors, how many, and which taints are borne.
fn demand(errors: &mut ErrorList, demand: &Value, path: &Path) {
    let (class, at) = (demand.text("deviceClassName"), path.child("deviceClassName"));
    match class {
        "" => errors.required(&at, ""),
        class => errors.messages(&at, class, names::dns1123_subdomain(class)),
    }
    each(errors, demand.list("selectors"), SELECTORS, &path.child("selectors"), selector);
    let (count, at) = (demand.int("count"), path.child("count"));
    match demand.text("allocationMode") {
        "All" if count != 0 => {
            errors.invalid(&at, count, "must not be specified when allocationMode is 'All'");
        }
        "All" => {}
        "ExactCount" => errors.positive(&at, count),
        mode => errors.one_of(&path.child("allocationMode"), mode, &["All", "ExactCount"]),
    }
    for (i, one) in demand.list("tolerations").iter().enumerate() {
        toleration(errors, one, &path.child("tolerations").index(i));
    }
}

const EFFECTS: &[&str] = &["NoExecute", "NoSchedule", "None"];

fn toleration(errors: &mut ErrorList, toleration: &Value, path: &Path) {
    let (key, value, at) = (toleration.text("key"), toleration.text("value"), path.child("value"));
    if !key.is_empty() {
        label_key(errors, key, &path.child("key"));
    }
    match toleration.text("operator") {
        "Exists" if !value.is_empty() => errors.invalid(&at, value, "must be empty for operator `Exists`"),
        "Exists" => {}
        "Equal" => errors.messages(&at, value, names::label_value(value)),
        other => errors.required_one_of(&path.child("operator"), other, &["Equal", "Exists"]),
    }
    let effect = toleration.text("effect");
    if !effect.is_empty() {
        errors.one_of(&path.child("effect"), effect, EFFECTS);
    }
}

fn selector(errors: &mut ErrorList, selector: &Value, path: &Path) {
    let at = path.child("cel");
    if !selector.has("cel") {
        errors.required(&at, "");
        return;
    }
    let (expression, at) = (selector.text("cel.expression"), at.child("expression"));
    if expression.len() > EXPRESSION {
        errors.push(FieldError::too_long(&at, EXPRESSION));
    } else if let Err(why) = device::compile(expression) {
        errors.invalid(&at, expression, why);
    }
}

fn configuration(errors: &mut ErrorList, config: &Value, path: &Path) {
    let (opaque, path) = (config.at("opaque"), path.child("opaque"));
    if opaque.is_null() {
        errors.required(&path, "");
        return;
    }
    driver_name(errors, &path.child("driver"), opaque.text("driver"));
    raw(errors, opaque.at("parameters"), &path.child("parameters"));
}

/// Anything, as long as it is an object.
fn raw(errors: &mut ErrorList, value: &Value, path: &Path) {
    if value.is_null() {
        errors.required(path, "");
    } else if value.to_string().len() > RAW {
        errors.push(FieldError::too_long(path, RAW));
    } else if !value.is_object() {
        errors.invalid(path, "<value omitted>", "must be a valid JSON object");
    }
}

/// A DeviceClass.
pub fn class(object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let (spec, path) = (object.at("spec"), Path::new("spec"));
    each(&mut errors, spec.list("selectors"), SELECTORS, &path.child("selectors"), selector);
    each(&mut errors, spec.list("config"), CONFIGS, &path.child("config"), configuration);
    let name = spec.text("extendedResourceName");
    if spec.has("extendedResourceName") && !resources::is_extended(name) {
        let at = path.child("extendedResourceName");
        errors.invalid(&at, name, "must be a valid extended resource name");
    }
    errors
}

/// A ResourceSlice, new or against the one it replaces.
pub fn slice(object: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let (spec, path) = (object.at("spec"), Path::new("spec"));
    driver_name(&mut errors, &path.child("driver"), spec.text("driver"));
    let (pool, at) = (spec.at("pool"), path.child("pool"));
    pool_name(&mut errors, pool.text("name"), &at.child("name"));
    errors.positive(&at.child("resourceSliceCount"), pool.int("resourceSliceCount"));
    let generation = pool.int("generation");
    if generation < 0 {
        let detail = "must be greater than or equal to zero";
        errors.invalid(&at.child("generation"), generation, detail);
    }
    if !old.is_null() {
        let old = old.at("spec");
        for field in ["pool.name", "driver", "nodeName"] {
            errors.immutable(&path.child(field), spec.at(field), old.at(field));
        }
    }
    slice_nodes(&mut errors, spec, &path);
    if spec.has("sharedCounters") && spec.has("devices") {
        errors.invalid(&path, "", "only one of `sharedCounters` or `devices` is allowed");
    }
    let advanced =
        |device: &Value| !device.list("taints").is_empty() || !device.list("consumesCounters").is_empty();
    let devices = spec.list("devices");
    let limit = if devices.iter().any(advanced) { DEVICES_ADVANCED } else { DEVICES };
    let name = |one: &Value| one.text("name").to_owned();
    set(&mut errors, devices, limit, &path.child("devices"), name, |errors, one, at| {
        let before = old.list("spec.devices").iter().find(|other| other.text("name") == one.text("name"));
        slice_device(errors, one, before, spec.flag("perDeviceNodeSelection"), at);
    });
    let at = path.child("sharedCounters");
    set(&mut errors, spec.list("sharedCounters"), COUNTER_SETS, &at, name, |errors, one, at| {
        counters(errors, one, "name", at);
    });
    errors
}

/// Which nodes reach the devices: said once, and in one way.
fn slice_nodes(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let mut ways = Vec::new();
    if spec.has("nodeName") {
        let (name, at) = (spec.text("nodeName"), path.child("nodeName"));
        if name.is_empty() {
            errors.invalid(&at, name, "must be either unset or set to a non-empty string");
        } else {
            ways.push("`nodeName`");
            errors.messages(&at, name, names::dns1123_subdomain(name));
        }
    }
    if spec.has("nodeSelector") {
        ways.push("`nodeSelector`");
        let at = path.child("nodeSelector");
        scheduling::node_selector(errors, spec.at("nodeSelector"), &at);
        let terms = spec.at("nodeSelector.nodeSelectorTerms");
        if terms.as_array().map_or(0, Vec::len) != 1 {
            let detail = "must have exactly one node selector term";
            errors.invalid(&at.child("nodeSelectorTerms"), terms.clone(), detail);
        }
    }
    for (field, quoted) in
        [("allNodes", "`allNodes`"), ("perDeviceNodeSelection", "`perDeviceNodeSelection`")]
    {
        match spec.at(field) {
            Value::Bool(true) => ways.push(quoted),
            Value::Bool(false) => {
                errors.invalid(&path.child(field), false, "must be either unset or set to true");
            }
            _ => {}
        }
    }
    let detail =
        "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    match ways.len() {
        0 => errors.required(path, detail),
        1 => {}
        _ => {
            let detail = format!("{detail}, but multiple fields are set");
            errors.invalid(path, format!("{{{}}}", ways.join(", ")), detail);
        }
    }
}

/// A named set of counters, offered or consumed.
fn counters(errors: &mut ErrorList, one: &Value, field: &str, path: &Path) {
    let (name, at) = (one.text(field), path.child(field));
    match name {
        "" => errors.required(&at, ""),
        name => errors.messages(&at, name, names::dns1123_label(name)),
    }
    let (all, at) = (one.map("counters"), path.child("counters"));
    if all.is_empty() {
        errors.required(&at, "");
    } else if all.len() > COUNTERS {
        errors.push(FieldError::too_many(&at, all.len(), COUNTERS));
    } else {
        all.keys().for_each(|key| errors.messages(&at, key, names::dns1123_label(key)));
    }
}

fn slice_device(errors: &mut ErrorList, one: &Value, old: Option<&Value>, own_nodes: bool, path: &Path) {
    request_name(errors, one.text("name"), &path.child("name"));
    let (attributes, capacity) = (one.map("attributes"), one.map("capacity"));
    let count = attributes.len() + capacity.len();
    if count > ATTRIBUTES {
        let detail = format!("the total number of attributes and capacities must not exceed {ATTRIBUTES}");
        errors.invalid(path, count, detail);
    }
    let at = path.child("attributes");
    for (key, value) in attributes {
        qualified(errors, key, &at);
        attribute(errors, value, &at.key(&shortened(key)));
    }
    let at = path.child("capacity");
    let shared = one.flag("allowMultipleAllocations");
    for (key, value) in capacity {
        qualified(errors, key, &at);
        let (policy, at) = (value.at("requestPolicy"), at.key(&shortened(key)).child("requestPolicy"));
        match (policy.is_null(), shared) {
            (true, _) => {}
            (false, true) => request_policy(errors, value.at("value"), policy, &at),
            (false, false) => errors.forbidden(&at, "allowMultipleAllocations must be true"),
        }
    }
    if old.is_none_or(|old| old.at("taints") != one.at("taints")) {
        each(errors, one.list("taints"), TAINTS, &path.child("taints"), taint);
    }
    let set_name = |one: &Value| one.text("counterSet").to_owned();
    let at = path.child("consumesCounters");
    set(errors, one.list("consumesCounters"), CONSUMED_SETS, &at, set_name, |errors, one, at| {
        counters(errors, one, "counterSet", at);
    });
    device_nodes(errors, one, own_nodes, path);
    binding_conditions(errors, one, path);
}

/// Which nodes reach one device, when its slice leaves that to the devices.
fn device_nodes(errors: &mut ErrorList, one: &Value, own_nodes: bool, path: &Path) {
    let fields = ["nodeName", "nodeSelector", "allNodes"];
    if !own_nodes {
        if fields.iter().any(|field| one.has(field)) {
            let detail = "`nodeName`, `nodeSelector` and `allNodes` can only be set if \
                          `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
            errors.invalid(path, Value::Null, detail);
        }
        return;
    }
    let mut ways = Vec::new();
    if one.has("nodeName") {
        let (name, at) = (one.text("nodeName"), path.child("nodeName"));
        if name.is_empty() {
            errors.invalid(&at, name, "must not be empty");
        } else {
            ways.push("`nodeName`");
            errors.messages(&at, name, names::dns1123_subdomain(name));
        }
    }
    if one.has("nodeSelector") {
        ways.push("`nodeSelector`");
        scheduling::node_selector(errors, one.at("nodeSelector"), &path.child("nodeSelector"));
    }
    match one.at("allNodes") {
        Value::Bool(true) => ways.push("`allNodes`"),
        Value::Bool(false) => {
            errors.invalid(&path.child("allNodes"), false, "must be either unset or set to true");
        }
        _ => {}
    }
    let detail = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when \
                  `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
    match ways.len() {
        0 => errors.required(path, detail),
        1 => {}
        _ => errors.invalid(path, format!("{{{}}}", ways.join(", ")), detail),
    }
}

/// A key as paths show it: long ones lose their middle.
fn shortened(key: &str) -> String {
    if key.len() <= KEY || !key.is_ascii() {
        return key.to_owned();
    }
    let rest = KEY - 3;
    format!("{}...{}", &key[..rest.div_ceil(2)], &key[key.len() - rest / 2..])
}

/// `name` or `domain/name`.
fn qualified(errors: &mut ErrorList, name: &str, path: &Path) {
    let parts: Vec<&str> = name.split('/').collect();
    match parts[..] {
        [id] => identifier(errors, id, path),
        [domain, id] => {
            match domain {
                "" => errors.invalid(path, "", "the domain must not be empty"),
                domain => driver_name(errors, path, domain),
            }
            match id {
                "" => errors.invalid(path, "", "the name must not be empty"),
                id => identifier(errors, id, path),
            }
        }
        _ => {}
    }
}

fn identifier(errors: &mut ErrorList, id: &str, path: &Path) {
    if id.len() > ID {
        errors.push(FieldError::too_long(path, ID));
    }
    errors.messages(path, id, names::c_identifier(id));
}

fn attribute(errors: &mut ErrorList, attribute: &Value, path: &Path) {
    for field in ["string", "version"] {
        let (text, at) = (attribute.text(field), path.child(field));
        if field == "version" && attribute.has(field) && !is_version(text) {
            errors.invalid(&at, text, "must be a string compatible with semver.org spec 2.0.0");
        }
        if text.len() > ATTRIBUTE {
            errors.push(FieldError::too_long(&at, ATTRIBUTE));
        }
    }
    let detail = "exactly one value must be specified";
    match ["bool", "int", "string", "version"].iter().filter(|field| attribute.has(field)).count() {
        0 => errors.invalid(path, "", detail),
        1 => {}
        _ => errors.invalid(path, attribute.clone(), detail),
    }
}

/// A semantic version.
fn is_version(text: &str) -> bool {
    let allowed =
        |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    let number = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_digit())
            && (part == "0" || !part.starts_with('0'))
    };
    let (rest, build) = text.split_once('+').map_or((text, None), |(rest, build)| (rest, Some(build)));
    let (core, pre) = rest.split_once('-').map_or((rest, None), |(core, pre)| (core, Some(pre)));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    core.split('.').count() == 3
        && core.split('.').all(number)
        && pre.is_none_or(|pre| pre.split('.').all(|part| allowed(part) && (!digits(part) || number(part))))
        && build.is_none_or(|build| build.split('.').all(allowed))
}

fn taint(errors: &mut ErrorList, taint: &Value, path: &Path) {
    label_key(errors, taint.text("key"), &path.child("key"));
    let value = taint.text("value");
    errors.messages(&path.child("value"), value, names::label_value(value));
    errors.required_one_of(&path.child("effect"), taint.text("effect"), EFFECTS);
}

/// The amounts of a capacity that may be asked for.
fn request_policy(errors: &mut ErrorList, value: &Value, policy: &Value, path: &Path) {
    let Some(whole) = resources::amount(value) else { return };
    let (values, range) = (policy.list("validValues"), policy.at("validRange"));
    let default = resources::amount(policy.at("default"));
    match (values.is_empty(), range.is_null()) {
        (true, true) => {}
        (false, false) => {
            let detail = "exactly one policy can be specified, cannot specify \"validValues\" and \
                          \"validRange\" at the same time";
            errors.forbidden(path, detail);
        }
        (false, true) => match default {
            None => errors.required(&path.child("default"), "required when validValues is defined"),
            Some(default) => {
                let values: Vec<Quantity> = values.iter().filter_map(resources::amount).collect();
                valid_values(errors, default, whole, &values, &path.child("validValues"));
            }
        },
        (true, false) => match default {
            None => errors.required(&path.child("default"), "required when validRange is defined"),
            Some(default) => valid_range(errors, default, whole, range, &path.child("validRange")),
        },
    }
}

fn valid_values(
    errors: &mut ErrorList,
    default: Quantity,
    whole: Quantity,
    values: &[Quantity],
    path: &Path,
) {
    for (i, pair) in values.windows(2).enumerate() {
        if pair[0] > pair[1] {
            let detail = "values must be sorted in ascending order";
            errors.invalid(&path.index(i + 1), pair[1].to_string(), detail);
        }
    }
    if values.len() > OPTIONS {
        errors.push(FieldError::too_many(path, values.len(), OPTIONS));
    } else {
        for (i, value) in values.iter().enumerate().filter(|(_, value)| **value > whole) {
            let detail = format!("option is larger than capacity value: {whole}");
            errors.invalid(&path.index(i), value.to_string(), detail);
        }
        let mut seen = BTreeSet::new();
        for (i, value) in values.iter().enumerate() {
            if !seen.insert(value.value()) {
                errors.duplicate(&path.index(i), value.value().to_string());
            }
        }
    }
    if !values.contains(&default) {
        errors.invalid(
            path,
            default.to_string(),
            "default value is not valid according to the requestPolicy",
        );
    }
}

fn valid_range(errors: &mut ErrorList, default: Quantity, whole: Quantity, range: &Value, path: &Path) {
    let of = |field: &str| resources::amount(range.at(field));
    let Some(min) = of("min") else {
        errors.required(&path.child("min"), "required when validRange is defined");
        return;
    };
    let mut rule = |broken: bool, field: &str, value: Quantity, detail: String| {
        if broken {
            errors.invalid(&path.child(field), value.to_string(), detail);
        }
    };
    rule(min > whole, "min", min, format!("min is larger than capacity value: {whole}"));
    rule(default < min, "min", default, format!("default is less than min: {min}"));
    let max = of("max");
    if let Some(max) = max {
        rule(min > max, "max", min, format!("min is larger than max: {max}"));
        rule(max > whole, "max", max, format!("max is larger than capacity value: {whole}"));
        rule(default > max, "max", default, format!("default is more than max: {max}"));
    }
    let Some(step) = of("step") else { return };
    let first = min.add(&step);
    rule(first > whole, "step", step, format!("one step {first} is larger than capacity value: {whole}"));
    for value in [Some(default), max].into_iter().flatten() {
        let off = (value.value() - min.value()).checked_rem(step.value()) != Some(0);
        let detail = format!("value is not a multiple of a given step ({step}) from ({min})");
        rule(off, "step", value, detail);
    }
}

/// Conditions that a binding waits for, and those that end it.
fn binding_conditions(errors: &mut ErrorList, one: &Value, path: &Path) {
    let fields = ["bindingConditions", "bindingFailureConditions"];
    let [good, bad] = fields.map(|field| one.list(field));
    for field in fields {
        each(errors, one.list(field), BINDING_CONDITIONS, &path.child(field), |errors, key, at| {
            label_key(errors, key.as_str().unwrap_or_default(), at);
        });
    }
    for (field, all) in fields.into_iter().zip([good, bad]) {
        for (i, key) in all.iter().enumerate() {
            let at = path.child(field).index(i);
            if all[..i].contains(key) {
                errors.duplicate(&at, key.clone());
            }
            if field == fields[1] && good.contains(key) {
                let detail = "bindingFailureConditions must not overlap with bindingConditions";
                errors.invalid(&at, key.clone(), detail);
            }
        }
    }
    for (field, own, other_field, other) in
        [(fields[0], good, fields[1], bad), (fields[1], bad, fields[0], good)]
    {
        if own.is_empty() && !other.is_empty() {
            let detail = format!("{field} are required to use {other_field}");
            errors.invalid(&path.child(field), one.at(field).clone(), detail);
        }
    }
}

/// Driver, pool, device and share: what a device of a claim is known by.
fn device_id(one: &Value) -> String {
    let id = format!("{}/{}/{}", one.text("driver"), one.text("pool"), one.text("device"));
    match one.text("shareID") {
        "" => id,
        share => format!("{id}/{share}"),
    }
}

/// What was said of devices that a claim has no more goes with them.
pub fn drop_deallocated(new: &mut Value, old: &Value) {
    let given = |claim: &Value| -> BTreeSet<String> {
        claim.list("status.allocation.devices.results").iter().map(device_id).collect()
    };
    let gone: BTreeSet<String> = given(old).difference(&given(new)).cloned().collect();
    let all = new.list("status.devices");
    let kept: Vec<Value> = all.iter().filter(|one| !gone.contains(&device_id(one))).cloned().collect();
    if kept.is_empty() {
        new.unset("status.devices");
    } else if kept.len() < all.len() {
        new.set("status.devices", kept);
    }
}

/// The status of a ResourceClaim.
pub fn claim_status(new: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let (status, before, path) = (new.at("status"), old.at("status"), Path::new("status"));
    let (reserved, at) = (status.list("reservedFor"), path.child("reservedFor"));
    let uid = |one: &Value| one.text("uid").to_owned();
    set(&mut errors, reserved, RESERVED_FOR, &at, uid, |errors, one, at| {
        ["resource", "name", "uid"].into_iter().for_each(|field| errors.required_text(at, one, field));
    });
    let given: BTreeSet<String> = status.list("allocation.devices.results").iter().map(device_id).collect();
    let devices = path.child("devices");
    set(&mut errors, status.list("devices"), usize::MAX, &devices, device_id, |errors, one, at| {
        device_status(errors, one, &given, at);
    });
    if !reserved.is_empty() {
        let old = before.list("reservedFor");
        if !status.has("allocation") {
            errors.forbidden(&at, "may not be specified when `allocated` is not set");
        } else if new.has("metadata.deletionTimestamp") && reserved.iter().any(|one| !old.contains(one)) {
            let detail =
                "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
            errors.forbidden(&at, detail);
        }
    }
    let (allocation, at) = (status.at("allocation"), path.child("allocation"));
    if !allocation.is_null() && before.has("allocation") {
        errors.immutable(&at, allocation, before.at("allocation"));
    } else if !allocation.is_null() {
        let requests = Requests::of(new.at("spec.devices"));
        allocated(&mut errors, allocation, &requests, &at);
    }
    errors
}

fn allocated(errors: &mut ErrorList, allocation: &Value, requests: &Requests<'_>, path: &Path) {
    let (devices, at) = (allocation.at("devices"), path.child("devices"));
    each(errors, devices.list("results"), REQUESTS, &at.child("results"), |errors, result, at| {
        requests.check(errors, result.text("request"), &at.child("request"));
        device_names(errors, result, at);
        binding_conditions(errors, result, at);
        share_id(errors, result, at);
    });
    each(errors, devices.list("config"), 2 * CONFIGS, &at.child("config"), |errors, config, at| {
        let sources = ["FromClaim", "FromClass"];
        errors.required_one_of(&at.child("source"), config.text("source"), &sources);
        requests.check_all(errors, config.list("requests"), &at.child("requests"));
        configuration(errors, config, at);
    });
    if allocation.has("nodeSelector") {
        scheduling::node_selector(errors, allocation.at("nodeSelector"), &path.child("nodeSelector"));
    }
}

fn device_names(errors: &mut ErrorList, one: &Value, path: &Path) {
    driver_name(errors, &path.child("driver"), one.text("driver"));
    pool_name(errors, one.text("pool"), &path.child("pool"));
    request_name(errors, one.text("device"), &path.child("device"));
}

fn share_id(errors: &mut ErrorList, one: &Value, path: &Path) {
    if !one.has("shareID") {
        return;
    }
    let (text, at) = (one.text("shareID"), path.child("shareID"));
    let bytes = text.as_bytes();
    let dashes = |at: &usize| bytes[*at] == b'-';
    let whole = bytes.len() == 36
        && [8, 13, 18, 23].iter().all(dashes)
        && bytes.iter().filter(|byte| byte.is_ascii_hexdigit()).count() == 32;
    if !whole {
        let why = match bytes.len() {
            32 | 36 | 38 | 45 => "invalid UUID format".to_owned(),
            length => format!("invalid UUID length: {length}"),
        };
        errors.invalid(&at, text, format!("error validating uid: {why}"));
    } else if text.chars().any(|c| c.is_ascii_uppercase()) {
        let detail = "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase \
                      hexadecimal characters";
        errors.invalid(&at, text, detail);
    }
}

fn device_status(errors: &mut ErrorList, one: &Value, given: &BTreeSet<String>, path: &Path) {
    device_names(errors, one, path);
    share_id(errors, one, path);
    if !given.contains(&device_id(one)) {
        let field = |name: &str| Value::from(one.text(name));
        let text = format!(
            "{{\"Driver\":{},\"Pool\":{},\"Device\":{},\"ShareID\":{}}}",
            field("driver"),
            field("pool"),
            field("device"),
            field("shareID")
        );
        let detail = "must be an allocated device in the claim";
        shown::report(errors, super::ErrorKind::Invalid, path, text, detail);
    }
    let (all, at) = (one.list("conditions"), path.child("conditions"));
    if all.len() > STATUS_CONDITIONS {
        errors.push(FieldError::too_many(&at, all.len(), STATUS_CONDITIONS));
    }
    meta::conditions(errors, all, &at);
    if one.has("data") {
        raw(errors, one.at("data"), &path.child("data"));
    }
    let (network, at) = (one.at("networkData"), path.child("networkData"));
    for (field, limit) in [("interfaceName", INTERFACE), ("hardwareAddress", HARDWARE)] {
        if network.text(field).len() > limit {
            errors.push(FieldError::too_long(&at.child(field), limit));
        }
    }
    set(errors, network.list("ips"), IPS, &at.child("ips"), own_text, |errors, address, at| {
        interface_address(errors, address.as_str().unwrap_or_default(), at);
    });
}

/// An address with the length of its network's prefix, as upstream's formatter writes it.
fn interface_address(errors: &mut ErrorList, text: &str, path: &Path) {
    match text.parse::<ipnet::IpNet>() {
        Ok(net) if net.to_string() == text => {}
        Ok(net) => errors.invalid(path, text, format!("must be in canonical form (\"{net}\")")),
        Err(_) => {
            let detail = "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)";
            errors.invalid(path, text, detail);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn texts(errors: ErrorList) -> Vec<String> {
        errors.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn slices() {
        let good = json!({"spec": {"driver": "gpu.example.com", "nodeName": "n",
            "pool": {"name": "a/b", "resourceSliceCount": 1},
            "devices": [{"name": "d", "attributes": {"model": {"string": "x"}, "b.example/c": {"version": "1.0.0-a.1+b"}},
                "capacity": {"memory": {"value": "4Gi"}}}]}});
        assert_eq!(texts(slice(&good, &Value::Null)), Vec::<String>::new());
        let mut bad = good.clone();
        bad.set("spec.allNodes", true);
        bad["spec"]["pool"] = json!({"name": "b"});
        bad["spec"]["devices"] = json!([{"name": "d", "attributes": {"a": {"bool": true, "int": 1}, "v": {"version": "01.0.0"}},
            "bindingConditions": ["x"]}, {"name": "d"}]);
        assert_eq!(
            texts(slice(&bad, &good)),
            [
                "spec.pool.resourceSliceCount: Invalid value: 0: must be greater than zero",
                "spec.pool.name: Invalid value: \"b\": field is immutable",
                "spec: Invalid value: \"{`nodeName`, `allNodes`}\": exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required, but multiple fields are set",
                "spec.devices[0].attributes[a]: Invalid value: {\"bool\":true,\"int\":1}: exactly one value must be specified",
                "spec.devices[0].attributes[v].version: Invalid value: \"01.0.0\": must be a string compatible with semver.org spec 2.0.0",
                "spec.devices[0].bindingFailureConditions: Invalid value: null: bindingFailureConditions are required to use bindingConditions",
                "spec.devices[1]: Duplicate value: \"d\"",
            ]
        );
    }

    #[test]
    fn policies_of_requests() {
        let check = |policy: Value| {
            let mut errors = ErrorList::new();
            request_policy(&mut errors, &json!("10"), &policy, &Path::new("p"));
            texts(errors)
        };
        assert_eq!(check(json!({"default": "2", "validValues": ["1", "2"]})), Vec::<String>::new());
        assert_eq!(
            check(json!({"default": "3", "validValues": ["2", "1", "20"]})),
            [
                "p.validValues[1]: Invalid value: \"1\": values must be sorted in ascending order",
                "p.validValues[2]: Invalid value: \"20\": option is larger than capacity value: 10",
                "p.validValues: Invalid value: \"3\": default value is not valid according to the requestPolicy",
            ]
        );
        assert_eq!(
            check(json!({"default": "4", "validRange": {"min": "1", "max": "7", "step": "2"}})),
            ["p.validRange.step: Invalid value: \"4\": value is not a multiple of a given step (2) from (1)"]
        );
    }

    #[test]
    fn claims_and_their_status() {
        let good = json!({"spec": {"devices": {"requests": [{"name": "r", "exactly":
            {"deviceClassName": "c", "allocationMode": "ExactCount", "count": 1,
             "selectors": [{"cel": {"expression": "device.driver == 'd'"}}]}}]}}});
        assert_eq!(texts(claim(&good)), Vec::<String>::new());
        let mut bad = good.clone();
        bad["spec"]["devices"]["requests"][0]["exactly"]["selectors"] = json!([{"cel": {"expression": "1"}}]);
        bad["spec"]["devices"]["constraints"] = json!([{"requests": ["r/x"], "matchAttribute": "a"}]);
        assert_eq!(
            texts(claim(&bad)),
            [
                "spec.devices.requests[0].exactly.selectors[0].cel.expression: Invalid value: \"1\": must evaluate to bool or the unknown type, not int",
                &format!("spec.devices.constraints[0].requests[0]: Invalid value: \"r/x\": {NOT_A_REQUEST}"),
                "spec.devices.constraints[0].matchAttribute: Invalid value: \"a\": a fully qualified name must be a domain and a name separated by a slash",
            ]
        );
        let mut given = good.clone();
        given["status"] = json!({"allocation": {"devices": {"results":
            [{"request": "r", "driver": "d", "pool": "p", "device": "v"}]}},
            "devices": [{"driver": "d", "pool": "p", "device": "v", "networkData": {"ips": ["10.0.0.1/8"]}}]});
        assert_eq!(texts(claim_status(&given, &good)), Vec::<String>::new());
        let mut other = given.clone();
        other["status"]["allocation"]["devices"]["results"][0]["pool"] = json!("q");
        let found = texts(claim_status(&other, &given));
        assert!(found[0].starts_with("status.devices[0]: Invalid value: {"), "{found:?}");
        assert!(found[1].contains("field is immutable"), "{found:?}");
    }
}
