//! CEL, and the schemas of custom resources with their rules.

use std::sync::OnceLock;

use machinery::cel::{Activation, Budget, Env, Program, RuleSet, Type, Val};
use machinery::codec::json;
use machinery::schema::sample::{Dice, Fill, resource};
use machinery::schema::structural::{self, Node};
use machinery::schema::{Schema, TypeFacts, facts};
use serde_json::{Value, json};

use crate::{Target, join, parts};

/// See [`Target`].
pub const TARGETS: &[Target] = &[
    Target { name: "cel", run: run_cel, seeds: cel_seeds, words: cel_words },
    Target { name: "schema", run: run_schema, seeds: schema_seeds, words: schema_words },
];

fn pods() -> &'static TypeFacts {
    facts().by_name("io.k8s.api.core.v1.Pod").expect("a type of the table")
}

fn pod() -> &'static Value {
    static POD: OnceLock<Value> = OnceLock::new();
    POD.get_or_init(|| resource(&mut Dice::new(3), pods(), Fill::All).expect("a kind"))
}

fn run_cel(data: &[u8]) {
    let Ok(source) = std::str::from_utf8(data) else { return };
    let schema = Schema::Type(pods());
    let fields = vec![("x".to_owned(), Type::Int), ("y".to_owned(), Type::Dyn)];
    let mut env = Env::new().schema("object", schema).schema("oldObject", schema).plain("request", Type::Dyn);
    env = env.plain("n", Type::Int).fields("variables", fields).building(schema);
    let program = match Program::compile(source, &env) {
        Ok(program) => program,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let request = json!({"name": "a", "list": [1, 2.5, "x", null], "map": {"k": true}, "text": "10.0.0.1"});
    let variables = json!({"x": 7, "y": [1, 2, 3]});
    let activation = Activation::new()
        .with("object", Val::json(pod(), schema))
        .with("oldObject", Val::json(pod(), schema))
        .with("request", Val::json(&request, Schema::Any))
        .with("n", Val::Int(3))
        .with("variables", Val::json(&variables, Schema::Any));
    let mut budget = Budget::default();
    if let Ok(value) = program.eval(&activation, &mut budget) {
        let _ = value.to_json();
        assert_eq!(value.misplaced().is_empty(), value.misplaced().is_empty());
    }
}

fn run_schema(data: &[u8]) {
    let [schema, new, old] = parts::<3>(data);
    let Ok(schema) = json::decode_any(schema) else { return };
    let node = Node::resource(&schema.value);
    let (rules, bad) = RuleSet::compile(&node);
    bad.iter().for_each(|rule| assert!(!format!("{rule:?}").is_empty()));
    let read = |text: &[u8]| {
        let mut value = json::decode_any(text).ok()?.value;
        structural::prune(&node, &mut value);
        structural::apply_defaults(&node, &mut value);
        Some(value)
    };
    let Some(new) = read(new) else { return };
    let mut again = new.clone();
    assert_eq!(structural::prune(&node, &mut again), Vec::<String>::new(), "pruned twice");
    structural::apply_defaults(&node, &mut again);
    assert_eq!(again, new, "pruned and defaulted twice");
    let _ = structural::validate(&node, &new);
    let old = read(old);
    if let Some(old) = &old {
        let _ = structural::validate_update(&node, &new, old);
    }
    let _ = rules.validate(&node, &new, old.as_ref(), &mut Budget::default());
}

const EXPRESSIONS: &[&str] = &[
    "object.spec.containers.all(c, c.image.startsWith('a') || size(c.name) > 2)",
    "object.metadata.?labels['k0'].orValue('none') == 'a' ? 1 : 2",
    "[1, 2, 3].map(x, x * 2).filter(x, x > 2).exists_one(x, x == 4)",
    "{'a': 1, 'b': [2]}.b[0] + int('7') - n % 2",
    "quantity('1.5Gi').add(quantity('1')).isGreaterThan(quantity('2Ki'))",
    "ip('10.0.0.1').family() == 4 && cidr('10.0.0.0/8').containsIP('10.1.2.3') && isIP('x')",
    "url('https://a:1/b?c=d').getQuery().size() == 1",
    "'abc'.find('[a-c]+') + 'x,y'.split(',').join('-') + 'a%s'.format(['b'])",
    "timestamp('2030-01-02T03:04:05Z').getFullYear() + duration('1h').getMinutes()",
    "variables.x + variables.y.sum() + request.list.size()",
    "semver('1.2.3').isLessThan(semver('1.3.0')) && sets.contains([1], [1])",
    "cel.bind(v, object.spec, has(v.nodeName) && v.nodeName.matches('^a.*$'))",
    "Object{spec: Object.spec{nodeName: 'a'}}",
    "[JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('a/b'), value: 'c'}]",
    "b'abc' == bytes('abc') && string(1.5) == '1.5' && uint(3) == 3u && type(1) == int",
    "[[1, 2], [3]].flatten().sort().reverse().first().value() in [1, 2]",
    "'%d %x %.2f %e %b %o'.format([1, 255, 1.5, 2.5, 3, 8])",
    "format.dns1123Label().value().validate('a')",
    "object.spec.containers.map(c, c.resources.limits['cpu']).exists(q, q == '1') && !(1 in [2])",
    "r'raw\\n' + \"\\u00e9\\x41\" + '''multi\nline'''",
    "lists.range(5).transformMap(i, v, v * i) == {} || math.greatest(1, 2) > 1",
];

fn cel_seeds() -> Vec<Vec<u8>> {
    EXPRESSIONS.iter().map(|text| text.as_bytes().to_vec()).collect()
}

fn cel_words() -> Vec<String> {
    let joined = "object. oldObject. request. variables. .all( .exists( .exists_one( .map( .filter( has( size( .? [? \
        .orValue( .hasValue() optional.of( optional.none() quantity( .asInteger() .compareTo( .sub( .sign() ip( cidr( \
        .ip() .masked() .prefixLength() url( .getHost() .find( .findAll( .matches( .replace( .split( .join( .substring( \
        .lowerAscii() .upperAscii() .trim() .charAt( .indexOf( .lastIndexOf( .reverse() .sort() .sum() .min() .max() \
        .isSorted() .distinct() .flatten() .slice( timestamp( duration( .getHours( .getDate( sets.contains( \
        sets.intersects( semver( .major() math.greatest( lists.range( format.named( .validate( cel.bind( dyn( int( \
        uint( double( string( bytes( bool( type( in && || == != <= >= ? null true false .format([ .transformList( \
        .transformMap( .transformMapEntry( .sortBy( base64.encode( Object{ JSONPatch{ jsonpatch.escapeKey(";
    joined.split_whitespace().map(String::from).collect()
}

fn schema_seeds() -> Vec<Vec<u8>> {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "required": ["a"],
        "properties": {"a": {"type": "integer", "minimum": 1, "default": 3, "enum": [1, 3]},
            "b": {"type": "array", "maxItems": 3, "items": {"type": "string", "pattern": "^a", "maxLength": 5},
                "x-kubernetes-list-type": "set"},
            "c": {"type": "object", "additionalProperties": {"type": "number", "multipleOf": 0.5}},
            "d": {"x-kubernetes-int-or-string": true}, "e": {"x-kubernetes-preserve-unknown-fields": true},
            "f": {"type": "string", "format": "date-time", "nullable": true},
            "g": {"type": "object", "x-kubernetes-embedded-resource": true},
            "h": {"type": "array", "items": {"type": "object", "properties": {"k": {"type": "string"}}},
                "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"]}},
        "allOf": [{"not": {"required": ["z"]}}], "oneOf": [{"required": ["a"]}],
        "x-kubernetes-validations": [{"rule": "self.a > 0 && (!has(self.b) || self.b.all(x, x != ''))",
            "messageExpression": "'got ' + string(self.a)"}, {"rule": "self.a >= oldSelf.a"}]}}});
    let object = json!({"apiVersion": "a/v1", "kind": "A", "metadata": {"name": "a"}, "unknown": 1,
        "spec": {"a": 2, "b": ["ab", "x"], "c": {"y": 1.25}, "d": "5%", "e": {"any": [1]}, "f": null, "h": [{"k": "1"}]}});
    let [schema, object] = [schema, object].map(|value| value.to_string());
    vec![join(&[schema.as_bytes(), object.as_bytes(), object.as_bytes()])]
}

fn schema_words() -> Vec<String> {
    let names = "type properties items additionalProperties required enum default nullable format pattern minimum maximum \
        exclusiveMinimum maxLength minLength maxItems uniqueItems multipleOf allOf anyOf oneOf not maxProperties \
        x-kubernetes-list-type x-kubernetes-list-map-keys x-kubernetes-map-type x-kubernetes-validations rule \
        messageExpression optionalOldSelf fieldPath reason x-kubernetes-int-or-string \
        x-kubernetes-preserve-unknown-fields x-kubernetes-embedded-resource";
    let values =
        "object array string integer number boolean map set atomic granular date-time ipv4 cidr uuid byte";
    let names = names.split_whitespace().map(|name| format!("\"{name}\":"));
    names.chain(values.split_whitespace().map(|value| format!("\"{value}\""))).collect()
}
