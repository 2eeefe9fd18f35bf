import numpy as np
from opid_agents.streams import random_bits, stream, uniforms


def test_streams_differ_by_every_name_and_are_the_same_everywhere():
    assert len({stream(0, "a", 1), stream(0, "a", 2), stream(0, "b", 1), stream(1, "a", 1)}) == 4
    assert stream(0, "rollout", 1) == stream(0, "rollout", 1)
    assert 0 <= stream("x") < 2**56


def test_random_bits_are_those_of_splitmix64():
    """The first outputs for seed 1234567, as its authors' C program prints them."""
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert random_bits([0, 1234567], 4)[1].tolist() == expected


def test_uniforms_are_uniform_along_and_across_streams():
    table = uniforms([stream("test", i) for i in range(300)], 300)
    for values in (table.ravel(), table[:, 0], table[0], (table[:-1] + table[1:]).ravel() % 1):
        counts = np.histogram(values, bins=10, range=(0, 1))[0]
        assert counts.sum() == values.size
        assert abs(counts - values.size / 10).max() < 5 * np.sqrt(values.size / 10)
