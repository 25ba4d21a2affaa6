"""Preference data: reading, tokenising, batching."""

from iwpo_fast.data.ledger import Ledger
from iwpo_fast.data.pairs import Pairs
from iwpo_fast.data.read import read_rows
from iwpo_fast.data.rows import Rows
from iwpo_fast.data.token_cache import cache_folder
from iwpo_fast.data.tokenise import tokenise

__all__ = ["Ledger", "Pairs", "Rows", "cache_folder", "read_rows", "tokenise"]
