"""Where TRL is not installed: the same method in plain transformers and PyTorch.

Padded batches, a forward pass of both sides, logits of all positions, log-softmax at the labels, fused AdamW. TRL 1.16
itself has a head that never holds all logits, so this one says what plain code costs, not what TRL does.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from benchmarks.training.case import BETA, BETAS, LEARNING_RATE, MAX_GRAD_NORM, Job, build_model, with_adapters
from benchmarks.training.gate import Gate


def train(job: Job, gate: Gate) -> None:
    case = job.case
    network = with_adapters(case, build_model(case))
    network.train()
    parameters = [p for p in network.parameters() if p.requires_grad]
    going, step = gate.ready(network), 0
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, betas=BETAS, weight_decay=0.0, fused=True)
    micro_batches = case.pairs_per_step // job.micro_pairs
    while going:
        sums = torch.zeros(3, dtype=torch.float64, device=case.device)
        for rows in job.rows(step).reshape(micro_batches, job.micro_pairs):
            with torch.autocast(case.device, case.compute_dtype, enabled=case.compute_dtype != torch.float32):
                logps = sequence_logps(network, job, rows)
            chosen, rejected = logps.chunk(2)
            reference = torch.from_numpy(job.reference[rows]).to(logps)
            margins = BETA * ((chosen - reference[:, 0]) - (rejected - reference[:, 1]))
            (-F.logsigmoid(margins).mean() / micro_batches).backward()
            sums += torch.stack([chosen, rejected, margins]).detach().sum(1)
        torch.nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        going = gate.step_done(partial(named, sums / case.pairs_per_step))


def named(means: Tensor) -> dict[str, float]:
    return dict(zip(("logps/chosen", "logps/rejected", "rewards/margins"), means.tolist(), strict=True))


def sequence_logps(model: torch.nn.Module, job: Job, rows: np.ndarray) -> Tensor:
    """float32 [2P], of the chosen completions, then of the rejected ones."""
    pairs, ids, labels = job.pairs, [], []
    for part in (pairs.chosen, pairs.rejected):
        for row in rows:
            prompt, completion = (torch.from_numpy(x.astype("int64")) for x in (pairs.prompt[row], part[row]))
            ids.append(torch.cat([prompt, completion]))
            labels.append(torch.cat([torch.full_like(prompt, -100), completion]))
    device = job.case.device
    padded = pad_sequence(ids, batch_first=True).to(device)
    mask = pad_sequence([torch.ones_like(x) for x in ids], batch_first=True).to(device)
    wanted = pad_sequence(labels, batch_first=True, padding_value=-100)[:, 1:].to(device)
    logits = model(input_ids=padded, attention_mask=mask, use_cache=False).logits[:, :-1]
    picked = logits.gather(-1, wanted.clamp(min=0)[..., None])[..., 0].float()
    logps = picked - torch.stack([row.float().logsumexp(-1) for row in logits])
    return logps.where(wanted != -100, 0).sum(-1)
