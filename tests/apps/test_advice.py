"""What to try next, with the flag that does it."""

from __future__ import annotations

import copy
import json

import pytest

from flash_sparse_apps.reports import run_report
from flash_sparse_apps.reports.advice import advice, advice_lines


@pytest.fixture
def metrics(multi_label_run) -> dict:
    """Of a run that leaves nothing to wish for."""
    found = json.loads((multi_label_run / "metrics.json").read_text())
    found["test"] |= {"micro_f1": 0.8, "micro_f1_interval": [0.78, 0.82], "documents": 5000}
    found["linear_baseline"]["micro_f1"] = 0.7
    found["blend"] |= {"encoder_micro_f1": 0.75}
    found["data"]["truncation"]["train"] |= {"documents": 20_000, "documents_cut_share": 0.0}
    epochs = [
        {"epoch": 1, "train_loss": 0.5, "validation_loss": 0.4, "validation_micro_f1": 0.8},
        {"epoch": 2, "train_loss": 0.4, "validation_loss": 0.5, "validation_micro_f1": 0.7},
    ]
    found["training"] |= {"history": epochs, "stopped": "All epochs were trained."}
    assert advice(found) == []
    assert advice_lines(found) == []
    return found


def the_one(metrics: dict) -> str:
    (sentence,) = advice(metrics)
    source = run_report.render(metrics, {"loss": "", "score": "", "lengths": ""})
    assert "What to try next" in source
    assert " ".join(sentence.split()) in " ".join(run_report.console(metrics).split())
    return sentence


@pytest.mark.parametrize(("linear", "said"), [(0.85, "does better (0.850)"), (0.8, "does as well (0.800)")])
def test_where_the_linear_model_wins(metrics, linear, said):
    metrics["linear_baseline"]["micro_f1"] = linear
    sentence = the_one(metrics)
    assert sentence.startswith(f"The linear model {said}: {metrics['predict_command']} --linear labels with it alone")
    assert "--pretrained NAME" in sentence
    metrics["settings"]["pretrained"] = "roberta-base"
    assert "--pretrained NAME" not in the_one(metrics)
    metrics["data"]["pairs"] = True  # of which no linear model is kept
    assert "--linear" not in the_one(metrics)
    metrics["linear_baseline"] = None
    assert advice(metrics) == []


def test_where_the_vote_hides_a_weak_encoder(metrics):
    metrics["blend"]["encoder_micro_f1"] = 0.5
    assert the_one(metrics).startswith("By itself the encoder reaches a micro-F1 of 0.500, the linear model 0.700")
    assert "--pretrained NAME" in the_one(metrics)


def test_where_documents_are_cut(metrics):
    cut = {"documents_cut_share": 0.31, "p95_length": 3000.0}
    metrics["data"]["truncation"]["train"] |= cut
    metrics["settings"]["seq-len"] = 512
    sentence = the_one(metrics)
    assert sentence.startswith("31.0% of the training documents are cut at 512 tokens (about 1 page): --seq-len 4096")
    assert sentence.endswith("--seq-len 4096 reads nearly all of them whole, with up to 8 times the memory for each.")
    metrics["data"]["truncation"]["train"]["p95_length"] = 30_000.0  # not all at once
    assert "--seq-len 4096 reads up to 8 times as much of them" in the_one(metrics)
    metrics["data"]["truncation"]["train"]["p95_length"] = 3000.0
    metrics["settings"]["seq-len"] = 2048
    assert "--seq-len 4096" in the_one(metrics)
    metrics["data"]["truncation"]["train"]["documents_cut_share"] = 0.01
    assert advice(metrics) == []


def test_where_training_ended_too_early(metrics):
    metrics["training"]["history"].reverse()
    metrics["training"]["history"][0]["train_loss"] = 0.6
    metrics["settings"]["epochs"] = 2
    assert the_one(metrics) == "The last epoch was the best, and the loss still fell: --epochs 4 trains longer."
    metrics["settings"]["max-time"] = 5.0
    metrics["training"]["stopped"] = "--max-time 5 ended it after 20 of 40 steps."
    assert "--resume RUN with a higher --max-time" in the_one(metrics)
    metrics["training"]["history"][0]["train_loss"] = 0.1  # it rose
    assert advice(metrics) == []


def test_where_documents_are_few(metrics):
    metrics["data"]["truncation"]["train"]["documents"] = 100
    assert the_one(metrics).startswith("100 training documents for 4 labels are few, 25 for each")


def test_where_the_test_tells_little(metrics):
    metrics["test"] |= {"micro_f1_interval": [0.7, 0.9], "documents": 40}
    sentence = the_one(metrics)
    assert sentence.startswith("40 test documents leave micro-F1 open between 0.70 and 0.90")
    assert "--test-share" in sentence
    metrics["test"] |= {"micro_f1_interval": [1.0, 1.0], "documents": 4}  # resamples of four that are right are right
    assert the_one(metrics).startswith("4 test documents are too few to say how well it does")


def test_symbols_are_no_text_that_could_have_been_read_before(metrics):
    other = copy.deepcopy(metrics)
    other["linear_baseline"]["micro_f1"] = 0.9
    other["data"]["tokens_per_page"] = None
    assert "--pretrained" not in the_one(other)
