"""Measures with intervals: shares, answers beside references, labels, and a reward model's scores on rankings."""
