"""Settings, the file they are kept in, and the dialects of PyTorch Connectomics."""
