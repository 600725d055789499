"""What Dao et al. 2022 published of long documents: micro-F1 in percent over how many tokens are read.

None of these figures was measured here. The paper names neither splits nor seeds nor intervals. Its ECtHR row can only
be of alleged violations (`ecthr-b`), its MIMIC row is most likely of the fifty most frequent codes (`mimic3-50`).
"""

LENGTHS = (512, 1024, 2048, 4096, 8192, 16384)
BY_LENGTH = {
    "MIMIC-III": (52.8, 50.7, 51.7, 54.6, 56.4, 57.1),
    "ECtHR": (72.2, 74.3, 77.1, 78.6, 80.7, 79.2),
}
SOURCE = "Dao et al. 2022, FlashAttention, table 5: RoBERTa with repeated positions, dense"
