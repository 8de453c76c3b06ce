"""`doctor --repair`: what is damaged is mended, and never to the user's cost."""

import hashlib
import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.budget.ledger import Ledger
from edge_agent.config.loading import load
from edge_agent.config.settings import BudgetSettings, Price, Settings
from edge_agent.doctor.repair import readable, repair, repair_config
from edge_agent.errors import BudgetExhausted, StoreError
from edge_agent.log.store import Store
from edge_agent.records.query import Usage
from models.adapters.registry import AdapterRegistry
from tests.edge_agent.log.log_records import a_decision, a_query, an_outcome

PAGE = 4096
PRICE = Price(input=1e6, output=1e6)  # a dollar a token
LIMITS = BudgetSettings(
    rate=0.5, rate_window=10, calls_per_day=20, tokens_per_day=900, usd_per_month=1000
)


@pytest.fixture
def settings(data_dir: Path) -> Settings:
    return Settings(data_dir=data_dir, budget=LIMITS)


@pytest.fixture
def used(database: Path) -> Path:
    """A database with 20 queries, of which 3 were calls of 10 tokens."""
    store, ledger = Store(database), Ledger(database, seed=LIMITS)
    for number in range(20):
        query = a_query(f"question {number}")
        if number < 3:
            call = ledger.reserve(
                query.id, model="big", price=PRICE, prompt_tokens=5, max_tokens=16
            )
            ledger.settle(call, Usage(5, 5))
        store.save(query, a_decision(), an_outcome()).result()
    ledger.set_limits(usd_per_day=500)
    ledger.close()
    store.close()
    return database


def zero_root(database: Path, *tables: str) -> None:
    with sqlite3.connect(database) as db:
        sql = "SELECT rootpage FROM sqlite_master WHERE name = ?"
        roots = [db.execute(sql, [table]).fetchone()[0] for table in tables]
    with database.open("r+b") as file:
        for root in roots:
            file.seek((root - 1) * PAGE)
            file.write(bytes(PAGE))


def reserve(database: Path) -> None:
    with Ledger(database, seed=LIMITS) as ledger:
        ledger.reserve("next", model="big", price=PRICE, prompt_tokens=1, max_tokens=1)


def test_a_whole_database_is_left_alone(settings: Settings, used: Path) -> None:
    before = used.read_bytes()
    assert list(repair(settings)) == []
    assert used.read_bytes() == before


def test_a_damaged_one_is_put_aside_and_a_new_one_holds_what_was_readable(
    settings: Settings, used: Path
) -> None:
    zero_root(used, "query_at")
    damaged = used.read_bytes()
    done = list(repair(settings))
    assert "was damaged" in done[0]
    assert "20 query" in done[1]
    (aside,) = used.parent.glob("edge-agent.db.damaged-*[0-9]")
    assert aside.read_bytes() == damaged
    assert (aside.stat().st_mode & 0o777, used.stat().st_mode & 0o777) == (0o600, 0o600)
    store = Store(used)
    assert len(store.reader.tail(100)) == 20
    assert store.save(a_query(), a_decision(), an_outcome()).exception() is None
    store.close()
    with Ledger(used, seed=LIMITS) as ledger:
        assert ledger.state()["usd_per_month"].used == 30
        assert ledger.limits().usd_per_day == 500
    assert list(repair(settings)) == []


def test_lost_calls_are_booked_from_the_sums_of_their_days(settings: Settings, used: Path) -> None:
    zero_root(used, "ledger")
    assert any("booked again from the sums" in line for line in repair(settings))
    with Ledger(used, seed=LIMITS) as ledger:
        state = ledger.state()
    used_up = [state[name].used for name in ("calls_per_day", "tokens_per_day", "usd_per_month")]
    assert used_up == [3, 30, 30]


def test_with_the_sums_lost_too_every_limit_counts_as_reached(
    settings: Settings, used: Path
) -> None:
    zero_root(used, "ledger", "budget_day")
    assert any("every limit of today" in line for line in repair(settings))
    with Ledger(used, seed=LIMITS) as ledger:
        for name, limit in ledger.state().items():
            if name != "usd_per_day":  # the month's limit leaves less than the day's
                assert limit.limit is not None
                assert limit.used >= limit.limit, name
    with pytest.raises(BudgetExhausted):
        reserve(used)


def test_lost_limits_keep_the_cloud_off_until_they_are_set(settings: Settings, used: Path) -> None:
    zero_root(used, "budget_limit", "setting")
    done = " ".join(repair(settings))
    assert "no cloud call is made until you set calls_per_day" in done
    assert "so it is off" in done
    with pytest.raises(BudgetExhausted, match="calls_per_day"):
        reserve(used)
    store = Store(used)
    assert not store.enabled
    store.close()
    with Ledger(used, seed=LIMITS) as ledger:
        ledger.set_limits(calls_per_day=50)
    reserve(used)


HOLD = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
db.execute("SELECT count(*) FROM setting").fetchone()
print("open", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def holder(used: Path) -> Iterator[None]:
    """Another process that has the database open."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(used)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    yield
    process.communicate(b"\n")


def test_a_database_that_somebody_has_open_is_not_touched(
    settings: Settings, used: Path, holder: None
) -> None:
    zero_root(used, "ledger")
    before = used.read_bytes()
    with pytest.raises(StoreError, match="open in another process"):
        list(repair(settings))
    assert used.read_bytes() == before


def test_beside_a_daemon_nothing_is_repaired(settings: Settings, used: Path) -> None:
    state = {"pid": 1, "url": "http://127.0.0.1:1"}
    (settings.data_dir / "daemon.json").write_text(json.dumps(state))
    with pytest.raises(StoreError, match="stop it first"):
        list(repair(settings))


def harmed(content: bytes, harm: str) -> bytes:
    middle = len(content) // 2
    return {
        "cut": content[:middle],
        "empty": b"",
        "zeroed": bytes(len(content)),
        "flipped": content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :],
    }[harm]


HARMS = pytest.mark.parametrize("harm", ["cut", "empty", "zeroed", "flipped"])


@pytest.fixture
def registry(settings: Settings, tmp_path: Path) -> AdapterRegistry:
    """Two promoted versions; the second serves."""
    (tmp_path / "lora").write_bytes(b"low rank" * 100)
    registry = AdapterRegistry(settings.data_dir / "adapters")
    files = {"adapter.gguf": tmp_path / "lora", "merged.gguf": tmp_path / "lora"}
    for _ in range(2):
        made = registry.add(files, base_model="m", base_sha256="b" * 64, status="promoted")
        registry.activate(made.version)
    return registry


@HARMS
@pytest.mark.parametrize("name", ["adapter.gguf", "merged.gguf", "manifest.json"])
def test_a_torn_adapter_is_refused_the_previous_serves_and_repair_keeps_it_so(
    settings: Settings, registry: AdapterRegistry, harm: str, name: str
) -> None:
    file = registry.root / "v0002" / name
    file.write_bytes(harmed(file.read_bytes(), harm))
    served = AdapterRegistry(registry.root).active()
    if served is not None and served.version == "v0002":
        assert (harm, name) == ("flipped", "manifest.json")  # a flipped bit in its free text
        return
    assert served is not None
    assert served.version == "v0001"
    assert any("v0002 is damaged" in line for line in repair(settings))
    assert [v.version for v in registry.versions()] == ["v0001"]
    assert registry.pointer() == "v0001"
    assert registry.rollback() is None
    assert list(repair(settings)) == []


@pytest.mark.parametrize("harm", ["cut", "empty", "zeroed"])
def test_a_torn_pointer_finds_the_newest_promoted_version(
    settings: Settings, registry: AdapterRegistry, harm: str
) -> None:
    pointer = registry.root / "active.json"
    pointer.write_bytes(harmed(pointer.read_bytes(), harm))
    assert AdapterRegistry(registry.root).active() is None
    assert any("it points at v0002 now" in line for line in repair(settings))
    assert registry.pointer() == "v0002"
    assert list(repair(settings)) == []


@HARMS
@pytest.mark.parametrize("name", ["tensors.safetensors", "state.json", "manifest.json"])
def test_a_torn_checkpoint_goes_and_the_one_before_stays(
    settings: Settings, harm: str, name: str
) -> None:
    for step in (1, 2):
        folder = settings.data_dir / "training" / "round-0001" / f"step-{step:06d}"
        folder.mkdir(parents=True)
        files = {"tensors.safetensors": b"tensors" * 9, "state.json": b'{"step": 1}'}
        for file, content in files.items():
            (folder / file).write_bytes(content)
        digests = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}
        (folder / "manifest.json").write_text(json.dumps({"files": digests}))
    torn = folder / name
    torn.write_bytes(harmed(torn.read_bytes(), harm))
    assert [f"{folder}" in line for line in repair(settings)] == [True]
    assert [path.name for path in folder.parent.iterdir()] == ["step-000001"]


CONFIG = """\
# mine
[server]
allowed_hosts = [
  "box.lan",
]
[cloud]
url = "https://example.org/v1"
model = "big"
[budget]
usd_per_day = 2.5
"""


@pytest.mark.parametrize(
    ("torn", "kept"),
    [
        (CONFIG[: CONFIG.index("_per_day")], {"cloud.model": "big"}),
        (CONFIG.replace("2.5", "lots"), {"cloud.model": "big"}),
        (CONFIG.replace('model = "big"', "model\0\0\0\0"), {"budget.usd_per_day": 2.5}),
        (CONFIG.replace("[cloud]", "[clout]"), {"budget.usd_per_day": 2.5}),
        (CONFIG + "[budget]\nrate = 1\n", {"budget.usd_per_day": 2.5}),
        ("\0" * 300, {}),
    ],
)
def test_of_a_torn_configuration_the_readable_lines_stay_and_the_cloud_is_off(
    tmp_path: Path, torn: str, kept: dict[str, object]
) -> None:
    file = tmp_path / "config.toml"
    file.write_text(torn)
    assert len(list(repair_config(file))) == 2
    settings = load(file=file, environ={}).settings
    assert settings.budget.calls_per_day == 0
    for key, value in kept.items():
        section, name = key.split(".")
        assert getattr(getattr(settings, section), name) == value
    if kept:
        assert settings.server.allowed_hosts == ("box.lan",)
    (aside,) = tmp_path.glob("config.toml.damaged-*")
    assert aside.read_text() == torn
    assert list(repair_config(file)) == []


def test_a_configuration_that_is_right_is_not_rewritten(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(CONFIG)
    assert list(repair_config(file)) == []
    assert file.read_text() == CONFIG
    assert readable(CONFIG) == CONFIG
