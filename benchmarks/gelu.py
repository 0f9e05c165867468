"""The odd polynomial with which the kernel of the gate computes gelu: `python benchmarks/gelu.py`.

gelu(x) = x / (1 + 2 ** -(x P(x^2))), where P is fitted to log2(Phi / (1 - Phi)) / x by least squares, weighted anew
until the error of gelu is even (Lawson's way to the least greatest error). Prints P and the greatest error.
"""

import math

import numpy as np

DEGREE, FARTHEST, ROUNDS = 4, 5.5, 200


def fit() -> np.ndarray:
    """The coefficients of P, the constant first."""
    x = np.linspace(1e-3, FARTHEST, 6000)
    below, above = (np.array([math.erfc(sign * value / math.sqrt(2)) / 2 for value in x]) for sign in (-1, 1))
    wanted = np.log2(below / above) / x
    effect = x * x * below * above * math.log(2)  # of P on gelu
    powers = np.vander(x * x, DEGREE + 1, increasing=True)
    weights = effect
    for _ in range(ROUNDS):
        found = np.linalg.lstsq(powers * weights[:, None], wanted * weights, rcond=None)[0]
        error = np.abs((powers @ found - wanted) * effect)
        weights = weights * (error / error.mean() + 1e-12) ** 0.25
        weights /= weights.max()
    return found


def greatest_error(found: np.ndarray) -> float:
    """Of gelu, anywhere."""
    x = np.linspace(-12, 12, 48001)
    exact = np.array([value * math.erfc(-value / math.sqrt(2)) / 2 for value in x])
    powers = np.vander(x * x, DEGREE + 1, increasing=True)
    with np.errstate(over="ignore"):
        return float(np.abs(x / (1 + np.exp2(-x * (powers @ found))) - exact).max())


if __name__ == "__main__":
    polynomial = fit()
    print(*polynomial, f"greatest error {greatest_error(polynomial):.1e}", sep="\n")
