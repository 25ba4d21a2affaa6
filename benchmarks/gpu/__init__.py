"""The first run on a GPU as one command: tests, what the cost model assumes, the tables; see `parts`."""
