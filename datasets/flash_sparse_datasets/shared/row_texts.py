"""The text of a row: one field or several, or the file that a field names."""

from collections.abc import Sequence
from itertools import islice

from flash_sparse_datasets.shared.document_files import text_of
from flash_sparse_datasets.shared.documents import DataError
from flash_sparse_datasets.shared.nested_fields import Field, find_field, value_at
from flash_sparse_datasets.shared.row_files import RowFile
from flash_sparse_datasets.shared.text_files import is_blank, shortened


class RowTexts:
    """Finds texts in the rows of a file.

    Args:
        file: The file; paths in it are relative to its folder.
        texts: One field, or several whose texts are put after one another, an empty line between two.
        path: The field with the path of each document's file, in place of `texts`.
        argument: What errors call `texts`.

    Raises:
        DataError: the file has no such field.
    """

    def __init__(
        self, file: RowFile, texts: str | Sequence[str], path: str | None = None, argument: str = "text_field"
    ):
        texts = (texts,) if isinstance(texts, str) else texts
        self._folder = file.path.parent
        self._encoding = file.options.encoding
        self._path = None if path is None else existing(file, path, "file_field")
        self._texts = [] if path is not None else [existing(file, text, argument) for text in texts]

    @property
    def made(self) -> bool:
        """Whether texts are put together, or come out of files, and stand so in no row."""
        return self._path is not None or len(self._texts) > 1

    @property
    def fields(self) -> list[Field]:
        return self._texts if self._path is None else [self._path]

    def text_of(self, row: dict) -> str:
        """The text of one row.

        Raises:
            DataError: it has none; the message does not name the row.
        """
        if self._path is not None:
            return self._text_behind(row, self._path)
        texts = [_written(value_at(row, field, null=len(self._texts) > 1), field) for field in self._texts]
        text = texts[0] if len(texts) == 1 else "\n\n".join(text for text in texts if text.strip())
        if is_blank(text):
            names = " and ".join(repr(field.name) for field in self._texts)
            raise DataError(f"{names} {'is' if len(texts) == 1 else 'are'} empty, expected a text")
        return text

    def _text_behind(self, row: dict, field: Field) -> str:
        name = value_at(row, field)
        if not isinstance(name, str) or not name.strip():
            raise DataError(f"{field.name!r} is {shortened(name)}, expected the path of a file")
        path = self._folder / name.strip()
        if "\\" in name and not path.exists():  # as Windows writes paths
            path = self._folder / name.strip().replace("\\", "/")
        return encodable(text_of(path, self._encoding), "text")


def _written(text: object, field: Field) -> str:
    """A value's text, whose paragraphs may be a list; None is one of several fields that has none."""
    if isinstance(text, list):
        for paragraph in text:
            if not isinstance(paragraph, str):
                raise DataError(f"{field.name!r} has the paragraph {shortened(paragraph)}, expected strings")
        text = "\n\n".join(text)
    if text is None:
        text = ""
    if not isinstance(text, str):
        raise DataError(f"{field.name!r} is {shortened(text)}, expected a string or a list of paragraphs")
    return encodable(text, field.name)


LONGEST_NAME = 40  # of a column: longer ones look like a text


def existing(file: RowFile, name: str, argument: str) -> Field:
    """The field of this name; DataError, with the argument that named it, where the file has none."""
    found = find_field(name, file.fields)
    if found is None:
        hint = "" if argument == "id_field" else header_hint(file)
        if argument == "text_field" and not hint:
            hint = "; one of them may name files (file_field)"
        raise DataError(f"{file.path}: no field {name!r} ({argument}); its fields are: {field_list(file)}{hint}")
    return found


def field_list(file: RowFile) -> str:
    shown = [shortened(field) for field in file.fields[:20]]
    return ", ".join(shown) + (", ..." if len(file.fields) > 20 else "")


def header_hint(file: RowFile) -> str:
    """What may have been meant where a table's header does not look like one."""
    if file.options.columns is None and hasattr(file, "delimiter"):
        if len(file.fields) == 1:
            return "; expected the columns' names in the first row, and --delimiter where cells are separated otherwise"
        rows = [row for _, _, row in islice(file.tried(file.fields), 50) if isinstance(row, dict)]
        repeated = any(name and row.get(name) == name for row in rows for name in file.fields)  # as labels are
        if repeated or any(len(name) > LONGEST_NAME for name in file.fields):
            return "; expected --columns where the first line is no header"
    return ""


def id_of(row: dict, field: Field) -> str:
    """A row's id.

    Raises:
        DataError: it is neither text nor an integer; the message does not name the row.
    """
    id = value_at(row, field)
    if isinstance(id, float) and id.is_integer():  # as Excel and pandas have integers
        id = int(id)
    if isinstance(id, bool) or not isinstance(id, str | int) or id == "":
        raise DataError(f"{field.name!r} is {shortened(id)}, expected a string or integer")
    return encodable(str(id), field.name)


def encodable(text: str, field: str) -> str:
    """The text itself, if it can be written as UTF-8: JSON and file names can hold halves of surrogate pairs."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"U+{ord(text[error.start]):04X}"
        raise DataError(f"{field!r} holds half a surrogate pair ({half}), expected valid Unicode") from None
    return text
