"""The `rankloop` command: one module for each group of subcommands."""
