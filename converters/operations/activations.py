"""Functions of single values."""

from __future__ import annotations

import numpy as np

from pyscratchdet.converters.operations.arithmetic import clamp, hard_sigmoid, multiply, square
from pyscratchdet.converters.operations.composer import Composer, Exactness, operation

# The normal distribution is Phi(x) = sigmoid(x * K * ((x^2 + A)^2 + B) * ((x^2 + C)^2 + D)): fitted for the least
# largest error of x * Phi(x); both factors are positive, so that it goes to 0 and 1 outside the range of the fit,
# abs(x) < 5.
_K, _A, _B, _C, _D = 2.2252834506e-06, 17.69386548417346, 113.16267518645901, -31.385317838328337, 697.2640946353009
GELU_ERROR = 3.06e-6
ERF_ERROR = 1.37e-5


@operation(Exactness.SAME)
def relu(c: Composer, x: str, slope: float = 0.0) -> str:
    """ReLU, leaky with a slope."""
    return c.add("ReLU", [x], relu_param={"negative_slope": slope}) if slope else c.add("ReLU", [x])


@operation(Exactness.SAME)
def prelu(c: Composer, x: str, slope: np.ndarray) -> str:
    """PReLU with one slope for all channels or one for each."""
    channels = c.shape(x)[1] if len(c.shape(x)) > 1 else 1
    if slope.size not in (1, channels):
        raise c.refuse(f"slopes of shape {slope.shape}; Caffe has one per channel")
    shared = slope.size == 1 and channels > 1
    weight = slope.reshape(()) if shared else slope.ravel()
    return c.add("PReLU", [x], [weight], prelu_param={"channel_shared": shared})


@operation(Exactness.ROUNDED)
def elu(c: Composer, x: str, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> str:
    """ELU times a scale.

    With an input scale, scale * max(x, 0) + scale * alpha * (exp(input_scale * min(x, 0)) - 1).
    """
    if input_scale == 1:
        if scale == 1:
            return c.add("ELU", [x], elu_param={"alpha": alpha})
        return c.power(c.part("elu").add("ELU", [x], elu_param={"alpha": alpha}), scale=scale)
    inner = c.part("in").power(x, scale=input_scale)
    top = c.part("elu").add("ELU", [inner], elu_param={"alpha": alpha * input_scale})
    return c.power(top, scale=scale / input_scale)


@operation(Exactness.ROUNDED)
def sigmoid(c: Composer, x: str) -> str:
    """1 / (1 + exp(-x))."""
    return c.add("Sigmoid", [x])


@operation(Exactness.ROUNDED)
def tanh(c: Composer, x: str) -> str:
    """The hyperbolic tangent: TanH; where the target has none, 2 * sigmoid(2 x) - 1."""
    if c.has("TanH"):
        return c.add("TanH", [x])
    return c.power(sigmoid(c.part("sigmoid"), c.part("in").power(x, scale=2)), scale=2, shift=-1)


@operation(Exactness.SAME)
def absolute(c: Composer, x: str) -> str:
    """The absolute value; where the target has no AbsVal, a leaky ReLU of slope -1."""
    return c.add("AbsVal", [x]) if c.has("AbsVal") else relu(c, x, -1.0)


@operation(Exactness.ROUNDED)
def exponential(c: Composer, x: str) -> str:
    """The exponential function."""
    return c.add("Exp", [x])


@operation(Exactness.ROUNDED)
def logarithm(c: Composer, x: str) -> str:
    """The natural logarithm."""
    return c.add("Log", [x])


@operation(Exactness.ROUNDED)
def softplus(c: Composer, x: str, beta: float = 1.0) -> str:
    """log(1 + exp(beta x)) / beta. PyTorch's threshold of 20 changes less than float32 shows."""
    if beta == 1:
        return c.add("BNLL", [x])
    return c.power(c.part("bnll").add("BNLL", [c.part("in").power(x, scale=beta)]), scale=1 / beta)


@operation(Exactness.ROUNDED)
def silu(c: Composer, x: str) -> str:
    """The product x * sigmoid(x): Swish, or its parts."""
    if c.has("Swish"):
        return c.add("Swish", [x])
    return multiply(c, x, sigmoid(c.part("sigmoid"), x))


@operation(Exactness.ROUNDED)
def mish(c: Composer, x: str) -> str:
    """The product x * tanh(softplus(x)): Mish, or its parts."""
    if c.has("Mish"):
        return c.add("Mish", [x])
    return multiply(c, x, tanh(c.part("tanh"), softplus(c.part("softplus"), x)))


@operation(Exactness.ROUNDED)
def hard_swish(c: Composer, x: str) -> str:
    """The product x * hard_sigmoid(x): HardSwish, or its parts."""
    if c.has("HardSwish"):
        return c.add("HardSwish", [x])
    return multiply(c, x, hard_sigmoid(c.part("gate"), x))


@operation(Exactness.ROUNDED)
def softsign(c: Composer, x: str) -> str:
    """The quotient x / (1 + abs(x))."""
    return multiply(c, x, c.part("inverse").power(absolute(c.part("abs"), x), shift=1, power=-1))


@operation(Exactness.ROUNDED)
def hard_shrink(c: Composer, x: str, limit: float) -> str:
    """Values farther from 0 than a limit; 0 for all others."""
    large = c.part("large").add("Threshold", [absolute(c.part("abs"), x)], threshold_param={"threshold": limit})
    return multiply(c, x, large)


@operation(Exactness.ROUNDED)
def soft_shrink(c: Composer, x: str, limit: float) -> str:
    """Values moved towards 0 by a limit: x - min(max(x, -limit), limit)."""
    inner = clamp(c.part("inner"), x, -limit, limit)
    return c.add("Eltwise", [x, inner], eltwise_param={"operation": "SUM", "coeff": [1.0, -1.0]})


@operation(Exactness.APPROXIMATE)
def error_function(c: Composer, x: str) -> str:
    """The error function, 2 * Phi(sqrt(2) * x) - 1, Phi being the sigmoid of a polynomial."""
    _approximated(c, "the error function", f"erf within {ERF_ERROR:.1e} of its value everywhere")
    inner = c.part("in").power(x, scale=float(np.sqrt(2)))
    return c.power(_phi(c.part("phi"), inner), scale=2, shift=-1)


@operation(Exactness.APPROXIMATE)
def gelu(c: Composer, x: str) -> str:
    """The product x * Phi(x), Phi being the sigmoid of a polynomial; the form with tanh is `gelu_tanh`."""
    _approximated(c, "GELU", f"GELU within {GELU_ERROR:.1e} of its value everywhere")
    return multiply(c, x, _phi(c.part("phi"), x))


@operation(Exactness.ROUNDED)
def gelu_tanh(c: Composer, x: str) -> str:
    """GELU with tanh, which is x * sigmoid(2 * sqrt(2 / pi) * x * (1 + 0.044715 * x^2))."""
    factor = float(2 * np.sqrt(2 / np.pi))
    slope = c.part("slope").power(square(c.part("square"), x), scale=0.044715 * factor, shift=factor)
    return multiply(c, x, sigmoid(c.part("sigmoid"), multiply(c.part("inner"), x, slope)))


def _approximated(c: Composer, what: str, sentence: str) -> None:
    if not c.net.approximate:
        raise c.refuse(f"no Caffe layers compute {what} exactly; --approximate takes layers that come near it")
    if sentence not in c.net.approximations:
        c.net.approximations.append(sentence)


def _phi(c: Composer, x: str) -> str:
    """The normal distribution; see `_K`."""
    t = square(c.part("square"), x)
    factors = []
    for name, scale, shift, outer in (("low", _K, _A, _B), ("high", 1.0, _C, _D)):
        parabola = square(c.part(f"{name}_square"), c.part(f"{name}_in").power(t, shift=shift))
        factors.append(c.part(name).power(parabola, scale=scale, shift=scale * outer))
    inner = c.part("inner").add("Eltwise", [x, *factors], eltwise_param={"operation": "PROD"})
    phi = sigmoid(c, inner)
    c.net.approximated.add(phi)
    return phi
