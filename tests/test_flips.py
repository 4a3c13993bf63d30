"""No flipped bit is misread: the short form of flips.py."""

import importlib.util
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("flips", Path(__file__).with_name("flips.py"))
flips = importlib.util.module_from_spec(spec)
spec.loader.exec_module(flips)


@pytest.mark.filterwarnings("ignore:expected (enough )?examples")  # to calibrate by few
@pytest.mark.parametrize("kind", flips.KINDS)
def test_a_flipped_bit_is_refused_or_harmless(kind):
    refused, _ = flips.flip(flips.KINDS[kind], 40)
    assert refused > 5
