"""Says what the logs imply, by code that is not the workers' (but for the codec), and compares."""
