"""Trained networks and what Tessera must know about them."""
