"""Tuning: real requantization and measurement, and the rule that chooses."""

import math
import shutil
from pathlib import Path

import llama_cpp
import numpy as np
import psutil
import pytest

from models import catalog
from models.catalog import entry_for, resolve
from models.errors import ModelError
from models.gguf import inspect
from models.llama.model import LlamaModel
from models.quantize import FILE_TYPES, expected_bytes, quantize
from models.tune import AS_SHIPPED, Bench, Row, choose, choose_as_exact, tune
from models.tuned import Tuned
from tests.gguf_mutation import take_apart


@pytest.fixture
def tiny(tiny_gguf: Path, data_dir: Path) -> str:
    """A tiny model in the user's catalog."""
    catalog.add(entry_for(tiny_gguf, name="tiny"), data_dir)
    return "tiny"


@pytest.mark.parametrize("kind", FILE_TYPES)
def test_a_requantized_file_is_whole_and_of_that_type(
    tiny_gguf: Path, tmp_path: Path, kind: str
) -> None:
    target = tmp_path / "out" / "q.gguf"
    target.parent.mkdir()
    quantize(tiny_gguf, target, kind, threads=1)
    assert inspect(target).quantization == kind
    assert [path.name for path in target.parent.iterdir()] == ["q.gguf"]
    LlamaModel(target).close()


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An empty directory for what is written."""
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def test_a_source_llama_cpp_cannot_read_leaves_nothing(
    out: Path, tmp_path: Path, tiny_gguf: Path
) -> None:
    parts = take_apart(tiny_gguf)
    parts.pairs = [pair for pair in parts.pairs if b"rms_epsilon" not in pair.key]
    source = tmp_path / "x.gguf"
    source.write_bytes(parts.to_bytes())
    with pytest.raises(ModelError, match=r"^llama.cpp cannot requantize x.gguf to Q8_0$"):
        quantize(source, out / "q.gguf", "Q8_0")
    assert list(out.iterdir()) == []


def test_without_room_on_the_disk_nothing_is_written(
    out: Path, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(out)
    full = usage._replace(free=expected_bytes(inspect(tiny_gguf), "BF16") - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda where: full if where == out else usage)
    monkeypatch.setattr(llama_cpp, "llama_model_quantize", None)
    with pytest.raises(ModelError, match=r"^the disk is full: .* MB left; free some space, or"):
        quantize(tiny_gguf, out / "q.gguf", "BF16")
    assert list(out.iterdir()) == []


def test_room_is_asked_for_as_much_as_the_copy_takes(smollm2: Path) -> None:
    assert expected_bytes(inspect(smollm2), "BF16") == pytest.approx(2 * 134.5e6, rel=0.01)


def test_a_disk_that_fills_up_on_the_way_is_named_and_left_clean(
    out: Path, tiny_gguf: Path
) -> None:
    (out / ".q.gguf.part").symlink_to("/dev/full")
    with pytest.raises(ModelError, match=r"No space left on device; free some space, or set"):
        quantize(tiny_gguf, out / "q.gguf", "BF16")
    assert list(out.iterdir()) == []


def test_perplexity_agrees_with_a_token_by_token_computation(tiny_gguf: Path) -> None:
    text = "Bread is mostly flour and water. " * 4
    with LlamaModel(tiny_gguf) as model:
        data = text.encode()
        tokens = (llama_cpp.llama_token * 512)()
        count = llama_cpp.llama_tokenize(model.vocab, data, len(data), tokens, 512, True, False)
        context = llama_cpp.llama_init_from_model(
            model.handle, llama_cpp.llama_context_default_params()
        )
        total = 0.0
        for i in range(count - 1):
            step = (llama_cpp.llama_token * 1)(tokens[i])
            assert llama_cpp.llama_decode(context, llama_cpp.llama_batch_get_one(step, 1)) == 0
            logits = np.array(llama_cpp.llama_get_logits(context)[: model.n_vocab], np.float64)
            total += np.log(np.exp(logits).sum()) - logits[tokens[i + 1]]
        llama_cpp.llama_free(context)
    assert 130 < count < 512
    with Bench(tiny_gguf, threads=1) as bench:
        assert bench.perplexity(text) == pytest.approx(math.exp(total / (count - 1)), rel=1e-3)


def test_the_real_model_predicts_prose_far_better_than_noise(smollm2: Path) -> None:
    prose = "The moon does not shine with a light of its own. What we see is sunlight."
    with Bench(smollm2, threads=1) as bench:
        assert bench.perplexity(prose) < 100 < bench.perplexity("zq xv jj pf qq wz hh kx vv")


def test_tune_measures_remembers_and_cleans_up(tiny: str, data_dir: Path) -> None:
    steps: list[str] = []
    tuned = tune(tiny, data_dir, threads=1, progress=steps.append)
    assert [row["name"] for row in tuned.rows] == [AS_SHIPPED, "Q4_0", "Q8_0", "BF16"]
    for row in tuned.rows:
        assert row["skipped"] is None
        assert min(row["prefill"], row["decode_1"], row["decode_8"], row["perplexity"]) > 0
    assert "measuring BF16" in steps
    folder = catalog.model_dir(data_dir, tiny)
    files = [path.name for path in folder.glob("*.gguf")]
    assert files == ([tuned.file] if tuned.file else [])
    resolved = resolve(tiny, data_dir)
    assert resolved.path == (folder / tuned.file if tuned.file else resolved.shipped)
    assert resolved.shipped.name == "tiny.gguf"


def test_tune_keeps_all_when_asked(tiny: str, data_dir: Path) -> None:
    tuned = tune(tiny, data_dir, threads=1, keep_all=True)
    files = {path.name for path in catalog.model_dir(data_dir, tiny).glob("*.gguf")}
    losers = {f"candidate-{kind}.gguf" for kind in FILE_TYPES if kind != tuned.choice}
    assert files == losers | ({tuned.file} if tuned.file else set())


def test_a_candidate_without_room_is_skipped_and_said_so(
    tiny: str, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(data_dir.parent)._replace(free=1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    tuned = tune(tiny, data_dir, threads=1)
    assert tuned.choice == AS_SHIPPED
    assert {row["skipped"] for row in tuned.rows[1:]} == {
        f"needs {size} MB of disk" for size in ("0",)
    }
    monkeypatch.undo()
    memory = psutil.virtual_memory()._replace(available=1)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    assert "of memory" in tune(tiny, data_dir, threads=1).rows[1]["skipped"]


def test_a_path_must_be_added_first(tiny_gguf: Path, data_dir: Path) -> None:
    with pytest.raises(ModelError, match="edge-agent models add"):
        tune(str(tiny_gguf), data_dir)


def row(name: str, speed: float, perplexity: float) -> Row:
    return Row(name, 1, prefill=speed, decode_1=speed, decode_8=speed, perplexity=perplexity)


def test_the_fastest_of_the_exact_ones_is_chosen() -> None:
    shipped, exact = row(AS_SHIPPED, 100, 10.05), row("BF16", 120, 10.0)
    fast, wrong = row("Q8_0", 150, 10.19), row("Q4_0", 300, 10.21)
    none = Row("X", skipped="needs 9,000 MB of disk")
    assert choose([shipped, exact, fast, wrong, none]) == fast
    assert choose([shipped, exact, fast, wrong], tolerance=0.03) == wrong
    assert choose([shipped, exact, fast, wrong], tolerance=0) == exact


def test_a_gain_within_the_noise_is_not_worth_another_file() -> None:
    shipped = row(AS_SHIPPED, 100, 10)
    assert choose([shipped, row("Q8_0", 102, 10)]) == shipped
    assert choose([shipped, row("Q8_0", 104, 10)]).name == "Q8_0"
    inexact = row(AS_SHIPPED, 100, 11)
    assert choose([inexact, row("Q8_0", 50, 10)]).name == "Q8_0"


def test_decoding_weighs_as_much_as_it_takes_time() -> None:
    """256 tokens of prompt at 512/s are 0.5 s; 64 of answer at 32/s, 2 s."""
    balanced = Row("a", prefill=512, decode_1=32, decode_8=32, perplexity=1)
    assert balanced.seconds == pytest.approx(0.5 + 1 + 1)


def test_unasked_only_what_is_as_exact_is_taken() -> None:
    shipped = row(AS_SHIPPED, 1, 17.50)
    faster, as_exact = row("Q4_0", 3, 17.51), row("BF16", 2, 17.50)
    assert choose_as_exact([shipped, faster, as_exact]) is as_exact
    assert choose_as_exact([shipped, faster]) is shipped
    assert choose_as_exact([shipped, row("BF16", 1.02, 17.4)]) is shipped
    assert choose_as_exact([shipped, Row("BF16", skipped="no room")]) is shipped


def changed_speed(monkeypatch: pytest.MonkeyPatch, *factors: float) -> None:
    """Speeds and perplexities of the files, in the order measured."""
    rows = iter(factors)

    def measured(name: str, _path: Path, _threads: int) -> Row:
        return row(name, next(rows), {AS_SHIPPED: 20.0, "Q4_0": 24.0}.get(name, 20.0))

    monkeypatch.setattr("models.tune._measure", measured)


def test_unasked_nothing_is_chosen_while_others_disturb(
    tiny: str, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed_speed(monkeypatch, 1, 1, 1, 9, 1.2)
    with pytest.raises(ModelError, match=r"^other programs disturb the measuring: .* 20% longer$"):
        tune(tiny, data_dir, threads=1, unasked=True)
    folder = catalog.model_dir(data_dir, tiny)
    assert Tuned.load(folder) is None
    assert not list(folder.glob("*.gguf"))


def test_a_faster_form_that_is_less_exact_is_proposed(
    tiny: str, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed_speed(monkeypatch, 1, 4, 1, 2, 1.05)
    tuned = tune(tiny, data_dir, threads=1, unasked=True)
    assert (tuned.choice, tuned.proposed) == ("BF16", "Q4_0")
    loaded = Tuned.load(catalog.model_dir(data_dir, tiny))
    assert loaded is not None
    assert loaded.proposal(tiny) == (
        "Q4_0 would read 2.0 × and write 2.0 × as fast as BF16, with 20.0% more perplexity: "
        "edge-agent models tune tiny --tolerance 0.2"
    )


def test_unasked_a_form_does_not_take_much_of_the_memory(
    tiny: str, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = expected_bytes(inspect(resolve(tiny, data_dir).shipped), "BF16")
    memory = psutil.virtual_memory()._replace(total=int(8 * size - 8))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    changed_speed(monkeypatch, 1, 1, 1, 1)
    tuned = tune(tiny, data_dir, threads=1, unasked=True)
    skipped = {row["name"]: row["skipped"] for row in tuned.rows if row["skipped"]}
    assert list(skipped) == ["BF16"]
    assert "unasked" in skipped["BF16"]


def test_what_a_killed_run_left_is_removed(
    tiny: str, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = catalog.model_dir(data_dir, tiny)
    folder.mkdir(parents=True)
    for name in ("candidate-Q4_K.gguf", ".candidate-Q8_0.gguf.part"):
        (folder / name).write_bytes(b"x")
    changed_speed(monkeypatch, 1, 1, 1, 1)
    tune(tiny, data_dir, threads=1)
    assert sorted(path.name for path in folder.iterdir()) == [".tune.lock", "tuned.json"]


def test_a_choice_from_before_there_were_proposals_is_read(tiny: str, data_dir: Path) -> None:
    folder = catalog.model_dir(data_dir, tiny)
    folder.mkdir(parents=True)
    (folder / "tuned.json").write_text(
        '{"choice": "as shipped", "file": null, "file_size": 0, "shipped_sha256": "x", '
        '"llama_cpp": "0", "cpu": "c", "rows": []}'
    )
    loaded = Tuned.load(folder)
    assert loaded is not None
    assert loaded.proposal(tiny) is None
