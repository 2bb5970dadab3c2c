//! Chance that can be repeated: splitmix64 (Steele, Lea and Flood, 2014) from a seed, which a failing test prints.

/// The dice of one run.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 up to `limit`, which is not among them and not zero.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.any() % limit
    }

    /// The same for a place in a list.
    pub fn index(&mut self, limit: usize) -> usize {
        usize::try_from(self.below(limit as u64)).unwrap()
    }

    /// True in so many of a hundred throws.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// From the environment variable `name`, or others each time; with the seed, which is printed for a replay.
    pub fn from_env(name: &str) -> (Self, u64) {
        let given = std::env::var(name).ok().map(|text| text.parse().expect("the seed is a number"));
        let seed = given.unwrap_or_else(|| u64::from(uuid::Uuid::new_v4().as_fields().0));
        eprintln!("seed {seed}; the same again: {name}={seed}");
        (Self::new(seed), seed)
    }

    /// From 1 to `end`, small ones as likely as large ones: each power of two is.
    pub fn any_size(&mut self, end: u64) -> u64 {
        let bits = u64::from(u64::BITS - end.leading_zeros());
        let power = 1 << self.below(bits);
        (power + self.below(power)).min(end)
    }

    /// True once in `count` throws.
    pub fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.index(last + 1));
        }
    }
}
