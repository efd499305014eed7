"""Windows in, predictions out: reading ahead, forward passes, blocks, devices side by side, events."""
