"""Where a passage may begin or end: at sentences if possible, else at lines, words, or between two characters."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import pairwise

# a full stop that no small letter follows, what closes quotes and brackets behind it, and the full stops of Chinese and
# Japanese, after which no space is needed
_STOP = re.compile(r"[.!?…][\"'”’»)\]]*(?=\s+[^\sa-z]|\s*\Z)|[。！？][」』”）]*")


class Borders:
    """Places in a sequence of tokens at which it may be cut, the best kind of place first.

    Args:
        places: all of them, ascending.
        better: those of them that are better, each kind ascending, the best kind first.
    """

    def __init__(self, places: Sequence[int], *better: Sequence[int]):
        self.places = places
        self.better = better

    @classmethod
    def of_text(cls, text: str, spans: Sequence[tuple[int, int]], first: int) -> Borders:
        """Those of a text whose tokens are the characters `spans`; before `first` stands what is no text."""
        length = len(spans)
        # a character that several tokens make up is not cut in two
        inner = [at for at in range(first + 1, length) if spans[at][0] >= spans[at - 1][1]]
        stops = {match.end() for match in _STOP.finditer(text)}
        gaps = [match.span() for match in re.finditer(r"\s+", text)]
        breaks = [text.count("\n", *gap) for gap in gaps]
        sentences, lines, words = [], [], []
        for at in inner:
            place = spans[at][0]
            gap = bisect_right(gaps, (place, len(text))) - 1
            # there may be white space around the place: a token may begin before it, behind it or within
            inside = gap >= 0 and gaps[gap][1] >= place
            if (gaps[gap][0] if inside else place) in stops or (inside and breaks[gap] > 1):
                sentences.append(at)
            if inside and breaks[gap]:
                lines.append(at)
            if inside:
                words.append(at)
        return cls([first, *inner, length], sentences, lines, words)

    def cut(self, start: int, stop: int, parts: int) -> list[tuple[int, int]]:
        """The stretch in at most so many parts of nearly equal length, cut at the best kind of place that is near."""
        wanted = [start + (stop - start) * part // parts for part in range(1, parts)]
        reach = (stop - start) // parts // 2
        return list(pairwise(sorted({start, *(self._near(place, reach, stop) for place in wanted), stop})))

    def _near(self, place: int, reach: int, stop: int) -> int:
        for kind in self.better:
            at = bisect_left(kind, place)
            near = [found for found in kind[max(0, at - 1) : at + 1] if abs(found - place) <= reach and found < stop]
            if near:
                return min(near, key=lambda found: abs(found - place))
        return min(self.places[bisect_left(self.places, place)], stop)
