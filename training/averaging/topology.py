"""Topologies: who sends to whom at which step, and the same as the matrix W(t).

One object drives the transport (`out_peers`, `in_peers`, `share`) and the simulator (`matrix`), so the two cannot
differ. W(t)[i, j] is the share of worker j's mass that worker i gets at step t; every column sums to 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, PositiveInt, model_validator
from torch import Tensor

Round = tuple[tuple[int, ...], ...]  # the peers that each worker sends to


class TopologyError(ValueError):
    """A topology that cannot make these workers agree; the text says why and what to do."""


class TopologySettings(BaseModel):
    """A topology as a recipe names it.

    Attributes:
        name: exponential (directed), ring (both neighbours), bipartite_exponential (pairs), complete, or file.
        num_peers: that a worker of `exponential` sends to at a step.
        path: of the file, see `from_file`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: Literal["exponential", "ring", "bipartite_exponential", "complete", "file"] = "exponential"
    num_peers: PositiveInt = 1
    path: str | None = None

    @model_validator(mode="after")
    def _path_for_files(self) -> TopologySettings:
        if (self.name == "file") != (self.path is not None):
            raise ValueError("path belongs to the topology named file, and only to it")
        return self

    def build(self, size: int) -> Topology:
        """The topology of `size` workers.

        Raises:
            TopologyError: it cannot be made for so many workers.
        """
        if self.name == "file":
            return from_file(Path(self.path or ""), size)
        if self.name == "exponential":
            return exponential(size, self.num_peers)
        builders: dict[str, Callable[[int], Topology]] = {
            "ring": ring,
            "bipartite_exponential": bipartite_exponential,
            "complete": complete,
        }
        return builders[self.name](size)


@dataclass(frozen=True)
class Topology:
    """A cycle of rounds. A worker keeps 1 / (1 + number of peers) of its mass and sends as much to each peer.

    Attributes:
        name: for messages.
        rounds: rounds[t mod len][worker] are the workers that it sends to at step t.
    """

    name: str
    rounds: tuple[Round, ...]

    @property
    def size(self) -> int:
        """Number of workers."""
        return len(self.rounds[0])

    def out_peers(self, rank: int, step: int) -> tuple[int, ...]:
        """Workers that `rank` sends to at `step`."""
        return self.rounds[step % len(self.rounds)][rank]

    def in_peers(self, rank: int, step: int) -> tuple[int, ...]:
        """Workers that send to `rank` at `step`, in rising order."""
        return tuple(sender for sender, peers in enumerate(self.rounds[step % len(self.rounds)]) if rank in peers)

    def share(self, rank: int, step: int) -> float:
        """The part of its mass that `rank` keeps at `step`, and sends to each peer."""
        return 1.0 / (1 + len(self.out_peers(rank, step)))

    def matrix(self, step: int) -> Tensor:
        """W(step), float64 [n, n]; column j says where the mass of worker j goes."""
        weights = torch.zeros(self.size, self.size, dtype=torch.float64)
        for sender in range(self.size):
            share = self.share(sender, step)
            weights[sender, sender] = share
            for receiver in self.out_peers(sender, step):
                weights[receiver, sender] = share
        return weights

    @property
    def doubly_stochastic(self) -> bool:
        """Whether the rows of every W(t) sum to 1 too; then all push-sum weights stay 1 without overlap."""
        ones = torch.ones(self.size, dtype=torch.float64)
        return all(torch.allclose(self.matrix(step) @ ones, ones) for step in range(len(self.rounds)))


def ring(size: int) -> Topology:
    """Each worker sends to both neighbours."""
    peers = tuple(_distinct(rank, ((rank + 1) % size, (rank - 1) % size)) for rank in range(size))
    return Topology("ring", (peers,))


def complete(size: int) -> Topology:
    """Each worker sends to every other: one step gives the mean."""
    return Topology("complete", (tuple(_distinct(rank, range(size)) for rank in range(size)),))


def exponential(size: int, num_peers: int = 1) -> Topology:
    """Directed exponential: at its i-th step a worker sends to those j (p + 1)^i ahead, j = 1 .. p.

    On a power of p + 1 workers the mean is exact after log_{p+1} n steps.
    Source: arXiv:1811.10792, appendix A; the default graph of its code.
    """
    rounds: list[Round] = []
    hop = 1
    while hop < size:
        offsets = [count * hop for count in range(1, num_peers + 1) if count * hop < size]
        rounds.append(tuple(_distinct(rank, ((rank + each) % size for each in offsets)) for rank in range(size)))
        hop *= num_peers + 1
    return Topology("exponential", tuple(rounds) or (((),) * size,))


def bipartite_exponential(size: int) -> Topology:
    """Pairs of an odd (active) and an even (passive) worker, at distances 1, -1, 3, -3, 5, -5, 9, -9, ...

    Every W(t) is symmetric, so plain averaging of pairs needs no push-sum weights.
    Source: arXiv:1710.06952 (AD-PSGD's roles); the bipartite graph of the code of arXiv:1811.10792.

    Raises:
        TopologyError: the number of workers is odd.
    """
    if size % 2:
        raise TopologyError(f"bipartite_exponential pairs workers up and needs an even number of them, not {size}")
    hops = [1] + [1 + 2**power for power in range(1, size.bit_length()) if 1 + 2**power < size]
    rounds: list[Round] = []
    for offset in dict.fromkeys(each % size for hop in hops for each in (hop, -hop)):
        signs = [offset if rank % 2 else -offset for rank in range(size)]
        rounds.append(tuple(((rank + sign) % size,) for rank, sign in enumerate(signs)))
    return Topology("bipartite_exponential", tuple(rounds))


def from_rounds(name: str, rounds: Sequence[Sequence[Sequence[int]]]) -> Topology:
    """A topology from lists of peers: rounds[t][worker] = workers that it sends to.

    Raises:
        TopologyError: a peer that does not exist, a worker that sends to itself or twice to one peer, rounds of
            different sizes, or workers that news of another never reaches.
    """
    sizes = {len(each) for each in rounds}
    if len(sizes) != 1 or 0 in sizes:
        raise TopologyError(f"{name}: every round lists the peers of every worker; found rounds of {sorted(sizes)}")
    size = sizes.pop()
    for number, each in enumerate(rounds):
        for rank, peers in enumerate(each):
            wrong = [peer for peer in peers if peer not in range(size) or peer == rank]
            if wrong or len(set(peers)) != len(peers):
                raise TopologyError(
                    f"{name}: in round {number} worker {rank} sends to {list(peers)}; peers are distinct workers out "
                    f"of 0 .. {size - 1} other than itself"
                )
    found = Topology(name, tuple(tuple(tuple(peers) for peers in each) for each in rounds))
    reach = torch.stack([found.matrix(step) for step in range(len(rounds))]).sum(0)
    for _ in range(size.bit_length()):
        reach = ((reach @ reach) > 0).double()
    if not bool(reach.all()):
        receiver, sender = (int(index) for index in (reach == 0).nonzero()[0])
        raise TopologyError(f"{name}: nothing that worker {sender} sends ever reaches worker {receiver}")
    return found


def from_file(path: Path, size: int) -> Topology:
    """A topology from a YAML or JSON file: a list of rounds, each a list of the peers that every worker sends to.

    For instance `[[[1, 2], [2], [0]]]`: one round, in which worker 0 sends to 1 and 2. Workers may have different
    numbers of peers; such an irregular graph needs push-sum weights.

    Raises:
        TopologyError: the file is missing or malformed, or is for another number of workers.
    """
    import yaml

    try:
        rounds: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise TopologyError(f"the topology {path} cannot be read: {error}") from None
    try:
        rounds = [[[int(peer) for peer in peers] for peers in each] for each in rounds]
    except (TypeError, ValueError):
        raise TopologyError(
            f"the topology {path} is not a list of rounds of lists of peers, such as [[[1], [2], [0]]]"
        ) from None
    found = from_rounds(str(path), rounds) if rounds else None
    if found is None or found.size != size:
        raise TopologyError(f"the topology {path} is for {found.size if found else 0} workers, there are {size}")
    return found


def _distinct(rank: int, peers: Any) -> tuple[int, ...]:
    return tuple(dict.fromkeys(peer for peer in peers if peer != rank))
