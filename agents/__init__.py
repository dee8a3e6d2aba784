"""Who acts: an agent takes an event and returns the events it causes. No I/O, no clock."""
