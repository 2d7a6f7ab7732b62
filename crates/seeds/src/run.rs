//! One seed from beginning to end: a storm of users and faults, then calm, then judgement.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use base::Rng;
use parking_lot::Mutex;

use crate::calm::problems;
use crate::door::Weather;
use crate::laws::{Judge, Strict};
use crate::script::User;
use crate::world::World;

/// How long things may take to settle once faults have ended, virtual time: a key that failed all the time waits up
/// to 1,000 seconds, and a job's failed pods are tried again after up to ten minutes.
const SETTLE: Duration = Duration::from_secs(40 * 60);
/// Between two looks whether all is settled.
const LOOK: Duration = Duration::from_secs(10);
/// How long nothing may be written at the end.
const QUIET: Duration = Duration::from_secs(150);
/// More commits than any seed can need.
const MANY: u64 = 30_000;

/// How to run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Print every commit.
    pub trace: bool,
}

/// What became of a seed.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// All commits in one number.
    pub digest: u64,
    /// How many commits there were.
    pub commits: u64,
    /// The broken laws.
    pub broken: Vec<String>,
    /// The last commits.
    pub last: Vec<String>,
    /// Virtual time that passed.
    pub time: Duration,
}

thread_local! {
    /// Panics of this thread: tasks swallow them, the simulation must not.
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Makes panics known to the seed that runs on the thread. Call once.
pub fn catch_panics() {
    std::panic::set_hook(Box::new(|info| {
        PANICS.with(|panics| panics.borrow_mut().push(format!("panic: {info}")));
    }));
}

/// Runs a seed on this thread.
pub fn run(seed: u64, options: &Options) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime without I/O");
    let mut outcome = runtime.block_on(live(seed, options));
    outcome.broken.extend(PANICS.with(|panics| std::mem::take(&mut *panics.borrow_mut())));
    outcome
}

/// Resources whose watches may lag behind all others for a whole seed.
const LATE: [&str; 5] = ["pods", "pods", "replicasets", "poddisruptionbudgets", "endpointslices"];

/// What a seed's faults are.
struct Storm {
    weather: Weather,
    strict: Strict,
    /// How often what happens, per 1,000 ticks: controllers die, the scheduler dies, an agent dies, a machine loses
    /// power, a component is cut off.
    deaths: [u64; 5],
    tight: bool,
}

fn storm(rng: &Rng) -> Storm {
    let some = |percent: u64, most: u64| if rng.below(100) < percent { 1 + rng.below(most) } else { 0 };
    let once = rng.below(2) == 0;
    let weather = Weather {
        lost: some(50, 300),
        unanswered: if once { 0 } else { some(60, 300) },
        refused: some(50, 300),
        slow: some(60, 1_500),
        slow_ms: 1 + rng.below(5_000),
        cut: some(60, 6_000),
        lag: some(60, 1_500),
        late: "",
        again: some(40, 4_000),
        expired: some(40, 4_000),
    };
    let mut deaths = [some(50, 40), some(50, 40), some(50, 60), some(40, 15), some(40, 30)];
    if once {
        deaths[0] = 0;
        deaths[1] = 0;
    }
    let late = some(40, LATE.len() as u64).checked_sub(1).and_then(|at| LATE.get(usize::try_from(at).ok()?));
    let weather = Weather { late: late.unwrap_or(&""), ..weather };
    Storm { weather, strict: Strict { once }, deaths, tight: rng.below(3) == 0 }
}

async fn live(seed: u64, options: &Options) -> Outcome {
    let dice = Rng::seeded(seed ^ 0x5eed_0000_0000_0000);
    let storm = storm(&dice);
    let judge = Arc::new(Mutex::new(Judge::default()));
    let mut world = World::new(seed, judge.clone(), options.trace).await;
    let user = User {
        client: world.admin.clone(),
        rng: Rng::seeded(!seed),
        clock: world.clock.clone(),
        judge: judge.clone(),
    };
    world.start_controllers();
    world.start_scheduler();
    for _ in 0..3 + dice.below(3) {
        let cpu = if storm.tight { 1_500 } else { 4_000 };
        world.add_machine(cpu, 12);
    }
    user.prepare().await;
    world.pass(Duration::from_secs(5)).await;
    judge.lock().strict = storm.strict;
    rage(&mut world, &user, &storm, &dice).await;
    world.heal();
    user.settle().await;
    let mut broken = settle(&world, &judge).await;
    broken.splice(0..0, std::mem::take(&mut judge.lock().broken));
    let (log, time) = (world.log.clone(), world.clock.monotonic());
    world.end().await;
    let log = log.lock();
    if log.count > MANY {
        broken.push(format!("no livelock: {} commits", log.count));
    }
    let last = log.last.iter().cloned().collect();
    Outcome { seed, digest: log.digest(), commits: log.count, broken, last, time }
}

/// Users act and things go wrong until the users are done.
async fn rage(world: &mut World, user: &User, storm: &Storm, dice: &Rng) {
    world.ways.set(storm.weather);
    world.wild.store(true, Ordering::Relaxed);
    let (deeds, time) = (6 + dice.below(14), Duration::from_secs(20 + dice.below(200)));
    let (worker, tasks) = (user.clone(), world.tasks.clone());
    let work = tasks.spawn("user", async move { worker.work(deeds, time).await });
    let mut due: Vec<(Duration, Back)> = Vec::new();
    while !work.is_finished() {
        world.pass(Duration::from_secs(1)).await;
        let now = world.clock.monotonic();
        for (_, back) in due.extract_if(.., |(at, _)| *at <= now) {
            undo(world, user, back).await;
        }
        for (kind, share) in storm.deaths.iter().enumerate() {
            if *share > 0 && dice.below(1_000) < *share {
                let wait = Duration::from_secs(1 + dice.below(if kind == 3 || kind == 4 { 150 } else { 15 }));
                due.extend(strike(world, kind, dice).map(|back| (now + wait, back)));
            }
        }
    }
    for (_, back) in due {
        undo(world, user, back).await;
    }
}

/// What comes back later.
enum Back {
    Controllers,
    Scheduler,
    Agent(usize),
    Power(usize),
    Gone(usize),
    Way(String),
}

fn strike(world: &mut World, kind: usize, dice: &Rng) -> Option<Back> {
    let number = usize::try_from(dice.below(world.machines.len() as u64)).ok()?;
    match kind {
        0 => world.stop_controllers(),
        1 => world.stop_scheduler(),
        2 => world.stop_agent(number),
        3 => {
            world.stop_agent(number);
            world.machines[number].hardware.lock().lose_power();
        }
        _ => {
            let who = world.machines[number].name.clone();
            world.ways.cut_off(&who, true);
            return Some(Back::Way(who));
        }
    }
    let gone = world.machines.iter().filter(|machine| machine.gone).count();
    Some(match kind {
        0 => Back::Controllers,
        1 => Back::Scheduler,
        2 => Back::Agent(number),
        _ if dice.below(4) == 0 && gone == 0 => {
            world.machines[number].gone = true;
            Back::Gone(number)
        }
        _ => Back::Power(number),
    })
}

async fn undo(world: &mut World, user: &User, back: Back) {
    match back {
        Back::Controllers => world.start_controllers(),
        Back::Scheduler => world.start_scheduler(),
        Back::Agent(number) | Back::Power(number) => world.start_agent(number),
        Back::Gone(number) => {
            let name = world.machines[number].name.clone();
            if let Err(error) = user.delete_node(&name).await {
                tracing::debug!(name, %error, "no node to delete");
            }
        }
        Back::Way(who) => world.ways.cut_off(&who, false),
    }
}

/// Waits until all is as it should be, and stays so without anybody writing.
async fn settle(world: &World, judge: &Mutex<Judge>) -> Vec<String> {
    let ends = world.clock.monotonic() + SETTLE;
    loop {
        world.pass(LOOK).await;
        if !judge.lock().broken.is_empty() {
            return Vec::new();
        }
        let found = problems(&judge.lock().truth);
        if found.is_empty() {
            let before = world.log.lock().busy;
            world.pass(QUIET).await;
            let after = world.log.lock().busy;
            if before == after {
                return Vec::new();
            }
        }
        if world.clock.monotonic() >= ends {
            return match problems(&judge.lock().truth) {
                found if found.is_empty() => vec!["writes go on in a cluster at rest".to_owned()],
                found => found.into_iter().take(12).map(|what| format!("not settled: {what}")).collect(),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_seeds_keep_the_laws_and_repeat() {
        catch_panics();
        for seed in 0..2 {
            let outcome = run(seed, &Options::default());
            assert!(outcome.broken.is_empty(), "seed {seed}: {:#?}\n{:#?}", outcome.broken, outcome.last);
        }
        let (first, second) = (run(0, &Options::default()), run(0, &Options::default()));
        assert_eq!((first.digest, first.commits), (second.digest, second.commits), "a seed repeats");
    }
}
