"""What every encoder of time series keeps: padding, absence, gradients, half precision; each in all of its forms."""

import pytest
import series_checks as checks
import test_encoder_series
import test_encoder_series_conv
import test_encoder_series_patch

FAMILIES = (test_encoder_series, test_encoder_series_conv, test_encoder_series_patch)
ENCODERS = {
    f"{family.make().__class__.__name__}, {name}": (family.make, name) for family in FAMILIES for name in family.MODELS
}


@pytest.fixture(params=ENCODERS.values(), ids=ENCODERS)
def encoder(request):
    make, name = request.param
    return make(name)


def test_padding_changes_nothing(encoder):
    checks.check_padding(encoder)


def test_padding_unmasked_would_change_it(encoder):
    checks.check_padding_unmasked_would_change_it(encoder)


def test_absent_series_change_nothing(encoder):
    checks.check_absence(encoder)


def test_every_parameter_learns(encoder):
    checks.check_every_parameter_learns(encoder)


def test_half_precision_stays_near(encoder):
    checks.check_half_precision(encoder)
