//! The parts of the walls that older kernels cannot enforce.

/// The gaps of the walls in every ABI of Landlock before the given one. *Spec*: landlock(7).
const MISSING_BEFORE: [(u32, &str); 5] = [
    (1, "nothing of the walls is enforced but the user's rights, because the kernel has no Landlock"),
    (3, "a backend can truncate any file that the gateway's user may write"),
    (5, "a backend can control any device that the gateway's user may open"),
    (6, "a backend can send signals to every process of its user, and connect to any abstract socket"),
    (9, "a backend can connect to any socket in the file system; the admin socket asks for a token"),
];

/// The gaps of the walls in a kernel with this ABI of Landlock; ABI 0 has no Landlock.
pub(super) fn missing(abi: u32) -> impl Iterator<Item = &'static str> {
    let without_landlock = abi == 0;
    MISSING_BEFORE
        .into_iter()
        .filter(move |(since, _)| if without_landlock { *since == 1 } else { *since > abi })
        .map(|(_, missing)| missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_kernel_lacks_more_and_the_newest_lacks_nothing() {
        let lacks: Vec<usize> = (0..=9).map(|abi| missing(abi).count()).collect();
        assert_eq!(lacks, [1, 4, 4, 3, 3, 2, 1, 1, 1, 0]);
        assert!(missing(0).all(|missing| missing.contains("no Landlock")));
    }
}
