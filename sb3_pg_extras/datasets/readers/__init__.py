"""One module per format: path -> OfflineDataset."""
