"""Any model in the project's own format."""
