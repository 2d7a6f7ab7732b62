//! Expressions and what they give.

use serde_json::{Value, json};

use super::*;
use crate::schema::{Schema, facts};

fn run(source: &str, object: &Value) -> Result<Value, String> {
    let program =
        Program::compile(source, &Env::new().plain("self", Type::Dyn)).map_err(|e| e.to_string())?;
    let variables = Activation::new().with("self", Val::json(object, Schema::Any));
    let value = program.eval(&variables, &mut Budget::default()).map_err(|e| e.to_string())?;
    value.to_json().ok_or_else(|| value.type_name())
}

fn object() -> Value {
    json!({"a": 1, "b": "text", "list": [1, 2, 3], "map": {"x": 1, "y": 2}, "n": null, "f": 1.5, "a-b": 2, "if": 3,
        "items": [{"name": "p", "n": 1}, {"name": "q", "n": 2}]})
}

#[test]
fn expressions_give_values() {
    for (source, expect) in language().into_iter().chain(libraries()) {
        assert_eq!(run(source, &object()), Ok(expect), "{source}");
    }
}

fn language() -> Vec<(&'static str, Value)> {
    vec![
        ("1 + 2 * 3 - 4 / 2 % 3", json!(5)),
        ("self.a == 1 && self.b == 'text' || false", json!(true)),
        ("self.a == 1.0 && 1u == 1 && 2 > 1.5", json!(true)),
        ("!(self.a in self.list)", json!(false)),
        ("'x' in self.map", json!(true)),
        ("has(self.a) && !has(self.zzz)", json!(true)),
        ("self.missing || true", json!(true)),
        ("true || self.missing", json!(true)),
        (
            "self.list.all(x, x > 0) && self.list.exists(x, x == 2) && self.list.exists_one(x, x == 3)",
            json!(true),
        ),
        ("self.list.map(x, x * 2).filter(x, x > 2)", json!([4, 6])),
        ("self.list.map(x, x > 1, x + 1)", json!([3, 4])),
        ("self.map.all(k, self.map[k] > 0)", json!(true)),
        ("self.map.exists(k, v, k == 'y' && v == 2)", json!(true)),
        ("self.list.transformList(i, v, i * v)", json!([0, 2, 6])),
        ("self.map.transformMap(k, v, v + 1)", json!({"x": 2, "y": 3})),
        ("self.items.map(i, i.name).join(',')", json!("p,q")),
        ("self.a > 0 ? 'yes' : 'no'", json!("yes")),
        ("size(self.b) + self.list.size() + 'é'.size()", json!(8)),
        ("self.b.substring(1, 3).upperAscii() + string(self.a)", json!("EX1")),
        ("'a,b,c'.split(',').reverse()", json!(["c", "b", "a"])),
        ("'hello %s %d %.2f'.format(['x', 3, 1.5])", json!("hello x 3 1.50")),
        ("'abcabc'.indexOf('c') + 'abcabc'.lastIndexOf('c')", json!(7)),
        ("'abc'.matches('^a.c$') && 'k8s-1'.find('[0-9]+') == '8'", json!(true)),
        ("self.a__dash__b + self.__if__", json!(5)),
        ("{'k': [1, 2u, 'x']}.k[2]", json!("x")),
        ("self.?zzz.orValue('none') + self.?b.orValue('')", json!("nonetext")),
        ("self.?zzz.hasValue() || optional.of(3).optMap(x, x + 1).value() == 4", json!(true)),
        ("[1, ?self.?zzz, 3]", json!([1, 3])),
        ("cel.bind(x, self.a + 1, x * x)", json!(4)),
    ]
}

fn libraries() -> Vec<(&'static str, Value)> {
    vec![
        ("duration('1h30m').getMinutes() + duration('90s').getSeconds()", json!(180)),
        (
            "timestamp('2030-01-02T03:04:05Z').getFullYear() + timestamp('2030-01-02T03:04:05Z').getDayOfWeek()",
            json!(2033),
        ),
        (
            "timestamp('2030-01-02T00:00:00Z') - timestamp('2030-01-01T00:00:00Z') == duration('24h')",
            json!(true),
        ),
        (
            "quantity('1Gi').isGreaterThan(quantity('1G')) && quantity('500m').add(quantity('500m')).compareTo(quantity('1')) == 0",
            json!(true),
        ),
        ("isQuantity('1x') || !isIP('::1') || ip('10.0.0.1').family() != 4", json!(false)),
        (
            "cidr('10.0.0.0/8').containsIP('10.1.2.3') && !cidr('10.0.0.0/8').containsCIDR('11.0.0.0/9')",
            json!(true),
        ),
        (
            "url('https://u@h.x:8443/p?a=b&a=c').getHost() + url('https://h:1/p').getPort()",
            json!("h.x:84431"),
        ),
        ("url('https://h/p?a=b&a=c').getQuery()['a']", json!(["b", "c"])),
        (
            "format.dns1123Label().validate('Bad_Name').hasValue() && !format.named('uuid').value().validate('123e4567-e89b-12d3-a456-426614174000').hasValue()",
            json!(true),
        ),
        ("semver('1.2.3').isLessThan(semver('1.10.0')) && isSemver('v1.2', true)", json!(true)),
        (
            "[3, 1, 2].sort() == [1, 2, 3] && [1, 2].sum() == 3 && [1, 5, 2].max() == 5 && ['a', 'b'].isSorted()",
            json!(true),
        ),
        ("sets.equivalent([1, 2, 2], [2, 1]) && sets.intersects([1], [1, 2])", json!(true)),
        ("type(1) == int && type(self.b) == string", json!(true)),
        ("b'abc' == bytes('abc') && string(b'abc') == r'abc'", json!(true)),
        ("int('12') + int(3.9) + int(4u)", json!(19)),
        ("-9223372036854775808 < 0", json!(true)),
        ("0x1F == 31 && 1e3 == 1000.0", json!(true)),
        ("self.n == null", json!(true)),
    ]
}

#[test]
fn failures_say_what_is_wrong() {
    for (source, expect) in [
        ("self.zzz", "no such key: zzz"),
        ("1 / 0", "division by zero"),
        ("9223372036854775807 + 1", "integer overflow"),
        ("self.list[7]", "index out of bounds: 7"),
        ("self.a + self.b", "no such overload"),
        ("foo", "ERROR: <input>:1:1: undeclared reference to 'foo' (in container '')\n | foo\n | ^"),
        (
            "1 + 'a'",
            "ERROR: <input>:1:3: found no matching overload for '_+_' applied to '(int, string)'\n | 1 + 'a'\n | ..^",
        ),
        (
            "'a'.nope()",
            "ERROR: <input>:1:5: undeclared reference to 'nope' (in container '')\n | 'a'.nope()\n | ....^",
        ),
        (
            "1 +",
            "ERROR: <input>:1:4: Syntax error: mismatched input '<EOF>' expecting {'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}\n | 1 +\n | ...^",
        ),
        (
            "'a'.matches('[')",
            "ERROR: <input>:1:13: invalid matches argument\n | 'a'.matches('[')\n | ............^",
        ),
    ] {
        assert_eq!(run(source, &object()), Err(expect.to_string()), "{source}");
    }
    let nested = format!("{}1{}", "(".repeat(1000), ")".repeat(1000));
    assert!(run(&nested, &object()).is_err());
}

#[test]
fn built_in_types_are_checked_and_read() {
    let deployment = Schema::Type(facts().by_gvk("apps", "v1", "Deployment").expect("known"));
    let env = Env::new().schema("object", deployment);
    for (source, expect) in [
        ("object.spec.replicas > 1", Ok(Type::Bool)),
        ("object.metadata.creationTimestamp", Ok(Type::Timestamp)),
        ("object.spec.template.spec.containers.map(c, c.name)", Ok(Type::List(Box::new(Type::String)))),
        (
            "object.spec.replicas > '1'",
            Err(
                "ERROR: <input>:1:22: found no matching overload for '_>_' applied to '(int, string)'\n | object.spec.replicas > '1'\n | .....................^",
            ),
        ),
        (
            "object.spec.replcas > 1",
            Err(
                "ERROR: <input>:1:12: undefined field 'replcas'\n | object.spec.replcas > 1\n | ...........^",
            ),
        ),
    ] {
        let got = Program::compile(source, &env).map(|p| p.result_type().clone()).map_err(|e| e.to_string());
        assert_eq!(got, expect.map_err(str::to_string), "{source}");
    }
    let object = json!({"metadata": {"creationTimestamp": "2030-01-01T00:00:00Z"}, "spec": {"replicas": 3}});
    let variables = Activation::new().with("object", Val::json(&object, deployment));
    let source =
        "object.metadata.creationTimestamp.getFullYear() == 2030 && !has(object.metadata.deletionTimestamp)";
    let program = Program::compile(source, &env).expect("compiles");
    assert_eq!(program.eval_bool(&variables, &mut Budget::default()), Ok(true));
}

#[test]
fn objects_and_patches_are_built() {
    let deployment = Schema::Type(facts().by_gvk("apps", "v1", "Deployment").expect("known"));
    let env = Env::new().schema("object", deployment).building(deployment);
    let object = json!({"metadata": {}, "spec": {"replicas": 3}});
    let variables = Activation::new().with("object", Val::json(&object, deployment));
    let eval = |source: &str| {
        let program = Program::compile(source, &env).map_err(|e| e.to_string())?;
        Ok::<_, String>(
            program.eval(&variables, &mut Budget::default()).map_err(|e| e.to_string())?.to_json(),
        )
    };
    assert_eq!(
        eval(
            "Object{metadata: Object.metadata{annotations: {'k': 'v'}}, spec: Object.spec{replicas: object.spec.replicas + 1}}"
        ),
        Ok(Some(json!({"metadata": {"annotations": {"k": "v"}}, "spec": {"replicas": 4}})))
    );
    assert_eq!(
        eval("[JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('a/b'), value: 'x'}]"),
        Ok(Some(json!([{"op": "add", "path": "/metadata/labels/a~1b", "value": "x"}])))
    );
    assert!(eval("Object{speck: 1}").is_err());
}

#[test]
fn cost_is_bounded() {
    let many: Vec<i64> = (0..2000).collect();
    let object = json!({ "list": many });
    let error = run("self.list.all(x, self.list.all(y, x + y >= 0))", &object).expect_err("too costly");
    assert_eq!(error, "operation cancelled: actual cost limit exceeded");
}

#[test]
fn calls_without_arguments_are_no_overload() {
    for name in ["size", "int", "sum", "sort", "optional.of", "matches", "quantity", "math.greatest"] {
        let error = run(&format!("{name}()"), &object()).expect_err(name);
        assert!(error.contains("ERROR: <input>:1:"), "{name}: {error}");
    }
}
