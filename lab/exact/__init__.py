"""Worlds of 32 completions per prompt, where every expectation is a sum."""
