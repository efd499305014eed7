"""Architectures that are rebuilt here."""
