"""Shares of images with the intervals that so many leave; which metrics are none."""

# Of which less is better; and r2, of which more is.
_LESS_IS_BETTER = ("loss", "mae", "rmse")
_IN_OWN_UNITS = (*_LESS_IS_BETTER, "r2")


def is_share(metric: str) -> bool:
    """Say whether a metric is a share, which is shown in percent."""
    return metric not in _IN_OWN_UNITS


def is_less_better(metric: str) -> bool:
    """Say whether the least value of a metric, or of the loss, is the best."""
    return metric in _LESS_IS_BETTER


def interval(right: float, total: int) -> tuple[float, float]:
    """Return the 95 % interval of a share `right / total`: Wilson's score interval (Wilson 1927;
    Brown, Cai and DasGupta, "Interval estimation for a binomial proportion", 2001, section 3.1.1).
    """
    z = 1.959963984540054
    share = right / total
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * (share * (1 - share) / total + (z / total / 2) ** 2) ** 0.5
    return max(centre - half, 0.0), min(centre + half, 1.0)


def share_text(right: int, total: int) -> str:
    """Return a share in percent with its 95 % interval: `96.1% (91.7 to 98.2%)`."""
    low, high = interval(right, total)
    # Of so many images a hundredth of a percent is more than one image.
    digits = 1 if total < 10_000 else 2
    return f"{right / total:.{digits}%} ({100 * low:.{digits}f} to {high:.{digits}%})"
