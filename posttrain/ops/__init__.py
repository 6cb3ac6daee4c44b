"""Pure tensor functions: they see tensors and plain numbers, never batches, models, configurations or ranks."""

from posttrain.ops import credit, kl, logprob, losses, ragged, ranking, statistics

__all__ = ["credit", "kl", "logprob", "losses", "ragged", "ranking", "statistics"]
