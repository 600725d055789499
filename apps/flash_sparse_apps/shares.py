"""Shares of a whole as people write them."""

from __future__ import annotations

from fractions import Fraction


def parse_share(flag: str, text: str) -> float:
    """A share written as 1/16 or 0.0625.

    Raises:
        ValueError: it is none, or not above 0 and at most 1; the message names the flag.
    """
    try:
        share = float(Fraction(text))
    except (ValueError, ZeroDivisionError, OverflowError):
        share = 0.0
    if not 0 < share <= 1:
        raise ValueError(f"{flag} is {text}; expected a share such as 1/16 or 0.0625, above 0 and at most 1")
    return share
