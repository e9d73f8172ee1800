"""What a plain word in YAML means to an API server, so that a file means the same with and without a cluster.

Source: sigs.k8s.io/yaml reads YAML 1.1: ``Off`` is false, ``yes`` is true, ``012`` is ten; times stay text.
"""

import math
import re

_TRUE = frozenset({"true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON", "y", "Y"})
_FALSE = frozenset({"false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF", "n", "N"})
NULL = frozenset({"", "~", "null", "Null", "NULL"})
"""Words that mean nothing at all."""
_INTEGER = re.compile(r"[-+]?(0b[01_]+|0o?[0-7_]+|0x[0-9a-fA-F_]+|[0-9][0-9_]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_LONGEST_NUMBER = 64
_NUMBERS_BEGIN = frozenset("+-.0123456789")


def plain_value(text: str) -> object:
    """The value of an unquoted scalar: None, bool, int, float or str."""
    if text in NULL:
        return None
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    if text[0] not in _NUMBERS_BEGIN or len(text) > _LONGEST_NUMBER:
        return text
    if _INTEGER.fullmatch(text):
        return _integer(text.replace("_", ""))
    if _FLOAT.fullmatch(text):
        return _float(text.lower().replace("_", ""))
    return text


def _float(text: str) -> object:
    if text.endswith((".inf", ".nan")):
        return float(text.replace(".", ""))
    value = float(text)
    return text if math.isinf(value) else value  # 1e400: no number after all


def _integer(text: str) -> object:
    sign, digits = (-1, text[1:]) if text[0] == "-" else (1, text.lstrip("+"))
    try:
        if len(digits) > 1 and digits[0] == "0" and digits[1].isdigit():
            return sign * int(digits, 8) if set(digits) <= set("01234567") else float(text)
        return sign * int(digits, 0)
    except ValueError:  # 0x_, 0b2: no number after all
        return text
