"""Records, predictions and cached artifacts on disk, each written completely or not at all."""
