"""What the GPU's cells say, as rows of tables: one table for each kind of mask, one row for each cell."""

from __future__ import annotations

from collections.abc import Sequence

from flash_sparse_apps.benchmarking.densities import PATTERNS
from flash_sparse_apps.benchmarking.problem import MASKS, PRODUCTS

SIZES = ("batch", "heads", "length", "head_dim", "dtype", "dropout_p")


def summarize(rows: Sequence[dict]) -> dict[str, list[dict]]:
    """Kind of mask to table. Ratios are of forward plus backward; above 1, `flash_sparse` is so many times faster."""
    ours = own_times(rows)
    tables = {}
    for mask in MASKS:
        chosen = [row for row in rows if row["mask"] == mask]
        chosen.sort(key=lambda row: (row["head_dim"], row["dropout_p"], row["length"], -row["density"]))
        if chosen:
            tables[mask] = [_line(row, ours) for row in chosen]
    return tables


def own_times(rows: Sequence[dict]) -> dict[tuple, float]:
    """Milliseconds of our own forward plus backward, by `same_problem`."""
    ours = (row for row in rows if row["contender"] == "flash_sparse" and is_timed(row))
    return {same_problem(row): row["both"]["ms"] for row in ours}


def is_timed(row: dict) -> bool:
    return row["status"] == "timed"


def same_problem(row: dict) -> tuple:
    """Equal for rows of the same work."""
    return (*(row[name] for name in SIZES), row["mask"], row["density"], row["document_length"])


def without_mask(row: dict) -> tuple:
    """`same_problem` of the dense attention of the row's sizes."""
    return same_problem({**row, "mask": "dense", "density": 1.0, "document_length": 0})


def _line(row: dict, ours: dict[tuple, float]) -> dict:
    line = {"head_dim": row["head_dim"], "length": row["length"], "batch": row["batch"], "dropout": row["dropout_p"]}
    if row["mask"] in PATTERNS:
        line["density"] = row.get("counted_density", row["density"])
    line["contender"] = row["contender"]
    if not is_timed(row):
        return line | {"result": f"{row['status']}: {row['reason']}"}
    for what in PRODUCTS:
        line |= {f"{what} ms": row[what]["ms"], f"{what} TFLOP/s": row[what]["TFLOP/s"]}
    line |= {"MiB": row.get("MiB", {}).get("both"), "mask MiB": row.get("mask_MiB"), "mask ms": row.get("mask_ms")}
    own, dense = ours.get(same_problem(row)), ours.get(without_mask(row))
    line["over flash_sparse"] = row["both"]["ms"] / own if own else None
    if row["mask"] in PATTERNS:
        line["over our dense"] = row["both"]["ms"] / dense if dense else None
    return line | {"result": "ok"}
