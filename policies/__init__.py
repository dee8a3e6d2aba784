"""How we choose: a policy turns candidates into probabilities, and learns from rewards."""
