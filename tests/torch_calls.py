"""Which functions of PyTorch a piece of code calls."""

import sys
from collections import Counter
from collections.abc import Callable
from types import FrameType
from typing import Any


def torch_calls(function: Callable[[], Any]) -> Counter[str]:
    """
    :param function: Is called once.
    :return: How often it called what of PyTorch, in Python or in C, by name; what PyTorch calls itself counts too.
    """
    calls: Counter[str] = Counter()

    def note(frame: FrameType, event: str, arg: Any) -> None:
        if event == "call" and frame.f_globals.get("__name__", "").partition(".")[0] == "torch":
            calls[frame.f_code.co_name] += 1
        elif event == "c_call":
            # A method names its owner, a function its module.
            owner = getattr(arg, "__self__", None)
            where = f"{getattr(arg, '__module__', None)}.{type(owner).__module__}.{getattr(owner, '__name__', '')}"
            if "torch" in where:
                calls[arg.__name__] += 1

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        function()
    finally:
        sys.setprofile(before)
    return calls
