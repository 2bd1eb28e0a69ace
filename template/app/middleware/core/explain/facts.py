"""The facts of a run, as plain data: what `--json` prints and all else is made from."""

from pydantic import BaseModel

Pairs = list[tuple[str, str]]


class Change(BaseModel):
    """A header or a part of the request before and after a layer; None where it is not there."""

    name: str
    before: str | None
    after: str | None


class Setting(BaseModel):
    """A value that decides something, and where it comes from."""

    name: str
    value: str
    source: str

    @property
    def own(self) -> bool:
        """Whether the route has it, and not the service."""
        return self.source.startswith("ROUTES[") or self.source == "max_body_size"


class Outcome(BaseModel):
    """What came out of a place: a response, an exception or nothing."""

    status: int | None = None
    close_code: int | None = None
    error: str | None = None


class Step(BaseModel):
    """One layer, and what it did; `seconds` is its own time, without what is inside of it."""

    name: str
    reached: bool = False
    arrived: Pairs = []
    request: list[Change] = []
    read: Pairs = []
    from_inside: Outcome = Outcome()
    to_outside: Outcome = Outcome()
    responded: bool = False
    headers: list[Change] = []
    bytes_in: int = 0
    bytes_out: int = 0
    bytes_from_inside: int = 0
    seconds: float = 0.0

    @property
    def quiet(self) -> bool:
        """Whether it passed everything on as it came."""
        changed = self.responded or self.from_inside != self.to_outside
        return not (changed or self.request or self.headers or self.resized)

    @property
    def resized(self) -> bool:
        return not self.responded and self.bytes_out != self.bytes_from_inside


class Refusal(BaseModel):
    """Who refused, and the settings that decide it."""

    layer: str
    settings: list[Setting]


class Fault(BaseModel):
    """An exception: where it was raised, and who turned it into a response."""

    error: str
    message: str
    where: str
    raised_in: str
    handled_by: str | None


class Route(BaseModel):
    """
    The route that takes the request, reached or not.

    `settings` are those that name its path, `policy` is what holds there for each field, and
    `mounted` has the places of apps with layers of their own that it leads to.
    """

    path: str
    endpoint: str
    where: str
    settings: Pairs
    policy: list[Setting]
    mounted: list[str]


class Sent(BaseModel):
    """The request as it was sent; `typed` are the names of the headers that were asked for."""

    method: str
    url: str
    client: str
    headers: Pairs
    typed: list[str]
    size: int


class Received(BaseModel):
    """The response as the client gets it."""

    status: int | None
    phrase: str
    headers: Pairs = []
    body: str = ""
    size: int = 0
    chunks: int = 0
    close_code: int | None = None


class Explanation(BaseModel):
    """
    One request, and what each layer did.

    `refused_inside` is the layer that rejected it inside of the routes, such as one of a mounted
    app.
    """

    request: Sent
    broken_rules: list[str]
    steps: list[Step]
    responded_by: str | None
    refused_inside: str | None
    says: str | None
    refusal: Refusal | None
    fault: Fault | None
    never_reached: list[str]
    route: Route | None
    browser: str | None
    response: Received
    cut_off: bool
