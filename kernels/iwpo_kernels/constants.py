"""Numbers on which the specifications, the PyTorch paths and the kernels agree."""

# Label of a token that is skipped.
IGNORED = -100
# Nats by which logits may exceed the reference of their exponentials before it moves.
SLACK = 20.0
# Below this, exp(y) · y counts as 0, also for y = −∞.
LOWEST = -1e4
