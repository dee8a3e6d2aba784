"""The running worker: assigned partitions, restore, snapshots, monitoring, HTTP pages."""
