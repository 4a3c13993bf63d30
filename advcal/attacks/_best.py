"""The best point that an attack has seen, per example."""

from advcal.attacks._gradient import Best, at, select

__all__ = ["Best", "at", "select"]
