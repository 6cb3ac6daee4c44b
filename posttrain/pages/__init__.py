"""Pages in a browser and their servers: what is the same whoever's pages they are."""
