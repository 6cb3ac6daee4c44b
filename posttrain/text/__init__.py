"""Messages to tokens and back: the only door between text and ids."""
