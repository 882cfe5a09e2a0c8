"""Machines of a Ray cluster and processes of torchrun that die while they train.

python benchmarks/campaign/cluster.py --count 6

Trials take turns. In one, a study of digits trains on a Ray cluster of three nodes on this machine, and every so many
seconds a node dies and another joins. In the other, torchrun trains in four processes, and one after another is killed.
"""

import contextlib
import importlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import small
from campaign import Campaign, arguments, randomness
from commands import Command, warm_up
from sameness import difference

CLAIM = (
    "A study whose machines die, and a training whose processes are killed, go on from their last checkpoints to the "
    "weights and figures of those that nobody disturbed, to the bit."
)
NODES, RANKS = 3, 4
_NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
_SECONDS_BETWEEN_LOOKS = 0.05
_PATIENCE = 1200.0
_EPOCHS_OF_STUDY, _EPOCHS_OF_TRAINING = 100, 12


class Study:
    """A study on a Ray cluster, whose nodes die.

    Args:
        folder: for the files of the study.
        seconds: between the deaths of two nodes.
    """

    name, killed = "a study on Ray", "nodes that died"

    def __init__(self, folder: Path, seconds: float) -> None:
        values = small.digits_recipe()
        values["training"] |= {"epochs": _EPOCHS_OF_STUDY, "checkpoint_minutes": 0.01}
        folder.mkdir()
        self.study, self.scale = small.write_study(folder, values)
        self.seconds = seconds

    def words(self, at: Path) -> list[str]:
        """The command."""
        return ["study", str(self.study), "--scale", str(self.scale), "--measure", "false", "--output", str(at)]

    def undisturbed(self, at: Path) -> None:
        """Train on this machine."""
        with Command([*self.words(at), "--jobs", "1"], at.with_suffix(".txt")) as command:
            if command.end(_PATIENCE) != 0:
                raise SystemExit(f"{self.name} fails undisturbed: {command.printed}")

    def disturbed(self, at: Path, random: np.random.Generator) -> tuple[int, str | None]:
        """Train on nodes that die. Returns how many did, and what the command printed if it failed."""
        cluster: Any = importlib.import_module("ray.cluster_utils").Cluster(
            initialize_head=True, head_node_args={**_NODE, "num_cpus": 0}
        )
        dead = 0
        try:
            nodes = [cluster.add_node(**_NODE) for _ in range(NODES)]
            with Command([*self.words(at), "--ray", cluster.address], at.with_suffix(".txt")) as command:
                end = time.monotonic() + _PATIENCE
                while not _ends_within(command, self.seconds) and time.monotonic() < end:
                    if nodes:
                        cluster.remove_node(nodes.pop(int(random.integers(len(nodes)))), allow_graceful=False)
                        dead += 1
                    with contextlib.suppress(Exception):  # Ray's own, on a machine too busy to start a node in time
                        nodes.append(cluster.add_node(**_NODE))
                status = command.end(1.0)
        finally:
            cluster.shutdown()
        return dead, None if status == 0 else f"status {status}: {command.printed.strip()[-500:]}"


def _ends_within(command: Command, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while command.running and time.monotonic() < end:
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    return not command.running


class Training:
    """A training in four processes, one of which is killed now and then.

    Args:
        folder: for the files of the training.
        kills: how often.
    """

    name, killed = "training under torchrun", "processes that were killed"

    def __init__(self, folder: Path, kills: int) -> None:
        values = small.digits_recipe()
        values["training"] |= {"epochs": _EPOCHS_OF_TRAINING, "batch_size": 2}
        folder.mkdir()
        self.recipe = small.write(folder / "recipe.yaml", values)
        self.kills = kills

    def start(self, at: Path, restarts: int) -> "subprocess.Popen[str]":
        """Start torchrun."""
        launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(RANKS)]
        launcher += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", "--max-restarts", str(restarts)]
        words = ["-m", "localvit", "train", "--config", str(self.recipe), "--output", str(at / "run")]
        log = at.with_suffix(".txt").open("w")
        variables = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [*launcher, *words], stdout=log, stderr=log, text=True, env=variables, start_new_session=True
        )

    def undisturbed(self, at: Path) -> None:
        """Train in as many processes."""
        if self.start(at, 0).wait(_PATIENCE) != 0:
            raise SystemExit(f"{self.name} fails undisturbed: {at.with_suffix('.txt').read_text()[-1000:]}")

    def disturbed(self, at: Path, random: np.random.Generator) -> tuple[int, str | None]:
        """Train in processes that are killed. Returns how many were, and what was printed if it failed."""
        process, killed, state = self.start(at, self.kills), 0, at / "run" / "last.ckpt"
        end = time.monotonic() + _PATIENCE
        while killed < self.kills:
            before = _written(state)
            while process.poll() is None and _written(state) == before and time.monotonic() < end:
                time.sleep(_SECONDS_BETWEEN_LOOKS)
            time.sleep(float(random.uniform(0, 0.5)))
            if process.poll() is not None or time.monotonic() > end:
                break
            if ranks := _ranks(process.pid):
                os.kill(int(random.choice(ranks)), signal.SIGKILL)
                killed += 1
        try:
            status = process.wait(max(1.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            status = process.wait()
        return killed, None if status == 0 else f"status {status}: {at.with_suffix('.txt').read_text()[-500:]}"


def _written(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _ranks(agent: int) -> list[int]:
    """The training processes that torchrun has started; none once it has ended."""
    try:
        children = Path(f"/proc/{agent}/task/{agent}/children").read_text().split()
        return sorted(int(child) for child in children if "localvit" in Path(f"/proc/{child}/cmdline").read_text())
    except FileNotFoundError:  # one of them has just ended
        return []


def main() -> None:
    """Try until the log holds as many trials as were asked for."""
    parser = arguments(__doc__, "cluster", 6)
    parser.add_argument("--seconds", type=float, default=20.0, help="between the deaths of two nodes")
    parser.add_argument("--kills", type=int, default=17, help="processes of torchrun to kill in each trial")
    options = parser.parse_args()
    if find_spec("ray") is None:
        raise SystemExit("Ray is an extra: pip install localvit[ray]")
    campaign = Campaign.open(options.output, CLAIM, "commands")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        warm_up(folder / "server.txt")
        makers: list[Callable[[], Study | Training]] = [
            lambda: Study(folder / "study", options.seconds),
            lambda: Training(folder / "training", options.kills),
        ]
        made: dict[int, Study | Training] = {}
        for trial in campaign.trials(options.count):
            which = trial % len(makers)
            whole, at = folder / f"whole-{which}", folder / f"trial-{trial}"
            if which not in made:
                made[which] = makers[which]()
                whole.mkdir()
                made[which].undisturbed(whole)
            at.mkdir()
            killed, failure = made[which].disturbed(at, randomness(trial))
            failure = failure or difference(at, whole)
            if failure is not None:
                campaign.failed(f"{made[which].name}: {failure}")
            campaign.saw(made[which].name)
            for _ in range(killed):
                campaign.saw(made[which].killed)
            shutil.rmtree(at)
    campaign.end()


if __name__ == "__main__":
    main()
