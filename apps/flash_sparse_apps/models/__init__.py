"""What is trained: encoders around `flash_sparse`, pretrained ones, and the Lightning module."""
