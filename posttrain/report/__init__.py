"""What a run came to, for people: pages that read run folders and nothing else."""
