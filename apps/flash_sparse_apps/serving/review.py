"""Which decisions somebody should look at: those that a slightly different probability would have changed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from flash_sparse_apps.models.saved_model import SavedModel
from flash_sparse_apps.scores.thresholds import log_odds

NEAR = math.log(1.5)  # log-odds: half as likely again would decide otherwise
LEAST = 0.5  # of the most probable of several classes


def review(model: SavedModel, labels: Sequence[str], probabilities: Sequence[float], truncated: bool) -> list[str]:
    """Why a prediction should be looked at, in sentences; none where nothing speaks for it."""
    reasons = []
    if model.thresholds is None:
        best, *others = sorted(probabilities, reverse=True)
        if best < LEAST:
            reasons.append(f"The most probable label has a probability of {best:.2f} only.")
        elif others and log_odds(best) - log_odds(others[0]) < NEAR:
            reasons.append("Two labels are about as probable.")
    else:
        if not labels:
            reasons.append("No label reaches its threshold.")
        near = [
            label
            for label, share, threshold in zip(model.labels, probabilities, model.thresholds, strict=True)
            if abs(log_odds(share) - log_odds(threshold)) < NEAR
        ]
        if near:
            others_near = f" and {len(near) - 3} more" if len(near) > 3 else ""
            reasons.append(f"Close to the threshold: {', '.join(near[:3])}{others_near}.")
    if truncated:
        reasons.append(f"Only {model.seq_len:,} tokens of it were read.")
    return reasons
