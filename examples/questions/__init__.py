"""The questions that the lecture's notes raise, each answered by a small experiment."""
