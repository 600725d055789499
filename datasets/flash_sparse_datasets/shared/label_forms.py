"""The forms in which cells hold labels: words, lists as JSON, Python, NumPy and pandas write them, zeros and ones."""

import ast
import contextlib
import csv
import io
import json
import math
import re
import tokenize
from collections.abc import Sequence

from flash_sparse_datasets.shared.documents import DataError
from flash_sparse_datasets.shared.text_files import shortened

CLOSING = {"[": "]", "(": ")", "{": "}"}
LIST_CALLS = ("array(", "np.array(", "numpy.array(", "set(", "frozenset(", "Index(", "pd.Index(", "tuple(", "list(")
MISSING = (
    *("nan", "none", "null", "n/a", "na", "<na>", "nat", "-"),
    *("#n/a", "#ref!", "#value!", "#div/0!", "#name?", "#num!", "#null!"),  # as spreadsheets show errors
)
TYPED = {"\\n": "\n", "\\t": "\t"}  # separators that cannot be typed as they are
YES = ("1", "1.0", "true", "yes", "x")
NO = ("0", "0.0", "false", "no", "")


def written(cell: str) -> object:
    """The list that a cell of text holds in any of the forms that are unambiguous, or the cell itself.

    Raises:
        DataError: it looks like a list and is none, or holds labels without quotes.
    """
    text = cell.strip()
    bracketed = bool(text) and CLOSING.get(text[0]) == text[-1]
    if not bracketed and not text.startswith(LIST_CALLS):
        return cell
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = _literal(text)
    if value is None:
        inside = text[1:-1].strip()
        word = not any(mark in text for mark in ",'\"") and inside.lower() not in MISSING and not inside[:1].isdigit()
        if bracketed and (word or (text[0] == "(" and not any(quote in text for quote in "'\""))):
            return cell  # such as [NEWS] or (other)
        if "..." in text:
            raise DataError(f"is {shortened(text)}, a list that was shortened when it was written, expected all of it")
        raise DataError(
            f"is {shortened(text)}, which looks like a list and is none, expected quotes around each label as in "
            '["a", "b"], or label_separator (brackets around labels then do not count)'
        )
    return value


def _literal(text: str) -> list | None:
    try:
        tree = ast.parse(_with_commas(text), mode="eval").body
        value = _value(tree)
    except (ValueError, SyntaxError, MemoryError, RecursionError, tokenize.TokenError):
        return None
    return value if isinstance(value, list) else [value]


def _with_commas(text: str) -> str:
    """NumPy's ['a' 'b'] and [1 0] with commas; Python would join the strings.

    Raises:
        ValueError: some neighbours have a comma and some have none.
    """
    tokens = [
        token.string
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type in (tokenize.NAME, tokenize.NUMBER, tokenize.STRING, tokenize.OP)
    ]
    pieces, joined = [], False
    for token, following in zip(tokens, [*tokens[1:], ""], strict=True):
        pieces.append(token)
        if _is_operand(token) and _is_operand(following):
            pieces.append(",")
            joined = True
    if joined and "," in tokens and not text.startswith(LIST_CALLS):
        raise ValueError("a comma is missing")
    return " ".join(pieces)


def _is_operand(token: str) -> bool:
    return bool(token) and (token[0].isalnum() or (token[0] in "'\"_." and token != "."))


def _value(node: ast.AST) -> object:
    """What a literal stands for, calls such as np.str_('a') and array([...]) included; a list for any collection."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str | int | float | bool):
        return node.value
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        return [_value(element) for element in node.elts]
    if isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in ("set", "frozenset", "list", "tuple") and not node.args:
            return []
        known = ("array", "Index", "set", "frozenset", "tuple", "list", "str_", "bool_", "bool", "float32", "float64")
        if len(node.args) == 1 and (name in known or name.startswith(("int", "uint"))):
            return _value(node.args[0])
    raise ValueError("no literal")


def parted(cell: str, separator: str) -> list[str]:
    """The labels of a cell, without brackets around all of them and without quotes around each, in which the separator
    does not count."""
    text = cell.strip()
    if text and CLOSING.get(text[0]) == text[-1]:
        text = text[1:-1]
    parts = text.split(separator)
    if '"' in text and len(separator) == 1 and separator not in '" \r\n':
        with contextlib.suppress(csv.Error):  # such as a quote that is never closed
            (parts,) = csv.reader([text], delimiter=separator, skipinitialspace=True, strict=True)
    return [_unquoted(label) for label in parts if label.strip()]


def _unquoted(label: str) -> str:
    label = label.strip()
    return label[1:-1] if len(label) > 1 and label[0] == label[-1] and label[0] in "'\"" else label


def name_of(label: object) -> str:
    """What a label is called.

    Raises:
        DataError: it is none; the message goes on after the field's name.
    """
    if isinstance(label, bool):
        return str(label).lower()
    if isinstance(label, float) and math.isnan(label):
        raise DataError("has NaN, expected a label ([] where a list has none)")
    if isinstance(label, float) and label.is_integer():  # what pandas makes of integers where one is missing
        return str(int(label))
    if isinstance(label, int):
        return str(label)
    if not isinstance(label, str):
        raise DataError(f"has {shortened(label)}, expected a string, integer or boolean")
    if not label.strip():
        raise DataError("has an empty label, expected a string, integer or boolean")
    return label.strip()


def is_multi_hot(values: object) -> bool:
    """Whether a list holds zeros and ones alone, and more than one of them."""
    if not isinstance(values, list) or len(values) < 2:
        return False
    return all(isinstance(value, bool | int | float | str) and _flag(value) in ("0", "1") for value in values)


def bare_flags(cell: str) -> list[int] | None:
    """The zeros and ones of a cell that holds nothing else, such as 0 1 0."""
    return [int(flag) for flag in cell.split()] if re.fullmatch(r"[01]( +[01])+", cell.strip()) else None


def from_multi_hot(values: Sequence) -> list[str]:
    """The positions of the ones, from 0."""
    return [str(position) for position, value in enumerate(values) if _flag(value) == "1"]


def _flag(value: bool | int | float | str) -> str:
    """0 or 1 as such lists write them, anything else as it is."""
    text = str(value).strip().lower()
    return {"true": "1", "false": "0", "1.0": "1", "0.0": "0"}.get(text, text)


def is_yes(value: object) -> bool:
    """Whether a cell of a column that is a label says that its row has it.

    Raises:
        DataError: it says neither; the message goes on after the field's name.
    """
    text = "" if value is None else str(value).strip().lower()
    if text in YES:
        return True
    if text in NO:
        return False
    raise DataError(
        f"is {shortened(value)}, expected 1 or x for a row that has this label, 0 or nothing for one without"
    )
