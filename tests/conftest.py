# SPDX-License-Identifier: Apache-2.0
import os

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
