"""Compiled decoder layers: one `torch.compile` for all layers of a model, so that those of one shape share its code.

Attention stays outside. Who sees whom stands in a context variable, and the shapes of rows are others in every batch;
what is compiled knows of one size that changes, the number of tokens, and is compiled once for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from inspect import signature
from textwrap import shorten
from typing import Any, cast

import torch
from transformers import PreTrainedModel

from posttrain.errors import ModelError, out_of_memory
from posttrain.models.attention import PackedLayout, in_use
from posttrain.models.blocks import BlockLayout
from posttrain.models.checkpointing import layers_of

VERSIONS = 32
"""How often a piece of a layer may be compiled: for each stack of adapters, with and without gradients."""
BACKEND = "inductor"
FIX = "\n  fix: leave compile out"
_WORDS = 200
"""Letters of what a compiler says: its command line alone is a page."""
_plain: ContextVar[bool] = ContextVar("posttrain_plain", default=False)


@contextmanager
def plainly() -> Generator[None]:
    """Compiled layers run inside as they did before they were."""
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


def check_compiler(device: torch.device) -> None:
    """Raises ModelError where a trifle cannot be compiled for a device: no compiler, no headers, an old PyTorch."""
    if "isolate_recompiles" not in signature(torch.compile).parameters:
        raise ModelError(f"compile needs a newer PyTorch than {torch.__version__}{FIX}, or install torch 2.13")
    try:
        cast("Any", torch.compile)(_one_more, backend=BACKEND, dynamic=True)(torch.ones(2, device=device))
    except Exception as error:  # whatever compilers and the system say
        hint = ", or install a C++ compiler such as g++" if device.type == "cpu" else ""
        raise failed(f"compile does not work on {device.type}", error, hint) from error


def compile_layers(model: PreTrainedModel, tell: Callable[[str], None]) -> int:
    """From now on the model's layers run compiled wherever a layout of training is in use; their number.

    Sampling, and the model's own attention, run as before. Results differ in rounding, and dropout draws other numbers.
    `tell` is told once where a layer would be compiled too often and runs as before instead. Raises ModelError for a
    model without layers that the library marks, and where the compiler fails later on.
    """
    layers, name = layers_of(model), type(model).__name__
    if not layers:
        raise ModelError(f"{name} has no layers that can be compiled{FIX}")
    compiled = _Compiled(name, tell)
    for layer in layers:
        layer.forward = compiled.around(layer.forward)
    return len(layers)


class _Compiled:
    """The layers of a model, compiled apart from those of other models."""

    def __init__(self, name: str, tell: Callable[[str], None]) -> None:
        self._name, self._tell = name, tell
        make, compiler = cast("Any", torch.compile), cast("Any", torch)._dynamo
        # Made once: each would leave a variable behind in the thread.
        self._strict = compiler.config.patch(fail_on_recompile_limit_hit=True)
        self._call = make(_call, backend=BACKEND, dynamic=True, recompile_limit=VERSIONS, isolate_recompiles=True)

    def around(self, forward: Callable[..., object]) -> Callable[..., object]:
        def run(*given: object, **named: object) -> object:
            if _plain.get() or not isinstance(in_use(), PackedLayout | BlockLayout):
                return forward(*given, **named)
            compiler = cast("Any", torch)._dynamo
            with explained(f"{self._name}: its layers"):
                try:
                    with self._strict:
                        return self._call(forward, given, named)
                except compiler.exc.FailOnRecompileLimitHit:
                    # Asked again at the next pass: what is compiled goes on serving, be it in backward.
                    self._tell_once()
                    return forward(*given, **named)

        return run

    def _tell_once(self) -> None:
        self._tell(f"compile: {self._name} needs more than {VERSIONS} versions of a layer; further ones run uncompiled")
        self._tell = _nobody


@contextmanager
def explained(what: str) -> Generator[None]:
    """What a compiler raises inside, be it in a backward pass, is a ModelError that says what to do about `what`."""
    try:
        yield
    except (cast("Any", torch)._dynamo.exc.TorchDynamoException, ImportError) as error:
        if out_of_memory(error) or (isinstance(error, ImportError) and _kept() not in str(error)):
            raise
        raise failed(f"{what} cannot be compiled", error) from error


def _call(forward: Callable[..., object], given: tuple[object, ...], named: dict[str, object]) -> object:
    return forward(*given, **named)


def _one_more(number: torch.Tensor) -> torch.Tensor:
    return number + 1


def _nobody(text: str) -> None:
    pass


def failed(what: str, error: BaseException, hint: str = "") -> ModelError:
    """What to raise where a compiler fails, and what to do: a process killed while it compiles leaves torn files."""
    while isinstance(inner := error.__cause__ or getattr(error, "inner_exception", None), BaseException):
        error = inner  # the compiler wraps what others raise
    words = (str(error).strip() or type(error).__name__).splitlines()[0]
    kept = _kept()
    fix = f"\n  fix: remove {kept}, where earlier compiled code is kept, or leave compile out" if kept in words else FIX
    return ModelError(f"{what}: {shorten(words, _WORDS, placeholder=' ...')}{fix}{hint}")


def _kept() -> str:
    """The folder of compiled code."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir  # noqa: PLC0415 - two seconds that only errors need

    return cache_dir()
