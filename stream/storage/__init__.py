"""What outlives a process: snapshots, latest rankings, vector caches."""
