"""What each system around the library's losses is for, shown in a small world: one file with a `show` for each."""
