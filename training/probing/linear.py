"""The linear probe: multinomial logistic regression for classes, ridge regression for numbers.

Both are exact fits with one penalty, which the validation samples choose; the test samples are only scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from training.probing.results import ProbeResult, report, score
from training.probing.tables import FeatureTable, check_tables

# Per sample: scikit-learn's C is 1 / (penalty * N), and its alpha is penalty * N.
PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
# Numbers get stronger ones too: with few samples the mean may be the best guess, and a closed form costs nothing.
NUMBER_PENALTIES = (*PENALTIES, 1e2, 1e3, 1e4, 1e5)
_CONSTANT = 1e-6  # channels whose spread is below this share of their size carry rounding only


@dataclass(frozen=True)
class Scaling:
    """Mean and scale [D] of the training features; channels that do not vary become 0."""

    mean: Tensor
    scale: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """Standardised float64 features [N, D]."""
        return (features.double() - self.mean) * self.scale


@dataclass(frozen=True)
class Affine:
    """weight [D, C] and bias [C] of a fitted probe, on standardised features."""

    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """[N, D] -> [N, C]."""
        return features @ self.weight + self.bias


def standardise(features: Tensor) -> Scaling:
    """The scaling that gives these features [N, D] mean 0 and standard deviation 1 per channel."""
    values = features.double()
    mean, std = values.mean(dim=0), values.std(dim=0, correction=0)  # [D]
    varies = std > _CONSTANT * mean.abs() + 1e-12
    return Scaling(mean, torch.where(varies, 1 / std.clamp_min(1e-300), 0.0))


def fit_ridge(features: Tensor, values: Tensor, penalties: Sequence[float]) -> list[Affine]:
    """Ridge regressions in closed form, one per penalty; the bias is not penalised.

    Minimises sum (x w + b - y)^2 + penalty |w|^2, from one eigendecomposition of the smaller Gram matrix.

    Args:
        features: [N, D].
        values: [N].
        penalties: each above 0.
    """
    features, values = features.double(), values.double()
    mean, offset = features.mean(dim=0), values.mean()
    centred, target = features - mean, values - offset
    tall = len(features) >= features.shape[1]
    gram = centred.T @ centred if tall else centred @ centred.T  # [D, D] or [N, N]
    eigenvalues, basis = torch.linalg.eigh(gram)
    eigenvalues = eigenvalues.clamp_min(0)
    projected = basis.T @ (centred.T @ target if tall else target)
    fits = []
    for penalty in penalties:
        solved = basis @ (projected / (eigenvalues + penalty))
        weight = solved if tall else centred.T @ solved  # [D]
        fits.append(Affine(weight.unsqueeze(1), (offset - mean @ weight).unsqueeze(0)))
    return fits


def fit_logistic(
    features: Tensor, classes: Tensor, num_classes: int, penalties: Sequence[float], *, max_steps: int = 500
) -> list[Affine]:
    """Multinomial logistic regressions, one per penalty; deterministic, full batch, float64.

    Minimises mean cross-entropy + penalty / 2 |w|^2; the bias is not penalised. Each fit starts from the one with the
    next larger penalty.

    Args:
        features: [N, D].
        classes: int64 [N], 0 to num_classes - 1.
        num_classes: C.
        penalties: per sample, each above 0.
        max_steps: of L-BFGS, for one penalty.
    """
    basis, rotated, spread = _principal(features.double())
    joint = rotated.new_zeros(rotated.shape[1] + 1, num_classes)  # [R + 1, C]
    fits: dict[float, Affine] = {}
    for penalty in sorted(set(penalties), reverse=True):
        # About the inverse square root of the curvature at the start, which makes L-BFGS ten times as quick.
        step = (spread / num_classes + penalty).rsqrt().unsqueeze(1)  # [R, 1]
        joint = _minimise(rotated, classes, joint, step, penalty, max_steps)
        fits[penalty] = Affine(basis @ joint[:-1], joint[-1])
    return [fits[penalty] for penalty in penalties]


def _principal(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Basis [D, R] that the samples span, their coordinates in it [N, R], and the mean square [R] of each.

    The L2 penalty is the same in any orthonormal basis, and the optimum lies in the span of the samples: exact.
    """
    tall = len(features) >= features.shape[1]
    eigenvalues, vectors = torch.linalg.eigh(features.T @ features if tall else features @ features.T)
    kept = eigenvalues > 1e-12 * eigenvalues[-1].clamp_min(1e-300)
    eigenvalues, vectors = eigenvalues[kept], vectors[:, kept]
    basis = vectors if tall else features.T @ (vectors / eigenvalues.sqrt())  # [D, R]
    return basis, features @ basis, eigenvalues / len(features)


def _minimise(features: Tensor, classes: Tensor, start: Tensor, step: Tensor, penalty: float, max_steps: int) -> Tensor:
    """Weights and, last, the bias [R + 1, C] by L-BFGS; the gradient is written out, quicker than autograd here.

    Args:
        features: [N, R].
        classes: int64 [N].
        start: [R + 1, C].
        step: [R, 1], the unit in which each weight is moved.
        penalty: per sample.
        max_steps: of L-BFGS.
    """
    truth = F.one_hot(classes, start.shape[1]).double()  # [N, C]
    scaled = features * step.T  # [N, R]
    joint = torch.nn.Parameter(torch.cat([start[:-1] / step, start[-1:]]))
    optimizer = torch.optim.LBFGS(
        [joint],
        max_iter=max_steps,
        max_eval=4 * max_steps,
        history_size=20,
        tolerance_grad=1e-7,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    @torch.no_grad()
    def closure() -> Tensor:
        weight = joint[:-1] * step  # [R, C]
        log_share = (scaled @ joint[:-1] + joint[-1]).log_softmax(dim=1)  # [N, C]
        residual = (log_share.exp() - truth) / len(truth)  # [N, C]
        joint.grad = torch.cat([scaled.T @ residual + penalty * step * weight, residual.sum(dim=0, keepdim=True)])
        return -(log_share * truth).sum() / len(truth) + penalty / 2 * weight.square().sum()

    optimizer.step(closure)  # type: ignore[arg-type]
    return torch.cat([joint[:-1] * step, joint[-1:]]).detach()


def linear_probe(
    train: FeatureTable,
    validation: FeatureTable,
    test: FeatureTable,
    label: str,
    *,
    seed: int = 0,
    penalties: Sequence[float] | None = None,
) -> ProbeResult:
    """What a linear read-out of the frozen features scores.

    Features are standardised with the training samples' mean and spread. A class label is fitted by logistic
    regression and scored by accuracy, a number by ridge regression and R2.

    Args:
        train, validation, test: tables that share no sample; tokens are averaged.
        label: what to read out.
        seed: written to the result; it names the draw of training samples. The fit itself has no randomness.
        penalties: L2 per sample, of which validation chooses; PENALTIES or NUMBER_PENALTIES by default.

    Raises:
        ValueError: see `check_tables`.
    """
    check_tables(train, validation, test, label)
    scaling = standardise(train.pooled().features)
    x_train, x_validation, x_test = (scaling(each.pooled().features) for each in (train, validation, test))
    y_train, y_validation, y_test = (each.label(label) for each in (train, validation, test))
    penalties = penalties or (NUMBER_PENALTIES if y_train.is_floating_point() else PENALTIES)
    if y_train.is_floating_point():
        fits = fit_ridge(x_train, y_train, [penalty * len(y_train) for penalty in penalties])
        predict = _numbers
        classes = None
    else:
        classes = y_train.unique()  # classes that never occur in training cannot be predicted, and count as errors
        fits = fit_logistic(x_train, torch.searchsorted(classes, y_train), len(classes), penalties)
        predict = _classes
    scores = []
    for fit in fits:
        outputs = fit(x_validation)
        value = next(iter(score(predict(outputs, classes), y_validation).values()))
        scores.append((value, -_surprise(outputs, classes, y_validation)))
    best = max(range(len(fits)), key=lambda index: scores[index])
    return report(
        "linear",
        label,
        predicted=predict(fits[best](x_test), classes),
        truth=y_test,
        train=y_train,
        num_classes=None if classes is None else train.num_classes(label),
        validation=scores[best][0],
        chosen={"penalty": penalties[best]},
        num_validation=len(validation),
        seed=seed,
    )


def _numbers(outputs: Tensor, classes: Tensor | None) -> Tensor:
    return outputs[:, 0]


def _classes(outputs: Tensor, classes: Tensor | None) -> Tensor:
    assert classes is not None  # this is a class label
    return classes[outputs.argmax(dim=1)]


def _surprise(outputs: Tensor, classes: Tensor | None, truth: Tensor) -> float:
    """Decides between fits of equal accuracy: the mean cross-entropy on samples whose class was trained."""
    if classes is None:
        return 0.0
    seen = torch.isin(truth, classes)
    if not seen.any():
        return 0.0
    return float(F.cross_entropy(outputs[seen], torch.searchsorted(classes, truth[seen])))
