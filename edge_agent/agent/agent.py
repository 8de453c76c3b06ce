"""The agent put together: one object that opens, answers, reports and closes.

Everything is built here and handed down; nothing below reaches up or sideways for it.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Mapping
from typing import Any

from edge_agent.agent.answer import Answer, Services, begin
from edge_agent.agent.telemetry import open_telemetry
from edge_agent.agent.tuning import IdleTuning
from edge_agent.budget.ledger import Ledger
from edge_agent.budget.paid_call import Assistance
from edge_agent.chat.template import ChatTemplate, template_digest
from edge_agent.cloud.client import CloudClient, find_api_key
from edge_agent.config.settings import Settings
from edge_agent.engine.engine import Engine
from edge_agent.engine.runner import PrefixStore
from edge_agent.errors import BudgetExhausted, CloudError, NotFound, StoreError, Unavailable
from edge_agent.learning import machine
from edge_agent.learning.background import BackgroundTraining
from edge_agent.learning.machine import Activity
from edge_agent.learning.report import report
from edge_agent.learning.watchdog import Watchdog
from edge_agent.log.store import Store
from edge_agent.records.generation import served_model
from edge_agent.records.query import Audit, Feedback, Query, Transcript, Usage
from edge_agent.routing import calibration
from edge_agent.routing.calibration import Evidence
from edge_agent.routing.decider import Decider
from edge_agent.routing.draft import Hold
from models import catalog, offload_token
from models.adapters.registry import AdapterRegistry
from models.adapters.version import AdapterVersion
from models.errors import EdgeAgentError, ModelError
from models.prefix_files import prefix_dir
from models.storage import private_dir

_log = logging.getLogger(__name__)
_ADAPTER_POLL_S = 1.0
_WATCHDOG_S = 300.0
_RESTORED_DECISIONS = 1000


class Agent:
    """The running agent. `open` loads everything; `start` begins to serve; `close` ends it."""

    def __init__(self, settings: Settings, *, rng: random.Random | None = None) -> None:
        """Load the model, the active adapter, the store and the ledger. Blocking.

        Raises ModelNotFound, GgufError, OffloadTokenError, StoreError: one clear line each.
        """
        self.settings = settings
        self.rng = rng or random.Random()  # noqa: S311 - exploration, not cryptography
        private_dir(settings.data_dir)
        self.model = catalog.resolve(settings.model, settings.data_dir)
        self.offload_token_id = offload_token.verify(
            self.model.path, self.model.entry.offload_token
        )
        self.registry = AdapterRegistry(
            settings.data_dir / "adapters", base_sha256=self.model.base_sha256
        )
        self.store = Store(
            settings.database, enabled=settings.log.enabled, on_failure=settings.log.on_failure
        )
        self.ledger = Ledger(settings.database, seed=settings.budget)
        charged = self.ledger.recover()
        if charged:
            _log.warning("%d cloud calls of a crashed process were charged in full", charged)
        self.activity = Activity.own(settings.data_dir / machine.FILE)
        self._metrics: dict[str, Mapping[str, Any]] = {}
        """What the manifest of each version served so far holds: a query that one version began
        ends with it, whatever is active by then."""
        self.engine = self._open_engine()
        self.chat = ChatTemplate(
            self.model.entry.chat_template,
            self.engine.vocabulary,
            protected=(self.model.entry.offload_token,),
        )
        self.decider = Decider(settings.decision, rng=self.rng)
        self.decider.restore(
            self.engine.version,
            self.store.recent_decisions(_RESTORED_DECISIONS, self.engine.version),
        )
        self.cloud = self._open_cloud()
        self.training = BackgroundTraining(settings, template=self.chat.digest)
        self.watchdog = Watchdog(
            self.registry, settings.database, tolerance=settings.train.tolerance
        )
        self.tuning = IdleTuning(settings, self.engine, self._serve_choice)
        self.telemetry = open_telemetry()
        self._background: set[asyncio.Task[None]] = set()
        self.started_at = time.time()
        self._closing = False

    def _open_engine(self) -> Engine:
        """With the active version or, where llama.cpp cannot load it, the one served before it."""
        candidates = self.registry.candidates()
        while True:
            active = next(candidates)
            try:
                return self._engine(active)
            except ModelError as error:
                if active is None:
                    raise
                _log.error("adapter %s cannot be served: %s", active.version, error)

    def _engine(self, active: AdapterVersion | None) -> Engine:
        self._remember(active)
        return Engine(
            served_model(self.model.path, active),
            self.settings.engine,
            offload_token=self.offload_token_id,
            busy=self.activity.set,
            prefixes=self._prefixes(),
        )

    def _prefixes(self) -> PrefixStore | None:
        """A file of the model holds its own template; only the catalog's may change beside it."""
        settings = self.settings
        if not (settings.log.enabled and settings.engine.prefix_disk_mb):
            return None
        return PrefixStore(
            prefix_dir(settings.data_dir),
            settings.engine.prefix_disk_mb,
            template_digest(self.model.entry.chat_template),
        )

    def _remember(self, version: AdapterVersion | None) -> None:
        if version is not None:
            self._metrics[version.version] = version.manifest.metrics

    def _open_cloud(self) -> CloudClient | None:
        cloud = self.settings.cloud
        if not cloud.url:
            return None
        database = self.settings.database
        return CloudClient(cloud, api_key=find_api_key(cloud), database=database)

    @property
    def services(self) -> Services:
        """What `answer.begin` needs of us."""
        return Services(
            engine=self.engine,
            decider=self.decider,
            store=self.store,
            assistance=self._assistance(),
            window=self.settings.decision.window,
            hold=Hold(self.settings.decision.hold_s, self.settings.decision.hold_tokens),
            trained=lambda version: version != "base",
            evidence=self.evidence,
            dual=self.dual,
            audit=self._audit,
            answered=self.telemetry.answered if self.telemetry else lambda *_: None,
        )

    def _assistance(self) -> Assistance | None:
        cloud = self.settings.cloud
        if self.cloud is None or cloud.model is None:
            return None
        return Assistance(self.cloud, self.ledger, cloud.model, cloud.max_tokens)

    def dual(self, version: str) -> float | None:
        """Dual variable λ of an adapter version, where it was trained here."""
        value = self._metrics.get(version, {}).get("dual")
        return float(value) if isinstance(value, int | float) else None

    def evidence(self, version: str) -> Evidence:
        """What training found out about the decisions of an adapter version."""
        return calibration.of(self._metrics.get(version, {}))

    def price(self, version: str) -> float | None:
        """λ in force for an adapter version; where nothing is calibrated, that of its training."""
        price = self.decider.standing(version, self.evidence(version)).price
        return self.dual(version) if price is None else price

    async def start(self) -> None:
        """Start the engine's thread, the watch on the adapter registry, and the trainer's clock."""
        self.engine.start()
        self._spawn(self._watch_adapters())
        self._spawn(self.training.run())
        self._spawn(self._guard())
        self._spawn(self._tune())

    async def begin(self, query: Query) -> Answer:
        """Decide on `query` and start answering it; see `answer.begin`."""
        if self._closing:
            raise Unavailable("the daemon is shutting down")
        return await begin(query, self.services)

    async def save_feedback(self, feedback: Feedback) -> None:
        """Attach feedback to a logged response. Raises NotFound."""
        await asyncio.to_thread(self.explain, feedback.query_id)
        await asyncio.wrap_future(self.store.save_feedback(feedback))

    def explain(self, query_id: str) -> dict[str, Any]:
        """Everything the log holds of one query. Raises NotFound."""
        found = self.store.explain(query_id)
        if found is None:
            raise NotFound(f"no response {query_id!r} in the log", param="id")
        return found

    def training_report(self, limit: int = 20) -> dict[str, Any]:
        """The newest `limit` rounds and what runs; see `training_report.report`."""
        training = self.training
        return report(
            self.settings.database,
            waiting_for=training.waiting_for,
            failure=training.failure,
            limit=limit,
        )

    async def close(self, grace_s: float) -> None:
        """Stop admitting, let running answers end within `grace_s`, flush the log."""
        self._closing = True
        await self.engine.stop(grace_s)
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self.training.stop()
        await self.tuning.stop()
        if self.cloud is not None:
            await self.cloud.aclose()
        self.ledger.close()
        self.store.close()
        self.activity.close()
        if self.telemetry is not None:
            await asyncio.to_thread(self.telemetry.close)

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _watch_adapters(self) -> None:
        """Serve what the registry says is active; a bad version leaves the current one serving."""
        refused: str | None = None
        while True:
            await asyncio.sleep(_ADAPTER_POLL_S)
            if not self.model.path.exists():  # `models tune` has chosen another form of it
                with contextlib.suppress(EdgeAgentError):  # requests say that the file is gone
                    await self._serve_choice()
            active = await asyncio.to_thread(self.registry.active)
            version = active.version if active else "base"
            if version in (self.engine.version, refused):
                continue
            self._remember(active)  # before: its first query may be decided at once
            try:
                await self.engine.activate(served_model(self.model.path, active))
            except EdgeAgentError as error:
                refused = version
                _log.error("adapter %s not activated: %s", version, error)
            else:
                refused = None
                _log.info("serving adapter %s", version)

    async def _tune(self) -> None:
        try:
            await self.tuning.run()
        except (EdgeAgentError, OSError) as error:
            _log.warning("the forms of the model are not measured: %s", error)

    async def _serve_choice(self) -> None:
        """Serve the form of the model's file that was chosen; what runs ends on the old one."""
        settings, before = self.settings, self.model
        self.model = await asyncio.to_thread(catalog.resolve, settings.model, settings.data_dir)
        active = await asyncio.to_thread(self.registry.active)
        served = served_model(self.model.path, active)
        if served == served_model(before.path, active):
            return
        try:
            await self.engine.activate(served)
        except EdgeAgentError:
            self.model = before
            raise
        _log.warning("serving %s from %s", self.model.entry.name, self.model.path.name)

    async def _guard(self) -> None:
        """Go back to the parent of an adapter that does worse in use."""
        while True:
            await asyncio.sleep(_WATCHDOG_S)
            try:
                await asyncio.to_thread(self.watchdog.check)
            except EdgeAgentError as error:
                _log.error("the watchdog cannot look: %s", error)

    def _audit(self, query: Query) -> None:
        assistance = self._assistance()
        if assistance is None or query.private or not query.log:
            return
        with contextlib.suppress(StoreError):
            if self.store.enabled:
                self._spawn(self._ask_for_audit(query, assistance))

    async def _ask_for_audit(self, query: Query, assistance: Assistance) -> None:
        """Ask the cloud about a query that was answered locally; the budget may say no."""
        said, usage, cost, failure = Transcript(query.n), Usage(), None, None
        try:
            call = await assistance.call(query)
        except (BudgetExhausted, StoreError):
            return
        except CloudError as error:
            failure = error.message
        else:
            try:
                async for delta in call:
                    said.add(delta)
            except CloudError as error:
                failure = error.message
            usage, cost = call.usage or Usage(), call.cost_usd
        text, calls = said.texts[0], tuple(said.tool_calls[0])
        audit = Audit(query.id, time.time(), assistance.model, text, usage, cost, failure, calls)
        with contextlib.suppress(StoreError):
            await asyncio.wrap_future(self.store.save_audit(audit))
