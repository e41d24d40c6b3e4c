"""The wall clock: set forwards and backwards, by minutes to days, under the running process."""

from __future__ import annotations

from itertools import pairwise

from crashing import World
from faults import LEAN, Trial, learns_on
from oracle import Report
from stepping_clock import SteppingClock

MINUTE_S, HOUR_S, DAY_S = 60.0, 3600.0, 86400.0
SEEN_MS = 30_000


def clocks(trial: Trial) -> Report:
    """Each step is seen by an epoch at least; now and then the learner is killed and starts by the new clock."""
    world = trial.found(learning=LEAN)
    clock, ahead = SteppingClock(world.folder), 0.0
    with trial.busy() as traffic:
        service = trial.live(variables=clock.variables)
        for number in range(trial.times):
            service.wait_ready()
            learns_on(service)
            back = number % 2 == 1
            step = trial.chance.uniform(2, 5) * trial.chance.choice((MINUTE_S, HOUR_S, DAY_S))
            ahead += -step if back else step
            clock.set(ahead)
            trial.strike("steps back" if back else "steps ahead")
            learns_on(service)
            trial.pause(0, 1.5)
            if number % 5 == 4:
                service.kill()
                trial.strike("SIGKILLs")
                service = trial.live(variables=clock.variables)
        service.wait_ready()
        learns_on(service)
        traffic.finish()
        report = world.finish(service)
    jumps = _jumps(world)
    assert jumps >= trial.times, f"the epochs' clocks jumped {jumps} times only"
    trial.notes.append(f"{jumps} jumps in the epochs' clocks")
    return report


def _jumps(world: World) -> int:
    """How often an epoch's clock was far from that of the one before."""
    times = [manifest["clock"] for manifest in world.manifests()]
    return sum(abs(b - a) > SEEN_MS for a, b in pairwise(times))
