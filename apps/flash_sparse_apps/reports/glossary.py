"""The words of the reports, explained for readers who are not statisticians. `docs/glossary.md` has the same."""

from __future__ import annotations

GLOSSARY = {
    "block": "A square part of the table that says which token looks at which. Sparse attention computes some blocks "
    "and leaves the others out.",
    "calibration": "Whether probabilities are what they say: of a hundred labels given with a probability of 80%, "
    "eighty should be right.",
    "confidence": "How sure the labels of a document are: the probability of the label given. Where there may be "
    "several, that of the least sure decision: for a label given, its probability; for one not given, 100% minus its "
    "probability.",
    "density": "The share of the blocks that sparse attention computes. Dense attention computes all of them, 100%.",
    "drop": "How far the probability of a label falls when a passage is taken out of the text. A label whose "
    "probability falls far was carried by that passage.",
    "epoch": "One pass of training over all training documents.",
    "evidence": "The passages of a text that carry a label, found by taking them out.",
    "expected calibration error": "How far probabilities are, on average, from the share of labels that are right. At "
    "0.05, labels given with 80% are right in about 75% or 85% of the cases.",
    "F1": "One number for precision and recall, 0 to 1: high only where both are.",
    "interval": "Between which values the true score may lie, since only some documents were tested. If the test were "
    "repeated with other documents of the same kind, about 95 of 100 such 95% intervals would contain it.",
    "linear model": "The usual simple method, which weighs words and pairs of words and knows nothing of their order "
    "beyond that (TF-IDF and support vector machines). What does not beat it is not worth its cost.",
    "loss": "What training makes smaller: how surprised the model is by the right labels.",
    "macro-F1": "The mean of the labels' own F1. Rare labels count as much as frequent ones.",
    "micro-F1": "F1 over all labels of all documents together: 1 where every label given is right and none is missing. "
    "Where each document has just one label, it is the share of documents that are right.",
    "page": "500 tokens, about what a printed page of English has.",
    "precision": "Of the labels given, the share that is right.",
    "probability": "The chance that a label is right, as the model estimates it, 0 to 1.",
    "recall": "Of the labels that documents have, the share that is given.",
    "temperature": "One number by which the model's scores are divided, so that its probabilities are neither too bold "
    "nor too timid. It changes no order of labels. It is chosen on validation documents.",
    "threshold": "The probability from which a label is given, where documents may have several. Each label has its "
    "own, chosen on validation documents. Where each document has just one label, the most probable label is given.",
    "token": "A word, or a part of one: the model reads a text as a sequence of tokens. A page has about 500.",
    "training, validation and test documents": "Three parts of the data. The model learns from the first, is chosen by "
    "the second, and is scored on the third, which it has never seen.",
}
