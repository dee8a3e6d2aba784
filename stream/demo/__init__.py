"""`rankloop demo`, and the client it plays."""
