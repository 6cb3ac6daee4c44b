"""Pure tensor functions: they see tensors and plain numbers, never batches, models, configurations or ranks."""
