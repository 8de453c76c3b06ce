"""The catalog: what there is, what a user adds, and which file serves a model."""

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from models import catalog
from models.catalog import TRAINABLE, Catalog, HubFile, entry_for, resolve
from models.errors import GgufError, ModelError, ModelNotFound, OffloadTokenError
from models.gguf import inspect
from models.tuned import Tuned, cpu_name, llama_cpp_version


def test_every_built_in_entry_is_sound(data_dir: Path) -> None:
    entries = Catalog.load(data_dir).entries
    assert entries[0].name == "smollm2-135m-instruct"
    for entry in entries:
        assert catalog.check_name(entry.name)
        assert entry.trainable == (entry.architecture in TRAINABLE)
        assert entry.context >= 8192
        hubs = [source for source in entry.sources if isinstance(source, HubFile)]
        assert hubs, f"{entry.name} cannot be pulled"
        assert all(source.file.endswith(".gguf") for source in hubs)
        assert all(source.sha256 is None or len(source.sha256) == 64 for source in hubs)


def test_the_default_model_and_its_fallback_are_one_file(smollm2: Path, data_dir: Path) -> None:
    resolved = resolve("smollm2-135m-instruct", data_dir)
    assert resolved.path == resolved.shipped == smollm2
    (hub,) = (source for source in resolved.entry.sources if isinstance(source, HubFile))
    assert resolved.base_sha256 == hub.sha256
    assert inspect(smollm2).context_length == resolved.entry.context


def test_an_unknown_name_names_the_nearest(data_dir: Path) -> None:
    with pytest.raises(ModelNotFound, match="did you mean smollm2-135m-instruct") as error:
        resolve("smollm2-135m-instruckt", data_dir)
    assert error.value.param == "model"
    with pytest.raises(ModelNotFound, match="edge-agent models pull qwen3-4b"):
        resolve("qwen3-4b", data_dir)


def test_a_path_needs_no_entry(tiny_gguf: Path, data_dir: Path) -> None:
    resolved = resolve(str(tiny_gguf), data_dir)
    assert resolved.path == tiny_gguf
    assert resolved.entry.name == "tiny"
    assert resolved.entry.offload_token == "<offload>"
    assert resolved.entry.trainable
    with pytest.raises(ModelNotFound, match="no such file"):
        resolve(str(tiny_gguf.with_name("none.gguf")), data_dir)
    tiny_gguf.write_bytes(b"junk" * 10)
    with pytest.raises(GgufError, match="not a GGUF"):
        resolve(str(tiny_gguf), data_dir)


def test_an_added_model_survives_and_is_forgotten(tiny_gguf: Path, data_dir: Path) -> None:
    entry = entry_for(tiny_gguf, name="mine", offload_token="delegate")
    catalog.add(entry, data_dir)
    loaded = Catalog.load(data_dir)
    assert loaded.get("mine") == entry
    assert loaded.added == {"mine"}
    assert resolve("mine", data_dir).path == tiny_gguf
    file = catalog.user_catalog(data_dir)
    assert file.stat().st_mode & 0o777 == 0o600
    assert tomllib.loads(file.read_text())["mine"]["offload_token"] == "delegate"
    file.write_text(file.read_text() + "# kept\n")
    catalog.add(replace(entry, name="other"), data_dir)
    assert "# kept" in file.read_text()
    tiny_gguf.unlink()
    with pytest.raises(ModelNotFound, match="is gone"):
        resolve("mine", data_dir)
    catalog.forget("mine", data_dir)
    assert Catalog.load(data_dir).added == {"other"}


def test_a_bad_offload_token_is_refused_when_a_model_is_added(tiny_gguf: Path) -> None:
    with pytest.raises(OffloadTokenError, match="usable: <offload>"):
        entry_for(tiny_gguf, offload_token="<twin-a>")


@pytest.mark.parametrize("name", ["..", "../x", "a/b", "A", "", ".hidden", "x" * 101, "a\nb"])
def test_names_cannot_leave_the_folder(name: str, data_dir: Path) -> None:
    with pytest.raises(ModelError, match="not a model name"):
        catalog.model_dir(data_dir, name)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[m", "cannot read"),
        ('[m]\ntitle = "M"', r"\[m\] lacks 'sources'"),
        ('[m]\nsources = [{repo = "a/b", file = "../x.gguf"}]', "not a plain relative file"),
        ('[m]\nsources = [{repo = "a/b", file = "x.gguf"}]\ncolour = 1', "colour"),
        ('[m]\nsources = [{path = "/x"}]\ncontext = "long"', "context must be of type int"),
        ('["../m"]\nsources = []', "not a model name"),
    ],
)
def test_a_bad_catalog_names_the_entry(data_dir: Path, text: str, why: str) -> None:
    file = catalog.user_catalog(data_dir)
    file.parent.mkdir(parents=True)
    file.write_text(text)
    with pytest.raises(ModelError, match=why):
        Catalog.load(data_dir)


def test_a_file_that_is_no_language_model_is_refused(tmp_path: Path, data_dir: Path) -> None:
    from tests.tiny_gguf import write_tiny_gguf

    path = write_tiny_gguf(tmp_path / "lora.gguf", metadata={"general.type": "adapter"})
    with pytest.raises(GgufError, match="of type adapter, not a language model"):
        resolve(str(path), data_dir)


def test_the_tuned_choice_is_served_until_something_changes(
    smollm2: Path, tiny_gguf: Path, data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name = "smollm2-135m-instruct"
    folder = catalog.model_dir(data_dir, name)
    folder.mkdir(parents=True)
    file = folder / "tuned-Q4_0.gguf"
    file.write_bytes(tiny_gguf.read_bytes())
    choice = Tuned(
        choice="Q4_0",
        file=file.name,
        file_size=file.stat().st_size,
        shipped_sha256=inspect(smollm2).sha256,
        llama_cpp=llama_cpp_version(),
        cpu=cpu_name(),
        rows=(),
    )
    choice.save(folder)
    resolved = resolve(name, data_dir)
    assert (resolved.path, resolved.shipped) == (file, smollm2)
    assert resolved.base_sha256 == choice.shipped_sha256

    for change, why in [
        ({"cpu": "another"}, "processor"),
        ({"llama_cpp": "0.0.1"}, "llama-cpp-python is now"),
        ({"shipped_sha256": "0" * 64}, "shipped file has changed"),
        ({"file_size": 1}, "gone or has changed"),
        ({"file": "none.gguf"}, "gone or has changed"),
    ]:
        replace(choice, **change).save(folder)
        assert resolve(name, data_dir).path == smollm2
        assert why in caplog.text
        caplog.clear()
    (folder / "tuned.json").write_text("{broken")
    assert resolve(name, data_dir).path == smollm2
