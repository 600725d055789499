"""What the C library kept in holes goes back to the system during training and prediction."""

import ctypes
import os
from types import SimpleNamespace

import pytest
import torch

from flash_sparse_apps.models.saved_model import SavedModel
from flash_sparse_apps.prediction import labelling
from flash_sparse_apps.prediction.new_documents import NewDocument
from flash_sparse_apps.training.freed_memory import EVERY, GiveBack


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library is not glibc")
def test_holes_go_back():
    kept, holes = [], []
    for _ in range(4000):  # between small tensors that stay, large ones that go; none large enough to be mapped alone
        holes.append(torch.ones(25_000))
        kept.append(torch.ones(10))
    full = resident_bytes()
    del holes

    GiveBack().on_train_batch_end(SimpleNamespace(global_step=EVERY), None, None, None, 0)
    assert resident_bytes() < full - 300e6  # of 400 million bytes
    assert len(kept) == 4000


def test_every_so_many_steps(monkeypatch):
    asked = []
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(malloc_trim=asked.append))
    giving = GiveBack()
    for step in range(1, 3 * EVERY):
        giving.on_train_batch_end(SimpleNamespace(global_step=step), None, None, None, 0)
    assert asked == [0, 0]


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())
    GiveBack().on_train_batch_end(SimpleNamespace(global_step=EVERY), None, None, None, 0)


@pytest.mark.parametrize(("seconds", "times"), [(0, 3), (3600, 0)])
def test_while_documents_are_labelled(single_label_run, monkeypatch, seconds, times):
    asked = []
    monkeypatch.setattr(labelling, "GIVE_BACK", seconds)
    monkeypatch.setattr(labelling, "give_back_memory", lambda: asked.append(True))
    documents = (NewDocument(str(number), "word1") for number in range(150))  # 64, 64 and 22
    model = SavedModel.load(single_label_run)
    assert len(list(labelling.predict_documents(model, documents, 65536, "cpu"))) == 150
    assert len(asked) == times
