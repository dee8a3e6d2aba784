"""Every published ranking made again from the logs, compared bit for bit."""
