"""What spans rooms: the demo, and its small world."""
