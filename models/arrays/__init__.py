"""Bounded arrays by id."""
