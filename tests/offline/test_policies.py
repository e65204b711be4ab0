"""What gradient steps do with networks."""

import torch as th

from sb3_pg_extras.offline.policies import descend, update_target


def test_only_what_the_optimiser_has_gets_a_gradient():
    first, second = th.nn.Linear(1, 1), th.nn.Linear(1, 1)
    before = first.weight.item()
    descend(th.optim.SGD(first.parameters(), 0.1), second(first(th.ones(1, 1))).sum())
    assert first.weight.item() != before
    assert second.weight.grad is None


def test_targets_follow_and_running_statistics_are_copied():
    network, target = (th.nn.Sequential(th.nn.Linear(1, 1), th.nn.BatchNorm1d(1)) for _ in range(2))
    with th.no_grad():
        network[0].weight.fill_(1.0)
        target[0].weight.fill_(0.0)
        network[1].running_mean.fill_(8.0)
    update_target(network, target, 0.25)
    assert target[0].weight.item() == 0.25 and target[1].running_mean.item() == 8.0
    assert network[0].weight.item() == 1.0
