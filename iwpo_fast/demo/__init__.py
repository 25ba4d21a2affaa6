"""The embedded example: synthetic preferences with a known gold reward, a supervised warm-up, and the whole job."""

from iwpo_fast.demo.run import run_demo

__all__ = ["run_demo"]
