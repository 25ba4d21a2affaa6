"""The whole job in stages, each from files to files: prepare, reference, cluster, reward, weigh, train, evaluate."""

from iwpo_fast.pipeline.run import run

__all__ = ["run"]
