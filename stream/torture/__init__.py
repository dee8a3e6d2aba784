"""Fault injection: workers under load and a seeded script of faults."""
