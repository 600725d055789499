"""What a user should hear where files are not quite what was released: other sizes, labels without documents."""

from collections.abc import Collection, Mapping, Sequence

SHOWN = 5  # labels, at most


def other_sizes(found: Mapping[str, int], released: Mapping[str, int], documents: str = "documents") -> list[str]:
    """A note for each part that has another number of documents than the release."""
    return [
        f"{part}: {count:,} {documents}, the release has {released[part]:,}"
        for part, count in found.items()
        if count != released[part]
    ]


def unused_labels(labels: Sequence[str], used: Collection[str], documents: str = "document") -> list[str]:
    """A note where a label of the task is on no document of any part: nothing can be learned or scored of it."""
    unused = [label for label in labels if label not in used]
    if not unused:
        return []
    shown = ", ".join(unused[:SHOWN]) + ", ..." * (len(unused) > SHOWN)
    return [f"no {documents} of any part has {len(unused):,} of the {len(labels):,} labels: {shown}"]
