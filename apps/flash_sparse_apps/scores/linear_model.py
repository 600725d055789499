"""A linear model of token sequences: TF-IDF of tokens and of pairs of neighbours, one SVM for each label.

It is computed from packed tokens, like an encoder, so that one can be had where the other is.

Letters: B documents, total tokens of all, F features, L labels.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

PAIR_BITS = 20  # pairs of tokens are hashed into 2**20 columns; the tokens' own columns follow
_MULTIPLIER = 0x9E3779B97F4A7C15 - (1 << 64)  # of Fibonacci hashing, as a signed integer


class LinearModel(nn.Module):
    """Margins of each label's SVM. Nothing here is trained by gradients.

    A document's features are the logarithm of how often it has each token and pair, plus 1, times the inverse document
    frequency, scaled to unit length, as scikit-learn's `TfidfTransformer(sublinear_tf=True)` makes them.

    Attributes:
        columns: (F,) int32 ascending, what each feature counts, as `token_columns` numbers it.
        idf: (F,) float32, inverse document frequencies.
        coefficients: (F, L) float16.
        intercepts: (L,) float32.
    """

    columns: Tensor
    idf: Tensor
    coefficients: Tensor
    intercepts: Tensor

    def __init__(self, num_features: int, num_labels: int):
        super().__init__()
        self.register_buffer("columns", torch.zeros(num_features, dtype=torch.int32))
        self.register_buffer("idf", torch.zeros(num_features))
        self.register_buffer("coefficients", torch.zeros(num_features, num_labels, dtype=torch.float16))
        self.register_buffer("intercepts", torch.zeros(num_labels))

    @torch.no_grad()
    def forward(self, tokens: Tensor, cu_seqlens: Tensor, *unused) -> Tensor:
        """Margins (B, L) float32 of documents laid end to end, `tokens` (total,), which begin at `cu_seqlens` (B + 1,).

        A document's margins do not depend on the others. What else an encoder is given changes nothing.
        """
        return torch.stack([self._margins(tokens[start:stop]) for start, stop in pairwise(cu_seqlens.tolist())])

    def _margins(self, tokens: Tensor) -> Tensor:
        """(L,) of one document."""
        if not len(self.columns):
            return self.intercepts
        found, counts = token_columns(tokens).unique(return_counts=True)  # (columns,)
        place = torch.searchsorted(self.columns, found).clamp(max=len(self.columns) - 1)
        known = self.columns[place] == found
        place, counts = place[known], counts[known]
        values = (1 + counts.log()) * self.idf[place]  # (features of the document,)
        values = values / values.norm().clamp(min=1e-12)
        return values @ self.coefficients[place].float() + self.intercepts


def token_columns(tokens: Tensor) -> Tensor:
    """What is counted of a document, (2 n - 1,) int32: the hash of each pair of neighbours, and each token.

    Args:
        tokens: (n,) integers from 0, below 2**31 - 2**20.
    """
    tokens = tokens.long()
    pairs = (tokens[:-1] << 32 | tokens[1:]) * _MULTIPLIER  # modulo 2**64
    pairs = (pairs >> (64 - PAIR_BITS)) & ((1 << PAIR_BITS) - 1)
    return torch.cat([pairs, tokens + (1 << PAIR_BITS)]).int()
