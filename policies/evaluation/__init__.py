"""What a policy would have earned, with intervals: estimators of plain arrays."""

from policies.evaluation.estimators import BanditLog, ips, snips

__all__ = ["BanditLog", "ips", "snips"]
