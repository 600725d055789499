"""Fields by name, and fields within fields: `doc.text` is the field `text` of what the field `doc` holds."""

from collections.abc import Sequence
from typing import NamedTuple

from flash_sparse_datasets.shared.documents import DataError
from flash_sparse_datasets.shared.text_files import shortened


class Field(NamedTuple):
    """A field as it was asked for, the column of the file that holds it, and the keys on the way down from there."""

    name: str
    column: str
    keys: tuple[str, ...] = ()


def find_field(name: str, columns: Sequence[str]) -> Field | None:
    """The field of this name, or the one within the longest name of a column before a dot; None if there is none."""
    if name in columns:
        return Field(name, name)
    parts = name.split(".")
    for length in range(len(parts) - 1, 0, -1):
        column = ".".join(parts[:length])
        if column in columns:
            return Field(name, column, tuple(parts[length:]))
    return None


def value_at(row: dict, field: Field, null: bool = False) -> object:
    """The field's value in a row.

    Args:
        null: whether it may be None.

    Raises:
        DataError: it is not there, or is null; the message does not name the row.
    """
    value: object = row
    for key in (field.column, *field.keys):
        if not isinstance(value, dict) or key not in value:
            there = shortened(list(value)) if isinstance(value, dict) else shortened(value)
            raise DataError(f"has no field {field.name!r}; its fields are: {there}")
        value = value[key]
    if value is None and not null:
        raise DataError(f"{field.name!r} is null, expected a value")
    return value
