"""Numbers as people read them; above all one way to write a number with its interval, for the whole package."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

Interval = tuple[float, float]
NO_INTERVAL: Interval = (math.nan, math.nan)
Form = Callable[[float], str]
"""Writes a number; a dash for nan."""


def with_interval(value: float, ci95: Interval = NO_INTERVAL, form: Form | None = None) -> str:
    """A number and its 95 % interval, each end written as the number is; the number alone where an end is unknown.

    Args:
        value: the number.
        ci95: lower and upper end.
        form: how a number is written; `decimal` if None.

    >>> with_interval(0.941, (0.911, 0.971)), with_interval(0.941, (0.911, 0.971), compact), with_interval(0.5)
    ('0.941 [0.911, 0.971]', '.941 [.911, .971]', '0.500')
    """
    form = form or decimal
    # The ends of a difference say by themselves on which side of zero they are.
    return f"{form(value)} {interval(ci95, decimal if form is signed else form)}".strip()


def interval(ci95: Interval, form: Form | None = None) -> str:
    """`[0.911, 0.971]`, or an empty text where an end is unknown."""
    form = form or decimal
    return f"[{form(ci95[0])}, {form(ci95[1])}]" if all(math.isfinite(end) for end in ci95) else ""


def widest(intervals: Sequence[Interval]) -> Interval:
    """From the lowest end of several intervals to the highest; none where one of them is not known.

    Of several fits' own intervals it is never narrower than the range of what they have, nor than what the items leave
    open of any one of them. It is no bootstrap, and rather too wide than too narrow.

    >>> widest([(0.5, 0.9), (0.7, 1.0)])
    (0.5, 1.0)
    """
    ends = [end for interval in intervals for end in interval]
    return (min(ends), max(ends)) if ends and all(map(math.isfinite, ends)) else NO_INTERVAL


def decimal(value: float) -> str:
    """Three decimals.

    >>> decimal(0.98765), decimal(float("nan"))
    ('0.988', '-')
    """
    return "-" if math.isnan(value) else f"{value:.3f}"


def compact(value: float) -> str:
    """A share in four characters.

    >>> compact(0.941), compact(1.0), compact(-0.016), compact(-1.04)
    ('.941', '1.00', '-.02', '-1.0')
    """
    if not math.isfinite(value):
        return "-"
    if value <= -0.995:
        return f"{value:.1f}"
    text = f"{value:.2f}" if value < 0 else f"{value:.3f}"
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0") else text[:4]


def signed(value: float) -> str:
    """A difference, three decimals and its sign."""
    return "-" if math.isnan(value) else f"{value:+.3f}"


def significant(value: float) -> str:
    """Four significant digits, for numbers of any size.

    >>> significant(1234.5), significant(0.00012345)
    ('1234', '0.0001234')
    """
    return "-" if math.isnan(value) else f"{value:.4g}"


def percent(value: float) -> str:
    """A share in whole percent.

    >>> percent(0.125)
    '12%'
    """
    return "-" if math.isnan(value) else f"{value:.0%}"


def count(value: float) -> str:
    """A whole number, its thousands set off."""
    return "-" if math.isnan(value) else f"{value:,.0f}"


def nats(value: float) -> str:
    """A KL: four decimals, or a power of ten where they would be zeros.

    >>> nats(0.01234), nats(0.00001234), nats(0.0)
    ('0.0123', '1.2e-05', '0.0000')
    """
    return f"{value:.1e}" if 0 < abs(value) < 5e-5 else "-" if math.isnan(value) else f"{value:.4f}"


def compact_nats(value: float) -> str:
    """The same in six characters.

    >>> compact_nats(0.01234), compact_nats(0.00001234)
    ('0.0123', '<.0001')
    """
    return "<.0001" if 0 < abs(value) < 5e-5 else nats(value)


def duration(seconds: float) -> str:
    """Seconds as people say them.

    >>> duration(0.5), duration(75), duration(7260)
    ('0.5 s', '1 min 15 s', '2 h 1 min')
    """
    if not math.isfinite(seconds):
        return "-"
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
