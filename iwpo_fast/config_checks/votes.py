"""Rules of scores that are votes: nothing may make something else of them before heads learn from them."""

from __future__ import annotations

from iwpo_fast.config import RunConfig
from iwpo_fast.data.columns import joined_columns


def check_votes(config: RunConfig) -> None:
    if not config.scores_are_votes:
        return
    data, instead = config.data, "or set rewards.heads to auto"
    if data.pairs_from_candidates == "pareto":
        raise ValueError(
            "data.pairs_from_candidates is pareto, which takes several scores of a candidate for different rewards, "
            f"and rewards.heads is dprm, which takes them for votes: set it to best_worst or all, {instead}."
        )
    if data.win_rate_temperature is not None:
        raise ValueError(
            f"data.win_rate_temperature is {data.win_rate_temperature}, which makes rates of winning of scores, and "
            f"rewards.heads is dprm, which learns from grades: leave data.win_rate_temperature out, {instead}."
        )
    for columns in (data.columns, *(source.columns for source in data.mix)):
        if joined := joined_columns(columns).get("candidate_scores"):
            raise ValueError(
                f"data.columns joins {' and '.join(joined)} as different rewards of a candidate, and rewards.heads is "
                f"dprm, which takes several scores for votes: name one column of lists of votes, {instead}."
            )
