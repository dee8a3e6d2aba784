"""Evaluation on logs: prequential replay, off-policy evaluation, ablation, regret, audit."""
