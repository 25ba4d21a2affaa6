"""The command `iwpo score`: a file of texts, with scores by a reward model beside them."""

from iwpo_fast.scoring.run import score_file

__all__ = ["score_file"]
