//! Sums by domains of nodes: how much of something there is in each zone, or on each host. Knows no plugin.

use std::collections::HashMap;
use std::sync::Arc;

use crate::snapshot::{NodeInfo, Snapshot};

/// The domain of a node without the label.
const NONE: u32 = u32::MAX;

/// Which domain each node is in, by one label.
#[derive(Debug, PartialEq, Eq)]
pub struct Column {
    of: Vec<u32>,
    domains: usize,
}

impl Column {
    /// Reads the label of every node.
    pub fn new(snapshot: &Snapshot, key: &str) -> Column {
        let mut ids: HashMap<&str, u32> = HashMap::new();
        let of = snapshot.nodes().iter().map(|node| {
            let Some(value) = node.label(key) else { return NONE };
            let next = u32::try_from(ids.len()).unwrap_or(NONE);
            *ids.entry(value).or_insert(next)
        });
        let of = of.collect();
        Column { of, domains: ids.len() }
    }

    /// Every node in a domain of its own.
    pub fn each(snapshot: &Snapshot) -> Column {
        let domains = snapshot.nodes().len();
        Column { of: (0..u32::try_from(domains).unwrap_or(NONE)).collect(), domains }
    }

    /// The node's domain.
    pub fn domain(&self, node: &NodeInfo) -> Option<usize> {
        let domain = *self.of.get(node.position)?;
        if domain == NONE { None } else { usize::try_from(domain).ok() }
    }

    /// How many domains there are.
    pub fn len(&self) -> usize {
        self.domains
    }

    /// True when no node has the label.
    pub fn is_empty(&self) -> bool {
        self.domains == 0
    }
}

/// Columns read before, as long as no node's labels change.
#[derive(Debug, Default)]
pub struct Columns {
    epoch: u64,
    known: HashMap<String, Arc<Column>>,
}

impl Columns {
    /// The column of a label.
    pub fn get(&mut self, snapshot: &Snapshot, key: &str) -> Arc<Column> {
        if self.epoch != snapshot.epoch() {
            self.known.clear();
            self.epoch = snapshot.epoch();
        }
        if let Some(known) = self.known.get(key) {
            return known.clone();
        }
        let column = Arc::new(Column::new(snapshot, key));
        self.known.insert(key.to_owned(), column.clone());
        column
    }
}

/// A sum for each domain.
#[derive(Clone, Debug)]
pub struct Tally {
    column: Arc<Column>,
    sums: Vec<i64>,
}

impl Tally {
    /// All sums zero.
    pub fn new(column: Arc<Column>) -> Tally {
        let sums = vec![0; column.len()];
        Tally { column, sums }
    }

    /// Adds to the sum of the node's domain.
    pub fn add(&mut self, node: &NodeInfo, amount: i64) {
        if let Some(sum) = self.column.domain(node).and_then(|domain| self.sums.get_mut(domain)) {
            *sum += amount;
        }
    }

    /// The sum of the node's domain; `None` when it is in none.
    pub fn at(&self, node: &NodeInfo) -> Option<i64> {
        self.column.domain(node).and_then(|domain| self.sums.get(domain)).copied()
    }

    /// The domains.
    pub fn column(&self) -> &Column {
        &self.column
    }

    /// The sums, by domain.
    pub fn sums(&self) -> &[i64] {
        &self.sums
    }
}
