"""gptwo on a Ray cluster: replicas of the server that `gptwo serve` runs, behind Ray Serve's proxy.

    pip install '.[server]' 'ray[serve]>=2.60'
    python examples/ray_serve.py model=gpt2 weights=int8 replicas=4 threads=8

Each replica has a model, an engine and `threads` CPUs of its own; Ray puts them where those are free, starts one again
that dies, and spreads requests over them. What may be said is `replicas` and every setting of `gptwo serve` but its
address, with underscores: max_queue=64. The proxy listens on port 8000.
"""

from __future__ import annotations

import sys
from typing import Any

from ray import serve
from ray.serve import Application

from gptwo.cli.parameters import parameters_of
from gptwo.loading import open_model
from gptwo.server.settings import ServerSettings


@serve.deployment
@serve.ingress()
class Replica:
    """One server, without its socket."""

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings

    def __serve_build_asgi_app__(self) -> Any:
        """The app of `gptwo serve`, over a model that is open by the time that requests come."""
        from gptwo.server.app import create_app

        app = create_app(self.settings, model=open_model(**self.settings.model_options()))
        self.service = app.state.service
        return app

    def check_health(self) -> None:
        """Ray starts a replica again for which this raises."""
        if self.service.state == "failed":
            raise RuntimeError("the engine has failed")


def app(arguments: dict[str, str]) -> Application:
    """What is to be run. arguments: `replicas`, and settings by name, as text."""
    parameters = parameters_of(ServerSettings)
    replicas = int(arguments.pop("replicas", "1"))
    unknown = sorted(arguments.keys() - parameters.keys())
    if unknown:
        raise SystemExit(f"{unknown[0]} is no setting of the server; they are {', '.join(parameters)}, and replicas")
    values = {name: parameters[name].parse(text) for name, text in arguments.items()}
    settings = ServerSettings(**{"threads": 1, **values})
    deployment = Replica.options(  # type: ignore[attr-defined]
        num_replicas=replicas,
        ray_actor_options={"num_cpus": settings.threads},
        # The engine works on many requests at once, and has a queue with a bound for the others.
        max_ongoing_requests=settings.max_sequences + settings.max_queue,
        graceful_shutdown_timeout_s=settings.drain_timeout,
    )
    return deployment.bind(settings)  # type: ignore[no-any-return]


if __name__ == "__main__":
    serve.run(app(dict(argument.split("=", 1) for argument in sys.argv[1:])), blocking=True)
