import hypothesis
import pytest
from hypothesis import strategies

from usher_gateway.resources import yaml_reader


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Off", False),
        ("yes", True),
        ("~", None),
        ("", None),
        ("012", 10),
        ("-012", -10),
        ("07", 7),
        ("0x1F", 31),
        ("1_000", 1000),
        ("089", 89.0),
        ("1e400", "1e400"),
        ("-.INF", float("-inf")),
        ("0b12", "0b12"),
        ("12:30:00", "12:30:00"),
        ("2027-01-31T12:00:00Z", "2027-01-31T12:00:00Z"),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("-7", -7),
        ("1.2.3", "1.2.3"),
        ("None", "None"),
        ("-", "-"),
    ],
)
def test_plain_scalar_is_read_as_an_api_server_reads_it(text: str, value: object) -> None:
    plain_value = yaml_reader.plain_value(text)
    assert plain_value == value
    assert type(plain_value) is type(value)


@hypothesis.given(strategies.text(alphabet="0123456789_xob.eE+-infaNA:", max_size=12))
def test_no_plain_scalar_raises(text: str) -> None:
    yaml_reader.plain_value(text)
