"""Rules of the forward KL on samples of the reference."""

from __future__ import annotations

from iwpo_fast.config import RunConfig
from iwpo_fast.objectives import OBJECTIVES, Mixture


def check_forward_kl(config: RunConfig) -> None:
    """Refuse samples of the reference that no objective reads, or that are not of the reference."""
    if config.weights.forward_kl == "pairs":
        return
    candidates, mixture = config.candidates, Mixture.of(config.objective)
    asked = "weights.forward_kl is samples"
    if not mixture.takes_samples:
        able = ", ".join(name for name, other in OBJECTIVES.items() if other.samples)
        raise ValueError(
            f"{asked} and objective.name is {config.objective.name}, which has no forward KL: set objective.name to "
            f"one of {able}, or forward_kl to pairs."
        )
    if not any(parameters["gamma"] for parameters in mixture.parameters.values()):
        raise ValueError(
            f"{asked} and gamma of the objective {config.objective.name} is 0, so that nothing reads them: raise "
            "gamma, or set forward_kl to pairs."
        )
    if not candidates.per_prompt:
        raise ValueError(
            f"{asked} and candidates.per_prompt is 0, so that none are drawn: set per_prompt, or forward_kl to pairs."
        )
    for name, value in (("temperature", candidates.temperature), ("top_p", candidates.top_p)):
        if value != 1:
            raise ValueError(
                f"{asked} and candidates.{name} is {value}, which draws from another distribution than the reference: "
                f"set candidates.{name} to 1, or forward_kl to pairs."
            )
    for name, given in (("model.reference", config.model.reference), ("reference_sync", config.reference_sync)):
        if given is not None:
            raise ValueError(
                f"{asked} and {name} is set, but what is drawn is of the policy as it was at first: leave {name} out, "
                "or set forward_kl to pairs."
            )
