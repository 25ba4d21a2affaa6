"""Small tokenizers trained on the spot."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

TEXT = ["what is the colour of the sky today\n", "the sky is blue", "the sky is green and the grass is blue"] * 5
SPECIAL = ["<s>", "</s>", "<pad>", "<|turn|>"]
TEMPLATE = (
    "{% if tools %}<|turn|>tools {{ tools | map(attribute='name') | join(' ') }}{% endif %}"
    "{% for message in messages %}"
    "{% if message.role not in ['system', 'user', 'assistant'] %}{{ raise_exception('unknown role') }}{% endif %}"
    "<|turn|>{{ message.role }}\n{{ message.content }}</s>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)


def train_tokenizer(*, adds_bos: bool = False) -> PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(TEXT, trainer)
    if adds_bos:
        core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>" if adds_bos else None,
        eos_token="</s>",
        pad_token="<pad>",
        chat_template=TEMPLATE,
    )
