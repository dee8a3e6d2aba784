"""`rankloop compare`: an ablation of the ranker on one log."""
