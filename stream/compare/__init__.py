"""`rankloop compare`: every arm on one log; which part helped, for whom, at what cost."""
