"""What a round works with: engine, data, progress, outlook."""
