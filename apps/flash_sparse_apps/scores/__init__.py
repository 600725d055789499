"""How good and how fast a model is, and what it is compared with."""
