"""What `python datasets/NAME.py` prints: documents, words (of bytes: values) and labels of each split."""

from array import array
from collections import Counter
from collections.abc import Callable

import numpy as np

from flash_sparse_datasets.shared.documents import Dataset, Document
from flash_sparse_datasets.shared.exit_codes import UserError
from flash_sparse_datasets.shared.progress import Progress


def print_statistics(prepare: Callable[[], Dataset], details: Callable[[Dataset], None] | None = None) -> int:
    """Prepare a dataset and print its statistics, then the details that only this dataset has; the exit code.

    Raises:
        UserError: bad data, or an option's value.
    """
    try:
        dataset = prepare()
        splits = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
        unit = "words"
        sizes = {split: array("q") for split in splits}
        counts: dict[str, Counter[str]] = {split: Counter() for split in splits}
        for split, documents in splits.items():
            for document in Progress(documents, f"counting words, {split}"):
                unit = "values" if isinstance(document.text, bytes) else "words"
                sizes[split].append(_size(document))
                counts[split].update(document.labels)
    except ValueError as error:  # DataError, or an option's value
        raise UserError(str(error)) from error

    print(f"{dataset.name}: {dataset.task}, {len(dataset.labels)} labels, fingerprint {dataset.fingerprint}")
    print(dataset.description)
    for note in dataset.notes:
        print(f"note: {note}")

    print(f"\n{'split':<12}{'documents':>11}{unit:>14}{'p50':>9}{'p95':>9}{'max':>9}{'labels/doc':>12}")
    for split, lengths in sizes.items():
        p50, p95, longest = (int(q) for q in np.percentile(lengths, [50, 95, 100]))
        per_document = counts[split].total() / len(lengths)
        print(f"{split:<12}{len(lengths):>11,}{sum(lengths):>14,}{p50:>9,}{p95:>9,}{longest:>9,}{per_document:>12.2f}")

    width = max(map(len, dataset.labels)) + 2
    print(f"\n{'label':<{width}}" + "".join(f"{split:>12}" for split in splits))
    for label in sorted(dataset.labels, key=lambda label: (-counts["train"][label], label)):
        print(f"{label:<{width}}" + "".join(f"{counts[split][label]:>12,}" for split in splits))
    if details is not None:
        details(dataset)
    return 0


def _size(document: Document) -> int:
    """Words or, of bytes, values; of a pair, those of both."""
    texts = (document.text,) if document.second is None else (document.text, document.second)
    return sum(len(text) if isinstance(text, bytes) else len(text.split()) for text in texts)
