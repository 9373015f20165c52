"""Values and calls as Python source, for the layers' method `torch_source`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def float_text(value: float) -> str:
    """Returns the shortest text of a float32, or of a whole number."""
    return str(value) if isinstance(value, int) else repr(float(str(np.float32(value))))


def tuple_text(values: Sequence[float | Sequence[float]]) -> str:
    """Returns a tuple of numbers or of such tuples."""
    parts = [tuple_text(value) if isinstance(value, Sequence) else float_text(value) for value in values]
    return f"({', '.join(parts)}{',' * (len(parts) == 1)})"


def sizes_text(values: Sequence[int]) -> str:
    """Returns sizes as PyTorch takes them: one number if all are equal, else a tuple."""
    return float_text(values[0]) if len(set(values)) == 1 else tuple_text(values)


def call_text(function: str, *arguments: str, **options: tuple[str, str]) -> str:
    """Returns a call.

    Args:
        function: What is called.
        *arguments: Expressions.
        **options: Expression and default; left out where they are equal.
    """
    named = [f"{name}={value}" for name, (value, default) in options.items() if value != default]
    return f"{function}({', '.join([*arguments, *named])})"


def joined_text(operator: str, function: str, terms: Sequence[str]) -> str:
    """Returns `a + b + c`, or where that is long, calls of the function for two of them."""
    text = f" {operator} ".join(terms)
    if len(text) <= 45:
        return text
    text = terms[0]
    for term in terms[1:]:
        text = f"{function}({text}, {term})"
    return text
