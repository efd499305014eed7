"""Overlapping predictions become one volume: weights, slab, finished planes."""
