"""The library inside other training loops."""
