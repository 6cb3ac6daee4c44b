"""What a run shows while it works: a live panel on a terminal, plain lines elsewhere, or nothing."""

from posttrain.console.speaker import Console, open_console
from posttrain.console.views import Lines, Panel, Silent

__all__ = ["Console", "Lines", "Panel", "Silent", "open_console"]
