"""A session gives a model's logits, whatever the slots, the order and the length of steps."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest
import torch

from vllm_npu_runtime.errors import (
    BadShapeError,
    DeviceError,
    DeviceLostError,
    DeviceTimeoutError,
    OutOfMemoryError,
)
from vllm_npu_runtime.sessions.base import Gives, Row, Session

from .conftest import Open
from .fake import Host
from .released import HIDDEN, VOCAB, Released, close, prompt, row

BATCH4 = {"batches": 4, "length": 512}


@pytest.fixture
def batch(tmp_path: Path) -> Released:
    """A model for four requests at once."""
    return Released(tmp_path / "batch", {"max_batch_size": 4}, **BATCH4)


def test_is_a_session(released: Released, open_model: Open) -> None:
    """With the capabilities of the model file."""
    session = open_model(released)
    assert isinstance(session, Session)
    can = session.capabilities
    assert (can.slots, can.max_length, can.hidden_size, can.vocab_size) == (1, 64, HIDDEN, VOCAB)
    assert (can.gives, can.crops, can.batched) == (Gives.LOGITS, True, False)
    assert (can.snapshots, can.snapshot_step, can.every_token) == (True, 1, False)
    assert session.slot_bytes == 2 * 64 * HIDDEN * 4
    assert session.memory > session.slot_bytes
    assert session.describe() == (
        "mobilint:0 (aries-rb), core mode single, 1 copy for a request each"
    )


def test_embeds_on_the_host(released: Released, open_model: Open) -> None:
    """Rows of the table."""
    session = open_model(released)
    assert torch.equal(session.embed(torch.tensor([3, 0, 3])), released.table[[3, 0, 3]])
    with pytest.raises(BadShapeError, match=f"vocabulary has {VOCAB}"):
        session.embed(torch.tensor([VOCAB]))


@pytest.mark.parametrize(
    "name", ["model.embed_tokens.weight", "embed_tokens.weight", "transformer.wte.weight"]
)
def test_names_of_embeddings(name: str, tmp_path: Path, open_model: Open) -> None:
    """As the families have them."""
    model = Released(tmp_path / "named", name=name)
    assert torch.equal(open_model(model).embed(torch.tensor([1])), model.table[[1]])


def test_prompt_then_decode(released: Released, open_model: Open) -> None:
    """One request: a prompt in two steps, then token by token."""
    session, tokens = open_model(released), prompt(20)
    wanted = released.logits(tokens)
    past = 0
    for count in (7, 9, 1, 1, 1, 1):
        given = session.infer([row(0, past, tokens[past : past + count])]).values
        past += count
        assert close(given[-1], wanted[past - 1])


def test_other_tokens_are_not_numbers(released: Released, open_model: Open) -> None:
    """Logits of the last token alone: the others' places can't be taken for logits, not in a
    later step either."""
    session = open_model(released)
    for begin in (0, 5, 0):
        tokens = prompt(5)
        values = session.infer([row(0, begin, tokens)]).values
        assert values[:-1].isnan().all()
        assert not values[-1].isnan().any()


@pytest.mark.parametrize("batches", [1, 4])
def test_every_token(batches: int, tmp_path: Path, open_model: Open) -> None:
    """A model that gives logits of every token; found out by a run, for batches as well."""
    model = Released(tmp_path / "all", {"max_batch_size": batches}, batches=batches, all=True)
    session = open_model(model, slots=batches)
    assert session.capabilities.every_token
    tokens = [prompt(3 + slot, slot) for slot in range(batches)]
    values = session.infer([row(slot, 0, each) for slot, each in enumerate(tokens)]).values
    assert close(values, torch.cat([model.logits(each) for each in tokens]))


@pytest.mark.parametrize("batches", [1, 4])
def test_every_token_on_request(batches: int, tmp_path: Path, open_model: Open) -> None:
    """Of a model that gives the last one's: one run to a token."""
    model = Released(tmp_path / "slow", {"max_batch_size": batches}, batches=batches)
    session = open_model(model, slots=batches, driver={"every_token": True})
    assert session.capabilities.every_token
    tokens = [prompt(3 + slot, slot) for slot in range(batches)]
    values = session.infer([row(slot, 0, each) for slot, each in enumerate(tokens)]).values
    assert close(values, torch.cat([model.logits(each) for each in tokens]))


def test_embeddings_instead_of_tokens(released: Released, open_model: Open) -> None:
    """Of any floating-point type."""
    session, tokens = open_model(released), prompt(6)
    given = Row(0, 0, embeddings=released.table[tokens].double())
    assert close(session.infer([given]).values[-1], released.logits(tokens)[-1])


def test_goes_back(released: Released, open_model: Open) -> None:
    """The past is what the row says: what the cache holds after it is forgotten."""
    session, tokens, other = open_model(released), prompt(12), prompt(5, 1)
    session.infer([row(0, 0, tokens)])
    values = session.infer([row(0, 7, other)]).values
    assert close(values[-1], released.logits(tokens[:7] + other)[-1])
    assert close(session.infer([row(0, 0, other)]).values[-1], released.logits(other)[-1])


def test_packs_a_batch(batch: Released, open_model: Open, host: Host) -> None:
    """Prompts and single tokens of several requests in one call, each with its own cache."""
    session = open_model(batch, slots=4)
    assert session.capabilities.batched
    first, second, third = prompt(9, 1), prompt(4, 2), prompt(17, 3)
    session.infer([row(2, 0, first[:8])])
    host.log.clear()
    values = session.infer([row(3, 0, third), row(2, 8, first[8:]), row(0, 0, second)]).values
    assert host.log == [[(3, 0, 17), (2, 8, 1), (0, 0, 4)]]
    for at, tokens in ((16, third), (17, first), (21, second)):
        assert close(values[at], batch.logits(tokens)[-1])


def test_no_more_than_128_tokens_of_a_request_in_a_batch(
    batch: Released, open_model: Open, host: Host
) -> None:
    """Whatever config.json says; longer rows take several runs, in which the others are done."""
    batch.say(npu_prefill_chunk_size=512)
    session, tokens = open_model(batch, slots=4), prompt(300)
    values = session.infer([row(1, 0, tokens), row(0, 0, [1, 2])]).values
    assert host.log == [[(1, 0, 128), (0, 0, 2)], [(1, 128, 128)], [(1, 256, 44)]]
    assert close(values[299], batch.logits(tokens)[-1])
    assert close(values[301], batch.logits([1, 2])[-1])


@pytest.mark.parametrize(
    ("said", "width", "mode", "runs"),
    [
        (None, 0, "single", [128, 72]),
        (64, 0, "single", [64, 64, 64, 8]),
        ({"single": 64, "global4": 256}, 0, "single", [64, 64, 64, 8]),
        ({"single": 64, "global4": 256}, 0, "global4", [200]),
        ({"global8": 512}, 0, "single", [128, 72]),
        ({"global8": 512, "default": 100}, 0, "single", [100, 100]),
        (256, 96, "single", [96, 96, 8]),
    ],
)
def test_chunks_of_one_request(
    said: object, width: int, mode: str, runs: list[int], released: Released, open_model: Open,
    host: Host,
) -> None:  # fmt: skip
    """By core mode, 128 where nothing is said, and never above the compiled width."""
    released.say(npu_prefill_chunk_size=said)
    released.compile(length=256, width=width)
    session, tokens = open_model(released, placement={"core_mode": mode}), prompt(200)
    values = session.infer([row(0, 0, tokens)]).values
    assert [piece[2] for (piece,) in host.log] == runs
    assert close(values[-1], released.logits(tokens)[-1])


def test_copies_of_a_model_of_one_request(released: Released, open_model: Open, host: Host) -> None:
    """One copy to a slot, on the cores in turn."""
    released.say(max_batch_size=3, target_cores=["0:1", "1:2"])
    session = open_model(released, slots=3)
    cores = [model.config.places[0] for _, model in host.models]
    assert [(cluster.name, core.name) for cluster, core in cores] == [
        ("Cluster0", "Core1"), ("Cluster1", "Core2"), ("Cluster0", "Core1"),
    ]  # fmt: skip
    prompts = [prompt(5, slot) for slot in range(3)]
    values = session.infer([row(2 - i, 0, each) for i, each in enumerate(prompts)]).values
    assert close(values[4::5], torch.stack([released.logits(each)[-1] for each in prompts]))


def test_copies_of_a_batch_model(batch: Released, open_model: Open, host: Host) -> None:
    """Six slots: two copies of four caches."""
    batch.say(max_batch_size=8)
    session = open_model(batch, slots=6)
    assert (session.capabilities.slots, len(host.models)) == (6, 2)
    values = session.infer([row(5, 0, [4, 4]), row(1, 0, [2])]).values
    assert sorted(host.log) == [[(1, 0, 1)], [(1, 0, 2)]]
    assert close(values[1:], torch.stack([batch.logits([4, 4])[-1], batch.logits([2])[-1]]))


@pytest.mark.parametrize(("batches", "slots"), [(1, 3), (4, 4), (4, 7)])
def test_random_requests(batches: int, slots: int, tmp_path: Path, open_model: Open) -> None:
    """Forty steps over slots that are taken, extended, cut and taken anew."""
    model = Released(
        tmp_path / "random", {"max_batch_size": 8, "npu_prefill_chunk_size": 5}, batches=batches
    )
    session, dice = open_model(model, slots=slots), random.Random(batches + slots)
    held: list[list[int]] = [[] for _ in range(slots)]
    for _ in range(40):
        rows = []
        for slot in dice.sample(range(slots), dice.randint(1, slots)):
            past = dice.choice([0, len(held[slot]), len(held[slot]) // 2])
            past = 0 if past > 50 else past
            tokens = prompt(dice.choice([1, 1, 12]), dice.randrange(1000))
            held[slot] = held[slot][:past] + tokens
            rows.append(row(slot, past, tokens))
        values, end = session.infer(rows).values, 0
        for each in rows:
            end += each.count
            assert close(values[end - 1], model.logits(held[each.slot])[-1])


def test_caches_that_forget(tmp_path: Path, open_model: Open) -> None:
    """A sliding cache is cleared for each request, goes on only from its end, and is copied only
    whole."""
    model = Released(tmp_path / "tail", tail=4)
    session = open_model(model)
    assert (session.capabilities.crops, session.capabilities.snapshot_step) == (False, 0)
    for seed in (1, 2):
        few = prompt(2, seed)  # fewer than the cache holds: it still has the last request's
        assert close(session.infer([row(0, 0, few)]).values[-1], model.logits(few)[-1])
        tokens = prompt(10, seed)
        session.infer([row(0, 0, tokens[:6])])
        values = session.infer([row(0, 6, tokens[6:])]).values
        assert close(values[-1], model.logits(tokens)[-1])
    with pytest.raises(BadShapeError, match="can't forget"):
        session.infer([row(0, 8, [1])])
    with pytest.raises(BadShapeError, match="aren't exact"):
        session.snapshot(0, 9)
    whole = session.snapshot(0, 10)
    session.infer([row(0, 0, [1, 2])])
    session.restore(0, whole, 10)
    assert close(session.infer([row(0, 10, [7])]).values[-1], model.logits([*tokens, 7])[-1])


def test_two_boards(released: Released, open_model: Open, host: Host) -> None:
    """`dev_no` of the user, then the model's, then the device's."""
    open_model(released, device="1")
    open_model(released, device="1", placement={"dev_no": (0,)})  # repeats config.json
    open_model(released, placement={"dev_no": (1,)})
    released.say(dev_no=1)
    open_model(released)
    open_model(released, placement={"dev_no": (0,)})
    assert [board for board, _ in host.models] == [1, 1, 1, 1, 0]


def test_a_failing_copy_fails_its_rows_alone(
    released: Released, open_model: Open, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their slots hold nothing, and the others go on."""
    released.say(max_batch_size=2)
    session = open_model(released, slots=2)
    session.infer([row(0, 0, [1, 2]), row(1, 0, [3])])

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("Model_PredictError occurred.")

    monkeypatch.setattr(host.models[1][1], "infer", fail)
    output = session.infer([row(0, 2, [4]), row(1, 1, [5])])
    assert list(output.failed) == [1]
    assert close(output.values[0], released.logits([1, 2, 4])[-1])
    assert not output.values[1].any()
    with pytest.raises(BadShapeError, match="holds 0"):
        session.infer([row(1, 2, [6])])


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("BadAlloc", OutOfMemoryError),
        ("Acc_NPUTimeout", DeviceTimeoutError),
        ("Model_PredictError", DeviceError),
    ],
)
def test_errors_of_a_batch(
    status: str, kind: type[DeviceError], batch: Released, open_model: Open, host: Host
) -> None:
    """Typed by the runtime's text; the next step runs."""
    session = open_model(batch, slots=4)
    host.faults = [status]
    output = session.infer([row(0, 0, [1, 2]), row(2, 0, [3])])
    assert {index: type(error) for index, error in output.failed.items()} == {0: kind, 1: kind}
    assert status in str(output.failed[0])
    assert not output.values.any()
    again = session.infer([row(0, 0, [1, 2]), row(2, 0, [3])])
    assert not again.failed
    assert again.values[0].isnan().all()
    assert close(again.values[1], batch.logits([1, 2])[-1])


def test_lost_board(released: Released, open_model: Open, host: Host) -> None:
    """Takes the session with it."""
    session = open_model(released)
    host.faults = ["Model_NotAlive"]
    for _ in range(2):
        with pytest.raises(DeviceLostError, match="NotAlive"):
            session.infer([row(0, 0, [1])])


def test_stalled_board(released: Released, open_model: Open, host: Host) -> None:
    """A step past its time ends the session: nobody knows what the runtime still writes."""
    session = open_model(released, timeout=0.2)
    assert not session.infer([row(0, 0, [1])]).failed
    host.hold.clear()
    with pytest.raises(DeviceTimeoutError, match=r"more than 0\.2 s"):
        session.infer([row(0, 1, [1])])
    with pytest.raises(DeviceLostError, match="stalled"):
        session.infer([row(0, 0, [1])])
    session.close()
    assert len(host.models) == 1  # the runtime is inside it
    host.hold.set()
    host.models.clear()


def test_close_from_another_thread(released: Released, open_model: Open, host: Host) -> None:
    """The step that runs ends first; every later call is refused; closing again does nothing."""
    session = open_model(released)
    host.hold.clear()
    outputs = []
    step = threading.Thread(target=lambda: outputs.append(session.infer([row(0, 0, [1, 2])])))
    closing = threading.Thread(target=session.close)
    step.start()
    while not session._lifetime._turn.locked():
        pass
    closing.start()
    closing.join(0.1)
    assert closing.is_alive() and len(host.models) == 1
    host.hold.set()
    step.join()
    closing.join()
    assert close(outputs[0].values[-1], released.logits([1, 2])[-1])
    assert not host.models
    session.close()
    for call in (
        lambda: session.infer([row(0, 0, [1])]),
        lambda: session.embed(torch.tensor([1])),
        lambda: session.logits(torch.zeros(1, VOCAB)),
        lambda: session.forget(0),
    ):
        with pytest.raises(DeviceLostError, match="closed"):
            call()


def test_logits_are_given_back(released: Released, open_model: Open) -> None:
    """In float32."""
    given = torch.randn(2, VOCAB).bfloat16()
    assert torch.equal(open_model(released).logits(given), given.float())


def test_forgets(released: Released, open_model: Open) -> None:
    """A forgotten slot begins anew."""
    session = open_model(released)
    session.infer([row(0, 0, [1, 2])])
    session.forget(0)
    with pytest.raises(BadShapeError, match="holds 0"):
        session.infer([row(0, 2, [3])])
