"""The linear model that every transformer here has to beat: TF-IDF of the same tokens, one SVM for each label.

A linear model with tuned thresholds beats BERT on several long-document tasks (Lin et al., ACL 2023), so no score means
much without it. It reads the very tokens that the transformer reads, cut at the same length.

Letters: N documents, L labels.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
import torch
from scipy.sparse import csr_matrix, vstack
from scipy.special import expit, softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.svm import LinearSVC

from flash_sparse_apps.scores.calibration import fit_temperature
from flash_sparse_apps.scores.evaluation import predict_labels
from flash_sparse_apps.scores.linear_model import LinearModel, token_columns
from flash_sparse_apps.scores.thresholds import tune_thresholds
from flash_sparse_apps.tokens.token_store import TokenStore
from flash_sparse_datasets.shared.progress import Progress

COUNTING = "counting tokens"
MOST_COEFFICIENTS = 50_000_000  # that are kept, 100 MB
MOST_TOKENS = 50_000_000  # that are fitted: a solver needs some 50 bytes for each
CHUNK_TOKENS = 5_000_000  # of a held-out split that are counted at a time; what stays of each is 10 bytes or less


@dataclass(frozen=True)
class LinearResult:
    """What the linear model says of both held-out splits, in the forms that `evaluation` takes.

    Attributes:
        validation_probabilities, test_probabilities: (N, L) float64 in (0, 1); sigmoid of the margins for multi-label,
            softmax for single-label, at the temperature.
        temperature: of the margins, from the validation documents.
        thresholds: (L,) for multi-label, None for single-label.
        validation_predictions, test_predictions: (N, L) uint8 for multi-label, (N,) int64 for single-label.
        train_documents: how many it was fitted on; where training has more than `MOST_TOKENS`, a sample.
        model: what was fitted, to predict with; None where it has more than `MOST_COEFFICIENTS`, or reads pairs.
        seconds: wall time of all of it.
    """

    validation_probabilities: np.ndarray
    test_probabilities: np.ndarray
    temperature: float
    thresholds: np.ndarray | None
    validation_predictions: np.ndarray
    test_predictions: np.ndarray
    train_documents: int
    model: LinearModel | None
    seconds: float


def linear_baseline(
    train: TokenStore,
    validation: TokenStore,
    test: TokenStore,
    seq_len: int,
    num_labels: int,
    task: str,
    seed: int = 0,
    *,
    balanced: bool = False,
    progress: bool = False,
) -> LinearResult:
    """Fit on `train`, tune thresholds on `validation`, predict both held-out splits.

    Features are the tokens and the pairs of neighbouring tokens among a document's first `seq_len`, those that two
    training documents or more have, as TF-IDF with 1 + log of the counts and unit length. Each label has an SVM of its
    own (squared hinge loss, C = 10). Where `train` has more than `MOST_TOKENS`, it is fitted on documents drawn at
    random that have as many, so that memory does not grow with the corpus. The same stores and seed give the same
    result.

    Args:
        balanced: let the documents with a label weigh as much together as those without it.
        progress: show progress bars.
    """
    began = time.monotonic()
    sample = _sample(train.read_lengths(seq_len), seed)
    counts = _count(train, Progress(sample, COUNTING, shown=progress), seq_len)
    with Progress(None, "weighing tokens", unit="", shown=progress):
        frequent = np.flatnonzero(counts.getnnz(0) >= min(2, len(sample)))
        counts = counts[:, frequent]
        tfidf = TfidfTransformer(sublinear_tf=True).fit(counts)
        features = tfidf.transform(counts, copy=False)
    held_out = [_features(store, seq_len, frequent, tfidf, progress) for store in (validation, test)]

    model = None
    if len(frequent) * num_labels <= MOST_COEFFICIENTS and not train.pairs:
        model = LinearModel(len(frequent), num_labels)
        model.columns.copy_(torch.from_numpy(frequent))
        model.idf.copy_(torch.from_numpy(tfidf.idf_))

    wanted = train.label_matrix()[sample].tocsc()  # (sample, L)
    margins = [np.empty((part.shape[0], num_labels)) for part in held_out]
    for label in Progress(range(num_labels), "fitting the linear model", unit=" labels", shown=progress):
        present = wanted[:, [label]].toarray().ravel()  # (N,)
        svm = LinearSVC(C=10, class_weight="balanced" if balanced else None, random_state=seed)
        _fit_label(svm, label, features, present, held_out, margins, model)

    matrix = validation.label_matrix()
    truth = np.asarray(matrix.argmax(1)).ravel() if task == "single-label" else matrix.toarray()
    to_probabilities = expit if task == "multi-label" else partial(softmax, axis=1)
    with Progress(None, "fitting temperature and thresholds", unit="", shown=progress):
        temperature = fit_temperature(margins[0], truth, task)
        probabilities = [to_probabilities(scores / temperature) for scores in margins]
        thresholds = tune_thresholds(probabilities[0], truth) if task == "multi-label" else None
    return LinearResult(
        validation_probabilities=probabilities[0],
        test_probabilities=probabilities[1],
        temperature=temperature,
        thresholds=thresholds,
        validation_predictions=predict_labels(probabilities[0], thresholds, task),
        test_predictions=predict_labels(probabilities[1], thresholds, task),
        train_documents=len(sample),
        model=model,
        seconds=time.monotonic() - began,
    )


def _fit_label(
    svm: LinearSVC,
    label: int,
    features: csr_matrix,
    present: np.ndarray,
    held_out: Sequence[csr_matrix],
    margins: Sequence[np.ndarray],
    model: LinearModel | None,
):
    """Fit one label, and write its margins and the model's weights; where all documents are alike, 1 or -1.

    Args:
        features: (N, F), of the training documents.
        present: (N,), which of them have the label.
        held_out: features of each held-out split, (M, F).
        margins: (M, L) of each.
    """
    if present.all() or not present.any():
        alike = 1.0 if present.all() else -1.0
        for scores in margins:
            scores[:, label] = alike
        if model is not None:
            model.intercepts[label] = alike
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # after 1,000 passes, more change no decision
        svm.fit(features, present)
    for scores, part in zip(margins, held_out, strict=True):
        scores[:, label] = svm.decision_function(part)
    if model is not None:
        model.coefficients[:, label] = torch.from_numpy(svm.coef_[0])
        model.intercepts[label] = float(svm.intercept_[0])


def _sample(lengths: np.ndarray, seed: int) -> np.ndarray:
    """Documents that have `MOST_TOKENS` together at most, ascending: all of them, or one at least drawn at random.

    Args:
        lengths: (N,) tokens of each document.
    """
    if lengths.sum() <= MOST_TOKENS:
        return np.arange(len(lengths))
    drawn = np.random.default_rng(seed).permutation(len(lengths))
    fitting = np.searchsorted(lengths[drawn].cumsum(), MOST_TOKENS, "right")
    return np.sort(drawn[: max(1, fitting)])


def _features(
    store: TokenStore, seq_len: int, columns: np.ndarray, tfidf: TfidfTransformer, progress: bool
) -> csr_matrix:
    """TF-IDF of a split's documents, (N, F), of the `columns` that are features, (F,)."""
    chunk_of = store.read_lengths(seq_len).cumsum() // CHUNK_TOKENS  # (N,) ascending
    documents = iter(Progress(range(len(store)), COUNTING, shown=progress))
    parts = [csr_matrix((0, len(columns)), dtype=np.float32)]
    for size in np.unique(chunk_of, return_counts=True)[1]:
        counts = _count(store, islice(documents, size), seq_len)
        counts.resize(size, int(columns.max(initial=0)) + 1)
        parts.append(tfidf.transform(counts[:, columns], copy=False))
    return vstack(parts, "csr")


def _count(store: TokenStore, documents: Iterable[int], seq_len: int) -> csr_matrix:
    """How often each document has each pair of tokens (the first 2**20 columns, hashed) and each token."""
    columns, counts, ends = [], [], [0]
    for index in documents:
        tokens = torch.from_numpy(store.tokens(index, seq_len))
        found, often = np.unique(token_columns(tokens).numpy(), return_counts=True)
        columns.append(found)
        counts.append(often.astype(np.float32))
        ends.append(ends[-1] + len(found))
    width = int(max((part[-1] for part in columns), default=0)) + 1
    return csr_matrix(
        (np.concatenate([np.empty(0, np.float32), *counts]), np.concatenate([np.empty(0, np.int32), *columns]), ends),
        shape=(len(ends) - 1, width),
    )
