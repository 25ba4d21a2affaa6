"""Weighted DPO as a LightningModule: `python examples/lightning_loop.py`."""

import lightning as L
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from iwpo_fast.models import log_probs_of


class WeightedDPO(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = LlamaForCausalLM(LlamaConfig(vocab_size=256, hidden_size=64, num_hidden_layers=2))

    def training_step(self, batch: tuple[torch.Tensor, ...], _: int) -> torch.Tensor:
        tokens, labels, reference, pair_weights = (part.flatten(0, 1) for part in batch)
        log_ratio = log_probs_of(self.model, {"input_ids": tokens, "labels": labels}).sum(-1) - reference
        margin = log_ratio[0::2] - log_ratio[1::2]  # each chosen sequence is followed by the rejected one of its pair
        loss = -(pair_weights[0::2] * nn.functional.logsigmoid(0.1 * margin)).mean()
        print(f"{loss.item():.4f}")
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


L.seed_everything(0, verbose=False)
module = WeightedDPO()
tokens = torch.randint(256, (4, 2, 32))  # four pairs
labels = tokens.masked_fill(torch.arange(32) < 16, -100)  # nothing is learnt of the prompt
with torch.no_grad():  # the reference is the policy's own beginning
    flat = {"input_ids": tokens.flatten(0, 1), "labels": labels.flatten(0, 1)}
    reference = log_probs_of(module.model, flat).sum(-1).view(4, 2)
weights = torch.tensor([2.0, 1.0, 0.5, 0.5])[:, None].expand(4, 2)
pairs = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(tokens, labels, reference, weights), batch_size=4)
quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
L.Trainer(max_epochs=10, accelerator="auto", devices=1, **quiet).fit(module, pairs)
