"""Memory and time of large models on many GPUs, on paper: arithmetic on shapes, no measurements."""
