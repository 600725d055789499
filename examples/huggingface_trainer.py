"""A Hugging Face encoder with block-sparse attention, fine-tuned by transformers' own Trainer (which needs accelerate).

`python examples/huggingface_trainer.py` makes a tiny RoBERTa with random weights, lets it take longer texts than it was
made for, and trains it on made-up ones. With `--model NAME_OR_FOLDER` it is a pretrained one; the texts stay made up.
"""

import argparse
import tempfile

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    PreTrainedModel,
    RobertaConfig,
    RobertaForSequenceClassification,
    Trainer,
    TrainingArguments,
    set_seed,
)

import flash_sparse


class Texts(Dataset):
    """Token numbers with padding on the right; the label says whether token 5 is in the text."""

    def __init__(self, count: int, length: int, seed: int):
        generator = torch.Generator().manual_seed(seed)
        lengths = torch.randint(length // 2, length + 1, (count, 1), generator=generator)
        self.mask = (torch.arange(length) < lengths).long()  # (count, N)
        self.labels = torch.arange(count) % 2
        ids = torch.randint(6, 100, (count, length), generator=generator)
        ids[:, 0] = 0  # RoBERTa's first token
        place = (torch.rand(count, generator=generator) * (lengths[:, 0] - 1)).long() + 1
        ids[torch.arange(count), place] = torch.where(self.labels == 1, 5, 6)
        self.ids = torch.where(self.mask.bool(), ids, 1)  # 1 is RoBERTa's padding

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {"input_ids": self.ids[row], "attention_mask": self.mask[row], "labels": self.labels[row]}


def make_model(name: str | None) -> PreTrainedModel:
    if name is not None:
        return AutoModelForSequenceClassification.from_pretrained(name, num_labels=2)
    return RobertaForSequenceClassification(
        RobertaConfig(
            vocab_size=100, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
            max_position_embeddings=130, pad_token_id=1, num_labels=2,
        )
    )  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="a checkpoint's name or folder; without it a tiny model is made")
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--texts", type=int, default=400)
    parser.add_argument("--epochs", type=int, default=2)
    options = parser.parse_args()

    set_seed(0)
    model = make_model(options.model)
    positions = model.config.max_position_embeddings
    if options.length > positions - 2:
        flash_sparse.huggingface.extend_positions(model, options.length)
    # One layout for the longest text serves all shorter ones; the first token sees all and is seen by all.
    layout = flash_sparse.patterns.longformer(options.length, 16, window=32)
    flash_sparse.huggingface.enable(model, layout)

    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model,
            TrainingArguments(
                folder, num_train_epochs=options.epochs, learning_rate=1e-3, per_device_train_batch_size=16,
                save_strategy="no", report_to=[], logging_steps=10, disable_tqdm=True,
            ),
            train_dataset=Texts(options.texts, options.length, seed=0),
            eval_dataset=Texts(options.texts // 4, options.length, seed=1),
            compute_metrics=lambda given: {"accuracy": float((given.predictions.argmax(1) == given.label_ids).mean())},
        )  # fmt: skip
        trainer.train()
        metrics = trainer.evaluate()
    print(f"{layout}\nloss {metrics['eval_loss']:.3f}, {metrics['eval_accuracy']:.0%} right")


if __name__ == "__main__":
    main()
