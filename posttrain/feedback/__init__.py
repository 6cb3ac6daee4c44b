"""People rank answers: the page and its server, who gets which item, what it all says, and rows that train."""
