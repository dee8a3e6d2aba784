"""What a policy would have earned, with intervals: estimators of plain arrays."""

from policies.evaluation.estimators import Logged, ips, snips

__all__ = ["Logged", "ips", "snips"]
