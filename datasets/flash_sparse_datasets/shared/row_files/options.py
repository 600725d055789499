"""How a file of rows is to be read where its name and content do not say it."""

import csv
from dataclasses import dataclass

NAMED_DELIMITERS = {"tab": "\t", "\\t": "\t", "semicolon": ";", "comma": ",", "pipe": "|"}


@dataclass(frozen=True)
class ReaderOptions:
    """Options of CSV, TSV and every other file of text.

    Attributes:
        encoding: As Python names it; None is UTF-8, or UTF-16 and UTF-32 where a byte-order mark says so.
        delimiter: What separates cells; None is a comma, in TSV a tab, or what the file says or looks like.
        quotes: Whether a quotation mark at the beginning of a cell makes it end at the next one.
        columns: Names of the columns of a CSV or TSV file without a header.

    Raises:
        ValueError: for a value that cannot be used.
    """

    encoding: str | None = None
    delimiter: str | None = None
    quotes: bool = True
    columns: tuple[str, ...] | None = None

    def __post_init__(self):
        if self.encoding is not None:
            try:
                "x".encode(self.encoding)
            except (LookupError, UnicodeError):
                raise ValueError(
                    f"--encoding is {self.encoding!r}, expected an encoding of text that Python knows, such as cp1252"
                ) from None
        if self.delimiter is not None:
            object.__setattr__(self, "delimiter", NAMED_DELIMITERS.get(self.delimiter, self.delimiter))
            try:
                csv.reader([], delimiter=self.delimiter)
                usable = self.delimiter not in '"\r\n'
            except TypeError:
                usable = False
            if not usable:
                raise ValueError(f"--delimiter is {self.delimiter!r}, expected one character such as ; or the word tab")
        if self.columns is not None:
            object.__setattr__(self, "columns", tuple(self.columns))
            if not self.columns or len(set(self.columns)) != len(self.columns) or "" in self.columns:
                raise ValueError(f"--columns is {list(self.columns)}, expected different names")
