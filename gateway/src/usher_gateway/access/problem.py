"""Why a request at the admin port is not served. Commands, pages and other programs get it as RFC 9457 says."""


class ProblemError(Exception):
    """A request that is not served: ``status`` is HTTP's, ``code`` for programs, ``detail`` and ``hint`` for people."""

    def __init__(self, status: int, code: str, detail: str, hint: str = "") -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.hint = hint
