"""No network in any test, no cache of the user's, and few threads, as tests run side by side."""

import os
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "true"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

_home = tempfile.TemporaryDirectory(prefix="iwpo-tests-")  # removed at exit
os.environ["HOME"] = _home.name
if not torch.cuda.is_available():  # Triton looks at its first import whether its kernels are to be interpreted
    os.environ["TRITON_INTERPRET"] = "1"
