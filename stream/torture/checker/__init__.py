"""Says what the logs imply, by code that is not the workers', and compares."""
