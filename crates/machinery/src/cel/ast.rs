//! The tree of an expression, macros already taken apart.

/// A node and where it begins in the source.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) at: usize,
    pub(super) expr: Expr,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Str(String),
    Bytes(Vec<u8>),
}

/// The comprehension macros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fold {
    All,
    Exists,
    ExistsOne,
    Filter,
    Map,
    TransformList,
    TransformMap,
    TransformMapEntry,
}

#[derive(Debug, Clone)]
pub(super) enum Expr {
    Literal(Literal),
    Ident(String),
    /// `a.b`, `a.?b`
    Select {
        operand: Box<Node>,
        field: String,
        optional: bool,
    },
    /// `has(a.b)`
    Has {
        operand: Box<Node>,
        field: String,
    },
    /// `a[b]`, `a[?b]`
    Index {
        operand: Box<Node>,
        index: Box<Node>,
        optional: bool,
    },
    Call {
        name: String,
        target: Option<Box<Node>>,
        args: Vec<Node>,
    },
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
    Cond(Box<Node>, Box<Node>, Box<Node>),
    /// Elements, `?` first when optional.
    List(Vec<(bool, Node)>),
    Map(Vec<(bool, Node, Node)>),
    Struct {
        name: String,
        fields: Vec<(bool, String, Node)>,
    },
    Fold {
        fold: Fold,
        range: Box<Node>,
        first: String,
        second: Option<String>,
        condition: Option<Box<Node>>,
        body: Box<Node>,
    },
    /// `cel.bind(name, value, body)`
    Bind {
        name: String,
        value: Box<Node>,
        body: Box<Node>,
    },
    /// `optional.optMap(name, body)` and `optFlatMap`
    OptMap {
        operand: Box<Node>,
        name: String,
        body: Box<Node>,
        flat: bool,
    },
}

impl Node {
    /// The node's direct children.
    pub(super) fn children(&self) -> Vec<&Node> {
        match &self.expr {
            Expr::Literal(_) | Expr::Ident(_) => Vec::new(),
            Expr::Select { operand, .. } | Expr::Has { operand, .. } => vec![operand],
            Expr::Index { operand, index, .. } => vec![operand, index],
            Expr::Call { target, args, .. } => target.iter().map(|t| &**t).chain(args).collect(),
            Expr::And(a, b) | Expr::Or(a, b) => vec![a, b],
            Expr::Cond(a, b, c) => vec![a, b, c],
            Expr::List(items) => items.iter().map(|(_, item)| item).collect(),
            Expr::Map(entries) => entries.iter().flat_map(|(_, k, v)| [k, v]).collect(),
            Expr::Struct { fields, .. } => fields.iter().map(|(_, _, v)| v).collect(),
            Expr::Fold { range, condition, body, .. } => {
                std::iter::once(&**range).chain(condition.iter().map(|c| &**c)).chain([&**body]).collect()
            }
            Expr::Bind { value, body, .. } => vec![value, body],
            Expr::OptMap { operand, body, .. } => vec![operand, body],
        }
    }

    /// Whether any node of the tree satisfies a test.
    pub(super) fn any(&self, test: &mut impl FnMut(&Node) -> bool) -> bool {
        test(self) || self.children().into_iter().any(|child| child.any(test))
    }
}
