"""`flash_sparse.nn.Encoder` in a LightningModule: padded batches with lengths, a layout among the hyperparameters.

`python examples/lightning_classifier.py` trains for a minute to tell which of five words made-up documents have, and
loads what it saved.
"""

import argparse
import tempfile
from pathlib import Path

import lightning
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

import flash_sparse

CLASSES, VOCABULARY = 5, 200


class Topic(lightning.LightningModule):
    """Documents of up to the layout's length to one of five topics."""

    def __init__(self, layout: flash_sparse.BlockLayout, width: int = 64):
        super().__init__()
        self.save_hyperparameters()  # a layout is saved and loaded as any other
        self.encoder = flash_sparse.nn.Encoder(
            VOCABULARY, width, depth=2, heads=4, num_outputs=CLASSES, pooling="max", dropout=0.1
        )

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """(B, N) and (B,) to logits (B, 5)."""
        return self.encoder(tokens, layout=self.hparams.layout.to(self.device), lengths=lengths)

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        tokens, lengths, topics = batch
        loss = torch.nn.functional.cross_entropy(self(tokens, lengths), topics)
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor]):
        tokens, lengths, topics = batch
        self.log("accuracy", (self(tokens, lengths).argmax(1) == topics).float().mean(), batch_size=len(topics))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=5e-3)


def make_documents(count: int, length: int, seed: int) -> list[tuple[Tensor, int]]:
    """Documents of different lengths; the word that says the topic is in eight places of each."""
    generator = torch.Generator().manual_seed(seed)
    documents = []
    for number in range(count):
        size = int(torch.randint(length // 4, length + 1, (), generator=generator))
        tokens = torch.randint(CLASSES, VOCABULARY, (size,), generator=generator)
        tokens[torch.randint(size, (8,), generator=generator)] = number % CLASSES
        documents.append((tokens, number % CLASSES))
    return documents


def collate(documents: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor, Tensor]:
    """Padded tokens (B, N), lengths (B,), topics (B,)."""
    texts, topics = zip(*documents, strict=True)
    return pad_sequence(texts, batch_first=True), torch.tensor([len(text) for text in texts]), torch.tensor(topics)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--documents", type=int, default=400)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--precision", default="32-true", help="as Lightning takes it: bf16-true, bf16-mixed, ...")
    options = parser.parse_args()

    lightning.seed_everything(0, verbose=False)
    model = Topic(flash_sparse.patterns.longformer(options.length, 16, window=64))
    train, validate = (make_documents(options.documents, options.length, seed) for seed in (0, 1))
    with tempfile.TemporaryDirectory() as folder:
        trainer = lightning.Trainer(
            max_epochs=options.epochs, precision=options.precision, default_root_dir=folder, logger=False,
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, accelerator="auto",
        )  # fmt: skip
        trainer.fit(
            model,
            DataLoader(train, batch_size=16, shuffle=True, collate_fn=collate),
            DataLoader(validate, batch_size=16, collate_fn=collate),
        )
        path = Path(folder) / "topic.ckpt"
        trainer.save_checkpoint(path)
        again = Topic.load_from_checkpoint(path, map_location="cpu")
    print(f"{trainer.callback_metrics['accuracy']:.0%} of the validation documents right, by chance {1 / CLASSES:.0%}")
    print("loaded again with", again.hparams.layout)


if __name__ == "__main__":
    main()
