"""Who asks and who clicks: a log, or simulated readers whose tastes are known; trials in them."""
