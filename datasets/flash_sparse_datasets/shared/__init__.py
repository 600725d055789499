"""What the datasets have in common: documents, reading files, splits, statistics. It knows none of them."""
