"""MONAI bundles: folders and zips, read as data."""
