"""Training steps of this package and of TRL: speed, memory, where the time goes, how cost grows."""
