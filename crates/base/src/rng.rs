//! The one source of randomness, seeded, so that a run can be replayed.

use std::sync::Arc;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng as _, RngCore, SeedableRng};

/// The characters of generated names: no vowels and no look-alikes, as upstream's `rand.String`.
const NAME_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// A shared, seeded random number generator; cheap to clone.
#[derive(Clone, Debug)]
pub struct Rng(Arc<Mutex<StdRng>>);

impl Rng {
    /// A generator seeded by the operating system.
    pub fn system() -> Self {
        Rng(Arc::new(Mutex::new(StdRng::from_os_rng())))
    }

    /// A generator whose sequence follows from `seed`.
    pub fn seeded(seed: u64) -> Self {
        Rng(Arc::new(Mutex::new(StdRng::seed_from_u64(seed))))
    }

    /// Any 64 bits.
    pub fn u64(&self) -> u64 {
        self.0.lock().next_u64()
    }

    /// A number in `0..bound`; 0 when `bound` is 0.
    pub fn below(&self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.0.lock().random_range(0..bound) }
    }

    /// A number in `0.0..1.0`.
    pub fn f64(&self) -> f64 {
        self.0.lock().random()
    }

    /// Fills `bytes`.
    pub fn fill(&self, bytes: &mut [u8]) {
        self.0.lock().fill_bytes(bytes);
    }

    /// `length` characters fit for the end of an object's name.
    pub fn suffix(&self, length: usize) -> String {
        let mut rng = self.0.lock();
        (0..length).map(|_| char::from(NAME_ALPHABET[rng.random_range(0..NAME_ALPHABET.len())])).collect()
    }

    /// A version 4 UUID in its text form.
    pub fn uuid(&self) -> String {
        let mut bytes = [0; 16];
        self.fill(&mut bytes);
        uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
    }
}

impl Default for Rng {
    fn default() -> Self {
        Rng::system()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_sequence() {
        let (a, b) = (Rng::seeded(7), Rng::seeded(7));
        assert_eq!((a.u64(), a.suffix(5), a.uuid()), (b.u64(), b.suffix(5), b.uuid()));
        assert_eq!(a.suffix(5).len(), 5);
        assert_eq!(a.uuid().len(), 36);
        assert_eq!(a.below(0), 0);
    }
}
