"""Where steps are worked on here: which consumers in the pool, which on the loop.

What a function declares of itself holds unless the operator's pipelines say otherwise.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import structlog

from asyncflow.admission import Admission
from asyncflow.consumers import PoolSteps
from asyncflow.dispatch import Dispatcher
from asyncflow.engine import Engine
from asyncflow.greetings import unfit
from asyncflow.handlers import CONCURRENCY, ROOM, LoopSteps, Stray
from asyncflow.jobs import PlanEntry, Subscription
from asyncflow.modules import CannotLoad, load_here
from asyncflow.pace import Restraint, per_second
from asyncflow.parcels import Card
from asyncflow.pipelines import Behaviour, Pipelines
from asyncflow.pool import Pool
from asyncflow.processors.base import REGISTRY, Processor
from asyncflow.store.base import Store

log = structlog.get_logger(__name__)

#: gates come before anything else that waits
GATE_PRIORITY = -10


class Workplaces:
    """Makes dispatchers for the functions that a started *pool* has found.

    *attempts* is how often a step may fail where nobody says. *options* and *wall_s*
    (the longest attempt, in seconds) are by consumer; *admission* is asked what may be
    kept. A module of functions has *load_s* seconds to load.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        pool: Pool,
        store: Store,
        said: Pipelines,
        attempts: int,
        options: Mapping[str, Mapping[str, object]],
        wall_s: Mapping[str, float],
        admission: Admission,
        scratch: Path,
        load_s: float,
    ) -> None:
        self._engine, self._pool, self._store = engine, pool, store
        self._said, self._attempts = said, attempts
        self._options, self._scratch = options, scratch
        self._admission, self._load_s = admission, load_s
        longest = {name: one.wall_s for name, one in said.consumers.items()}
        told = {name: wall for name, wall in longest.items() if wall is not None}
        self._wall_s = {**wall_s, **told}
        #: functions on the loop that do not stop when they are told to
        self.strays: Callable[[], tuple[Stray, ...]] = tuple

    def subscriptions(self) -> tuple[Subscription, ...]:
        """Return what each function subscribes to."""
        cards = self._pool.processors.values()
        return tuple(self._subscription(card) for card in cards)

    def _subscription(self, card: Card) -> Subscription:
        said = self._said.consumers.get(card.name, Behaviour())
        return Subscription(
            entry=PlanEntry(
                consumer=card.name,
                on=card.on,
                gate=card.gate,
                required=card.required,
                priority=GATE_PRIORITY if card.gate else card.priority,
                max_attempts=said.attempts or card.attempts or self._attempts,
            ),
            accepts=card.accepts,
        )

    def restraint(self, card: Card) -> Restraint:
        """Return what holds a function back."""
        said = self._said.consumers.get(card.name, Behaviour())
        usual = CONCURRENCY if card.runs == "loop" else None
        rate = said.rate or card.rate
        return Restraint(
            concurrency=said.concurrency or card.concurrency or usual,
            per_s=None if rate is None else per_second(rate),
        )

    def dispatchers(self) -> tuple[Dispatcher, ...]:
        """Return one dispatcher for the pool and one for the loop."""
        pool_steps = PoolSteps(
            engine=self._engine,
            pool=self._pool,
            store=self._store,
            options=self._options,
            wall_s=self._wall_s,
            admission=self._admission,
            scratch=self._scratch,
        )
        loop_steps = LoopSteps(
            engine=self._engine,
            store=self._store,
            functions=self._functions(),
            options=self._options,
            wall_s=self._wall_s,
            scratch=self._scratch,
        )
        self.strays = loop_steps.strays
        in_pool = self._restraints("pool")
        # nobody claims while there are no workers: there may be much to claim by then
        self._pool.on_recovery = lambda: self._engine.doorbell.ring(in_pool)
        return (
            Dispatcher(
                engine=self._engine,
                name="pool",
                consumers=in_pool,
                room=lambda: self._pool.capacity,
                work=pool_steps.work,
            ),
            Dispatcher(
                engine=self._engine,
                name="loop",
                consumers=self._restraints("loop"),
                room=lambda: ROOM,
                work=loop_steps.work,
            ),
        )

    def _restraints(self, place: str) -> dict[str, Restraint]:
        cards = self._pool.processors.values()
        return {card.name: self.restraint(card) for card in cards if card.runs == place}

    def _functions(self) -> dict[str, Processor]:
        """Load the functions that the server itself calls, with their modules.

        Raises:
            StartError: a module cannot be loaded here.
            ShuttingDown: a signal said to stop meanwhile.
        """
        cards = self._pool.processors.values()
        here = [card for card in cards if card.runs == "loop"]
        try:
            for name in sorted({card.module for card in here}):
                load_here(name, self._load_s)
        except CannotLoad as bad:
            log.debug("server.unfit", module=bad.module, trace=bad.trace)
            raise unfit(bad.module, bad.why) from None
        return {card.name: REGISTRY[card.name] for card in here}
