"""Completions drawn from the reference as rows of the weighted file, on which objectives take the forward KL."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from iwpo_fast.data import Pairs
from iwpo_fast.data.arrow_rows import stored
from iwpo_fast.data.rows import Rows
from iwpo_fast.pipeline.response_texts import candidate_texts
from iwpo_fast.rewards import PairTable

Columns = dict[str, np.ndarray]


class ReferenceSamples(NamedTuple):
    """S different completions that were drawn for the prompts of pairs.

    Attributes:
        candidate: int64 [S], which of the candidates of the pairs each is.
        pair: int64 [S], a pair with the prompt that it answers.
        weight: float64 [S]. Those of a prompt share the weights of its pairs, each by how often it was drawn, so that
            a sum over samples is one over pairs of the mean over the samples of their prompt. Prompts that have
            samples stand for those that have none, so that the weights are together those of the pairs.
    """

    candidate: np.ndarray
    pair: np.ndarray
    weight: np.ndarray

    def rows(self, given: Rows, pairs: Pairs) -> Rows:
        """The samples as rows of one completion.

        Args:
            given: what `pairs` were read from, with their candidates.
        """
        texts = candidate_texts(given, pairs)
        said = stored(texts[i] for i in self.candidate.tolist())
        owners = given.without_candidates().take(pairs.row[self.pair])
        present = np.tile([True, False], (len(said), 1))
        return replace(owners, chosen=said, rejected=said, columns={}, present=present)

    def behind(self, columns: Columns, pair_cluster: np.ndarray) -> Columns:
        """Columns of pairs, and behind them those of the samples, which have no scores.

        Args:
            pair_cluster: int64 [P], of the prompts of the labelled pairs.
        """
        known = {"weight": self.weight, "cluster": pair_cluster[self.pair]}
        known |= {name: np.zeros(len(self.pair), dtype=np.int64) for name in ("label_smoothing", "drawn")}
        return {
            name: np.concatenate([values, known.get(name, np.full((len(self.pair), *values.shape[1:]), np.nan))])
            for name, values in columns.items()
        }


def reference_samples(pairs: Pairs, table: PairTable, prompt: np.ndarray, weight: np.ndarray) -> ReferenceSamples:
    """The candidates that the policy drew before training and that ended.

    One that was cut would have an end behind it that the reference did not write.

    Args:
        table: of `pairs`.
        prompt: int64, the prompt of each pair that is trained on, of labelled and of drawn ones.
        weight: float64, the weight of each.

    Raises:
        ValueError: nothing that was drawn is left.
    """
    drawn = np.zeros(0, dtype=np.int64)
    if pairs.candidates is not None:
        columns = pairs.candidates.columns
        drawn = np.flatnonzero((np.nan_to_num(columns["draws"]) > 0) & (columns["ended"] == 1))
    if pairs.candidates is None or not len(drawn):
        raise ValueError(
            "weights.forward_kl is samples, and no completion that the reference ended is left to take it on: raise "
            "candidates.max_new_tokens or data.max_length, or set weights.forward_kl to pairs."
        )
    pair, draws = pairs.candidates.pair[drawn], pairs.candidates.columns["draws"][drawn]
    asked, prompts = table.prompt[pair], int(table.prompt_of.max()) + 1
    of_pairs, of_draws = np.bincount(prompt, weight, prompts), np.bincount(asked, draws, prompts)
    covered = of_pairs[of_draws > 0].sum()
    scale = weight.sum() / covered if covered else 0.0
    return ReferenceSamples(drawn, pair, scale * of_pairs[asked] * draws / of_draws[asked])
