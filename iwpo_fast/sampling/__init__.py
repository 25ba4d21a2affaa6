"""Completions of prompts, drawn from the policy as it is before training, block by block."""
