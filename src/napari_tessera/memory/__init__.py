"""What a run takes of memory: traced, estimated term by term, and corrected by what runs took."""
