//! Chance that can be had again: a generator that is made from a number, which a test prints.

/// Splitmix64. *Spec*: Steele, Lea and Flood, 2014.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// From the environment variable `name`, or another one each time. Printed, so that a failure can be had again.
    pub fn from_env(name: &str) -> (Self, u64) {
        let given = std::env::var(name).ok().map(|text| text.parse().expect("the seed is a number"));
        let seed = given.unwrap_or_else(|| u64::from(uuid::Uuid::new_v4().as_fields().0));
        eprintln!("seed {seed}; the same again: {name}={seed}");
        (Self::new(seed), seed)
    }

    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to `end - 1`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.number() % end
    }

    /// From 1 to `end`, small ones as likely as large ones: each power of two is.
    pub fn any_size(&mut self, end: u64) -> u64 {
        let bits = u64::from(u64::BITS - end.leading_zeros());
        let power = 1 << self.below(bits);
        (power + self.below(power)).min(end)
    }

    pub fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, usize::try_from(self.below(last as u64 + 1)).unwrap());
        }
    }
}
