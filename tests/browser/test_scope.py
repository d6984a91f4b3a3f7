"""Scope in a real browser: the tavern runs, entities move, replies and reasons show, a lost line leaves no gap."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from tests.browser.chromium import MISSING, PHONE, Line, chromium, problems
from tests.e2e.conftest import ROSTER
from tests.e2e.stack import ROOT, Stack

pytestmark = [pytest.mark.browser, pytest.mark.skipif(bool(MISSING), reason=MISSING or "present")]
# Nothing takes long; a busy machine may.
WAIT_S = 120.0
Driver = Any


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    environment = {"EARSHOT_PLAYER_MESSAGES_PER_10S": "1000"}
    with Stack(tmp_path_factory.mktemp("scope") / "data", environment=environment) as stack:
        assert stack.http.put("/v1/npcs", json=ROSTER).status_code == 200
        yield stack


@pytest.fixture(scope="module")
def driver() -> Iterator[Driver]:
    with chromium() as driver:
        yield driver


def until(driver: Driver, condition: Callable[[Driver], Any]) -> Any:
    return WebDriverWait(driver, WAIT_S, poll_frequency=0.1).until(condition)


def open_page(driver: Driver, url: str, world: str) -> None:
    driver.get("about:blank")
    driver.get(f"{url}/#{world}")
    until(driver, lambda one: one.execute_script("return globalThis.scope?.world?.told?.id") == world)


def lines(driver: Driver) -> list[str]:
    return [one.text for one in driver.find_elements(By.CSS_SELECTOR, "#feed .words")]


def place(stack: Stack, world: str, **at: tuple[float, float]) -> None:
    stack.snapshot(world, [
        {"id": one, "kind": "player" if one.startswith("p") else "npc", "name": one.capitalize(),
         "position": {"x": x, "y": 0, "z": z}} for one, (x, z) in at.items()
    ])  # fmt: skip


def test_the_tavern_plays_on_the_page(stack: Stack, driver: Driver) -> None:
    command = [sys.executable, "-m", "services", "demo", "--url", stack.url]
    demo = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "EARSHOT_LISTEN": stack.url.removeprefix("http://")},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        until(driver, lambda _: [one for one in stack.http.get("/v1/worlds").json()["worlds"] if one["id"] == "tavern"])
        open_page(driver, stack.url, "tavern")
        where = "return JSON.stringify([...scope.world.shown].map(([id, one]) => [id, one.x, one.z]))"
        first = driver.execute_script(where)
        drawn = driver.execute_script("return document.getElementById('map').toDataURL()")
        until(driver, lambda one: one.execute_script(where) != first)
        until(driver, lambda one: one.execute_script("return document.getElementById('map').toDataURL()") != drawn)
        until(driver, lambda one: one.find_elements(By.CSS_SELECTOR, "#feed .npc .words"))
        until(driver, lambda one: one.find_elements(By.CSS_SELECTOR, "#feed .meta button, #feed .aside button"))
        assert "Live" in driver.find_element(By.ID, "status").text
    finally:
        demo.terminate()
        demo.wait(20)
    assert problems(driver) == []


def test_a_visitor_is_answered_and_the_reason_opens(stack: Stack, driver: Driver) -> None:
    place(stack, "inn", mara=(0, 0), brom=(300, 0), p1=(5, 0))
    open_page(driver, stack.url, "inn")
    until(driver, lambda one: one.execute_script("return document.getElementById('beside').value"))
    driver.execute_script("document.getElementById('beside').value = 'mara'")
    driver.find_element(By.ID, "text").send_keys("Mara, what is for supper?" + Keys.ENTER)
    reply: WebElement = until(driver, lambda one: one.find_element(By.CSS_SELECTOR, "#feed .npc .words"))
    assert reply.text
    button = until(driver, lambda one: one.find_elements(By.CSS_SELECTOR, "#feed .meta button"))[0]
    assert "it was named" in button.find_element(By.XPATH, "..").text
    button.click()
    until(driver, lambda one: "Mara spoke" in one.find_element(By.ID, "why-title").text)
    told = driver.find_element(By.ID, "why-body").text
    assert "Who could have been next" in told
    assert "Where the time went" in told
    assert "revision" in told
    driver.find_element(By.ID, "why-close").click()
    assert problems(driver) == []


def test_a_lost_line_comes_back_without_a_gap(stack: Stack, driver: Driver) -> None:
    place(stack, "dock", mara=(0, 0), p1=(500, 0), p2=(504, 0), brom=(502, 2))
    with Line(int(stack.url.rpartition(":")[2])) as line:
        open_page(driver, f"http://127.0.0.1:{line.port}", "dock")
        stack.say("dock", "p1", "P2, before the cut", wait=False)
        until(driver, lambda one: "P2, before the cut" in lines(one))
        line.cut()
        until(driver, lambda one: one.find_element(By.ID, "lost").is_displayed())
        for number in range(5):
            stack.say("dock", "p1", f"P2, unseen number {number}", wait=False)
        place(stack, "dock", mara=(0, 0), p1=(500, 40), p2=(504, 40), brom=(502, 42))
        line.heal()
        until(driver, lambda one: "P2, unseen number 4" in lines(one))
        stack.say("dock", "p1", "P2, after it", wait=False)
        until(driver, lambda one: "P2, after it" in lines(one))
        until(driver, lambda one: not one.find_element(By.ID, "lost").is_displayed())
        until(driver, lambda one: one.execute_script("return scope.world.shown.get('p1').toZ") == 40)
        said = [one for one in lines(driver) if one.startswith("P2, ")]
    assert said == ["P2, before the cut", *(f"P2, unseen number {number}" for number in range(5)), "P2, after it"]
    assert problems(driver) == []


def test_what_players_write_never_becomes_markup(stack: Stack, driver: Driver) -> None:
    evil = "<img src=x onerror=document.title='owned'>"
    stack.snapshot("lair", [
        {"id": "mara", "kind": "npc", "position": {"x": 0, "y": 0, "z": 0}},
        {"id": "p1", "kind": "player", "name": evil[:40], "position": {"x": 3, "y": 0, "z": 0}},
    ])  # fmt: skip
    open_page(driver, stack.url, "lair")
    stack.say("lair", "p1", evil, wait=False)
    until(driver, lambda one: evil in lines(one))
    assert driver.find_elements(By.CSS_SELECTOR, "#feed img") == []
    assert driver.title != "owned"


def test_the_keyboard_reaches_everything(stack: Stack, driver: Driver) -> None:
    place(stack, "inn", mara=(0, 0), brom=(300, 0), p1=(5, 0))
    open_page(driver, stack.url, "inn")
    body = driver.find_element(By.TAG_NAME, "body")
    body.send_keys("3")
    until(driver, lambda one: "Mara" in one.find_element(By.ID, "people").text)
    driver.find_element(By.ID, "map").send_keys("n")
    until(driver, lambda one: "Brom" in one.find_element(By.ID, "card").text)
    body.send_keys(Keys.ESCAPE)
    until(driver, lambda one: not one.find_element(By.ID, "card").is_displayed())
    body.send_keys("4")
    until(driver, lambda one: "offline" in one.find_element(By.ID, "health").text)
    body.send_keys("5")
    until(driver, lambda one: "inn" in one.find_element(By.ID, "worlds").text)
    body.send_keys("/")
    assert driver.switch_to.active_element.get_attribute("id") == "text"


def test_a_phone_shows_map_and_talk_without_sideways_scrolling(stack: Stack) -> None:
    place(stack, "inn", mara=(0, 0), brom=(300, 0), p1=(5, 0))
    with chromium(PHONE, dark=True) as phone:
        open_page(phone, stack.url, "inn")
        assert phone.execute_script("return document.documentElement.dataset.theme") == "dark"
        for view in ("map", "talk", "people", "health", "worlds"):
            phone.find_element(By.CSS_SELECTOR, f"nav [data-view={view}]").click()
            wide = phone.execute_script("return document.documentElement.scrollWidth - innerWidth")
            assert wide <= 0, view
            small = phone.execute_script(
                "return [...document.querySelectorAll('nav button, .zoom button, form button')]"
                ".filter((one) => one.offsetParent && one.getBoundingClientRect().height < 32).length"
            )
            assert small == 0, view


def test_with_keys_the_page_asks_for_one(tmp_path: Path, driver: Driver) -> None:
    data = tmp_path / "data"
    made = subprocess.run(
        [sys.executable, "-m", "services", "key", "--data", str(data), "create", "inn"],
        capture_output=True, text=True, check=True, cwd=ROOT,
    )  # fmt: skip
    key = made.stdout.strip()
    with Stack(data) as guarded:
        headers = {"authorization": f"Bearer {key}"}
        body = {"world": "vault", "entities": [{"id": "mara", "kind": "npc", "position": {"x": 0, "y": 0, "z": 0}}]}
        assert guarded.http.post("/v1/snapshots", json=body, headers=headers).status_code == 200
        driver.get(guarded.url)
        field: WebElement = until(driver, lambda one: one.find_element(By.ID, "key"))
        until(driver, lambda _: field.is_displayed())
        field.send_keys(key + Keys.ENTER)
        until(driver, lambda one: one.execute_script("return globalThis.scope?.world?.told?.id") == "vault")


def test_the_page_loads_nothing_from_elsewhere(stack: Stack, driver: Driver) -> None:
    driver.get(stack.url)
    until(driver, lambda one: one.execute_script("return document.documentElement.dataset.ready") == "true")
    loaded = driver.execute_script("return performance.getEntriesByType('resource').map((one) => one.name)")
    assert len(loaded) > 5
    assert all(name.startswith(stack.url) for name in loaded)
