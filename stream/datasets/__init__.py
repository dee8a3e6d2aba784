"""Logs in files and topics, public data sets, simulated catalogues, as our messages."""
