"""A linear fit from noisy moments, in closed form: ridge regression whose ridge comes from public quantities.

The fit is ``(G + ridge I)^-1 B'`` of noisy moments G and B. It follows from what was released, and costs no privacy.

The ridge is that of AdaSSP (Wang 2018, "Revisiting differentially private linear regression: optimal and adaptive
prediction and estimation in unbounded domain", algorithm 2): as much as the noise may take from the eigenvalues of the
sum, less what the smallest of them is known to be. There the smallest eigenvalue is released on its own, for a third of
the budget. Here it is bounded from the noisy sum itself, which costs nothing: eigenvalues move by no more than the norm
of the noise (Weyl).
"""

from math import sqrt

import numpy as np
from numpy.typing import NDArray

from fedtrain.statistics.moments import Moments

_MARGIN = 1.5
_SMALLEST = 1e-9


def noise_norm(moments: Moments) -> float:
    """Return a bound on the largest eigenvalue of the noise in the sum of ``z z'``, in magnitude.

    The noise is a symmetric Gaussian matrix of standard deviation s on its diagonal, and s / sqrt(2) off it. The mean
    of its largest eigenvalue is at most ``s sqrt(2 d)`` for d rows. As a function of the released numbers it is
    s-Lipschitz in units of their noise, since these are an isometry of the matrix. So the bound, half as much again,
    holds but for a probability of ``2 exp(-d / 4)`` (Boucheron, Lugosi and Massart 2013, "Concentration inequalities",
    theorem 5.6).
    """
    return _MARGIN * moments.gram_deviation * sqrt(2 * len(moments.gram))


def ridge(moments: Moments) -> float:
    """Return the ridge: the bound on the noise, less the lower bound on the smallest eigenvalue of the exact sum.

    It is 0 where the eigenvalues are twice as far from 0 as the noise can move them.
    """
    bound = noise_norm(moments)
    smallest = max(0.0, float(np.linalg.eigvalsh(moments.gram)[0]) - bound)
    return max(0.0, bound - smallest)


def fit(moments: Moments) -> NDArray[np.float64]:
    """Return the fit on z for each target, shape (targets, width).

    Eigenvalues that the ridge leaves below a billionth of the largest count as zero, and so does the fit along them:
    without noise that is the least-squares fit of least norm.
    """
    values, vectors = np.linalg.eigh(moments.gram)
    values = values + ridge(moments)
    kept = values > _SMALLEST * max(float(values[-1]), np.finfo(np.float64).tiny)
    inverse = np.divide(1.0, values, out=np.zeros_like(values), where=kept)
    found: NDArray[np.float64] = (moments.moment @ vectors) * inverse @ vectors.T
    return found
