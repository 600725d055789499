"""The long-document classifier and the benchmark that stand on `flash_sparse`.

The commands are `classify`, `predict`, `sweep`, `curriculum` and `benchmark`. A run of `classify` goes through
`settings`, `tokens`, `models`, `training`, `scores` and `reports`, and leaves a `run_folder`; `prediction` reads that
again. `sweeping`, `lra` and `stages` plan many such runs. `benchmarking` times attention, and steps of an encoder.
"""
