"""Penalized logistic regression for many penalties and labels at once on one shared matrix.

Every problem minimizes, over weights w and an unpenalized bias b,

    mean_i softplus(z_i) - y_i z_i  +  penalty / 2 · |w|²,      z = X w + b,

which is scikit-learn's `LogisticRegression` with C = 1 / (n · penalty). The mean is over the n rows
in which the problem's label is known. The solver is L-BFGS
(Nocedal & Wright, algorithm 7.4) on all problems together: one product with X gives the search
direction's logits of all of them, one their gradients, and the line search costs no product. The
first guess of the inverse Hessian is that of a model with constant curvature, in the basis of X's
covariance, which takes ill-conditioned features out of the problem.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MAX_ITERATIONS = 200
LINE_SEARCH_STEPS = 8
HISTORY = 8

DECREMENT = 3e-6
"""A problem is solved when its Newton decrement, about the error of its logits (root mean square,
times the deviation of a label), falls below this; single precision reaches little less."""

SLOPE_SHARE = 0.3
"""The line search ends when the slope is at most this share of the slope at its start."""


@dataclass(frozen=True)
class Solution:
    """Weights `(P, d)`, biases `(P,)`, and whether each problem has converged."""

    weight: Tensor
    bias: Tensor
    converged: Tensor


def solve_logistic(
    x: Tensor,
    targets: Tensor,
    penalty: Tensor,
    labelled: Tensor | None = None,
    *,
    decrement: float = DECREMENT,
) -> Solution:
    """Solve P problems that share the rows of `x`.

    Args:
        x: features `(n, d)`.
        targets: labels `(P, n)`, 0 or 1.
        penalty: `(P,)`, positive.
        labelled: `(P, n)`, 1 for rows of a problem that have a label and 0 for others; None where
            all rows have one. A problem without a row has zero weights.
        decrement: at which a problem is solved; below `DECREMENT` only in double precision.

    Returns:
        Weights, biases, and which problems have converged.
    """
    centre = x.mean(dim=0)
    matrix = _Centred(x, centre)
    weights: Tensor | None = None
    if labelled is None:
        rate = targets.mean(dim=1).clamp(0.5 / len(x), 1 - 0.5 / len(x))
    else:
        rows = labelled.sum(dim=1).clamp_min(1)
        weights = labelled * (len(x) / rows).unsqueeze(1)
        rate = (targets * weights).mean(dim=1).clamp(0.5 / rows, 1 - 0.5 / rows)
    guess = _InverseCurvature(matrix.covariance(), rate * (1 - rate), penalty)
    weight = x.new_zeros(len(targets), x.shape[1])
    bias = torch.logit(rate)
    solved = torch.zeros(len(targets), dtype=torch.bool, device=x.device)
    index = torch.arange(len(targets), device=x.device)
    active = _Problems.start(index, targets, weights, weight, bias)
    for _ in range(MAX_ITERATIONS):
        active.update_gradient(matrix, penalty)
        direction, bias_direction, reached = active.direction(guess)
        done = reached <= decrement
        if done.any():
            finished = active.index[done]
            weight[finished], bias[finished] = active.weight[done], active.bias[done]
            solved[finished] = True
            active = active.keep(~done)
            direction, bias_direction = direction[~done], bias_direction[~done]
        if not len(active.index):
            break
        active.move(matrix, direction, bias_direction, penalty)
    weight[active.index], bias[active.index] = active.weight, active.bias
    return Solution(weight, bias - weight @ centre, solved)


@dataclass(frozen=True)
class _Centred:
    """Products with the centered matrix, without a centered copy of it."""

    x: Tensor
    centre: Tensor

    def logits(self, weight: Tensor) -> Tensor:
        """Return the logits `(P, n)`."""
        return torch.addmm((-weight @ self.centre).unsqueeze(1), weight, self.x.T)

    def gradient(self, residual: Tensor) -> Tensor:
        """Return the gradient `(P, d)`, averaged over rows."""
        total = residual @ self.x
        return total.sub_(torch.outer(residual.sum(dim=1), self.centre)).div_(len(self.x))

    def covariance(self) -> Tensor:
        """Return the covariance `(d, d)`."""
        centered = self.x - self.centre
        return centered.T @ centered / len(self.x)


class _InverseCurvature:
    """`(curvature · covariance + penalty)⁻¹` of every problem, from one eigendecomposition."""

    def __init__(self, covariance: Tensor, curvature: Tensor, penalty: Tensor) -> None:
        variance, self.axes = torch.linalg.eigh(covariance)
        spread = torch.outer(curvature, variance.clamp_min(0)) + penalty.unsqueeze(1)
        self.gain = 1 / spread
        self.bias_gain = 1 / curvature

    def __call__(
        self, index: Tensor, gradient: Tensor, bias_gradient: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Apply to gradients `(P, d)` and `(P,)` of the problems `index`.

        Returns:
            The products.
        """
        rotated = (gradient @ self.axes).mul_(self.gain[index]) @ self.axes.T
        return rotated, bias_gradient * self.bias_gain[index]


@dataclass
class _Problems:
    """Problems not yet solved; the leading axis of every tensor runs over them."""

    index: Tensor
    targets: Tensor
    weights: Tensor | None
    """Weights of the rows `(P, n)`, of mean 1; None where all are 1."""
    weight: Tensor
    bias: Tensor
    logits: Tensor
    gradient: Tensor
    bias_gradient: Tensor
    moves: list[tuple[Tensor, Tensor]]
    """Past steps of weights and bias, latest last."""
    changes: list[tuple[Tensor, Tensor]]
    """Changes of the gradients over those steps."""
    fresh: bool = True

    @classmethod
    def start(
        cls, index: Tensor, targets: Tensor, weights: Tensor | None, weight: Tensor, bias: Tensor
    ) -> _Problems:
        logits = bias.unsqueeze(1).expand_as(targets).clone()
        zero = torch.zeros_like(weight), torch.zeros_like(bias)
        return cls(index, targets, weights, weight.clone(), bias.clone(), logits, *zero, [], [])

    def keep(self, mask: Tensor) -> _Problems:
        """Return the problems that `mask` picks."""
        return _Problems(
            self.index[mask],
            self.targets[mask],
            None if self.weights is None else self.weights[mask],
            self.weight[mask],
            self.bias[mask],
            self.logits[mask],
            self.gradient[mask],
            self.bias_gradient[mask],
            [(weight[mask], bias[mask]) for weight, bias in self.moves],
            [(weight[mask], bias[mask]) for weight, bias in self.changes],
            self.fresh,
        )

    def update_gradient(self, matrix: _Centred, penalty: Tensor) -> None:
        """Gradients at the present weights, and how they changed over the last move."""
        residual = torch.sigmoid(self.logits).sub_(self.targets)
        if self.weights is not None:
            residual.mul_(self.weights)
        gradient = matrix.gradient(residual).addcmul_(penalty[self.index].unsqueeze(1), self.weight)
        bias_gradient = residual.mean(dim=1)
        if not self.fresh:
            self.changes.append((gradient - self.gradient, bias_gradient - self.bias_gradient))
        self.fresh = False
        self.gradient, self.bias_gradient = gradient, bias_gradient

    def direction(self, guess: _InverseCurvature) -> tuple[Tensor, Tensor, Tensor]:
        """Return descent directions (two-loop recursion) and the decrements."""
        q, qb = self.gradient.clone(), self.bias_gradient.clone()
        shares = []
        for (s, sb), (y, yb) in zip(reversed(self.moves), reversed(self.changes), strict=True):
            # A pair without positive curvature comes from rounding; it is skipped.
            curvature = _dot(s, sb, y, yb)
            rho = torch.where(curvature > 0, 1 / curvature.clamp_min(1e-30), 0.0)
            alpha = rho * _dot(s, sb, q, qb)
            q.sub_(alpha.unsqueeze(1) * y)
            qb.sub_(alpha * yb)
            shares.append((rho, alpha))
        r, rb = guess(self.index, q, qb)
        for (s, sb), (y, yb), (rho, alpha) in zip(
            self.moves, self.changes, reversed(shares), strict=True
        ):
            beta = alpha - rho * _dot(y, yb, r, rb)
            r.add_(beta.unsqueeze(1) * s)
            rb.add_(beta * sb)
        decrement = _dot(r, rb, self.gradient, self.bias_gradient).clamp_min(0).sqrt()
        return r.neg_(), rb.neg_(), decrement

    def move(
        self, matrix: _Centred, direction: Tensor, bias_direction: Tensor, penalty: Tensor
    ) -> None:
        """Step along the directions, each problem as far as its own line search says."""
        along = matrix.logits(direction).add_(bias_direction.unsqueeze(1))
        weight_slope = penalty[self.index] * (self.weight * direction).sum(dim=1)
        weight_bend = penalty[self.index] * direction.square().sum(dim=1)
        start = _dot(direction, bias_direction, self.gradient, self.bias_gradient)
        weighted = along if self.weights is None else along * self.weights
        step = _line_search(
            self.logits, along, weighted, self.targets, weight_slope, weight_bend, start
        )
        move = step.unsqueeze(1) * direction, step * bias_direction
        self.weight.add_(move[0])
        self.bias.add_(move[1])
        self.logits.addcmul_(step.unsqueeze(1), along)
        self.moves.append(move)
        if len(self.moves) > HISTORY:
            del self.moves[0], self.changes[0]


def _line_search(
    logits: Tensor,
    along: Tensor,
    weighted: Tensor,
    targets: Tensor,
    weight_slope: Tensor,
    weight_bend: Tensor,
    start: Tensor,
) -> Tensor:
    """Return steps `(P,)` with almost no slope along the directions; `start` is it at 0.

    `weighted` is `along` times the weights of the rows.

    Newton's method on the slope, which rises monotonically since the objective is convex,
    safeguarded by the bracket found so far.
    """
    step = torch.ones_like(weight_slope)
    low, high = torch.zeros_like(step), torch.full_like(step, torch.inf)
    for _ in range(LINE_SEARCH_STEPS):
        p = torch.sigmoid(torch.addcmul(logits, step.unsqueeze(1), along))
        bend = (p * (1 - p)).mul_(along).mul_(weighted).mean(dim=1) + weight_bend
        slope = p.sub_(targets).mul_(weighted).mean(dim=1) + weight_slope + step * weight_bend
        if (slope.abs() <= SLOPE_SHARE * start.abs()).all():
            break
        low, high = torch.where(slope < 0, step, low), torch.where(slope > 0, step, high)
        newton = step - slope / bend.clamp_min(1e-30)
        middle = torch.where(high.isinf(), 2 * low.clamp_min(0.5), (low + high) / 2)
        step = torch.where((newton > low) & (newton < high), newton, middle)
    return step


def _dot(a: Tensor, ab: Tensor, b: Tensor, bb: Tensor) -> Tensor:
    return (a * b).sum(dim=1) + ab * bb
