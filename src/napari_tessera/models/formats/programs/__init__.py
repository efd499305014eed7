"""Networks that are programs: TorchScript and torch.export, and the descriptions that travel with them."""
