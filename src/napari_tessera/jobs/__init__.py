"""One job from request to result: opening, measuring, running, decoding, writing."""
