"""Importance-weighted preference optimisation of language models, fast and in little memory."""


def __getattr__(name: str) -> str:
    """`__version__`, looked up only when it is read: little is imported before the command handles its signals."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from iwpo_fast.versions import version_of

    return version_of("iwpo-fast")
