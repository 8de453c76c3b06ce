"""The external router: logistic regression on sentence embeddings, in numpy.

It predicts from the question's embedding whether the local model answers right; what it thinks
least of goes to the cloud. Labels are mean rewards of local rollouts, so they may be fractions.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

_ITERATIONS = 50
_TOLERANCE = 1e-8


def fit(
    features_N_D: NDArray[np.float32], labels_N: NDArray[np.float64], *, ridge: float = 1.0
) -> NDArray[np.float64]:
    """Weights [D + 1], the bias last, that minimise cross-entropy + ridge/2·|w|² (bias free).

    Newton's method on labels in [0, 1]. `ridge` counts against the sum over the N examples.
    """
    x = _with_bias(features_N_D)
    penalty = np.full(x.shape[1], ridge)
    penalty[-1] = 1e-6
    weights = np.zeros(x.shape[1])
    for _ in range(_ITERATIONS):
        p = _sigmoid(x @ weights)
        gradient = x.T @ (p - labels_N) + penalty * weights
        hessian = (x * (p * (1 - p))[:, None]).T @ x + np.diag(penalty)
        step = np.linalg.solve(hessian, gradient)
        step *= min(1.0, 5.0 / float(np.linalg.norm(step) + 1e-12))
        weights = weights - step
        if float(np.abs(step).max()) < _TOLERANCE:
            break
    return weights


def right(weights: NDArray[np.float64], features_N_D: NDArray[np.float32]) -> NDArray[np.float64]:
    """Predicted probability [N] that the local answer is right."""
    return _sigmoid(_with_bias(features_N_D) @ weights)


def scores(
    embed: Callable[[Sequence[str]], NDArray[np.float32]],
    labels: Sequence[tuple[str, float]],
    questions: Sequence[str],
) -> list[float]:
    """Predictions for `questions` after learning from `labels`, (question, mean reward)."""
    features = embed([question for question, _ in labels])
    weights = fit(features, np.array([value for _, value in labels]))
    return [float(p) for p in right(weights, embed(questions))]


def _with_bias(features_N_D: NDArray[np.float32]) -> NDArray[np.float64]:
    ones = np.ones((len(features_N_D), 1))
    return np.concatenate([features_N_D.astype(np.float64), ones], axis=1)


def _sigmoid(z: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(0.5 * (1 + np.tanh(z / 2)))
