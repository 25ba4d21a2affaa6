"""Weighted DPO in a plain accelerate loop: `accelerate launch examples/accelerate_loop.py`."""

import torch
from accelerate import Accelerator
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from iwpo_fast.models import log_probs_of


class LogProbs(nn.Module):
    """What is wrapped, so that the head runs inside the forward of DDP."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, **batch: torch.Tensor) -> torch.Tensor:
        return log_probs_of(self.model, batch).sum(-1)


accelerator = Accelerator(cpu=not torch.cuda.is_available())
torch.manual_seed(0)
policy = LogProbs(LlamaForCausalLM(LlamaConfig(vocab_size=256, hidden_size=64, num_hidden_layers=2)))
optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3)
policy, optimizer = accelerator.prepare(policy, optimizer)

tokens = torch.randint(256, (8, 32), device=accelerator.device)  # four chosen sequences, then the four rejected ones
labels = tokens.masked_fill(torch.arange(32, device=tokens.device) < 16, -100)  # nothing is learnt of the prompt
pair_weights = torch.tensor([2.0, 1.0, 0.5, 0.5], device=accelerator.device)
with torch.no_grad():
    reference = policy(input_ids=tokens, labels=labels)
for _ in range(10):
    chosen, rejected = (policy(input_ids=tokens, labels=labels) - reference).chunk(2)
    loss = -(pair_weights * nn.functional.logsigmoid(0.1 * (chosen - rejected))).mean()
    accelerator.backward(loss)
    optimizer.step()
    optimizer.zero_grad()
    accelerator.print(f"{loss.item():.4f}")
