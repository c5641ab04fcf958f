"""Is a difference more than chance? Tests, intervals and sample sizes, in plain numbers."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

# Below so many discordant pairs the chi-square approximation is too rough.
EXACT_BELOW = 25
# A difference is told from chance at this level; a planned one is found with this probability.
LEVEL, POWER = 0.05, 0.8
WELCH = "Welch's t test"
_NORMAL = statistics.NormalDist()


@dataclass(frozen=True)
class Test:
    """name: of the test, in words. p: of so large a difference by chance, 0..1."""

    # pytest would collect it.
    __test__ = False

    name: str
    p: float


def mcnemar(mended: int, broke: int) -> Test:
    """Test whether two classifiers err equally often on the same images.

    mended, broke: images that only the second, only the first one has right. Below 25 of them the
    exact binomial test, else chi-square with continuity correction (McNemar 1947; Edwards 1948), as
    `statsmodels.stats.contingency_tables.mcnemar` computes both.
    """
    discordant, fewer = mended + broke, min(mended, broke)
    if discordant < EXACT_BELOW:
        tail = sum(math.comb(discordant, k) for k in range(fewer + 1)) / 2**discordant
        return Test("McNemar, exact", min(1.0, 2 * tail))
    chi_square = (abs(mended - broke) - 1) ** 2 / discordant
    # P(chi-square > x) of one degree of freedom.
    return Test("McNemar", math.erfc(math.sqrt(chi_square / 2)))


def images_needed(mended: int, broke: int, num_images: int) -> int | None:
    """Return how many images would show this difference with a power of 80 % at the 5 % level, if
    its shares stay; None if there is no difference.

    Connor, "Sample size for testing differences in proportions for the paired-sample design",
    Biometrics 43 (1987), equation 1.
    """
    share, difference = (mended + broke) / num_images, abs(mended - broke) / num_images
    if difference == 0:
        return None
    spread = math.sqrt(max(share - difference**2, 0.0))
    root = _z(1 - LEVEL / 2) * math.sqrt(share) + _z(POWER) * spread
    return math.ceil((root / difference) ** 2)


def paired_t(differences: Sequence[float]) -> Test:
    """Test whether the mean of paired differences is 0: Student's t test (Gosset 1908)."""
    num, name = len(differences), "paired t test"
    spread = statistics.stdev(differences) if num > 1 else 0.0
    if spread == 0:
        return Test(name, 1.0 if num < 2 or not differences[0] else 0.0)
    t = statistics.fmean(differences) / (spread / math.sqrt(num))
    return Test(name, t_tails(t, num - 1))


def differences_needed(differences: Sequence[float]) -> int | None:
    """Return how many paired differences like these would show their mean with a power of 80 %
    (normal approximation); None if it is 0.
    """
    mean = statistics.fmean(differences)
    if mean == 0 or len(differences) < 2:
        return None
    root = (_z(1 - LEVEL / 2) + _z(POWER)) * statistics.stdev(differences) / mean
    return max(2, math.ceil(root**2))


def welch(first: Sequence[float], second: Sequence[float]) -> Test:
    """Test whether two groups of at least two values have one mean, their spreads may differ
    (Welch 1947).
    """
    parts = [statistics.variance(values) / len(values) for values in (first, second)]
    gap, name = statistics.fmean(second) - statistics.fmean(first), WELCH
    if sum(parts) == 0:
        return Test(name, float(gap == 0))
    freedom = sum(parts) ** 2 / sum(
        part**2 / (len(values) - 1) for part, values in zip(parts, (first, second), strict=True)
    )
    return Test(name, t_tails(gap / math.sqrt(sum(parts)), freedom))


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean of some values by Student's t; None of a single one."""
    if len(values) < 2:
        return None
    mean, num = statistics.fmean(values), len(values)
    half = t_quantile(1 - LEVEL / 2, num - 1) * statistics.stdev(values) / math.sqrt(num)
    return mean - half, mean + half


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values adjusted for being several (Holm, "A simple sequentially rejective multiple
    test procedure", 1979), in the order given.
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def t_tails(t: float, freedom: float) -> float:
    """Return the probability of a Student's t beyond ±t."""
    return _beta_share(freedom / (freedom + t * t), freedom / 2, 0.5)


def t_quantile(share: float, freedom: float) -> float:
    """Return the t below which this share (above 0.5) of Student's distribution lies."""
    tails = 2 * (1 - share)
    high = 1.0
    while t_tails(high, freedom) > tails:
        high *= 2
    return _root(lambda t: t_tails(t, freedom) - tails, 0.0, high)


def _root(falling: Callable[[float], float], low: float, high: float) -> float:
    # A double has 53 bits.
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return (low + high) / 2


def _z(share: float) -> float:
    return _NORMAL.inv_cdf(share)


def _beta_share(x: float, a: float, b: float) -> float:
    """Return the regularised incomplete beta function by its continued fraction ("NIST Digital
    Library of Mathematical Functions", 8.17.22), which converges below (a + 1) / (a + b + 2).
    """
    if x in (0, 1):
        return x
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta_share(1 - x, b, a)
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    log_front += a * math.log(x) + b * math.log1p(-x)
    # Lentz's method, in the form of Thompson and Barnett (1986).
    fraction = c = 1.0
    d = 0.0
    for step in range(1000):
        m = step // 2
        if step == 0:
            factor = 1.0
        elif step % 2 == 0:
            factor = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        else:
            factor = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d = 1 / (1 + factor * d)
        c = 1 + factor / c
        fraction *= c * d
        if abs(c * d - 1) < 1e-15 and step > 1:
            break
    return math.exp(log_front) / a * (fraction - 1)
