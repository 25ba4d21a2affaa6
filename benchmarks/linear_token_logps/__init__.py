"""Hidden states and head to preference loss and gradients: the whole path that the streamed operator replaces."""
