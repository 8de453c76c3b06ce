"""The page's files as HTTP serves them, and what stands in them."""

import fnmatch
import re
import tomllib
from pathlib import Path

import httpx
import pytest

from server.page import assets
from tests.server.serving import Serve

ROOT = Path(__file__).parents[2]
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
FILES = sorted(assets())


async def test_a_browser_gets_the_page_and_others_a_line(client: httpx.AsyncClient) -> None:
    page = await client.get("/", headers=BROWSER)
    assert page.headers["content-type"].startswith("text/html")
    line = await client.get("/")
    assert line.text.startswith("edge-agent ")
    assert "Accept" in line.headers["vary"]


@pytest.mark.parametrize("name", FILES)
async def test_every_file_is_kept_by_its_hash(client: httpx.AsyncClient, name: str) -> None:
    path = f"/page/{name}"
    first = await client.get(path)
    assert first.status_code == 200
    assert first.headers["x-content-type-options"] == "nosniff"
    tag = first.headers["etag"]
    for known in (tag, f'"other", W/{tag}'):
        again = await client.get(path, headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    other = await client.get(path, headers={"If-None-Match": '"other"'})
    assert other.content == first.content


async def test_the_policy_lets_nothing_in_from_elsewhere(client: httpx.AsyncClient) -> None:
    policy = (await client.get("/", headers=BROWSER)).headers["content-security-policy"]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert {rules[name] for name in ("script-src", "style-src", "connect-src")} == {"'self'"}
    assert rules["frame-ancestors"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert "unsafe" not in policy
    assert "*" not in policy


async def test_host_and_origin_are_checked_and_only_the_files_need_no_key(serve: Serve) -> None:
    async with serve(api_keys=("k",)) as client:
        for path in ("/", "/page/app.js"):
            assert (await client.get(path, headers=BROWSER)).status_code == 200
            for foreign in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}):
                assert (await client.get(path, headers=foreign)).status_code == 403
        for method, path in (
            ("GET", "/v1/log"),
            ("GET", "/v1/log/events"),
            ("GET", "/v1/log/export"),
            ("GET", "/v1/log/whatif"),
            ("GET", "/v1/adapters"),
            ("GET", "/pages"),
            ("DELETE", "/v1/decisions/x"),
            ("POST", "/v1/adapters/rollback"),
            ("POST", "/v1/training/start"),
            ("POST", "/v1/training/stop"),
        ):
            assert (await client.request(method, path)).status_code == 401, path


@pytest.mark.parametrize("name", ["nothing.js", "__init__.py", "..%2f__init__.py", "%2e%2e"])
async def test_nothing_else_is_served(client: httpx.AsyncClient, name: str) -> None:
    assert (await client.get(f"/page/{name}")).status_code == 404


@pytest.mark.parametrize("name", FILES)
def test_what_a_file_may_hold(name: str) -> None:
    text = assets()[name].content.decode()
    addresses = [a for a in re.findall(r"https?://[^\s\"'`]+", text) if "www.w3.org" not in a]
    assert addresses == [], "no foreign host"
    sinks = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function"
    assert not re.search(sinks, text)
    assert not re.search(r"\sstyle=|<style|\son\w+=[\"']", text), "the policy refuses it"
    assert len(text.splitlines()) < 400
    named = re.findall(r"(?:from |import\()\"\./([\w.-]+)\"|\"/page/([\w.-]+)\"", text)
    assert {first or second for first, second in named} <= set(FILES)


def test_every_file_is_in_the_wheel() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = project["tool"]["setuptools"]["package-data"]["server"]
    for name in FILES:
        assert any(fnmatch.fnmatch(f"page/assets/{name}", pattern) for pattern in patterns)
