"""Closed-loop environments: a log or simulated users answer rankings."""
