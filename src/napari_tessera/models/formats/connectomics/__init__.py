"""PyTorch Connectomics: checkpoints of all its generations, and the YAML beside them."""
