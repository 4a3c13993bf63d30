"""Evaluate: a model, data and an attack to a record of every figure; diagnose what to believe."""

from advcal.evaluation._audit import Audit, audit
from advcal.evaluation._compare import compare
from advcal.evaluation._corrupt import corrupt, corruptions
from advcal.evaluation._costs import Cost, Latency, costs
from advcal.evaluation._detect import Detection, detection
from advcal.evaluation._diagnose import Diagnosis, diagnose
from advcal.evaluation._envelope import Envelope, confidence_envelope
from advcal.evaluation._evaluate import Evaluation, TargetedEvaluation, evaluate
from advcal.evaluation._files import read_corruptions
from advcal.evaluation._findings import Finding
from advcal.evaluation._pareto import hypervolume, pareto
from advcal.evaluation._rows import rows
from advcal.evaluation._search import pareto_search
from advcal.evaluation._severities import CorruptionErrors, corruption_errors
from advcal.evaluation._sweep import sweep
from advcal.evaluation._table import table
from advcal.evaluation._transfer import transfer

__all__ = [
    "Audit",
    "CorruptionErrors",
    "Cost",
    "Detection",
    "Diagnosis",
    "Envelope",
    "Evaluation",
    "Finding",
    "Latency",
    "TargetedEvaluation",
    "audit",
    "compare",
    "confidence_envelope",
    "corrupt",
    "corruption_errors",
    "corruptions",
    "costs",
    "detection",
    "diagnose",
    "evaluate",
    "hypervolume",
    "pareto",
    "pareto_search",
    "read_corruptions",
    "rows",
    "sweep",
    "table",
    "transfer",
]
