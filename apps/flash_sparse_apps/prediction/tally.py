"""What is said about many documents once they are labelled: numbers and one example each, however many there are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass
class Tally:
    """Counts of documents.

    Attributes:
        cut: longer than the model reads.
        unknown: with words that nobody knows; `word` is the first of them and where it stands.
        unread: that could not be read; `why` is the first error.
    """

    documents: int = 0
    cut: int = 0
    unknown: int = 0
    word: str = ""
    unread: int = 0
    why: str = ""

    def counting(self, predictions: Iterable[dict]) -> Iterator[dict]:
        """Pass predictions on and count them; what is unknown of each stays here."""
        for prediction in predictions:
            self.documents += 1
            if "error" in prediction:
                self.unread += 1
                self.why = self.why or prediction["error"]
                yield prediction
                continue
            self.cut += prediction["truncated"]
            if (word := prediction.pop("unknown")) is not None:
                self.unknown += 1
                self.word = self.word or f"{word!r} in {prediction['id']}"
            yield prediction

    def add(self, other: Tally):
        """Count what another has counted too."""
        self.documents += other.documents
        self.cut += other.cut
        self.unknown += other.unknown
        self.word = self.word or other.word
        self.unread += other.unread
        self.why = self.why or other.why

    def notes(self, seq_len: int) -> Iterator[str]:
        """Lines for the user: what the model, which reads `seq_len` tokens, did not see."""
        if self.unknown:
            yield (
                f"note: {self.unknown} of {self.documents} documents have words that the run does not know, such as "
                f"{self.word}; white space separates words"
            )
        if self.cut:
            yield f"note: {self.cut} of {self.documents} documents are longer than {seq_len:,} tokens and were cut"
        if self.unread:
            yield f"{self.unread} of {self.documents} documents could not be read, such as: {self.why}"
