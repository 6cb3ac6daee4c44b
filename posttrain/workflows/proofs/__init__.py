"""Methods against theory: a world small enough to enumerate, and the laws that hold in it."""
