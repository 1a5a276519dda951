"""The order of training windows: a pure function of (seed, position) that needs no memory and no state.

A shuffled list of N windows would have to be stored, or drawn again on every resume; a keyed bijection of range(N) need not. It
is a Feistel network on the smallest power of four that holds N, walked until it lands inside range(N) (Black and Rogaway,
"Ciphers with arbitrary finite domains", 2002: cycle walking keeps a bijection a bijection). It is a shuffle, not a cipher.
"""

import numpy as np

ROUNDS = 8
GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix(x: np.ndarray) -> np.ndarray:
    """Scramble 64-bit words one by one (the finaliser of SplitMix64; Steele et al. 2014). uint64 in, uint64 out, any shape."""
    with np.errstate(over="ignore"):
        x = np.asarray(x, np.uint64) + GOLDEN
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def permute(position: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Which of n windows is read at each global position. (B,) integers >= 0 -> (B,) int64 in range(n).

    Position p belongs to epoch p // n; inside one epoch every window comes exactly once, and every epoch has an order of its
    own. The answer for a position does not depend on the other positions asked for in the same call.
    """
    if n < 1:
        raise ValueError(f"cannot order {n} windows: the store must hold at least one.")
    position = np.asarray(position, np.uint64)
    epoch, index = position // np.uint64(n), position % np.uint64(n)
    key = mix(mix(np.uint64(seed % 2**64)) ^ epoch)
    half = np.uint64(max(1, ((n - 1).bit_length() + 1) // 2))
    out = _feistel(index, key, half)
    outside = np.flatnonzero(out >= n)
    while outside.size:
        out[outside] = _feistel(out[outside], key[outside], half)
        outside = outside[out[outside] >= n]
    return out.astype(np.int64)


def _feistel(x: np.ndarray, key: np.ndarray, half: np.uint64) -> np.ndarray:
    low = (np.uint64(1) << half) - np.uint64(1)
    left, right = x >> half, x & low
    for round_ in range(ROUNDS):
        left, right = right, left ^ (mix(key ^ (right + np.uint64(round_ << 40))) & low)
    return left << half | right
