"""Batches on several cores at once: copies that share weights, the order of the answers, and threads that are given back."""

import threading

import pytest
import timm
import torch

from hfxfer import folding, methods, parallel


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def network():
    torch.manual_seed(0)
    return timm.create_model("resnet18", num_classes=3).eval()


def pixels(count=2):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def run(model, jobs, compute):
    return list(parallel.computed(model, jobs, lambda job: [lambda: [{"job": job}]], compute))


def test_each_core_has_a_copy_with_the_same_weights_and_the_answers_come_in_order():
    model, meeting = network(), threading.Barrier(2, timeout=30)

    def compute(mine, job, items):
        meeting.wait()  # Two at once, or this breaks.
        assert items == [{"job": job}]
        return job, threading.get_ident(), mine, torch.get_num_threads(), torch.is_inference_mode_enabled()

    found = run(model, list(range(8)), compute)
    assert [job for job, *_ in found] == list(range(8))
    assert len({thread for _, thread, *_ in found}) == 2 and threading.get_ident() not in {thread for _, thread, *_ in found}
    used = {id(each): each for _, _, each, *_ in found}.values()
    assert len(used) == 2 and model in used
    copied = next(each for each in used if each is not model)
    assert copied.conv1 is not model.conv1
    assert all(first is second for first, second in zip(copied.parameters(), model.parameters(), strict=True))
    assert all(first is second for first, second in zip(copied.buffers(), model.buffers(), strict=True))
    assert {threads for *_, threads, _ in found} == {1} and torch.get_num_threads() == 2


def test_a_copy_gives_what_the_model_gives_folded_and_frozen():
    model, inputs = network(), pixels()
    with torch.no_grad():
        for norm in (module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)):
            norm.running_mean.normal_(generator=torch.Generator().manual_seed(2)), norm.running_var.fill_(0.5)
        expected = model(inputs)
    model.register_forward_pre_hook(methods.KeepStill([model.bn1]))
    found = folding.pairs(model, lambda: model(inputs))
    assert len(found) == 20

    def compute(mine, job, items):
        with torch.inference_mode():
            return mine, mine(inputs)

    with folding.folded(model, found):
        answers = run(model, list(range(8)), compute)
        copied = next(mine for mine, _ in answers if mine is not model)
        assert copied.conv1.forward.convolution is copied.conv1 and copied.conv1.forward.kept is model.conv1.forward.kept
        assert copied.bn1.forward.norm is copied.bn1
        assert next(iter(copied._forward_pre_hooks.values())).still == [copied.bn1]
    assert all(torch.allclose(logits, expected, atol=1e-4) for _, logits in answers)
    assert all(not module.training for module in copied.modules())


def test_what_goes_wrong_in_a_thread_comes_out_and_the_rest_is_not_computed():
    begun = []

    def compute(mine, job, items):
        begun.append(job)
        if job == 3:
            raise ValueError("job 3")
        return job

    with pytest.raises(ValueError, match="job 3"):
        run(network(), list(range(100)), compute)
    assert len(begun) < 20 and torch.get_num_threads() == 2


def test_who_stops_early_gets_the_threads_back():
    answers = parallel.computed(network(), list(range(100)), lambda job: [list], lambda mine, job, items: job)
    assert next(answers) == 0
    answers.close()
    assert torch.get_num_threads() == 2


def watched(model):
    model.layer1.register_forward_hook(lambda *given: None)


def replaced(model):
    forward = model.layer1.forward
    model.layer1.forward = lambda inputs: forward(inputs)


def compiled(model):
    model.layer1.compile(backend="eager")


def uncopied(model):
    model.lock = threading.Lock()


@pytest.mark.parametrize("change", [watched, replaced, compiled, uncopied])
def test_a_model_that_others_have_changed_is_used_alone_with_all_threads(change):
    model = network()
    change(model)
    used = run(model, [0, 1, 2], lambda mine, job, items: (mine, torch.get_num_threads(), threading.get_ident()))
    assert used == [(model, 2, threading.get_ident())] * 3


def test_with_one_thread_nothing_is_copied():
    torch.set_num_threads(1)
    model = network()
    assert run(model, [0, 1], lambda mine, job, items: mine) == [model, model]


def test_as_many_cores_as_can_be_are_in_use():
    assert {threads: parallel.num_copies(threads) for threads in (1, 2, 3, 5, 8, 9, 12, 13, 16, 64)} == {
        1: 1, 2: 2, 3: 3, 5: 5, 8: 8, 9: 3, 12: 6, 13: 6, 16: 8, 64: 8}
    assert parallel.num_copies(16, 1) == 1 and parallel.num_copies(16, 3) == 2


def test_a_second_one_at_the_same_time_waits_for_nobody():
    model = network()
    first = parallel.computed(model, [0, 1, 2], lambda job: [list], lambda mine, job, items: torch.get_num_threads())
    assert next(first) == 1
    second = run(network(), [0, 1], lambda mine, job, items: threading.get_ident())
    assert second == [threading.get_ident()] * 2
    assert list(first) == [1, 1] and torch.get_num_threads() == 2
