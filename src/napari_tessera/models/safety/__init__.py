"""What a stranger's file may say, and what it must not do."""
