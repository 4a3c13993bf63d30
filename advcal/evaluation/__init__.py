"""Evaluate: a model, data and an attack to a record of every figure."""

from advcal.evaluation._evaluate import Evaluation, evaluate
from advcal.evaluation._table import table

__all__ = ["Evaluation", "evaluate", "table"]
