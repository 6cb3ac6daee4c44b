"""The embedded demo's world: its words and facts, the data written from them, hidden gold score and annotator."""
