"""Runs of the claim `async_steps`: the server's update along delay traces, on digits. Nothing is drawn twice."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from training.averaging.server import DelayedServer, StepSize, StepSizes
from training.averaging.simulator import heavy_tailed_delays, replay

DELAYS = (1, 2, 4, 8, 16)
UPDATES, LONGEST, MEAN = 1000, 64, 8.0
SAMPLES, CLASSES, DECAY = 600, 10, 1e-2
# Multiples of the theory's step size or budget that a tuned arm tries: six each, around where the pilot had its best.
MULTIPLES: dict[StepSize, tuple[float, ...]] = {
    "fixed": (16, 32, 64, 128, 256, 512),
    "adaptive_a": (1, 2, 4, 8, 16, 32),
    "adaptive_b": (1, 2, 4, 8, 16, 32),
}


def closed_form(delay: int) -> float:
    """The largest stable step size times L of gradient descent with a constant delay: 2 sin(pi / (2 (2 delay + 1)))."""
    return 2 * math.sin(math.pi / (2 * (2 * delay + 1)))


@cache
def digits(seed: int) -> tuple[Tensor, Tensor]:
    """SAMPLES digits of a seed: pixels [N, 64] in 0 .. 1 with a constant column appended, and labels [N]."""
    from sklearn.datasets import load_digits

    loaded = load_digits()
    rows = torch.randperm(len(loaded.target), generator=torch.Generator().manual_seed(seed))[:SAMPLES]
    pixels = torch.from_numpy(loaded.data)[rows] / 16
    return torch.cat([pixels, torch.ones(SAMPLES, 1, dtype=torch.float64)], 1), torch.from_numpy(loaded.target)[rows]


def server_of(start: Tensor, rule: StepSize, budget: float, divisor: float = 1.0) -> DelayedServer:
    """A server with plain gradient descent."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(start.clone())], lr=budget)
    return DelayedServer(optimizer, StepSizes(rule, divisor=divisor), 1, aggregate=False)


def stability_edge(delay: int, seed: int, updates: int = 6000) -> float:
    """The largest step size, times L, at which delayed gradient descent on least squares does not diverge.

    Least squares on the digits, from a random start. One run tries many step sizes at once, since they do not
    interact: each is a row of the parameters, and scales its own gradient. Three runs, each finer around the edge.
    Growth of the gradient is read off the second half of a run, where what decays fast has decayed.
    """
    pixels, labels = digits(seed)
    hessian = pixels.T @ pixels / SAMPLES  # [65, 65]
    curvature = torch.linalg.eigvalsh(hessian)[-1]
    slope = pixels.T @ (labels.double() - labels.double().mean()) / SAMPLES
    start = torch.randn(len(slope), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    low, high = 0.0, 2.5
    for _ in range(3):
        sizes = torch.linspace(low, high, 41, dtype=torch.float64)

        def gradient(x: Tensor, _: int, tried: Tensor = sizes) -> Tensor:
            away = x.view(len(tried), -1) @ hessian - slope
            return (tried[:, None] / curvature * away).flatten()

        server = server_of(start.repeat(len(sizes)), "fixed", 1.0)
        window = 4 * (2 * delay + 1)  # two periods of what oscillates at the edge
        early = torch.zeros(len(sizes), dtype=torch.float64)
        late = torch.zeros(len(sizes), dtype=torch.float64)
        for number, (_, x) in enumerate(replay(server, gradient, [delay] * updates)):
            gap = (x.view(len(sizes), -1) @ hessian - slope).norm(dim=1)
            if updates // 2 <= number < updates // 2 + window:
                early = torch.maximum(early, gap)
            elif number >= updates - window:
                late = torch.maximum(late, gap)
            if number % 50 == 0:
                server.write(x.clamp(-1e100, 1e100))  # far beyond the edge nothing may overflow to NaN
        begun = (start @ hessian - slope).norm()
        grows = ((late > early) & (late > 1e-9 * begun)) | ~late.isfinite()  # rounding moves what has converged
        first = int(grows.nonzero()[0])
        low, high = sizes[first - 1].item(), sizes[first].item()
    return (low + high) / 2


class Logistic:
    """Ten-class logistic regression with weight decay on digits; smooth, strongly convex, L known.

    Args:
        seed: of the digits.
    """

    def __init__(self, seed: int) -> None:
        self.pixels, self.labels = digits(seed)
        largest = torch.linalg.eigvalsh(self.pixels.T @ self.pixels / SAMPLES)[-1].item()
        self.smoothness = largest / 2 + DECAY  # softmax's Hessian is at most 1/2
        self.hot = F.one_hot(self.labels, CLASSES).double()
        self.start = torch.zeros(self.pixels.shape[1] * CLASSES, dtype=torch.float64)

    def value(self, x: Tensor) -> float:
        """The objective."""
        scores = self.pixels @ x.view(-1, CLASSES)
        return (F.cross_entropy(scores, self.labels) + DECAY / 2 * x.square().sum()).item()

    def gradient(self, x: Tensor, _: int = 0) -> Tensor:
        """Of the objective."""
        weights = x.view(-1, CLASSES)
        error = (self.pixels @ weights).softmax(1) - self.hot
        return (self.pixels.T @ error / SAMPLES + DECAY * weights).flatten()

    def least(self) -> float:
        """The least value, by L-BFGS."""
        x = self.start.clone().requires_grad_()
        solver = torch.optim.LBFGS([x], max_iter=3000, tolerance_grad=1e-11, tolerance_change=0, history_size=20,
                                   line_search_fn="strong_wolfe")  # fmt: skip

        def closure() -> Tensor:
            x.grad = self.gradient(x.detach())
            return torch.tensor(self.value(x.detach()), dtype=torch.float64)

        solver.step(closure)
        return self.value(x.detach())


@cache
def problem(seed: int) -> tuple[Logistic, float]:
    """The problem of a seed and its least value."""
    found = Logistic(seed)
    return found, found.least()


def digits_gained(seed: int, trace: int, rule: StepSize, multiple: float) -> float:
    """Decimal digits by which the gap to the least value shrank in UPDATES updates; negative where it grew.

    Args:
        seed: of the problem.
        trace: seed of the delays.
        rule: of the step sizes. The theory's: 1 / (L (longest + 1/2)) where fixed, a budget of 0.99 / L where adaptive.
        multiple: of the theory's.
    """
    task, least = problem(seed)
    budget = 0.99 * multiple / task.smoothness
    divisor = LONGEST + 0.5 if rule == "fixed" else 1.0
    server = server_of(task.start, rule, budget, divisor)
    delays = heavy_tailed_delays(UPDATES, mean=MEAN, longest=LONGEST, seed=trace)
    end = task.start
    for _, end in replay(server, task.gradient, delays):
        if not bool(end.isfinite().all()) or end.abs().max() > 1e8:
            return -10.0
    before, after = task.value(task.start) - least, max(task.value(end) - least, 1e-15)
    return math.log10(before / after)


def tuned(seed: int, rule: StepSize) -> tuple[float, float]:
    """The gain with the multiple that does best on another trace of delays, and that multiple."""
    other = 50_000 + seed
    multiple = max(MULTIPLES[rule], key=lambda each: digits_gained(seed, other, rule, each))
    return digits_gained(seed, seed, rule, multiple), multiple
