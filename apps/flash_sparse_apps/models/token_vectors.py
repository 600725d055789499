"""Where token embeddings begin: vectors that are alike for tokens with like neighbours in the training texts.

A thousand documents are too few to learn from their labels alone what each token means; which tokens stand near which
tells much of it, without labels. So count neighbours, take the positive pointwise mutual information, and keep its
leading singular vectors, weighted by the roots of the singular values.

Source: Levy, Goldberg, Dagan 2015, "Improving Distributional Similarity with Lessons Learned from Word Embeddings",
sections 2 and 3: smoothed contexts, and neighbours that count by one over their distance, as GloVe has them.

Letters: V vocabulary, W width.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_matrix
from sklearn.utils.extmath import randomized_svd
from torch import Tensor

from flash_sparse.nn import Encoder
from flash_sparse_apps.tokens.token_store import TokenStore
from flash_sparse_datasets.shared.progress import Progress

REACH = 2  # tokens on either side that count as neighbours
SMOOTHING = 0.75  # power of how frequent a neighbour is, so that rare ones are not overrated
ENOUGH_TOKENS = 10_000_000  # more would take longer and tell little more
COUNTED_AT_ONCE = 1_000_000  # tokens


def begin_with_vectors(encoder: Encoder, store: TokenStore, seq_len: int, seed: int, *, progress: bool = False):
    """Put vectors of the training texts' tokens into the embedding of `encoder`, as large as its new weights are.

    A token that the texts do not have keeps its new weights, and so do features beyond the vocabulary's number.

    Args:
        store: of the training documents, of which the first `seq_len` tokens are read.
        seed: which documents are read where they are too many, and of the approximate decomposition.
        progress: show a progress bar.
    """
    weight = encoder.embedding.weight  # (V, W)
    vectors = token_vectors(count_neighbours(store, seq_len, len(weight), seed, progress), weight.shape[1], seed)
    known = vectors.any(dim=1)  # (V,)
    if known.any():
        with torch.no_grad():
            scale = weight.std() / vectors[known].square().mean().sqrt()
            weight[known, : vectors.shape[1]] = scale * vectors[known]


def count_neighbours(store: TokenStore, seq_len: int, vocab_size: int, seed: int, progress: bool = False) -> csr_matrix:
    """How often each token stands near each other one, (V, V), symmetric; nearer ones count more."""
    counts = csr_matrix((vocab_size, vocab_size), dtype=np.float32)
    gap = np.full(REACH, -1)  # between texts, so that nobody has neighbours in another one
    texts, waiting, read = [gap], 0, 0
    order = np.random.default_rng(seed).permutation(len(store))
    for index in Progress(order, "token vectors", shown=progress):
        if read >= ENOUGH_TOKENS:
            break
        for text in store.texts(index, min(seq_len, ENOUGH_TOKENS)):
            texts += [text, gap]
            waiting, read = waiting + len(text), read + len(text)
        if waiting >= COUNTED_AT_ONCE:
            counts += _count(np.concatenate(texts), vocab_size)
            texts, waiting = [gap], 0
    counts += _count(np.concatenate(texts), vocab_size)
    return counts + counts.T


def _count(tokens: np.ndarray, vocab_size: int) -> csr_matrix:
    """The same for tokens (n,) with those to the right of them; -1 is no token."""
    pairs = [(tokens[:-distance], tokens[distance:], 1 / distance) for distance in range(1, REACH + 1)]
    real = [(left >= 0) & (right >= 0) for left, right, _ in pairs]
    rows = np.concatenate([left[both] for (left, _, _), both in zip(pairs, real, strict=True)])
    columns = np.concatenate([right[both] for (_, right, _), both in zip(pairs, real, strict=True)])
    weights = np.repeat([weight for *_, weight in pairs], [both.sum() for both in real])
    return csr_matrix((weights.astype(np.float32), (rows, columns)), shape=(vocab_size, vocab_size))


def token_vectors(counts: csr_matrix, width: int, seed: int) -> Tensor:
    """Vectors (V, min(W, V)) float32 from how often tokens stand near each other (V, V); 0 for those that never do."""
    counts = counts.tocoo()
    often = np.asarray(counts.sum(1), np.float64).ravel()  # (V,)
    smoothed = often**SMOOTHING  # (V,)
    with np.errstate(divide="ignore"):
        information = np.log(counts.data * smoothed.sum() / (often[counts.row] * smoothed[counts.col]))  # (pairs,)
    kept = information > 0
    positive = csr_matrix((information[kept], (counts.row[kept], counts.col[kept])), shape=counts.shape)
    vectors, sizes, _ = randomized_svd(positive, min(width, len(often)), n_iter=4, random_state=seed)
    vectors[positive.getnnz(1) == 0] = 0  # but for rounding they are so already
    return torch.from_numpy(vectors * np.sqrt(sizes)).float()
