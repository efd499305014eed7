"""The project's own format, and network classes of a person's own."""
