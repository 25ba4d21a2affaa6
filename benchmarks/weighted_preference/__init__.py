"""Log-probs of tokens to the weighted loss of pairs and its gradient."""
