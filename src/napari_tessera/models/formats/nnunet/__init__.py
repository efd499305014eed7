"""nnU-Net v2: folders of trained networks."""
