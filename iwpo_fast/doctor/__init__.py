"""The command `iwpo doctor`: what is installed, what computes here, and what would run."""

from iwpo_fast.doctor.command import examine

__all__ = ["examine"]
