"""One thread for torch: on a small machine more of them wait for each other."""

import torch

torch.set_num_threads(1)
