"""A model has changed when what it computes has, not when a wrapper has."""

import functools
from types import SimpleNamespace

import pytest
import torch

from isdo import Settings, sample_isdo, schedules
from isdo.identity import Identity

pytestmark = pytest.mark.usefixtures("no_grad")
SIGMAS = schedules.karras(8, 0.03, 14.6)


class Net(torch.nn.Module):
    """A network that pulls towards a centre."""

    def __init__(self, centre):
        super().__init__()
        self.centre = torch.nn.Parameter(torch.tensor(float(centre)))

    def forward(self, x, sigma):
        sigma = sigma.reshape(-1, 1, 1, 1)
        return self.centre + torch.tanh((x - self.centre) / (1 + sigma**2))


class Wrapped(torch.nn.Module):
    """As k-diffusion's external denoisers: a module round the network, with a table of its own."""

    def __init__(self, net):
        super().__init__()
        self.inner_model = net
        self.register_buffer("table", torch.linspace(0.03, 14.6, 10))

    def forward(self, x, sigma):
        return self.inner_model(x, sigma)


class Counting:
    """A plain wrapper that changes at each call, as those of the WebUIs do."""

    def __init__(self, net):
        self.net, self.calls, self.last, self.owner = net, 0, None, self

    def __call__(self, x, sigma):
        self.calls, self.last = self.calls + 1, x
        return self.net(x, sigma)


def closure(net):
    return lambda x, sigma: net(x, sigma)


WAYS = {
    "a module": Wrapped,
    "a module in a module": lambda net: Wrapped(Wrapped(net)),
    "an object": Counting,
    "a namespace": lambda net: SimpleNamespace(predictor=SimpleNamespace(), inner_model=net),
    "a function": closure,
    "a partial": lambda net: functools.partial(closure(net)),
    "a bound method": lambda net: Counting(net).__call__,
}
every_way = pytest.mark.parametrize("wrap", WAYS.values(), ids=WAYS)


class Denoiser:
    """The outermost wrapper: hands out a new ``inner_model`` at each access."""

    def __init__(self, wrap, net):
        self.wrap, self.net, self.calls, self.before_call = wrap, net, 0, {}

    @property
    def inner_model(self):
        return self.wrap(self.net)

    def __call__(self, x, sigma):
        self.before_call.pop(self.calls, lambda: None)()
        self.calls += 1
        return self.net(x, sigma)


class Method(Denoiser):
    """One whose ``inner_model`` is a method."""

    def inner_model(self, x, sigma):
        return self.net(x, sigma)


def run(model, x, sigmas=SIGMAS, callback=None):
    return sample_isdo(
        model, x, sigmas, callback=callback, disable=True, settings=Settings(placement=0)
    )


@every_way
def test_a_new_wrapper_round_the_same_network_is_no_change(wrap):
    net, x = Net(1), 14.6 * torch.randn(2, 1, 4, 4)
    assert torch.equal(run(Denoiser(wrap, net), x), run(net, x))
    assert Identity(Denoiser(wrap, net)) == Identity(Denoiser(wrap, net))
    assert Identity(Denoiser(wrap, net)) != Identity(Denoiser(wrap, Net(1)))


def test_a_method_of_that_name_is_no_change():
    net, x = Net(1), 14.6 * torch.randn(2, 1, 4, 4)
    assert torch.equal(run(Method(None, net), x), run(net, x))


def into(net, other):
    """Load other weights into the same network, as AUTOMATIC1111's refiner does."""
    net.load_state_dict(other.state_dict())


@every_way
@pytest.mark.parametrize("how", ["another network", "other weights in the same one"])
def test_another_network_or_other_weights_are_a_change(wrap, how):
    """From the change on the run is a fresh one, from the x at which the new model was asked
    first."""
    first, then, states = Net(1), Net(-2), []
    model = Denoiser(wrap, first)
    model.before_call[3] = (
        (lambda: setattr(model, "net", then))
        if how == "another network"
        else (lambda: into(first, then))
    )
    out = run(model, 14.6 * torch.randn(2, 1, 4, 4), callback=lambda info: states.append(info["x"]))
    torch.testing.assert_close(out, run(then, states[3], SIGMAS[3:]), rtol=1e-5, atol=1e-5)


class Plain:
    """Something that computes and holds no network."""

    def first(self, x, sigma):
        return x

    def second(self, x, sigma):
        return x


def held(inner):
    return SimpleNamespace(inner_model=inner)


def test_where_there_is_no_network_the_object_itself_counts_if_it_stays():
    stays, other = Plain(), Plain()
    assert Identity(held(stays)) == Identity(held(stays)) != Identity(held(other))


def test_what_is_made_anew_at_each_access_and_holds_no_network_is_no_change():
    class Fresh:
        @property
        def inner_model(self):
            return Plain()

    assert Identity(Fresh()) == Identity(Fresh())


def test_functions_and_methods_count_by_what_they_run():
    one = Plain()
    assert Identity(held(one.first)) == Identity(held(one.first))
    assert Identity(held(one.first)) != Identity(held(one.second))

    def make(number):
        return lambda x, sigma: number * x

    assert Identity(held(make(1))) == Identity(held(make(1)))
    assert Identity(held(make(1))) != Identity(held(lambda x, sigma: x))


def test_a_network_made_for_inference_keeps_no_count_and_is_told_from_another():
    with torch.inference_mode():
        first, second = Net(1), Net(1)
        assert Identity(held(first)) == Identity(held(first)) != Identity(held(second))


def test_what_is_held_in_two_ways_is_looked_at_once():
    net, wrapper = Net(1), Counting(None)
    wrapper.net = wrapper.twin = wrapper.owner = Counting(net)
    wrapper.net.owner = wrapper
    assert [part for part, _ in Identity(held(wrapper)).parts] == [net.centre]
