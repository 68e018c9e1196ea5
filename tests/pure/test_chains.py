"""Functions that wait for one another."""

import pytest

from asyncflow import chains
from asyncflow.jobs import ACCEPTED, SUBMITTED, UPLOADED, PlanEntry, Subscription


def of_files(name: str, on: str = ACCEPTED) -> Subscription:
    entry = PlanEntry(consumer=name, on=on, gate=on == UPLOADED)
    return Subscription(entry=entry, accepts=("*",))


def of_payloads(name: str, on: str = SUBMITTED) -> Subscription:
    return Subscription(entry=PlanEntry(consumer=name, on=on))


USUAL = (
    of_files("identify", UPLOADED),
    of_files("image"),
    of_files("search", "image.completed"),
    of_payloads("add"),
    of_payloads("tell", "add.dead"),
    of_payloads("bill", "order.paid"),
    of_payloads("post", "bill.completed"),
    of_payloads("page-me", "alert.raised"),
)


def problems(*more: Subscription) -> list[str]:
    where = {one.entry.consumer: f"m.{one.entry.consumer}" for one in more}
    return list(chains.problems((*USUAL, *more), where))


def test_what_can_come_to_pass_is_fine() -> None:
    assert problems() == []
    # an application may publish it
    assert problems(of_payloads("x", "parcel.completed")) == []
    heard = (*USUAL, of_payloads("x", "parcel.completed"))
    assert list(chains.unheard(heard)) == [("x", "parcel.completed")]
    assert list(chains.unheard(USUAL)) == []


@pytest.mark.parametrize(
    ("one", "says"),
    [
        (of_files("x", "images.completed"), "did you mean image?"),
        (of_files("x", "order.paid"), "no step of a file ends so"),
        (of_files("x", "add.completed"), "works on files and 'add' on payloads"),
        (of_payloads("x", "image.completed"), "on payloads and 'image' on files"),
        (of_payloads("x", "bil.completed"), "did you mean bill.completed?"),
        (of_payloads("x", "file.accepted"), "nobody can publish"),
        (of_payloads("x", "bill.cancelled"), "nobody can publish"),
        (of_payloads("x", "job.completed"), "nobody can publish"),
        (of_payloads("x", "paid"), "nobody can publish"),
    ],
)
def test_what_cannot_is_named_with_its_function(one: Subscription, says: str) -> None:
    (found,) = problems(one)

    assert found.startswith("'x' of m.x: ")
    assert says in found


def test_a_circle_is_named_once_with_its_functions() -> None:
    (found,) = problems(
        of_payloads("c1", "c3.completed"),
        of_payloads("c2", "c1.completed"),
        of_payloads("c3", "c2.dead"),
        of_payloads("behind", "c3.completed"),
    )

    assert found == "c1 after c3 after c2 after c1 goes in a circle: m.c3, m.c2, m.c1"
