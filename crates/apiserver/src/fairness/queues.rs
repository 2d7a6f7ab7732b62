//! Seats of priority levels, and the queues before them. Pure bookkeeping: it says who may go, never waits.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use registry::tree::Tree;
use serde_json::Value;
use tokio::sync::oneshot;

/// What becomes of a request.
pub enum Entry {
    /// It needs no seat.
    Exempt,
    /// It has a seat, to be given back.
    Seated,
    /// It waits until it is called; then it has a seat.
    Queued(oneshot::Receiver<()>),
    /// There is no room.
    Refused,
}

#[derive(Default)]
struct Level {
    uid: Arc<str>,
    exempt: bool,
    /// Seats by its shares.
    nominal: usize,
    /// Seats that others cannot have even while they are free.
    reserved: usize,
    /// Seats that it may have when others leave theirs free.
    most: usize,
    executing: usize,
    queues: Vec<VecDeque<oneshot::Sender<()>>>,
    hand: usize,
    queue_limit: usize,
    next: usize,
    /// Still configured.
    live: bool,
}

impl Level {
    /// The next one that waits: queues take turns.
    fn call(&mut self) -> bool {
        for _ in 0..self.queues.len() {
            let at = self.next % self.queues.len();
            self.next = self.next.wrapping_add(1);
            while let Some(waiter) = self.queues[at].pop_front() {
                if waiter.send(()).is_ok() {
                    return true;
                }
            }
        }
        false
    }

    fn waiting(&self) -> bool {
        self.queues.iter().any(|queue| !queue.is_empty())
    }

    /// The shortest of the queues that the flow's hand holds.
    fn queue(&mut self, flow: u64) -> Option<&mut VecDeque<oneshot::Sender<()>>> {
        let dealt = deal(flow, self.queues.len(), self.hand);
        let shortest = dealt.into_iter().min_by_key(|at| self.queues[*at].len())?;
        let limit = self.queue_limit;
        Some(&mut self.queues[shortest]).filter(|queue| queue.len() < limit)
    }
}

/// A hand of different queues for a flow, always the same one.
fn deal(mut flow: u64, queues: usize, hand: usize) -> Vec<usize> {
    let mut left: Vec<usize> = (0..queues).collect();
    let mut out = Vec::with_capacity(hand);
    while out.len() < hand && !left.is_empty() {
        let count = left.len() as u64;
        let at = usize::try_from(flow % count).unwrap_or(0);
        flow /= count;
        out.push(left.swap_remove(at));
    }
    out
}

/// A level's seats, counted.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    /// By its shares.
    pub nominal: usize,
    /// Kept from others.
    pub reserved: usize,
    /// With all that it may borrow.
    pub most: usize,
    /// Taken.
    pub executing: usize,
    /// Requests that wait.
    pub waiting: usize,
}

/// The seats of all levels.
pub struct Seats {
    total: usize,
    levels: BTreeMap<Arc<str>, Level>,
}

impl Seats {
    /// So many in all, no levels yet.
    pub fn new(total: usize) -> Seats {
        Seats { total: total.max(1), levels: BTreeMap::new() }
    }

    /// Divides the seats among levels by their shares.
    pub fn configure(&mut self, levels: &[Value]) {
        let shares = |level: &Value| {
            let exempt = level.text("spec.type") == "Exempt";
            let spec = level.at(if exempt { "spec.exempt" } else { "spec.limited" });
            let given = spec.at("nominalConcurrencyShares").as_u64();
            usize::try_from(given.unwrap_or(if exempt { 0 } else { 30 })).unwrap_or(0)
        };
        let sum: usize = levels.iter().map(shares).sum::<usize>().max(1);
        self.levels.values_mut().for_each(|level| level.live = false);
        for tree in levels {
            let nominal = (self.total * shares(tree)).div_ceil(sum);
            let level = self.levels.entry(tree.text("metadata.name").into()).or_default();
            let limited = tree.at("spec.limited");
            let percent = |field: &str| limited.at(field).as_u64().and_then(|p| usize::try_from(p).ok());
            level.live = true;
            level.uid = tree.text("metadata.uid").into();
            level.exempt = tree.text("spec.type") == "Exempt";
            level.nominal = nominal;
            level.reserved = nominal - nominal * percent("lendablePercent").unwrap_or(0).min(100) / 100;
            level.most = percent("borrowingLimitPercent").map_or(self.total, |p| nominal + nominal * p / 100);
            let queuing = limited.at("limitResponse.queuing");
            let number = |field: &str| usize::try_from(queuing.int(field)).unwrap_or(0);
            let queued = limited.text("limitResponse.type") == "Queue";
            let count = if queued { number("queues").clamp(1, 4096) } else { 0 };
            level.hand = number("handSize").max(1);
            level.queue_limit = number("queueLengthLimit").max(1);
            // Those who wait in a queue that goes move to one that stays, or lose their turn.
            let gone: Vec<_> = level.queues.drain(count.min(level.queues.len())..).flatten().collect();
            level.queues.resize_with(count, VecDeque::new);
            if let Some(first) = level.queues.first_mut() {
                first.extend(gone);
            }
        }
        self.levels.retain(|_, level| level.live || level.executing > 0);
        self.dispatch();
    }

    /// Every level's seats.
    pub fn taken(&self) -> Vec<(Arc<str>, Taken)> {
        let count = |level: &Level| Taken {
            nominal: level.nominal,
            reserved: level.reserved,
            most: level.most,
            executing: level.executing,
            waiting: level.queues.iter().map(VecDeque::len).sum(),
        };
        self.levels.iter().map(|(name, level)| (name.clone(), count(level))).collect()
    }

    /// A level's uid.
    pub fn uid(&self, level: &str) -> Arc<str> {
        self.levels.get(level).map_or_else(|| "".into(), |level| level.uid.clone())
    }

    /// Whether a level may have one more seat: its own, or one that nobody holds back.
    fn may_run(&self, name: &str) -> bool {
        let Some(level) = self.levels.get(name) else { return true };
        if level.executing >= level.most.max(1) {
            return false;
        }
        if level.executing < level.reserved {
            return true;
        }
        let others = self.levels.iter().filter(|(other, _)| ***other != *name);
        let held: usize = others.map(|(_, level)| level.reserved.max(level.executing)).sum();
        level.executing + held < self.total
    }

    /// A request comes.
    pub fn enter(&mut self, name: &str, flow: u64) -> Entry {
        let free = self.may_run(name);
        let Some(level) = self.levels.get_mut(name) else { return Entry::Exempt };
        if level.exempt {
            return Entry::Exempt;
        }
        if free && !level.waiting() {
            level.executing += 1;
            return Entry::Seated;
        }
        let Some(queue) = level.queue(flow) else { return Entry::Refused };
        let (sender, receiver) = oneshot::channel();
        queue.push_back(sender);
        Entry::Queued(receiver)
    }

    /// A request is done.
    pub fn leave(&mut self, name: &str) {
        if let Some(level) = self.levels.get_mut(name) {
            level.executing = level.executing.saturating_sub(1);
        }
        self.dispatch();
    }

    /// Calls those whose turn it is.
    fn dispatch(&mut self) {
        let waiting: Vec<Arc<str>> =
            self.levels.iter().filter(|(_, level)| level.waiting()).map(|(name, _)| name.clone()).collect();
        for name in waiting {
            while self.may_run(&name) {
                let Some(level) = self.levels.get_mut(&name) else { break };
                if !level.call() {
                    break;
                }
                level.executing += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn level(name: &str, shares: u64, lendable: u64, queues: u64, limit: u64) -> Value {
        let response = match queues {
            0 => json!({"type": "Reject"}),
            queues => {
                json!({"type": "Queue", "queuing": {"queues": queues, "handSize": 1, "queueLengthLimit": limit}})
            }
        };
        json!({"metadata": {"name": name, "uid": name}, "spec": {"type": "Limited", "limited":
            {"nominalConcurrencyShares": shares, "lendablePercent": lendable, "limitResponse": response}}})
    }

    #[test]
    fn levels_keep_their_seats_lend_and_queue() {
        let mut seats = Seats::new(10);
        seats.configure(&[level("a", 50, 0, 2, 2), level("b", 50, 100, 0, 0)]);
        // b lends all of its seats: a may have ten.
        for _ in 0..10 {
            assert!(matches!(seats.enter("a", 1), Entry::Seated));
        }
        let Entry::Queued(mut first) = seats.enter("a", 1) else { panic!("the eleventh waits") };
        assert!(matches!(seats.enter("a", 1), Entry::Queued(_)));
        assert!(matches!(seats.enter("a", 1), Entry::Refused), "its queue is full");
        assert!(matches!(seats.enter("a", 2), Entry::Queued(_)), "another flow has another queue");
        assert!(matches!(seats.enter("b", 1), Entry::Refused), "b does not queue");
        assert!(first.try_recv().is_err());
        seats.leave("a");
        assert!(first.try_recv().is_ok(), "the first that waits is called");
        // a keeps five seats whatever b wants.
        let mut seats = Seats::new(10);
        seats.configure(&[level("a", 50, 0, 2, 2), level("b", 50, 100, 0, 0)]);
        let taken = (0..10).filter(|_| matches!(seats.enter("b", 1), Entry::Seated)).count();
        assert_eq!(taken, 5);
        assert!(matches!(seats.enter("a", 1), Entry::Seated));
        assert!(matches!(seats.enter("unknown", 1), Entry::Exempt));
    }

    #[test]
    fn hands_hold_different_queues() {
        let hand = deal(0x1234_5678_9abc_def0, 64, 6);
        let mut sorted = hand.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), 6);
        assert_eq!(hand, deal(0x1234_5678_9abc_def0, 64, 6));
    }
}
