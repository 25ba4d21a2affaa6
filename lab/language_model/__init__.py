"""Quality on a small language model: synthetic text, sampled completions, gold reward at matched KL."""
