"""Fixed points x = f(x) by plain, damped, averaged and Anderson iteration (AIDI, arXiv 2309.04907, section 3.2).

Every method takes a weighted mean of what it remembers of f(x_i); the methods differ in the weights alone. Each sample of a
batch is solved on its own, with its own weights and its own end, and costs nothing once it has ended.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

# f(x, samples) -> like x: x is (A, ...) float32, and samples says which A of the whole batch these are.
Map = Callable[[Tensor, list[int]], Tensor]
# The Gram matrix (k, k) of the remembered residuals f(x_i) - x_i, oldest first -> k weights, whose sum is 1.
Weights = Callable[[np.ndarray], np.ndarray]

RISE = 2.0  # times the best residual: a guarded method that comes above it starts again from its best iterate


@dataclass(frozen=True)
class Residual:
    """The root mean square of f(x) - x, and the same divided by the root mean square of f(x)."""

    absolute: float
    relative: float


def least(residuals: Sequence[Residual]) -> Residual:
    """The one whose iterate is nearest to its image."""
    return min(residuals, key=lambda residual: residual.absolute)


# ended(sample, its residuals so far) -> whether the last of them was its last evaluation.
Ended = Callable[[int, Sequence[Residual]], bool]


class NotFinite(ArithmeticError):
    """f gave infinity, or what is no number, at the first guess of a sample."""

    def __init__(self, sample: int, message: str = ""):
        super().__init__(message or f"f is not finite at the guess for sample {sample}.")
        self.sample = sample


@dataclass(frozen=True)
class Method:
    """x_next = sum_i w_i (x_i + step (f(x_i) - x_i)) over the last `remembered` iterates.

    When the residual of such a mean has risen, a guarded method goes back to its best iterate and halves its step, since what
    rose would rise again. The step doubles with each better iterate, up to its full length.
    """

    weights: Weights
    remembered: int = 1
    step: float = 1.0
    guarded: bool = False


@dataclass
class Solution:
    """x: (B, ...). residuals: of each sample, at every iterate where f was evaluated, in order.

    A sample's x is one update beyond its last evaluated iterate where that was its best and the residuals were falling, and
    otherwise its best.
    """

    x: Tensor
    residuals: list[list[Residual]]

    def best(self, sample: int) -> Residual:
        """The least residual that was seen of a sample."""
        return least(self.residuals[sample])


def plain() -> Method:
    """x_next = f(x) (AIDI eq. 8). Converges where all eigenvalues of f' lie in (-1, 1)."""
    return Method(lambda gram: np.ones(1))


def damped(step: float = 0.5) -> Method:
    """x_next = x + step (f(x) - x). With step 0.5 it converges where the eigenvalues of f' lie in (-3, 1)."""
    return Method(lambda gram: np.ones(1), step=step)


def empirical() -> Method:
    """AIDI_E: x_next = (f(x_n) + f(x_{n-1})) / 2, at one call an iteration. Converges for eigenvalues in (-2, 1)."""
    return Method(lambda gram: np.full(len(gram), 1 / len(gram)), remembered=2)


def anderson(window: int = 3, regularisation: float = 1e-10, largest: float = 10.0) -> Method:
    """AIDI_A: the weights for which sum_i w_i (f(x_i) - x_i) is shortest, over the last window + 1 iterates.

    regularisation: Tikhonov's, where residual differences have length 1. largest: where sum |w_i| would be more, the
    differences say too little to be trusted, and the mean of the last two is taken.
    """
    if window < 1:
        raise ValueError(f"The window of Anderson's method is {window}; it needs at least 1.")
    return Method(lambda gram: anderson_weights(gram, regularisation, largest), window + 1, guarded=True)


def anderson_weights(gram: np.ndarray, regularisation: float, largest: float) -> np.ndarray:
    """The w with sum 1 that minimises w' G w, by the differences to the newest residual, each scaled to length 1."""
    if len(gram) == 1:
        return np.ones(1)
    unit = np.eye(len(gram))
    differences = unit[:-1] - unit[-1]  # (k - 1, k): g_i - g_newest
    inner = differences @ gram @ differences.T
    lengths = np.sqrt(np.maximum(np.diag(inner), np.finfo(float).tiny))
    scaled = inner / np.outer(lengths, lengths) + regularisation * unit[:-1, :-1]
    shares = np.linalg.solve(scaled, -(differences @ gram[-1]) / lengths) / lengths
    weights = unit[-1] + shares @ differences
    if not np.isfinite(weights).all() or np.abs(weights).sum() > largest:
        weights = (unit[-1] + unit[-2]) / 2
    return weights


def within(iterations: int, tolerance: float = 0.0, absolute_tolerance: float = 0.0) -> Ended:
    """The usual end: so many evaluations, or a residual within either tolerance. Tolerance 0 spends all iterations."""
    if iterations < 1:
        raise ValueError(f"iterations is {iterations}; at least 1 is needed.")
    if tolerance < 0 or absolute_tolerance < 0:
        raise ValueError(f"A tolerance is negative ({tolerance}, {absolute_tolerance}); 0 spends all iterations.")

    def ended(sample: int, residuals: Sequence[Residual]) -> bool:
        last = residuals[-1]
        return len(residuals) >= iterations or last.relative <= tolerance or last.absolute <= absolute_tolerance

    return ended


def solve(f: Map, x: Tensor, method: Method, ended: Ended) -> Solution:
    """Solve x = f(x) for each sample of a batch, from the guess x (B, ...).

    f is called once an iteration, in float32, on the samples that have not ended. Raises NotFinite where it gives no finite
    numbers at a guess; where it does so later the iteration has run away, and ends with the sample's best iterate.
    """
    residuals: list[list[Residual]] = [[] for _ in x]
    result = x.float().clone()
    run = _Run(x, method)
    while run.open:
        for sample, residual in zip(run.open, run.evaluate(f), strict=True):
            residuals[sample].append(residual)
            if not math.isfinite(residual.absolute) and len(residuals[sample]) == 1:
                raise NotFinite(sample)
        ends = [ended(sample, residuals[sample]) for sample in run.open]
        ends = run.update([residuals[sample] for sample in run.open], ends)
        for row in np.flatnonzero(ends):
            result[run.open[row]] = run.x[row].view(x.shape[1:])
        run.close(ends)
    return Solution(result, residuals)


class _Run:
    """The samples that are open: row r of each tensor belongs to sample open[r]. Tensors are flat: (rows, elements)."""

    def __init__(self, x: Tensor, method: Method):
        self.method = method
        self.shape = x.shape[1:]
        self.open = list(range(len(x)))
        self.x = x.flatten(1).float()
        self.best_x, self.best_value = self.x.clone(), self.x.clone()
        self.values = self.x.new_zeros(len(x), method.remembered, self.x.shape[1])
        self.errors = torch.zeros_like(self.values)
        self.grams = np.zeros((len(x), method.remembered, method.remembered))
        self.filled: list[list[int]] = [[] for _ in x]  # places in memory that count, oldest first
        self.halvings = [0 for _ in x]  # of the step
        self.place = -1

    def evaluate(self, f: Map) -> list[Residual]:
        """Call f and remember what it gave. All that is decided on comes over from the device in one transfer."""
        self.place = (self.place + 1) % self.method.remembered
        self.value = f(self.x.unflatten(1, self.shape), self.open).flatten(1).float()
        self.values[:, self.place] = self.value
        self.errors[:, self.place] = self.value - self.x
        errors = _precise(self.errors)
        products = torch.einsum("rn,rpn->rp", errors[:, self.place], errors)
        sizes = _precise(self.value).square().sum(1, keepdim=True)
        figures = torch.cat([products, sizes], 1).cpu().numpy()
        self.grams[:, self.place, :] = self.grams[:, :, self.place] = figures[:, :-1]
        for places in self.filled:
            places[:] = [place for place in places if place != self.place] + [self.place]
        elements = self.x.shape[1]
        return [_residual(row[self.place] / elements, row[-1] / elements) for row in figures]

    def update(self, residuals: list[list[Residual]], ends: list[bool]) -> list[bool]:
        """Move x on, each row from its residuals so far; return which rows end, those that ran away among them."""
        weights = np.zeros(self.grams.shape[:2], np.float32)
        improved, returning = [], []
        for row, history in enumerate(residuals):
            last, best = history[-1].absolute, least(history).absolute
            finite = math.isfinite(last)
            if finite and last == best:
                improved.append(row)
                self.halvings[row] = max(0, self.halvings[row] - (len(self.filled[row]) > 1))
                if ends[row] and _wavers(history):
                    returning.append((row, 0.0))
                    continue
            elif ends[row] or not (finite or self.method.guarded):
                returning.append((row, 0.0))
                ends[row] = True
                continue
            elif self.method.guarded and (not finite or (last > RISE * best and len(self.filled[row]) > 2)):
                self.halvings[row] += 1
                returning.append((row, 0.5 ** self.halvings[row]))
                continue
            places = self.filled[row]
            weights[row, places] = self.method.weights(self.grams[row][np.ix_(places, places)])
        self.best_x[improved], self.best_value[improved] = self.x[improved], self.value[improved]
        share = torch.from_numpy(weights).to(self.x.device)
        steps = self.values.new_tensor([self.method.step * 0.5**count for count in self.halvings])
        means = torch.lerp(self.values - self.errors, self.values, steps[:, None, None])
        self.x = torch.einsum("rp,rpn->rn", share, means)
        for row, step in returning:
            self.x[row] = torch.lerp(self.best_x[row], self.best_value[row], step)
            self.values[row] = self.errors[row] = 0  # what is not finite stays so under a weight of 0
            self.filled[row] = []
        return ends

    def close(self, ends: list[bool]) -> None:
        """Forget the rows that ended."""
        if not any(ends):
            return
        keep = [row for row, end in enumerate(ends) if not end]
        for name in ("x", "best_x", "best_value", "values", "errors", "grams"):
            setattr(self, name, getattr(self, name)[keep])
        for name in ("open", "filled", "halvings"):
            setattr(self, name, [getattr(self, name)[row] for row in keep])


def _wavers(residuals: Sequence[Residual]) -> bool:
    """Whether the residual rose before it last fell: then the next update may well raise it again."""
    return len(residuals) > 2 and residuals[-2].absolute > residuals[-3].absolute


def _residual(error: float, value: float) -> Residual:
    """From the mean squares of f(x) - x and of f(x)."""
    absolute = math.sqrt(error) if math.isfinite(error) else math.inf
    return Residual(absolute, absolute / math.sqrt(value) if value > 0 else (math.inf if absolute else 0.0))


def _precise(values: Tensor) -> Tensor:
    """In float64, on the same device where it knows float64."""
    return values.cpu().double() if values.device.type == "mps" else values.double()
