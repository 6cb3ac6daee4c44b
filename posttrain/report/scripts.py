"""The scripts and styles of the page: plotly's, read from its package, and ours, the files of static/ in one."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

from posttrain.errors import ModelError

HERE = Path(__file__).resolve().parent
STATIC = HERE / "static"
SHARED = HERE.parent / "pages" / "static"
PLOTLY = "plotly.min.js"
# In the order in which they are put together; each may use what stands before it. Those of the inspector start
# themselves where the page has its data (`#inspection`).
OWN = ("theme.js", "charts.js", "page.js", "live.js")
_IMPORT = re.compile(r'^import [^;]*? from "[^"]+";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?function|const|let|class)", re.MULTILINE)


@lru_cache(maxsize=1)
def plotly() -> str:
    """Plotly's script, as its package has it. Raises ModelError where that has none."""
    # `find_spec` imports nothing: plotly itself takes a second.
    found = find_spec("plotly")
    file = Path(found.origin or "").parent / "package_data" / PLOTLY if found else Path(PLOTLY)
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise ModelError(f"{file} cannot be read: the package plotly is not whole\n  fix: install it again") from error


def own_script() -> str:
    """Our modules as one: they keep their order, and name one another no more.

    A module may import from files before it, and exports what stands at the beginning of a line; no two may have a
    name in common.
    """
    files = [SHARED / "text.js", *(STATIC / name for name in OWN), *_of_inspector("js")]
    return "".join(_EXPORT.sub("", _IMPORT.sub("", file.read_text(encoding="utf-8"))) for file in files)


def styles() -> str:
    """Our styles, those of the inspector last."""
    files = [STATIC / "report.css", *_of_inspector("css")]
    return "".join(file.read_text(encoding="utf-8") for file in files)


def _of_inspector(kind: str) -> Sequence[Path]:
    """The inspector's files: those that its `order.txt` lists, a name a line, or else by name."""
    folder = STATIC / "inspector"
    listed = folder / "order.txt"
    names = listed.read_text(encoding="utf-8").split() if listed.is_file() else []
    return [folder / name for name in names if name.endswith(kind)] or sorted(folder.glob(f"*.{kind}"))


def allowed(text: str) -> str:
    """A text by its hash, as a content security policy allows it."""
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
