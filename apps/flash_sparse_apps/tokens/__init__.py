"""From documents to the token batches of a model."""
