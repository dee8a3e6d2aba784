"""`rankloop torture`: workers under a script of faults; `stream.checker` then counts."""
