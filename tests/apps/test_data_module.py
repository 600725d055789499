"""The data module under a Lightning Trainer: order, and going on in mid-epoch."""

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback

from flash_sparse_apps.tokens.data_module import EvaluationLoader, TextDataModule
from flash_sparse_datasets import Dataset, Document


class Words:
    vocab_size = 100
    fingerprint = "words"

    def encode_batch(self, texts):
        return [[0, *map(int, text.split())] for text in texts]


def make_split(count, labels=True):
    return [Document(str(i), " ".join(["7"] * (i % 11)), (("a", "b")[i % 2],) if labels else ()) for i in range(count)]


DATASET = Dataset("d", "multi-label", ("a", "b"), make_split(22), make_split(5), make_split(4), "fingerprint", "")


def make_data(folder, **changes):
    arguments = {"seq_len": 8, "batch_size": 4, "tokens_per_batch": 16, "seed": 0, "cache_dir": folder, **changes}
    return TextDataModule(DATASET, Words(), progress=False, **arguments)


class Recorder(L.LightningModule):
    """Remembers which documents each step had; its weight adds up what it saw, so that runs can be compared."""

    def __init__(self, fail_at=None):
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.fail_at = fail_at
        self.seen, self.validated = [], []

    def training_step(self, batch, batch_index):
        if self.global_step == self.fail_at:
            raise RuntimeError("stop here")
        documents = [i for part in batch for i in part.indices.tolist()]
        self.seen.append((self.current_epoch, batch_index, sorted(documents)))
        optimizer = self.optimizers()
        optimizer.zero_grad()
        for part in batch:
            self.manual_backward(self.weight.sum() * part.indices.sum() / part.step_documents)
        optimizer.step()

    def validation_step(self, batch, batch_index):
        self.validated.extend(batch.indices.tolist())

    def test_step(self, batch, batch_index):
        self.validated.extend(batch.indices.tolist())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


class SaveAt(Callback):
    """A checkpoint after step `step`, at the hook a real callback may use."""

    def __init__(self, path, step, hook):
        self.path, self.step = path, step
        setattr(self, hook, self._save)

    def _save(self, trainer, *arguments):
        if trainer.global_step == self.step and not trainer.sanity_checking:
            trainer.save_checkpoint(self.path)


class SaveOnException(Callback):
    def __init__(self, path):
        self.path = path

    def on_exception(self, trainer, module, exception):
        trainer.save_checkpoint(self.path)


def make_trainer(*callbacks, **options):
    return L.Trainer(
        **{"max_epochs": 3, **options}, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, use_distributed_sampler=False,
        callbacks=list(callbacks),
    )  # fmt: skip


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    module = Recorder()
    make_trainer().fit(module, datamodule=make_data(tmp_path_factory.mktemp("whole")))
    return module


def test_each_epoch_has_every_document_once_in_new_order(uninterrupted):
    assert [(epoch, index) for epoch, index, _ in uninterrupted.seen] == [(e, i) for e in range(3) for i in range(6)]
    epochs = [[documents for epoch, _, documents in uninterrupted.seen if epoch == e] for e in range(3)]
    for steps in epochs:
        assert [len(documents) for documents in steps] == [4, 4, 4, 4, 4, 2]
        assert sorted(i for documents in steps for i in documents) == list(range(22))
    assert epochs[0] != epochs[1] != epochs[2]
    assert sorted(uninterrupted.validated) == sorted(list(range(5)) * 3)


# 22 documents in steps of 4 are 6 steps an epoch; steps 6 and 12 end one
@pytest.mark.parametrize(
    ("validate_every", "hook", "step"),
    [
        *((share, "on_train_batch_end", step) for share in (1.0, 0.5) for step in (1, 4, 6, 9, 11, 12, 16)),
        *((1.0, "on_validation_end", step) for step in (6, 12)),
        *((0.5, "on_validation_end", step) for step in (3, 6, 9, 12, 15)),
        *((share, "on_train_epoch_end", step) for share in (1.0, 0.5) for step in (6, 12)),
    ],
)
def test_killed_and_resumed_sees_exactly_the_remaining_steps(tmp_path, uninterrupted, validate_every, hook, step):
    path = tmp_path / "last.ckpt"
    killed = Recorder(fail_at=step + 1)  # one step more is taken and lost
    options = {"val_check_interval": validate_every}
    with pytest.raises(RuntimeError, match="stop here"):
        make_trainer(SaveAt(path, step, hook), **options).fit(killed, datamodule=make_data(tmp_path))
    resumed = Recorder()
    trainer = make_trainer(**options)
    trainer.fit(resumed, datamodule=make_data(tmp_path), ckpt_path=path, weights_only=True)
    assert resumed.seen == uninterrupted.seen[step:]
    assert trainer.global_step == 18
    assert torch.equal(resumed.weight, uninterrupted.weight)


@pytest.mark.parametrize("step", [0, 3, 6, 10])
def test_a_step_that_was_broken_off_is_done_again(tmp_path, uninterrupted, step):
    path = tmp_path / "last.ckpt"
    with pytest.raises(RuntimeError, match="stop here"):
        make_trainer(SaveOnException(path)).fit(Recorder(fail_at=step), datamodule=make_data(tmp_path))
    resumed = Recorder()
    make_trainer().fit(resumed, datamodule=make_data(tmp_path), ckpt_path=path, weights_only=True)
    assert resumed.seen == uninterrupted.seen[step:]
    assert torch.equal(resumed.weight, uninterrupted.weight)


def test_resumed_twice_with_another_token_budget(tmp_path, uninterrupted):
    path, later = tmp_path / "first.ckpt", tmp_path / "second.ckpt"
    with pytest.raises(RuntimeError, match="stop here"):
        make_trainer(SaveAt(path, 2, "on_train_batch_end")).fit(Recorder(fail_at=3), datamodule=make_data(tmp_path))
    with pytest.raises(RuntimeError, match="stop here"):
        make_trainer(SaveAt(later, 10, "on_train_batch_end")).fit(
            Recorder(fail_at=11), datamodule=make_data(tmp_path, tokens_per_batch=8), ckpt_path=path, weights_only=True
        )
    resumed = Recorder()
    make_trainer().fit(resumed, datamodule=make_data(tmp_path), ckpt_path=later, weights_only=True)
    assert resumed.seen == uninterrupted.seen[10:]


def test_another_batch_size_cannot_go_on_in_mid_epoch(tmp_path):
    path = tmp_path / "last.ckpt"
    with pytest.raises(RuntimeError, match="stop here"):
        make_trainer(SaveAt(path, 2, "on_train_batch_end")).fit(Recorder(fail_at=3), datamodule=make_data(tmp_path))
    with pytest.raises(ValueError, match="batch_size is 5, but was 4"):
        make_trainer().fit(Recorder(), datamodule=make_data(tmp_path, batch_size=5), ckpt_path=path, weights_only=True)


def test_the_token_budget_changes_micro_batches_and_not_the_result(tmp_path, uninterrupted):
    module = Recorder()
    data = make_data(tmp_path, tokens_per_batch=1000)
    make_trainer().fit(module, datamodule=data)
    assert module.seen == uninterrupted.seen
    torch.testing.assert_close(module.weight, uninterrupted.weight)
    assert {len(step) for step in data.train_dataloader()} <= {1}


def test_test_and_plain_batches_have_each_document_once(tmp_path):
    data, module = make_data(tmp_path), Recorder()
    make_trainer().test(module, datamodule=data, verbose=False)
    assert sorted(module.validated) == [0, 1, 2, 3]
    batches = list(data.all_batches(data.train_store))
    assert sorted(i for batch in batches for i in batch.indices.tolist()) == list(range(22))
    assert max(len(batch.tokens) for batch in batches) <= 16
    assert batches[0].max_seqlen == 8
    np.testing.assert_array_equal(data.read_lengths(data.train_store)[:11], [1, 2, 3, 4, 5, 6, 7, 8, 8, 8, 8])


def test_more_ranks_than_documents_have_as_many_batches(tmp_path):
    """Five validation documents for eight ranks: three of these repeat one, which does not count."""
    data = make_data(tmp_path, tokens_per_batch=8)
    data.setup()
    ranks = [list(EvaluationLoader(data, data.validation_store, rank, 8)) for rank in range(8)]
    assert [len(batches) for batches in ranks] == [1] * 8
    assert [batch.counts for [batch] in ranks] == [True] * 5 + [False] * 3
    assert sorted(batch.indices.item() for [batch] in ranks if batch.counts) == list(range(5))


def test_stores_are_used_again_and_other_lengths_share_them(tmp_path):
    make_data(tmp_path).prepare_data()
    files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(files) == 3
    data = make_data(tmp_path, seq_len=100)
    data.prepare_data()
    data.setup()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == files
    assert int(data.read_lengths(data.train_store).max()) == 11
