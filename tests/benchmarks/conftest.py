"""Benchmarks are run by `make bench`, never by pytest: no test waits for a clock."""

collect_ignore_glob = ["*.py"]
