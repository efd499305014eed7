"""What must be known of a network, and the file that says it."""
