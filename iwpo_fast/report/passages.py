"""Texts of data on the page."""

from __future__ import annotations

from iwpo_fast.report.html import Html, tag

MOST = 3000
"""Characters of a text that are shown: its beginning, and its end, which is what an answer follows."""


def passage(name: str, text: str) -> Html:
    """A text under its name, which is one of prompt, chosen, rejected, before and after."""
    left_out = len(text) - MOST
    if left_out > 0:
        half = MOST // 2
        text = f"{text[:half]}\n[… {left_out:,} characters …]\n{text[-half:]}"
    return tag("div", tag("span", name, class_="name"), tag("pre", text or " ", dir="auto"), class_=f"passage {name}")
