"""The places where a network runs, behind one protocol."""
