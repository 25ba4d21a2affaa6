"""The command `iwpo chat`: a conversation with a model, and with the one that it was before training."""

from iwpo_fast.chat.command import chat

__all__ = ["chat"]
